"""An event loop whose time passes as soon as nothing is left to do: a day in the time of its work."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

_WORK_S = 2e-5
"""What each pass of the loop takes: who waits for a time by passing again and again must see it come."""


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]  # which class it is depends on the system
    """Instead of waiting for the next timer it moves the time there."""

    pass_time: Callable[[float], None]

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None:
            self.pass_time(timeout or _WORK_S)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` begins with 0 and moves by timers, hardly by work, or by `pass_time` for a process that was stopped.

    `on_pass` is called whenever it has moved.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.on_pass: Callable[[], None] = lambda: None
        selector = _Selector()
        selector.pass_time = self.pass_time
        super().__init__(selector)

    def time(self) -> float:
        """Seconds, as `asyncio` counts them."""
        return self._now

    def pass_time(self, seconds: float) -> None:
        """Let that much time pass in which nothing runs."""
        self._now += seconds
        self.on_pass()
