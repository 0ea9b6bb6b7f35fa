"""The demonstration: real sagas, real servers, seven years in seconds, every snapshot accounted for.

`run` is the story, `check` compares each snapshot with what must have become of it.
It never touches servers or folders that it did not start itself.
"""

from __future__ import annotations

from sagaz_tiering.demo.run import DemoOutcome, run_demo

__all__ = ["DemoOutcome", "run_demo"]
