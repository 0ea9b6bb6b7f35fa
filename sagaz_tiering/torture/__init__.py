"""The product under torture, on this machine: processes killed at any moment, and a model that knows what must be.

`run` kills, `model` says what was acknowledged and compares, `store` has the servers and the processes.
It never runs against servers that it did not start.
"""

from sagaz_tiering.torture.run import run_torture

__all__ = ["run_torture"]
