"""`FilesystemSnapshotStorage`: snapshots as JSON files for people, in a directory that several processes may share.

How it looks on disk: `layout`. What a crash leaves: `tree`. A directory of `sagaz`'s storage of the same name is read
and written in place.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock, to_micros
from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.errors import ConfigError, CorruptRecord, LocalStorageUnavailable
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.filesystem.files import FULL, REFUSED, translated
from sagaz_tiering.storage.filesystem.layout import Layout
from sagaz_tiering.storage.filesystem.record import replay_document
from sagaz_tiering.storage.filesystem.replays import ReplayFiles, order_key
from sagaz_tiering.storage.filesystem.snapshots import FileEntry, SnapshotFiles, Unwanted, View, pages
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.standalone import ReplayRecord, StandaloneStorage

P = ParamSpec("P")
T = TypeVar("T")

MAX_CONCURRENCY: Final = 8
"""Threads that read and write at once, by default."""

IO_TIMEOUT: Final = timedelta(seconds=60)
"""Deadline of one piece of work (a save, a page of a list), by default."""

_AT_ONCE: Final = 100
"""Sagas, or records, that one piece of work goes through."""


class FilesystemSnapshotStorage(AnyLoop, StandaloneStorage):
    """One JSON file for each snapshot below `base_path`; crash-safe, and safe for several processes.

    `enable_compression` writes `.json.gz`, `pretty_json` indents by 2; both may change at any time over existing
    data. Lists of all sagas hold their names in memory (about 100 bytes each), nothing else grows with the store.
    Every method finds what it needs without a search. Its own derived files (`ids/`, `indexes/`) may be lost: the first
    call after the opening makes `ids/` anew by the names of all files; until then (they were removed while it was
    open), and where it may only read, each look-up of an id that is not there looks into every saga's directory. A
    list of a saga whose index was lost reads that saga's files once.
    Every method may raise LocalStorageUnavailable (no space, no permission, volume gone). Nothing is touched before
    the first call; that makes the directories.
    """

    _kind = "filesystem"

    def __init__(
        self,
        base_path: str | os.PathLike[str] = "./saga-snapshots",
        enable_compression: bool = False,
        pretty_json: bool = True,
        *,
        clock: Clock | None = None,
        max_concurrency: int = MAX_CONCURRENCY,
        io_timeout: timedelta = IO_TIMEOUT,
        on_unsupported: OnUnsupported = "refuse",
    ) -> None:
        if not isinstance(base_path, (str, os.PathLike)) or not os.fspath(base_path):
            raise ConfigError("base_path must be the path of a directory", hint='for example "./saga-snapshots"')
        if max_concurrency < 1 or io_timeout <= timedelta(0):
            raise ConfigError("max_concurrency and io_timeout must be positive")
        super().__init__()
        self.base_path = Path(base_path)
        folders = (self.base_path / name for name in ("snapshots", "indexes", "replays"))
        self.snapshots_dir, self.indexes_dir, self.replays_dir = folders
        self.enable_compression = enable_compression
        self.pretty_json = pretty_json
        self._clock: Clock = clock or SystemClock()
        self._texts = texts_for(on_unsupported, self._kind)
        self._limit = max_concurrency
        self._io_timeout = io_timeout
        self._renew()

    def _renew(self) -> None:
        # Half of the deadline, so that the caller is told what it waited for.
        self._layout = Layout(self.base_path, wait=self._io_timeout / 2)
        self._files = SnapshotFiles(self._layout, compress=self.enable_compression, pretty=self.pretty_json)
        self._replay_files = ReplayFiles(self._layout)
        # Threads of its own, so that a slow disk does not take those of the application.
        self._pool: ThreadPoolExecutor | None = None
        self._is_open = False
        self._free = asyncio.Semaphore(self._limit)
        self._opening = asyncio.Lock()

    async def _disconnect(self) -> None:
        """Let go of the threads, which end their work; the next call opens the directory again."""
        pool = self._pool
        self._renew()
        if pool is not None:
            pool.shutdown(wait=False)

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many. Reads indexes, not snapshots. Removes what crashes left, too."""
        removed = 0
        for names in parts(await self._run(self._layout.saga_names)):
            removed += await self._remove(await self._run(self._files.of_views, names, self._expired))
        for path in await self._run(self._layout.swept):
            await self._run(self._files.tree.sweep, path)
        return removed

    def get_storage_info(self) -> dict[str, Any]:
        """Options and counts. Looks at the directory at once, in the caller's thread; changes nothing."""
        layout = self._layout
        sagas = snapshots = size = replays = 0
        with translated(layout.base):
            if layout.snapshots.is_dir():
                sagas, snapshots, size = self._files.tree.totals(layout.saga_names())
                replays = len(self._replay_files.ids(tidy=False))
            elif self._is_open:
                layout.check_present()
        return {
            "storage_type": self._kind,
            "base_path": str(layout.base),
            "compression_enabled": self.enable_compression,
            "pretty_json": self.pretty_json,
            "total_sagas": sagas,
            "total_snapshots": snapshots,
            "total_replays": replays,
            "total_size_bytes": size,
            "total_size_mb": round(size / 2**20, 2),
        }

    async def _save(self, snapshot: SagaSnapshot) -> None:
        record = await encode_record(snapshot, saved_us=self._now_us(), texts=self._texts)
        await self._run(self._files.save, record)

    async def _get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        found = await self._run(self._files.get, snapshot_id)
        until = None if found is None else found.retention_until
        return None if until is not None and self._now_us() >= to_micros(until) else found

    async def _newest(self, saga_id: UUID, step_name: str | None, not_after_us: int | None) -> SagaSnapshot | None:
        def fits(entry: FileEntry) -> bool:
            in_time = not_after_us is None or entry.created_us <= not_after_us
            return in_time and step_name in (None, entry.step_name) and self._is_live(entry)

        return await self._run(self._files.newest, saga_id, fits)

    async def _list(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[SagaSnapshot]:
        view = await self._view(saga_id, gaps)
        found, wanted = list[SagaSnapshot](), wanted + len(gaps)
        for page in pages(entry for entry in reversed(view.entries) if self._is_live(entry)):
            found += await self._read(saga_id, page[: wanted - len(found) - len(gaps)], gaps)
            if len(found) + len(gaps) >= wanted:
                break
        # What was saved anew in between may have another time.
        return sorted(found, key=lambda each: (each.created_at, each.step_index, each.snapshot_id), reverse=True)

    async def _delete(self, snapshot_id: UUID) -> bool:
        return await self._run(self._files.delete, [(snapshot_id, None, None)]) > 0

    async def _delete_saga(self, saga_id: UUID) -> int:
        view = await self._run(self._files.view, saga_id)
        ids = [*(entry.snapshot_id for entry in view.entries), *view.unplaced]
        return await self._remove([(each, saga_id, None) for each in ids])

    async def _sagas(self, after: UUID | None) -> AsyncGenerator[UUID, None]:
        names = await self._run(self._layout.saga_names, "" if after is None else str(after))
        for some in parts(names):
            for saga_id in await self._run(self._files.of_views, some, self._id_if_live):
                yield saga_id

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        view = await self._view(saga_id, gaps)
        for page in pages(entry for entry in view.entries if self._is_live(entry)):
            for snapshot in await self._read(saga_id, page, gaps):
                yield snapshot

    async def _save_replay(self, record: ReplayRecord) -> None:
        data = replay_document(record, pretty=self.pretty_json)
        replay_id, saga_id = UUID(record["replay_id"]), UUID(record["original_saga_id"])
        await self._run(self._replay_files.save, replay_id, saga_id, data)

    async def _replay(self, replay_id: UUID) -> ReplayRecord | None:
        return await self._run(self._replay_files.get, replay_id)

    async def _replays_of(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[ReplayRecord]:
        records = list[ReplayRecord]()
        for ids in parts(await self._run(self._replay_files.ids_of, saga_id)):
            read = gaps.readable(await self._run(self._replay_files.read, ids))
            records += [record for record in read if record["original_saga_id"] == str(saga_id)]
        return sorted(records, key=order_key, reverse=True)[:wanted]

    async def _replays(self, after: UUID | None) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
        for ids in parts(await self._run(self._replay_files.ids, after)):
            for replay_id, record in await self._run(self._replay_files.read, ids):
                if record is not None:
                    yield replay_id, record

    async def _status(self, details: dict[str, Any]) -> str:
        """`degraded` if it can be read, but not written."""
        base = self._layout.base
        details |= {"base_path": str(base), "sagas": 0}
        free = await self._run(lambda: shutil.disk_usage(base).free)
        details |= {"writable": os.access(base, os.W_OK | os.X_OK), "free_bytes": free}
        return "healthy" if details["writable"] else "degraded"

    async def _totals(self, details: dict[str, Any]) -> tuple[int, int]:
        snapshots = size = 0
        for names in parts(await self._run(self._layout.saga_names)):
            counted = await self._run(self._files.tree.totals, names)
            details["sagas"] += counted[0]
            snapshots, size = snapshots + counted[1], size + counted[2]
        return snapshots, size

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What blocking `work` gives, off the event loop. Raises LocalStorageUnavailable, and what `work` raises."""
        if not self._is_open:
            async with self._opening:
                if not self._is_open:
                    await self._in_thread(self._files.open)
                    if not await self._in_thread(self._layout.is_complete):
                        await self._adopt()
                    self._is_open = True
        return await self._in_thread(work, *args, **kwargs)

    async def _adopt(self) -> None:
        """Make the derived files of what another program wrote, once, unless that is not possible here."""
        try:
            await self._in_thread(self._layout.make)
            for names in parts(await self._in_thread(self._layout.saga_names)):
                await self._in_thread(self._files.tree.adopt, names)
            for replay_ids in parts(await self._in_thread(self._replay_files.ids)):
                await self._in_thread(self._replay_files.adopt, replay_ids)
            await self._in_thread(self._layout.say_complete)
        except LocalStorageUnavailable as exc:
            cause = exc.__cause__
            if not isinstance(cause, OSError) or cause.errno not in REFUSED | FULL:
                raise

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Within the deadline, with the system's errors made ours."""

        def guarded() -> T:
            with translated(self._layout.base):
                return work(*args, **kwargs)

        async with self._free:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._limit, thread_name_prefix="sagaz-tiering-files")
            future = asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, guarded)
            try:
                async with asyncio.timeout(self._io_timeout.total_seconds()):
                    return await future
            except TimeoutError as exc:
                raise LocalStorageUnavailable(
                    f"{self._layout.base} did not answer within {self._io_timeout.total_seconds():g} s",
                    hint="the disk or network mount behind it hangs, or raise io_timeout",
                ) from exc

    def _now_us(self) -> int:
        return to_micros(self._clock.now())

    def _is_live(self, entry: FileEntry) -> bool:
        return entry.is_live(self._now_us())

    def _expired(self, view: View) -> list[Unwanted]:
        return [(each.snapshot_id, view.saga_id, each.state) for each in view.entries if not self._is_live(each)]

    def _id_if_live(self, view: View) -> list[UUID]:
        return [view.saga_id] if view.unplaced or any(map(self._is_live, view.entries)) else []

    async def _remove(self, unwanted: list[Unwanted]) -> int:
        return sum([await self._run(self._files.delete, page) for page in parts(unwanted)])

    async def _view(self, saga_id: UUID, gaps: Gaps) -> View:
        view = await self._run(self._files.view, saga_id)
        for snapshot_id, error in view.unplaced.items():
            gaps.add(snapshot_id, error)
        return view

    async def _read(self, saga_id: UUID, page: Iterable[FileEntry], gaps: Gaps) -> list[SagaSnapshot]:
        return gaps.readable(await self._run(self._files.read, saga_id, page))


def parts(items: list[T]) -> Iterator[list[T]]:
    """So many sagas (or records) at a time as one piece of work goes through."""
    return (items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE))
