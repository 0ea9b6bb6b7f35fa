"""Blocking work off the event loop: a few threads, each piece of work with a deadline, callers wait their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sagaz_tiering.storage.filesystem.errors import late

T = TypeVar("T")


class DiskThreads:
    """At most `limit` threads of its own, so that a slow disk does not take those of the application.

    May be used by one event loop after the other. `close` leaves running work to its end; the next `run` begins anew.
    """

    def __init__(self, base: Path, *, limit: int, deadline: timedelta) -> None:
        self._base = base
        self._limit = limit
        self._seconds = deadline.total_seconds()
        self._pool: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = asyncio.Semaphore(limit)
        self._alone = asyncio.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises LocalStorageUnavailable when it takes longer than the deadline."""
        loop = self._bind()
        async with self._turns:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._limit, thread_name_prefix="sagaz-tiering-files")
            future = loop.run_in_executor(self._pool, copy_context().run, work)
            try:
                async with asyncio.timeout(self._seconds):
                    return await future
            except TimeoutError as exc:
                raise late(self._base, self._seconds) from exc

    @property
    def alone(self) -> asyncio.Lock:
        """For work in several pieces that one task does while the others wait."""
        self._bind()
        return self._alone

    def close(self) -> None:
        """Let the threads end."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._turns, self._alone = loop, asyncio.Semaphore(self._limit), asyncio.Lock()
        return loop
