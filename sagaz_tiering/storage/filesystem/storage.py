"""`FilesystemSnapshotStorage`: snapshots as JSON files for people, in a directory that several processes may share.

How it looks on disk: `layout`. What a crash leaves: `tree`. A directory of `sagaz`'s storage of the same name is read
and written in place.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock, to_micros
from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.errors import ConfigError, CorruptRecord, LocalStorageUnavailable
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot, as_utc, as_uuid
from sagaz_tiering.storage import replay_records as replay_log
from sagaz_tiering.storage.answers import text_ids_find_nothing
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.base import Health, checked_limit
from sagaz_tiering.storage.filesystem.errors import translated
from sagaz_tiering.storage.filesystem.index import FileEntry, View
from sagaz_tiering.storage.filesystem.record import replay_document
from sagaz_tiering.storage.filesystem.replays import order_key
from sagaz_tiering.storage.filesystem.session import FilesystemSession, parts
from sagaz_tiering.storage.filesystem.store import Found, Unwanted, pages
from sagaz_tiering.storage.reporting import Gaps, measured_read, reported_save

MAX_CONCURRENCY: Final = 8
"""Threads that read and write at once, by default."""

IO_TIMEOUT: Final = timedelta(seconds=60)
"""Deadline of one piece of work (a save, a page of a list), by default."""

_KIND: Final = "filesystem"
_FOLDERS: Final = ("snapshots", "indexes", "replays")


@text_ids_find_nothing
class FilesystemSnapshotStorage(AnyLoop):
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
        self._texts = texts_for(on_unsupported, _KIND)
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

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store a snapshot (ours or any object with sagaz's attributes), durably; an id saved before is replaced.

        Raises InvalidSnapshot where it would not come back equal.
        """
        with reported_save(snapshot, _KIND):
            record = await encode_record(SagaSnapshot.of(snapshot), saved_us=self._now_us(), texts=self._texts)
            await self._run(partial(self._files.save, record))

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot by id, found without looking into other sagas. Raises CorruptRecord."""
        wanted = as_uuid(snapshot_id, "snapshot_id")
        with measured_read(_KIND):
            found = await self._run(partial(self._files.get, wanted))
            until = None if found is None else found.retention_until
            return None if until is not None and self._now_us() >= to_micros(until) else found

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest snapshot of a saga; with `before_step`, the newest whose `step_name` equals it.

        Raises CorruptRecord if that one cannot be read, or if none is found beside one of which nothing is known.
        """
        return await self._newest(saga_id, lambda entry: before_step is None or entry.step_name == before_step)

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live snapshot created at or before `timestamp` (aware; raises NaiveTimestamp, CorruptRecord)."""
        moment_us = to_micros(as_utc(timestamp, "timestamp"))
        return await self._newest(saga_id, lambda entry: entry.created_us <= moment_us)

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit` snapshots of a saga, newest first. Raises ValueError for a negative limit.

        Raises CorruptRecord if any of them cannot be read, or may be one of which nothing is known; its `readable` has
        the others.
        """
        wanted, found, gaps = checked_limit(limit), list[SagaSnapshot](), Gaps(_KIND)
        saga = as_uuid(saga_id, "saga_id")
        if wanted == 0:
            return found
        with measured_read(_KIND):
            view = await self._view(saga, gaps)
            wanted += len(gaps)
            for page in pages(entry for entry in reversed(view.entries) if self._is_live(entry)):
                found += await self._read(saga, page[: wanted - len(found) - len(gaps)], gaps)
                if len(found) + len(gaps) >= wanted:
                    break
            # What was saved anew in between may have another time.
            found.sort(key=lambda each: (each.created_at, each.step_index, each.snapshot_id), reverse=True)
            gaps.check(found)
        return found

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove one, expired or unreadable ones too; False if there was none."""
        wanted: Unwanted = (as_uuid(snapshot_id, "snapshot_id"), None, None)
        return await self._run(partial(self._files.delete, [wanted])) > 0

    async def cleanup_saga(self, saga_id: UUID | str) -> int:
        """Remove every snapshot of a saga; how many there were."""
        saga = as_uuid(saga_id, "saga_id")
        view = await self._run(partial(self._files.view, saga))
        ids = [*(entry.snapshot_id for entry in view.entries), *view.unplaced]
        return await self._remove([(each, saga, None) for each in ids])

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many. Reads indexes, not snapshots. Removes what crashes left, too."""
        removed = 0
        for names in parts(await self._run(self._session.layout.saga_names)):
            removed += await self._remove(await self._run(partial(self._files.of_views, names, self._expired)))
        for path in await self._run(self._session.layout.swept):
            await self._run(partial(self._files.tree.sweep, path))
        return removed

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        first = "" if after is None else str(as_uuid(after, "after"))
        for names in parts(await self._run(partial(self._session.layout.saga_names, first))):
            for saga_id in await self._run(partial(self._files.of_views, names, self._id_if_live)):
                yield saga_id

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first; without `saga_id` of every saga behind `after`, by id.

        Raises CorruptRecord at its end for what it could not read.
        """
        gaps = Gaps(_KIND)
        if saga_id is not None:
            async for snapshot in self._walk(as_uuid(saga_id, "saga_id"), gaps):
                yield snapshot
        else:
            async for each in self.saga_ids(after=after):
                async for snapshot in self._walk(each, gaps):
                    yield snapshot
        gaps.check()

    async def save_replay_log(self, replay_result: ReplayResult) -> None:
        """Insert or replace the record of a replay (ours or sagaz's)."""
        record = replay_log.as_record(replay_result)
        replay_id, saga_id = UUID(record["replay_id"]), UUID(record["original_saga_id"])
        data = replay_document(record, pretty=self.pretty_json)
        await self._run(partial(self._session.replays.save, replay_id, saga_id, data))

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """The record of a replay in the shape of `ReplayResult.to_dict`, or None. Raises CorruptRecord."""
        return await self._run(partial(self._session.replays.get, as_uuid(replay_id, "replay_id")))

    async def list_replays(self, original_saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """Records of replays of a saga, newest first. Raises ValueError for a negative limit.

        Raises CorruptRecord if one that may be of this saga cannot be read; its `readable` has the others.
        """
        wanted, saga, gaps = checked_limit(limit), as_uuid(original_saga_id, "original_saga_id"), Gaps(_KIND)
        records = []
        async for replay_id, record in self._replays(await self._run(partial(self._session.replays.ids_of, saga))):
            if isinstance(record, CorruptRecord):
                gaps.add(replay_id, record)
            elif record["original_saga_id"] == str(saga):
                records.append(record)
        found = sorted(records, key=order_key, reverse=True)[:wanted]
        gaps.check(found)
        return found

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record, ascending by replay id, from behind `after` on. Raises where one cannot be read."""
        first, gaps = None if after is None else as_uuid(after, "after"), Gaps(_KIND)
        async for replay_id, record in self._replays(await self._run(partial(self._session.replays.ids, first))):
            if isinstance(record, CorruptRecord):
                gaps.add(replay_id, record)
                gaps.check()
            else:
                yield record

    async def health_check(self) -> Health:
        """Count what is there, expired snapshots too; `degraded` if it can be read, but not written."""
        began = time.monotonic()
        totals, details = (0, 0, 0), dict[str, Any](base_path=str(self._session.layout.base))
        try:
            for names in parts(await self._run(self._session.layout.saga_names)):
                counted = await self._run(partial(self._files.tree.totals, names))
                totals = (totals[0] + counted[0], totals[1] + counted[1], totals[2] + counted[2])
            details |= await self._run(self._ground)
            status = "healthy" if details["writable"] else "degraded"
        except LocalStorageUnavailable as exc:
            status = "unhealthy"
            details |= {"error": str(exc), "hint": exc.hint}
        return Health(
            status=status,
            latency_ms=(time.monotonic() - began) * 1000,
            snapshot_count=totals[1],
            total_size_bytes=totals[2],
            details={"sagas": totals[0], **details},
        )

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
            "storage_type": _KIND,
            "base_path": str(layout.base),
            "compression_enabled": self.enable_compression,
            "pretty_json": self.pretty_json,
            "total_sagas": sagas,
            "total_snapshots": snapshots,
            "total_replays": replays,
            "total_size_bytes": size,
            "total_size_mb": round(size / 2**20, 2),
        }

    def _now_us(self) -> int:
        return to_micros(self._clock.now())

    def _is_live(self, entry: FileEntry) -> bool:
        return entry.is_live(self._now_us())

    def _expired(self, view: View) -> list[Unwanted]:
        return [(each.snapshot_id, view.saga_id, each.state) for each in view.entries if not self._is_live(each)]

    def _id_if_live(self, view: View) -> list[UUID]:
        return [view.saga_id] if view.unplaced or any(map(self._is_live, view.entries)) else []

    async def _remove(self, unwanted: list[Unwanted]) -> int:
        return sum([await self._run(partial(self._files.delete, page)) for page in parts(unwanted)])

    async def _newest(self, saga_id: UUID | str, fits: Callable[[FileEntry], bool]) -> SagaSnapshot | None:
        saga = as_uuid(saga_id, "saga_id")
        with measured_read(_KIND):
            return await self._run(
                partial(self._files.newest, saga, lambda entry: self._is_live(entry) and fits(entry))
            )

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncIterator[SagaSnapshot]:
        view = await self._view(saga_id, gaps)
        for page in pages(entry for entry in view.entries if self._is_live(entry)):
            for snapshot in await self._read(saga_id, page, gaps):
                yield snapshot

    async def _view(self, saga_id: UUID, gaps: Gaps) -> View:
        view = await self._run(partial(self._files.view, saga_id))
        for snapshot_id, error in view.unplaced.items():
            gaps.add(snapshot_id, error)
        return view

    async def _read(self, saga_id: UUID, page: Iterable[FileEntry], gaps: Gaps) -> list[SagaSnapshot]:
        read: list[tuple[UUID, Found]] = await self._run(partial(self._files.read, saga_id, page))
        found = []
        for snapshot_id, each in read:
            if isinstance(each, CorruptRecord):
                gaps.add(snapshot_id, each)
            elif each is not None:
                found.append(each)
        return found

    async def _replays(self, ids: list[UUID]) -> AsyncIterator[tuple[UUID, dict[str, Any] | CorruptRecord]]:
        for page in parts(ids):
            for replay_id, record in await self._run(partial(self._session.replays.read, page)):
                if record is not None:
                    yield replay_id, record

    def _ground(self) -> dict[str, Any]:
        base = self._session.layout.base
        return {"writable": os.access(base, os.W_OK | os.X_OK), "free_bytes": shutil.disk_usage(base).free}
