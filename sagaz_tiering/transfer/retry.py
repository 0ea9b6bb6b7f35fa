"""How long an item is tried while a server cannot be asked, and when so many got no answer that it is an outage."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from sagaz_tiering.errors import TierUnavailable

T = TypeVar("T")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


class Stopped(Exception):
    """The transfer was asked to stop while an item waited for a server; the item counts as not yet begun."""


class RetryBudget:
    """Retries for one transfer. `limit` is the time that one item is tried at most."""

    def __init__(self, limit: timedelta, stop: asyncio.Event) -> None:
        self._limit_s = limit.total_seconds()
        self._stop = stop

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer; asked again while TierUnavailable. Raises it when the budget is spent, Stopped at a stop."""
        waiting = self.wait()
        while True:
            try:
                return await question()
            except TierUnavailable as exc:
                await waiting.after(exc)

    def wait(self) -> Wait:
        """The pauses of one item."""
        return Wait(self._limit_s, self._stop)


class Wait:
    """Ever longer pauses between the attempts at one item."""

    def __init__(self, limit_s: float, stop: asyncio.Event) -> None:
        self._until = time.monotonic() + limit_s
        self._stop = stop
        self._pause_s = _FIRST_PAUSE_S

    async def after(self, error: TierUnavailable) -> None:
        """Pause after a failed attempt. Raises `error` when the time is up, Stopped when asked to stop."""
        if self._stop.is_set():
            raise Stopped from error
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        if time.monotonic() + pause_s > self._until:
            raise error
        try:
            await asyncio.wait_for(self._stop.wait(), pause_s)
        except TimeoutError:
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        else:
            raise Stopped from error


class Outage:
    """Counts items in a row for which a server could not be asked: over `limit`, it is not the item's fault."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0

    @property
    def suspected(self) -> bool:
        """Whether the last item got no answer."""
        return self._in_a_row > 0

    def over(self) -> None:
        """A server answered."""
        self._in_a_row = 0

    def gave_up(self, error: TierUnavailable) -> None:
        """The retry budget ended without an answer. Raises `error` when that happened too often in a row."""
        self._in_a_row += 1
        if self._in_a_row >= self._limit:
            raise error
