"""How long an item is tried while a server cannot be asked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TypeVar

from sagaz_tiering.errors import TierUnavailable

T = TypeVar("T")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
_DOUBLED = 7
"""Times that the pause is doubled: more than it takes to be the longest."""


class Stopped(Exception):
    """The transfer was asked to stop while an item waited for a server; the item counts as not yet begun."""


class RetryBudget:
    """Retries for one transfer. `limit` is the time that one item is tried at most.

    While a server cannot be asked (TierUnavailable) there are ever longer pauses; then that is raised. Raises Stopped
    when the transfer is asked to stop meanwhile.
    """

    def __init__(self, limit: timedelta, stop: asyncio.Event) -> None:
        self._limit_s = limit.total_seconds()
        self._stop = stop

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer."""
        until, attempt = time.monotonic() + self._limit_s, 0
        while True:
            try:
                return await question()
            except TierUnavailable as exc:
                await self._pause(exc, until, attempt)
                attempt += 1

    async def walk(self, begin: Callable[[], AsyncIterator[T]]) -> AsyncIterator[T]:
        """What an iteration gives; `begin` begins it, and again behind what it gave last."""
        until, attempt = time.monotonic() + self._limit_s, 0
        while True:
            try:
                async with closing(begin()) as found:
                    async for each in found:
                        yield each
                        until, attempt = time.monotonic() + self._limit_s, 0
                return
            except TierUnavailable as exc:
                await self._pause(exc, until, attempt)
                attempt += 1

    async def _pause(self, error: TierUnavailable, until: float, attempt: int) -> None:
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(attempt, _DOUBLED), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        if not self._stop.is_set() and time.monotonic() + pause_s > until:
            raise error
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), pause_s)
        if self._stop.is_set():
            raise Stopped from error


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a generator when the block ends, also before its end; other iterators have nothing to close."""
    try:
        yield iterator
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
