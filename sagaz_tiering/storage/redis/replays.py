"""Replay records in the standalone Redis storage. They have no time to live: they tell who replayed what.

A record and its id in the directory change together; its place under the saga is written before, on a Cluster in
another slot, so that a crash leaves at most a place without a record, which reads skip. Layout: `redis_keys`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.drivers.redis.scripts import load_script
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.storage import replay_records as replay_log
from sagaz_tiering.storage.answers import checked_replay
from sagaz_tiering.storage.redis.keys import PLACE_BYTES, SagaHome, shard_of
from sagaz_tiering.storage.redis.single import PAGE, SingleServerStore
from sagaz_tiering.storage.reporting import Gaps

_KIND: Final = "redis"


class ReplayStore:
    """Replay records beside the snapshots of `store`."""

    def __init__(self, store: SingleServerStore) -> None:
        self._store = store
        self._redis = store.redis
        self._keys = store.keys

    async def save(self, record: dict[str, Any]) -> None:
        """Insert or replace a record (`replay_log.as_record`)."""
        replay_id, place = UUID(record["replay_id"]), SagaHome.of(UUID(record["original_saga_id"]))
        created_us = to_micros(datetime.fromisoformat(record["created_at"]))
        member, of_saga = _member(replay_id), self._keys.replays_of(place)
        keys = [self._keys.replay(replay_id), self._keys.replays(shard_of(replay_id))]
        if self._redis.is_cluster:
            async with self._redis.use() as client:
                await client.zadd(of_saga, {member: created_us})
        else:
            keys.append(of_saga)
        args = [place.text.encode() + replay_log.to_bytes(record), replay_id.hex, self._keys.prefix, created_us, member]
        script = load_script(__package__, "replay", behind="common")
        old = SagaHome.parse(await self._redis.run(script, keys, args))
        if self._redis.is_cluster and old is not None and old != place:
            async with self._redis.use() as client:
                await client.zrem(self._keys.replays_of(old), member)

    async def get(self, replay_id: UUID) -> dict[str, Any] | None:
        """One record. Raises CorruptRecord."""
        async with self._redis.use() as client:
            data: bytes | None = await client.get(self._keys.replay(replay_id))
        return None if data is None else checked_replay(replay_log.from_bytes(data[PLACE_BYTES:]), replay_id=replay_id)

    async def of_saga(self, saga_id: UUID, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` records whose original is this saga, newest first."""
        place, found, start, gaps = SagaHome.of(saga_id), list[dict[str, Any]](), 0, Gaps(_KIND)
        while len(found) + len(gaps) < limit:
            async with self._redis.use() as client:
                last = start + min(limit - len(found) - len(gaps), PAGE) - 1
                members: list[bytes] = await client.zrevrange(self._keys.replays_of(place), start, last)
            if not members:
                break
            for replay_id, record in await self._read([UUID(hex=m[:32].decode()) for m in members], saga_id):
                if isinstance(record, CorruptRecord):
                    gaps.add(replay_id, record)
                else:
                    found.append(record)
            start += len(members)
        gaps.check(found)
        return found

    async def iterate(self, after: UUID | None) -> AsyncIterator[dict[str, Any]]:
        """Every record, ascending by replay id. Raises CorruptRecord where one cannot be read."""
        gaps = Gaps(_KIND)
        async for ids in self._store.replay_ids(after):
            for replay_id, record in await self._read(ids):
                if isinstance(record, CorruptRecord):
                    gaps.add(replay_id, record)
                    gaps.check()
                else:
                    yield record

    async def _read(
        self, replay_ids: Sequence[UUID], saga_id: UUID | None = None
    ) -> list[tuple[UUID, dict[str, Any] | CorruptRecord]]:
        """The records that are there, or why one cannot be read; with `saga_id`, those that are still that saga's."""
        place = None if saga_id is None else SagaHome.of(saga_id)
        keys = [self._keys.replay(replay_id) for replay_id in replay_ids]
        if not keys:
            return []
        async with self._redis.use() as client:
            values = await (client.mget_nonatomic(keys) if self._redis.is_cluster else client.mget(keys))
        found: list[tuple[UUID, dict[str, Any] | CorruptRecord]] = []
        for replay_id, data in zip(replay_ids, values, strict=True):
            if data is None or (place is not None and SagaHome.parse(data) not in (place, None)):
                continue
            try:
                record = replay_log.from_bytes(data[PLACE_BYTES:])
                found.append((replay_id, checked_replay(record, replay_id=replay_id, saga_id=saga_id)))
            except CorruptRecord as exc:
                found.append((replay_id, exc))
        return found


def _member(replay_id: UUID) -> str:
    return replay_id.hex + shard_of(replay_id)
