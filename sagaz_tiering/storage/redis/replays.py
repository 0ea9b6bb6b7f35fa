"""Replay records in the standalone Redis storage. They have no time to live: they tell who replayed what.

A record and its id in the directory change together; its place under the saga is written before, on a Cluster in
another slot, so that a crash leaves at most a place without a record, which reads skip. Layout: `redis_keys`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.storage.answers import checked_replay
from sagaz_tiering.storage.redis.keys import PLACE_BYTES, SagaHome, shard_of
from sagaz_tiering.storage.redis.single import PAGE, SingleServerStore
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.standalone import ReplayRecord, attempted, replay_bytes, replay_of_bytes


async def save(store: SingleServerStore, record: ReplayRecord) -> None:
    """Insert or replace a record (`replay_record`)."""
    replay_id, place = UUID(record["replay_id"]), SagaHome.of(UUID(record["original_saga_id"]))
    created_us = to_micros(datetime.fromisoformat(record["created_at"]))
    member, of_saga = _member(replay_id), store.keys.replays_of(place)
    keys = [store.keys.replay(replay_id), store.keys.replays(shard_of(replay_id))]
    if store.redis.is_cluster:
        async with store.redis.use() as client:
            await client.zadd(of_saga, {member: created_us})
    else:
        keys.append(of_saga)
    args = [place.text.encode() + replay_bytes(record), replay_id.hex, store.keys.prefix, created_us, member]
    old = SagaHome.parse(await store.run("replay", keys, args))
    if store.redis.is_cluster and old is not None and old != place:
        async with store.redis.use() as client:
            await client.zrem(store.keys.replays_of(old), member)


async def get(store: SingleServerStore, replay_id: UUID) -> ReplayRecord | None:
    """One record. Raises CorruptRecord."""
    async with store.redis.use() as client:
        data: bytes | None = await client.get(store.keys.replay(replay_id))
    return None if data is None else _decoded(data, replay_id, None)


async def of_saga(store: SingleServerStore, saga_id: UUID, limit: int, gaps: Gaps) -> list[ReplayRecord]:
    """The newest `limit` records whose original is this saga, newest first; the unreadable go to `gaps`."""
    place, found, start = SagaHome.of(saga_id), list[ReplayRecord](), 0
    while len(found) + len(gaps) < limit:
        async with store.redis.use() as client:
            last = start + min(limit - len(found) - len(gaps), PAGE) - 1
            members: list[bytes] = await client.zrevrange(store.keys.replays_of(place), start, last)
        if not members:
            break
        found += gaps.readable(await _read(store, [UUID(hex=m[:32].decode()) for m in members], saga_id))
        start += len(members)
    return found


async def iterate(
    store: SingleServerStore, after: UUID | None
) -> AsyncIterator[tuple[UUID, ReplayRecord | CorruptRecord]]:
    """Every record by id, or why it cannot be read."""
    async for ids in store.replay_ids(after):
        for each in await _read(store, ids):
            yield each


async def _read(
    store: SingleServerStore, replay_ids: Sequence[UUID], saga_id: UUID | None = None
) -> list[tuple[UUID, ReplayRecord | CorruptRecord]]:
    """The records that are there, or why one cannot be read; with `saga_id`, those that are still that saga's."""
    place = None if saga_id is None else SagaHome.of(saga_id)
    keys = [store.keys.replay(replay_id) for replay_id in replay_ids]
    if not keys:
        return []
    async with store.redis.use() as client:
        values = await (client.mget_nonatomic(keys) if store.redis.is_cluster else client.mget(keys))
    found: list[tuple[UUID, ReplayRecord | CorruptRecord]] = []
    for replay_id, data in zip(replay_ids, values, strict=True):
        if data is None or (place is not None and SagaHome.parse(data) not in (place, None)):
            continue
        found.append(attempted(replay_id, _decoded, data, replay_id, saga_id))
    return found


def _decoded(data: bytes, replay_id: UUID, saga_id: UUID | None) -> ReplayRecord:
    """Raises CorruptRecord."""
    return checked_replay(replay_of_bytes(data[PLACE_BYTES:]), replay_id=replay_id, saga_id=saga_id)


def _member(replay_id: UUID) -> str:
    return replay_id.hex + shard_of(replay_id)
