"""The parts of one `FilesystemSnapshotStorage`, opened when first used, and how the event loop calls them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from sagaz_tiering.storage.filesystem.errors import translated
from sagaz_tiering.storage.filesystem.layout import Layout
from sagaz_tiering.storage.filesystem.locks import Locks
from sagaz_tiering.storage.filesystem.replays import ReplayFiles
from sagaz_tiering.storage.filesystem.store import SnapshotFiles
from sagaz_tiering.storage.filesystem.tree import NotAdopted
from sagaz_tiering.storage.filesystem.workers import DiskThreads

T = TypeVar("T")

AT_ONCE: Final = 100
"""Sagas (or records) that one piece of work goes through."""


class FilesystemSession:
    """Runs blocking work in threads, with the system's errors made ours."""

    def __init__(self, base: Path, *, compress: bool, pretty: bool, limit: int, io_timeout: timedelta) -> None:
        self.layout = Layout(base)
        # Half of the deadline, so that the caller is told what it waited for.
        locks = Locks(self.layout.locks, wait=io_timeout / 2)
        self.files = SnapshotFiles(self.layout, locks, compress=compress, pretty=pretty)
        self.replays = ReplayFiles(self.layout, locks)
        self._workers = DiskThreads(self.layout.base, limit=limit, deadline=io_timeout)
        self._opened = False

    @property
    def is_open(self) -> bool:
        """Whether the directory was there."""
        return self._opened

    def close(self) -> None:
        """Let go of the threads; the next call opens again."""
        self._workers.close()
        self._opened = False

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises LocalStorageUnavailable, and what `work` raises."""
        try:
            return await self._run(work)
        except NotAdopted:
            await self.adopt()
            return await self._run(work)

    async def adopt(self) -> None:
        """Make pointers to the snapshots that another program wrote, once."""
        pointers = self.files.tree.pointers
        async with self._workers.alone:
            if pointers.unwritable or await self._run(pointers.is_complete):
                return
            names = await self._run(self.layout.saga_names)
            for at in range(0, len(names), AT_ONCE):
                page = names[at : at + AT_ONCE]
                if not await self._run(partial(self.files.if_writable, partial(pointers.adopt, page))):
                    return
            await self._run(partial(self.files.if_writable, pointers.complete))

    async def adopt_replays(self) -> None:
        """Enter the replay records that another program wrote, once."""
        async with self._workers.alone:
            if await self._run(self.replays.is_complete):
                return
            ids = await self._run(self.replays.ids)
            for at in range(0, len(ids), AT_ONCE):
                page = ids[at : at + AT_ONCE]
                if not await self._run(partial(self.files.if_writable, partial(self.replays.adopt, page))):
                    return
            await self._run(partial(self.files.if_writable, self.replays.complete))

    async def _run(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with translated(self.layout.base):
                if not self._opened:
                    self.files.open()
                    self._opened = True
                return work()

        return await self._workers.run(guarded)
