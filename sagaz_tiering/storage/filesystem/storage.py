"""`FilesystemSnapshotStorage`: snapshots as JSON files for people, in a directory that several processes may share.

How it looks on disk: `layout`. What a crash leaves: `tree`. A directory of `sagaz`'s storage of the same name is read
and written in place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock, to_micros
from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.errors import ConfigError, CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.filesystem.errors import translated
from sagaz_tiering.storage.filesystem.index import FileEntry, View
from sagaz_tiering.storage.filesystem.record import replay_document
from sagaz_tiering.storage.filesystem.replays import order_key
from sagaz_tiering.storage.filesystem.session import FilesystemSession, parts
from sagaz_tiering.storage.filesystem.store import Unwanted, pages
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.standalone import ReplayRecord, StandaloneStorage

MAX_CONCURRENCY: Final = 8
"""Threads that read and write at once, by default."""

IO_TIMEOUT: Final = timedelta(seconds=60)
"""Deadline of one piece of work (a save, a page of a list), by default."""

_FOLDERS: Final = ("snapshots", "indexes", "replays")


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
        self.snapshots_dir, self.indexes_dir, self.replays_dir = (self.base_path / name for name in _FOLDERS)
        self.enable_compression = enable_compression
        self.pretty_json = pretty_json
        self._clock: Clock = clock or SystemClock()
        self._texts = texts_for(on_unsupported, self._kind)
        self._limit = max_concurrency
        self._io_timeout = io_timeout
        self._renew()

    def _renew(self) -> None:
        self._session = FilesystemSession(
            self.base_path,
            compress=self.enable_compression,
            pretty=self.pretty_json,
            limit=self._limit,
            io_timeout=self._io_timeout,
        )
        self._files = self._session.files
        self._run = self._session.run

    async def _disconnect(self) -> None:
        """Let go of the threads; the next call opens the directory again."""
        self._session.close()

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many. Reads indexes, not snapshots. Removes what crashes left, too."""
        removed = 0
        for names in parts(await self._run(self._session.layout.saga_names)):
            removed += await self._remove(await self._run(self._files.of_views, names, self._expired))
        for path in await self._run(self._session.layout.swept):
            await self._run(self._files.tree.sweep, path)
        return removed

    def get_storage_info(self) -> dict[str, Any]:
        """Options and counts. Looks at the directory at once, in the caller's thread; changes nothing."""
        layout = self._session.layout
        sagas = snapshots = size = replays = 0
        with translated(layout.base):
            if layout.snapshots.is_dir():
                sagas, snapshots, size = self._files.tree.totals(layout.saga_names())
                replays = len(self._session.replays.ids(tidy=False))
            elif self._session.is_open:
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
        names = await self._run(self._session.layout.saga_names, "" if after is None else str(after))
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
        await self._run(self._session.replays.save, replay_id, saga_id, data)

    async def _replay(self, replay_id: UUID) -> ReplayRecord | None:
        return await self._run(self._session.replays.get, replay_id)

    async def _replays_of(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[ReplayRecord]:
        records = list[ReplayRecord]()
        for ids in parts(await self._run(self._session.replays.ids_of, saga_id)):
            read = gaps.readable(await self._run(self._session.replays.read, ids))
            records += [record for record in read if record["original_saga_id"] == str(saga_id)]
        return sorted(records, key=order_key, reverse=True)[:wanted]

    async def _replays(self, after: UUID | None) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
        for ids in parts(await self._run(self._session.replays.ids, after)):
            for replay_id, record in await self._run(self._session.replays.read, ids):
                if record is not None:
                    yield replay_id, record

    async def _status(self, details: dict[str, Any]) -> str:
        """`degraded` if it can be read, but not written."""
        base = self._session.layout.base
        details |= {"base_path": str(base), "sagas": 0}
        free = await self._run(lambda: shutil.disk_usage(base).free)
        details |= {"writable": os.access(base, os.W_OK | os.X_OK), "free_bytes": free}
        return "healthy" if details["writable"] else "degraded"

    async def _totals(self, details: dict[str, Any]) -> tuple[int, int]:
        snapshots = size = 0
        for names in parts(await self._run(self._session.layout.saga_names)):
            counted = await self._run(self._files.tree.totals, names)
            details["sagas"] += counted[0]
            snapshots, size = snapshots + counted[1], size + counted[2]
        return snapshots, size

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
