"""The demonstration: real sagas, real servers, seven years in seconds, every snapshot accounted for."""

from __future__ import annotations

from sagaz_tiering.demo.run import DemoOutcome, run_demo

__all__ = ["DemoOutcome", "run_demo"]
