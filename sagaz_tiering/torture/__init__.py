"""The product under torture, on this machine: processes killed at any moment, and a model that knows what must be.

`chaos` kills, `model` says what was acknowledged, `checks` compares.
It never runs against servers that it did not start.
"""

from sagaz_tiering.torture.run import run_torture

__all__ = ["run_torture"]
