"""`InMemorySnapshotStorage`: for tests and development; what is in it is gone with the object."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple, Self, TypeVar
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock, to_micros
from sagaz_tiering.codec.threaded import decode_value, encode_value
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot, SnapshotMeta, as_utc, as_uuid
from sagaz_tiering.storage import replay_records as replay_log
from sagaz_tiering.storage.answers import check_answer, text_ids_find_nothing
from sagaz_tiering.storage.base import Health, checked_limit
from sagaz_tiering.storage.reporting import Gaps, measured_read, reported_save

_AT_ONCE: Final = 64
"""Small records worked on before the event loop gets its turn."""

_alone: Final = threading.RLock()
"""For every look at several lists and every change; never over an await. Forked processes get whole lists."""
os.register_at_fork(before=_alone.acquire, after_in_parent=_alone.release, after_in_child=_alone.release)


_Key = TypeVar("_Key", int, tuple[int, int, int])


class _Stored(NamedTuple):
    """A snapshot as bytes, so that nobody else's changes reach it, and what is asked of it without decoding."""

    meta: SnapshotMeta
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replay:
    replay_id: UUID
    saga_id: UUID
    created_us: int
    data: bytes


@text_ids_find_nothing
class InMemorySnapshotStorage:
    """Snapshots and replay records in this process's memory. Closing it keeps them; dropping it drops them.

    May be used from any number of event loops and threads. A forked process has a copy of its own.
    """

    def __init__(self, *, clock: Clock | None = None, on_unsupported: OnUnsupported = "refuse") -> None:
        self._texts = texts_for(on_unsupported, "memory")
        self._clock: Clock = clock or SystemClock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._snapshots: dict[UUID, _Stored] = {}
        self._replays: dict[UUID, _Replay] = {}
        self._bytes = 0
        # Sorted lists, searched by bisection: order keys of each saga, saga ids, and (retention_us, snapshot id).
        self._of_saga: dict[int, list[tuple[int, int, int]]] = {}
        self._sagas: list[int] = []
        self._expiries: list[tuple[int, int]] = []
        self._replay_ids: list[int] = []
        self._replays_of_saga: dict[UUID, list[tuple[int, int]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Nothing is open; what is stored stays."""

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store a snapshot (ours or any object with sagaz's attributes); an id saved before is replaced.

        Raises InvalidSnapshot where it would not come back equal.
        """
        with reported_save(snapshot, "memory"):
            saved_us = to_micros(self._clock.now())
            ours = SagaSnapshot.of(snapshot)
            meta, value = await encode_value(ours, saved_us=saved_us, level=None, texts=self._texts)
            with _alone:
                self._remove(meta.snapshot_id)
                self._add(_Stored(meta, value))

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot by id. Raises CorruptRecord, as every read that has one snapshot for an answer."""
        with measured_read("memory"):
            stored = self._snapshots.get(as_uuid(snapshot_id, "snapshot_id"))
            return await _decoded(stored) if stored and self._is_live(stored.meta) else None

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest snapshot of a saga; with `before_step`, the newest whose `step_name` equals it."""
        with measured_read("memory"):
            newest = self._newest_first(as_uuid(saga_id, "saga_id"))
            return await _first(s for s in newest if before_step is None or s.meta.step_name == before_step)

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live snapshot created at or before `timestamp` (aware; raises NaiveTimestamp)."""
        moment_us = to_micros(as_utc(timestamp, "timestamp"))
        with measured_read("memory"):
            return await _first(self._newest_first(as_uuid(saga_id, "saga_id"), not_after_us=moment_us))

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit` snapshots of a saga, newest first. Raises ValueError for a negative limit.

        Raises CorruptRecord if any of them cannot be read; its `readable` has the others.
        """
        wanted, found, gaps = checked_limit(limit), list[SagaSnapshot](), Gaps("memory")
        saga = as_uuid(saga_id, "saga_id")
        with measured_read("memory"):
            for at, stored in enumerate(self._some(saga, wanted)):
                await _yield_to_loop(at)
                found += await _readable(stored, gaps)
            gaps.check(found)
        return found

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove one, expired or unreadable ones too; False if there was none."""
        return self._remove(as_uuid(snapshot_id, "snapshot_id"))

    async def cleanup_saga(self, saga_id: UUID | str) -> int:
        """Remove every snapshot of a saga; how many there were."""
        with _alone:
            keys = list(self._of_saga.get(as_uuid(saga_id, "saga_id").int, ()))
        return await self._remove_all(key[-1] for key in keys)

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many."""
        with _alone:
            last = bisect_left(self._expiries, (to_micros(self._clock.now()) + 1, 0))
            expired = [number for _, number in self._expiries[:last]]
        return await self._remove_all(expired)

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        last = -1 if after is None else as_uuid(after, "after").int
        passed = 0
        while (following := _behind(self._sagas, last)) is not None:
            last, passed = following, passed + 1
            await _yield_to_loop(passed)
            if self._some(UUID(int=last), 1):
                yield UUID(int=last)

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first; without `saga_id` of every saga behind `after`, by id.

        Raises CorruptRecord at its end for what it could not read.
        """
        gaps = Gaps("memory")
        if saga_id is not None:
            async for snapshot in self._walk(as_uuid(saga_id, "saga_id"), gaps):
                yield snapshot
        else:
            async for each in self.saga_ids(after=after):
                async for snapshot in self._walk(each, gaps):
                    yield snapshot
        gaps.check()

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncIterator[SagaSnapshot]:
        last, passed = (-(2**63), 0, 0), 0
        while (following := _behind(self._of_saga.get(saga_id.int, []), last)) is not None:
            last, passed = following, passed + 1
            await _yield_to_loop(passed)
            stored = self._snapshots.get(UUID(int=last[-1]))
            if stored is not None and self._is_live(stored.meta):
                for snapshot in await _readable(stored, gaps):
                    yield snapshot

    async def save_replay_log(self, replay_result: ReplayResult) -> None:
        """Insert or replace the record of a replay (ours or sagaz's)."""
        record = replay_log.as_record(replay_result)
        created = datetime.fromisoformat(record["created_at"])
        replay = _Replay(
            replay_id=UUID(record["replay_id"]),
            saga_id=UUID(record["original_saga_id"]),
            created_us=to_micros(created),
            data=replay_log.to_bytes(record),
        )
        with _alone:
            old = self._replays.get(replay.replay_id)
            if old is None:
                insort(self._replay_ids, replay.replay_id.int)
            else:
                _drop(self._replays_of_saga, old.saga_id, (old.created_us, old.replay_id.int))
            insort(self._replays_of_saga.setdefault(replay.saga_id, []), (replay.created_us, replay.replay_id.int))
            self._replays[replay.replay_id] = replay

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """The record of a replay in the shape of `ReplayResult.to_dict`, or None."""
        replay = self._replays.get(as_uuid(replay_id, "replay_id"))
        return None if replay is None else replay_log.from_bytes(replay.data)

    async def list_replays(self, original_saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """Records of replays of a saga, newest first. Raises ValueError for a negative limit."""
        wanted, found, gaps = checked_limit(limit), list[dict[str, Any]](), Gaps("memory")
        with _alone:
            newest_first = self._replays_of_saga.get(as_uuid(original_saga_id, "original_saga_id"), [])[::-1]
        for at, (_, number) in enumerate(islice(newest_first, wanted)):
            await _yield_to_loop(at)
            found += self._readable_replay(number, gaps)
        gaps.check(found)
        return found

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record, ascending by replay id, from behind `after` on."""
        last, passed, gaps = -1 if after is None else as_uuid(after, "after").int, 0, Gaps("memory")
        while (following := _behind(self._replay_ids, last)) is not None:
            last, passed = following, passed + 1
            await _yield_to_loop(passed)
            for record in self._readable_replay(last, gaps):
                yield record
            gaps.check()

    async def health_check(self) -> Health:
        """Always healthy; counts what is held, expired snapshots that were not yet removed too."""
        began = time.monotonic()
        return Health(
            status="healthy",
            latency_ms=(time.monotonic() - began) * 1000,
            snapshot_count=len(self._snapshots),
            total_size_bytes=self._bytes,
            details={"sagas": len(self._sagas), "replays": len(self._replays)},
        )

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of and holds."""
        return {
            "storage_type": "memory",
            "total_sagas": len(self._sagas),
            "total_snapshots": len(self._snapshots),
            "total_replays": len(self._replays),
            "total_size_bytes": self._bytes,
            "total_size_mb": round(self._bytes / 2**20, 2),
        }

    def _is_live(self, meta: SnapshotMeta) -> bool:
        return meta.retention_us is None or to_micros(self._clock.now()) < meta.retention_us

    def _newest_first(self, saga_id: UUID, *, not_after_us: int = 2**63) -> Iterator[_Stored]:
        """The live snapshots of a saga; only with the lock, and not to be held over an await: saves change the list."""
        keys = self._of_saga.get(saga_id.int, [])
        for at in range(bisect_left(keys, (not_after_us + 1, -(2**31), 0)) - 1, -1, -1):
            stored = self._snapshots[UUID(int=keys[at][-1])]
            if self._is_live(stored.meta):
                yield stored

    def _some(self, saga_id: UUID, count: int) -> list[_Stored]:
        """So many of the newest live snapshots of a saga, newest first."""
        with _alone:
            return list(islice(self._newest_first(saga_id), count))

    def _add(self, stored: _Stored) -> None:
        meta = stored.meta
        if meta.saga_id.int not in self._of_saga:
            insort(self._sagas, meta.saga_id.int)
        insort(self._of_saga.setdefault(meta.saga_id.int, []), meta.order_key)
        if meta.retention_us is not None:
            insort(self._expiries, (meta.retention_us, meta.snapshot_id.int))
        self._snapshots[meta.snapshot_id] = stored
        self._bytes += len(stored.value)

    def _remove(self, snapshot_id: UUID) -> bool:
        with _alone:
            stored = self._snapshots.pop(snapshot_id, None)
            if stored is None:
                return False
            meta = stored.meta
            if _drop(self._of_saga, meta.saga_id.int, meta.order_key):
                del self._sagas[bisect_left(self._sagas, meta.saga_id.int)]
            if meta.retention_us is not None:
                del self._expiries[bisect_left(self._expiries, (meta.retention_us, snapshot_id.int))]
            self._bytes -= len(stored.value)
            return True

    async def _remove_all(self, numbers: Iterable[int]) -> int:
        removed = 0
        for at, number in enumerate(numbers):
            await _yield_to_loop(at)
            removed += self._remove(UUID(int=number))
        return removed

    def _readable_replay(self, number: int, gaps: Gaps) -> list[dict[str, Any]]:
        replay = self._replays[UUID(int=number)]
        try:
            return [replay_log.from_bytes(replay.data)]
        except CorruptRecord as exc:
            gaps.add(replay.replay_id, exc)
            return []


async def _first(found: Iterator[_Stored]) -> SagaSnapshot | None:
    with _alone:
        stored = next(found, None)
    return None if stored is None else await _decoded(stored)


async def _decoded(stored: _Stored) -> SagaSnapshot:
    """Raises CorruptRecord."""
    found = await decode_value(stored.value)
    check_answer(found, snapshot_id=stored.meta.snapshot_id, saga_id=stored.meta.saga_id)
    return found


async def _readable(stored: _Stored, gaps: Gaps) -> list[SagaSnapshot]:
    """The snapshot, if it can be read."""
    try:
        return [await _decoded(stored)]
    except CorruptRecord as exc:
        gaps.add(stored.meta.snapshot_id, exc)
        return []


async def _yield_to_loop(worked_on: int) -> None:
    """Give the event loop its turn every now and then."""
    if worked_on % _AT_ONCE == _AT_ONCE - 1:
        await asyncio.sleep(0)


def _behind(ascending: list[_Key], last: _Key) -> _Key | None:
    """The first key behind `last`."""
    with _alone:
        at = bisect_right(ascending, last)
        return ascending[at] if at < len(ascending) else None


def _drop(lists: dict[Any, list[Any]], owner: Any, key: Any) -> bool:
    """Take a key out of its owner's sorted list; whether that was the last one."""
    keys = lists[owner]
    del keys[bisect_left(keys, key)]
    if not keys:
        del lists[owner]
    return not keys
