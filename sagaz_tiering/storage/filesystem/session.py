"""The parts of one `FilesystemSnapshotStorage`, opened when first used, and how the event loop calls them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from sagaz_tiering.errors import LocalStorageUnavailable
from sagaz_tiering.storage.filesystem.errors import FULL, REFUSED, late, translated
from sagaz_tiering.storage.filesystem.layout import Layout
from sagaz_tiering.storage.filesystem.locks import Locks
from sagaz_tiering.storage.filesystem.replays import ReplayFiles
from sagaz_tiering.storage.filesystem.store import SnapshotFiles

P = ParamSpec("P")
T = TypeVar("T")

_AT_ONCE: Final = 100


class FilesystemSession:
    """Runs blocking work off the event loop, each piece with a deadline, with the system's errors made ours.

    At most `limit` threads of its own, so that a slow disk does not take those of the application.
    """

    def __init__(self, base: Path, *, compress: bool, pretty: bool, limit: int, io_timeout: timedelta) -> None:
        self.layout = Layout(base)
        # Half of the deadline, so that the caller is told what it waited for.
        locks = Locks(self.layout.locks, wait=io_timeout / 2)
        self.files = SnapshotFiles(self.layout, locks, compress=compress, pretty=pretty)
        self.replays = ReplayFiles(self.layout, locks)
        self._limit = limit
        self._seconds = io_timeout.total_seconds()
        self._pool: ThreadPoolExecutor | None = None
        self.close()

    def close(self) -> None:
        """Let go of the threads, which end their work; the next call opens again, on any loop."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
        self.is_open = False
        self._free = asyncio.Semaphore(self._limit)
        self._opening = asyncio.Lock()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`. Raises LocalStorageUnavailable, and what `work` raises."""
        if not self.is_open:
            async with self._opening:
                if not self.is_open:
                    await self._open()
                    self.is_open = True
        return await self._in_thread(work, *args, **kwargs)

    async def _open(self) -> None:
        await self._in_thread(self.files.open)
        if not await self._in_thread(self.layout.is_complete):
            await self._adopt()

    async def _adopt(self) -> None:
        """Make the derived files of what another program wrote, once, unless that is not possible here."""
        try:
            await self._in_thread(self.layout.make)
            for names in parts(await self._in_thread(self.layout.saga_names)):
                await self._in_thread(self.files.tree.pointers.adopt, names)
            for replay_ids in parts(await self._in_thread(self.replays.ids)):
                await self._in_thread(self.replays.adopt, replay_ids)
            await self._in_thread(self.layout.say_complete)
        except LocalStorageUnavailable as exc:
            cause = exc.__cause__
            if not isinstance(cause, OSError) or cause.errno not in REFUSED | FULL:
                raise

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def guarded() -> T:
            with translated(self.layout.base):
                return work(*args, **kwargs)

        async with self._free:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._limit, thread_name_prefix="sagaz-tiering-files")
            future = asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, guarded)
            try:
                async with asyncio.timeout(self._seconds):
                    return await future
            except TimeoutError as exc:
                raise late(self.layout.base, self._seconds) from exc


def parts(items: list[T]) -> Iterator[list[T]]:
    """So many sagas (or records) at a time as one piece of work goes through."""
    return (items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE))
