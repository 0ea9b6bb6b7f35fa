"""`InMemorySnapshotStorage`: for tests and development; what is in it is gone with the object."""

from __future__ import annotations

import asyncio
import os
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple, Self, TypeVar
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock, to_micros
from sagaz_tiering.codec.threaded import decode_value, encode_value
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.storage import replay_records as replay_log
from sagaz_tiering.storage.answers import check_answer
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.standalone import ReplayRecord, StandaloneStorage

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


class InMemorySnapshotStorage(StandaloneStorage):
    """Snapshots and replay records in this process's memory. Closing it keeps them; dropping it drops them.

    May be used from any number of event loops and threads. A forked process has a copy of its own.
    """

    _kind = "memory"

    def __init__(self, *, clock: Clock | None = None, on_unsupported: OnUnsupported = "refuse") -> None:
        traces.follow()
        self._texts = texts_for(on_unsupported, self._kind)
        self._clock: Clock = clock or SystemClock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with _alone:
            self._snapshots: dict[UUID, _Stored] = {}
            self._replay_records: dict[UUID, _Replay] = {}
            self._bytes = 0
            # Sorted lists, searched by bisection: order keys of each saga, saga ids, and (retention_us, snapshot id).
            self._of_saga: dict[int, list[tuple[int, int, int]]] = {}
            self._sagas_in_order: list[int] = []
            self._expiries: list[tuple[int, int]] = []
            self._replay_ids: list[int] = []
            self._replays_of_saga: dict[UUID, list[tuple[int, int]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Nothing is open; what is stored stays."""

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many."""
        now_us = to_micros(self._clock.now())
        with _alone:
            expired = [number for _, number in self._expiries[: bisect_left(self._expiries, (now_us + 1, 0))]]
        return await self._remove_all(
            expired, lambda meta: meta.retention_us is not None and meta.retention_us <= now_us
        )

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of and holds."""
        return {
            "storage_type": self._kind,
            "total_sagas": len(self._sagas_in_order),
            "total_snapshots": len(self._snapshots),
            "total_replays": len(self._replay_records),
            "total_size_bytes": self._bytes,
            "total_size_mb": round(self._bytes / 2**20, 2),
        }

    async def _save(self, snapshot: SagaSnapshot) -> None:
        saved_us = to_micros(self._clock.now())
        meta, value = await encode_value(snapshot, saved_us=saved_us, level=None, texts=self._texts)
        with _alone:
            self._remove(meta.snapshot_id)
            self._add(_Stored(meta, value))

    async def _get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        stored = self._snapshots.get(snapshot_id)
        return await _decoded(stored) if stored and self._is_live(stored.meta) else None

    async def _newest(self, saga_id: UUID, step_name: str | None, not_after_us: int | None) -> SagaSnapshot | None:
        with _alone:
            newest_first = self._newest_first(saga_id, 2**63 if not_after_us is None else not_after_us)
            stored = next((s for s in newest_first if step_name is None or s.meta.step_name == step_name), None)
        return None if stored is None else await _decoded(stored)

    async def _list(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[SagaSnapshot]:
        found = []
        for at, stored in enumerate(self._some(saga_id, wanted)):
            await _yield_to_loop(at)
            with gaps.passing_over(stored.meta.snapshot_id):
                found.append(await _decoded(stored))
        return found

    async def _delete(self, snapshot_id: UUID) -> bool:
        return self._remove(snapshot_id)

    async def _delete_saga(self, saga_id: UUID) -> int:
        with _alone:
            keys = list(self._of_saga.get(saga_id.int, ()))
        return await self._remove_all([key[-1] for key in keys], lambda meta: meta.saga_id == saga_id)

    async def _sagas(self, after: UUID | None) -> AsyncGenerator[UUID, None]:
        async for number in _ascending(lambda: self._sagas_in_order, -1 if after is None else after.int):
            if self._some(UUID(int=number), 1):
                yield UUID(int=number)

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        async for key in _ascending(lambda: self._of_saga.get(saga_id.int, []), (-(2**63), 0, 0)):
            stored = self._snapshots.get(UUID(int=key[-1]))
            if stored is not None and self._is_live(stored.meta):
                with gaps.passing_over(stored.meta.snapshot_id):
                    yield await _decoded(stored)

    async def _save_replay(self, record: ReplayRecord) -> None:
        replay = _Replay(
            replay_id=UUID(record["replay_id"]),
            saga_id=UUID(record["original_saga_id"]),
            created_us=to_micros(datetime.fromisoformat(record["created_at"])),
            data=replay_log.to_bytes(record),
        )
        with _alone:
            old = self._replay_records.get(replay.replay_id)
            if old is None:
                insort(self._replay_ids, replay.replay_id.int)
            else:
                _drop(self._replays_of_saga, old.saga_id, (old.created_us, old.replay_id.int))
            insort(self._replays_of_saga.setdefault(replay.saga_id, []), (replay.created_us, replay.replay_id.int))
            self._replay_records[replay.replay_id] = replay

    async def _replay(self, replay_id: UUID) -> ReplayRecord | None:
        replay = self._replay_records.get(replay_id)
        return None if replay is None else replay_log.from_bytes(replay.data)

    async def _replays_of(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[ReplayRecord]:
        with _alone:
            newest_first = self._replays_of_saga.get(saga_id, [])[::-1]
        found = []
        for at, (_, number) in enumerate(islice(newest_first, wanted)):
            await _yield_to_loop(at)
            found += gaps.readable([self._tried_replay(number)])
        return found

    async def _replays(self, after: UUID | None) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
        async for number in _ascending(lambda: self._replay_ids, -1 if after is None else after.int):
            yield self._tried_replay(number)

    async def _totals(self, details: dict[str, Any]) -> tuple[int, int]:
        details |= {"sagas": len(self._sagas_in_order), "replays": len(self._replay_records)}
        return len(self._snapshots), self._bytes

    def _is_live(self, meta: SnapshotMeta) -> bool:
        return meta.retention_us is None or to_micros(self._clock.now()) < meta.retention_us

    def _newest_first(self, saga_id: UUID, not_after_us: int = 2**63) -> Iterator[_Stored]:
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
            insort(self._sagas_in_order, meta.saga_id.int)
        insort(self._of_saga.setdefault(meta.saga_id.int, []), meta.order_key)
        if meta.retention_us is not None:
            insort(self._expiries, (meta.retention_us, meta.snapshot_id.int))
        self._snapshots[meta.snapshot_id] = stored
        self._bytes += len(stored.value)

    def _remove(self, snapshot_id: UUID, unwanted: Callable[[SnapshotMeta], bool] = lambda _: True) -> bool:
        with _alone:
            stored = self._snapshots.get(snapshot_id)
            if stored is None or not unwanted(stored.meta):
                return False
            del self._snapshots[snapshot_id]
            meta = stored.meta
            if _drop(self._of_saga, meta.saga_id.int, meta.order_key):
                del self._sagas_in_order[bisect_left(self._sagas_in_order, meta.saga_id.int)]
            if meta.retention_us is not None:
                del self._expiries[bisect_left(self._expiries, (meta.retention_us, snapshot_id.int))]
            self._bytes -= len(stored.value)
            return True

    async def _remove_all(self, numbers: Iterable[int], unwanted: Callable[[SnapshotMeta], bool]) -> int:
        """Those that are `unwanted` still when their turn comes: they may be saved anew meanwhile."""
        removed = 0
        for at, number in enumerate(numbers):
            await _yield_to_loop(at)
            removed += self._remove(UUID(int=number), unwanted)
        return removed

    def _tried_replay(self, number: int) -> tuple[UUID, ReplayRecord | CorruptRecord]:
        replay = self._replay_records[UUID(int=number)]
        return replay_log.attempted(replay.replay_id, replay_log.from_bytes, replay.data)


async def _decoded(stored: _Stored) -> SagaSnapshot:
    """Raises CorruptRecord."""
    found = await decode_value(stored.value)
    check_answer(found, snapshot_id=stored.meta.snapshot_id, saga_id=stored.meta.saga_id)
    return found


async def _yield_to_loop(worked_on: int) -> None:
    """Give the event loop its turn every now and then."""
    if worked_on % _AT_ONCE == _AT_ONCE - 1:
        await asyncio.sleep(0)


async def _ascending(keys: Callable[[], list[_Key]], last: _Key) -> AsyncGenerator[_Key, None]:
    """The keys behind `last`, of a list that may change meanwhile."""
    passed = 0
    while True:
        with _alone:
            now = keys()
            at = bisect_right(now, last)
            if at == len(now):
                return
            last, passed = now[at], passed + 1
        await _yield_to_loop(passed)
        yield last


def _drop(lists: dict[Any, list[Any]], owner: Any, key: Any) -> bool:
    """Take a key out of its owner's sorted list; whether that was the last one."""
    keys = lists[owner]
    del keys[bisect_left(keys, key)]
    if not keys:
        del lists[owner]
    return not keys
