"""`InMemorySnapshotStorage`: for tests and development; what is in it is gone with the object."""

from __future__ import annotations

import asyncio
import os
import threading
from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

from sagaz_tiering.clock import Clock, SystemClock, to_micros
from sagaz_tiering.codec.threaded import decode_value, encode_value
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.storage.answers import check_answer
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.standalone import ReplayRecord, StandaloneStorage, attempted, replay_bytes, replay_of_bytes

_AT_ONCE: Final = 64
"""Small records worked on before the event loop gets its turn."""

_alone: Final = threading.RLock()
"""For every look at several lists and every change; never over an await. Forked processes get whole lists."""
os.register_at_fork(before=_alone.acquire, after_in_parent=_alone.release, after_in_child=_alone.release)


class _Stored(NamedTuple):
    """A snapshot as bytes, so that nobody else's changes reach it, and what is asked of it without decoding."""

    meta: SnapshotMeta
    value: bytes

    def is_live(self, now_us: int) -> bool:
        return self.meta.retention_us is None or now_us < self.meta.retention_us


class _Replay(NamedTuple):
    created_us: int
    saga_id: UUID
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
            self._of_saga: dict[UUID, list[tuple[int, int, int]]] = {}
            """The order keys of each saga's snapshots, sorted."""
            self._expiries: list[tuple[int, UUID]] = []
            """When snapshots end, sorted, each with its id."""
            self._replays_of_saga: dict[UUID, set[UUID]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Nothing is open; what is stored stays."""

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many."""
        now_us = self._now_us()
        with _alone:
            expired = [each for _, each in self._expiries[: bisect_left(self._expiries, (now_us + 1, UUID(int=0)))]]
        return await self._remove_all(expired, lambda stored: not stored.is_live(now_us))

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of and holds."""
        return {
            "storage_type": self._kind,
            "total_sagas": len(self._of_saga),
            "total_snapshots": len(self._snapshots),
            "total_replays": len(self._replay_records),
            "total_size_bytes": self._bytes,
            "total_size_mb": round(self._bytes / 2**20, 2),
        }

    async def _save(self, snapshot: SagaSnapshot) -> None:
        meta, value = await encode_value(snapshot, saved_us=self._now_us(), level=None, texts=self._texts)
        with _alone:
            self._remove(meta.snapshot_id)
            self._add(_Stored(meta, value))

    async def _get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        stored = self._snapshots.get(snapshot_id)
        return await _decoded(stored) if stored and stored.is_live(self._now_us()) else None

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
            ids = [UUID(int=key[-1]) for key in self._of_saga.get(saga_id, ())]
        return await self._remove_all(ids, lambda stored: stored.meta.saga_id == saga_id)

    async def _sagas(self, after: UUID | None) -> AsyncGenerator[UUID, None]:
        async for saga_id in _ascending(self._of_saga, after):
            if self._some(saga_id, 1):
                yield saga_id

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        with _alone:
            keys = list(self._of_saga.get(saga_id, ()))
        for at, key in enumerate(keys):
            await _yield_to_loop(at)
            stored = self._snapshots.get(UUID(int=key[-1]))
            # Else it was saved anew meanwhile, in another place.
            is_here = stored is not None and (stored.meta.saga_id, stored.meta.order_key) == (saga_id, key)
            if stored is not None and is_here and stored.is_live(self._now_us()):
                with gaps.passing_over(stored.meta.snapshot_id):
                    yield await _decoded(stored)

    async def _save_replay(self, record: ReplayRecord) -> None:
        replay_id, created_us = UUID(record["replay_id"]), to_micros(datetime.fromisoformat(record["created_at"]))
        replay = _Replay(created_us, UUID(record["original_saga_id"]), replay_bytes(record))
        with _alone:
            if (old := self._replay_records.get(replay_id)) is not None:
                self._replays_of_saga[old.saga_id].discard(replay_id)
            self._replays_of_saga.setdefault(replay.saga_id, set()).add(replay_id)
            self._replay_records[replay_id] = replay

    async def _replay(self, replay_id: UUID) -> ReplayRecord | None:
        replay = self._replay_records.get(replay_id)
        return None if replay is None else replay_of_bytes(replay.data)

    async def _replays_of(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[ReplayRecord]:
        with _alone:
            of_saga = [(self._replay_records[each], each) for each in self._replays_of_saga.get(saga_id, ())]
        of_saga.sort(key=lambda each: (each[0].created_us, each[1]), reverse=True)
        found = []
        for at, (replay, replay_id) in enumerate(of_saga[:wanted]):
            await _yield_to_loop(at)
            found += gaps.readable([attempted(replay_id, replay_of_bytes, replay.data)])
        return found

    async def _replays(self, after: UUID | None) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
        async for replay_id in _ascending(self._replay_records, after):
            if (replay := self._replay_records.get(replay_id)) is not None:
                yield attempted(replay_id, replay_of_bytes, replay.data)

    async def _totals(self, details: dict[str, Any]) -> tuple[int, int]:
        details |= {"sagas": len(self._of_saga), "replays": len(self._replay_records)}
        return len(self._snapshots), self._bytes

    def _now_us(self) -> int:
        return to_micros(self._clock.now())

    def _newest_first(self, saga_id: UUID, not_after_us: int = 2**63) -> Iterator[_Stored]:
        """The live snapshots of a saga; only with the lock, and not to be held over an await: saves change the list."""
        keys, now_us = self._of_saga.get(saga_id, []), self._now_us()
        for at in range(bisect_left(keys, (not_after_us + 1, -(2**31), 0)) - 1, -1, -1):
            stored = self._snapshots[UUID(int=keys[at][-1])]
            if stored.is_live(now_us):
                yield stored

    def _some(self, saga_id: UUID, count: int) -> list[_Stored]:
        """So many of the newest live snapshots of a saga, newest first."""
        with _alone:
            return list(islice(self._newest_first(saga_id), count))

    def _add(self, stored: _Stored) -> None:
        insort(self._of_saga.setdefault(stored.meta.saga_id, []), stored.meta.order_key)
        if stored.meta.retention_us is not None:
            insort(self._expiries, (stored.meta.retention_us, stored.meta.snapshot_id))
        self._snapshots[stored.meta.snapshot_id] = stored
        self._bytes += len(stored.value)

    def _remove(self, snapshot_id: UUID, unwanted: Callable[[_Stored], bool] = lambda _: True) -> bool:
        with _alone:
            stored = self._snapshots.get(snapshot_id)
            if stored is None or not unwanted(stored):
                return False
            del self._snapshots[snapshot_id]
            keys = self._of_saga[stored.meta.saga_id]
            del keys[bisect_left(keys, stored.meta.order_key)]
            if not keys:
                del self._of_saga[stored.meta.saga_id]
            if stored.meta.retention_us is not None:
                del self._expiries[bisect_left(self._expiries, (stored.meta.retention_us, snapshot_id))]
            self._bytes -= len(stored.value)
            return True

    async def _remove_all(self, ids: Iterable[UUID], unwanted: Callable[[_Stored], bool]) -> int:
        """Those that are `unwanted` still when their turn comes: they may be saved anew meanwhile."""
        removed = 0
        for at, snapshot_id in enumerate(ids):
            await _yield_to_loop(at)
            removed += self._remove(snapshot_id, unwanted)
        return removed


async def _decoded(stored: _Stored) -> SagaSnapshot:
    """Raises CorruptRecord."""
    found = await decode_value(stored.value)
    check_answer(found, snapshot_id=stored.meta.snapshot_id, saga_id=stored.meta.saga_id)
    return found


async def _yield_to_loop(worked_on: int) -> None:
    """Give the event loop its turn every now and then."""
    if worked_on % _AT_ONCE == _AT_ONCE - 1:
        await asyncio.sleep(0)


async def _ascending(ids: Iterable[UUID], after: UUID | None) -> AsyncGenerator[UUID, None]:
    """Those behind `after` of the keys of a dict that may change meanwhile."""
    with _alone:
        found = sorted(each for each in ids if after is None or each > after)
    for at, each in enumerate(found):
        await _yield_to_loop(at)
        yield each
