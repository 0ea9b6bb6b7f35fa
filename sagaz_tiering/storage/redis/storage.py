"""`RedisSnapshotStorage`: snapshots in one Redis, or Redis Cluster, of their own, with a time to live."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.codec.threaded import decode_value, encode_value
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.drivers.redis.answers import server_facts, shown, warnings
from sagaz_tiering.drivers.redis.client import RedisClient
from sagaz_tiering.drivers.redis.url import RedisOptions, parse_redis_url, with_driver_options
from sagaz_tiering.drivers.server_clock import ServerClock
from sagaz_tiering.errors import ConfigError, CorruptRecord
from sagaz_tiering.snapshot import MAX_TIME, SagaSnapshot
from sagaz_tiering.storage.answers import check_answer, checked_replay
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.base import as_duration, check_level
from sagaz_tiering.storage.redis.cluster import ClusterStore
from sagaz_tiering.storage.redis.keys import PLACE_BYTES, RedisKeys, SagaHome, shard_of
from sagaz_tiering.storage.redis.single import PAGE, IndexCursor, NewEntry, SingleServerStore, Stored
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.standalone import ReplayRecord, StandaloneStorage, attempted, replay_bytes, replay_of_bytes

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

_LAST_US: Final = to_micros(MAX_TIME) - 1


class RedisSnapshotStorage(AnyLoop, StandaloneStorage):
    """Snapshots and replay records in Redis. `async with RedisSnapshotStorage("redis://localhost:6379") as storage`.

    A snapshot expires at its `retention_until`; one without lives `default_ttl` seconds from its save on, or for ever
    if that is not given. The clock given here decides what is visible; Redis frees the memory by itself. Replay
    records do not expire.

    Values tell how they are compressed, so compression may be changed at any time over what is stored. On one
    server every save and read is one round trip and every change is all or nothing; on a Cluster a save or a read by
    id takes two.
    """

    _kind = "redis"

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379",
        key_prefix: str = "snapshot:",
        default_ttl: int | None = None,
        enable_compression: bool = True,
        compression_level: int = 3,
        *,
        clock: Clock | None = None,
        max_connections: int | None = None,
        socket_timeout: timedelta | float | None = None,
        client: Redis | RedisCluster | None = None,
        on_unsupported: OnUnsupported = "refuse",
        **redis_kwargs: Any,
    ) -> None:
        """Nothing is connected to.

        redis_url: `redis://`, `rediss://`, `unix://`, `redis+cluster://HOST,HOST`, `redis+sentinel://HOST,HOST/NAME`.
        default_ttl: seconds. compression_level: of zstd, 1 (fast) to 22 (small). More callers than
        `max_connections` (64) wait. socket_timeout: to connect, and for each answer (5 seconds; a number is seconds).
        client: a `redis.asyncio` client to use instead of `redis_url`; it is not closed. redis_kwargs: options of a
        connection of redis-py (password, ssl, ssl_ca_certs, …); what the URL says goes before them.

        Raises ConfigError for what cannot work.
        """
        places = 64 if max_connections is None else max_connections
        if default_ttl is not None and (type(default_ttl) is not int or default_ttl < 1):
            raise ConfigError(
                f"default_ttl must be a number of seconds above 0, not {default_ttl!r}",
                hint="None: snapshots do not expire",
            )
        check_level(compression_level)
        if type(places) is not int or places < 1:
            raise ConfigError(f"max_connections must be a number above 0, not {places!r}")
        super().__init__()
        self.redis_url = redis_url
        self.redis_kwargs = redis_kwargs
        self.key_prefix = key_prefix
        self.default_ttl = default_ttl
        self.enable_compression = enable_compression
        self.compression_level = compression_level
        self._clock = clock
        self._texts = texts_for(on_unsupported, self._kind)
        self._options = RedisOptions(
            address=with_driver_options(parse_redis_url(redis_url), redis_kwargs),
            keys=f"{key_prefix}*",
            max_connections=places,
            socket_timeout=as_duration(5 if socket_timeout is None else socket_timeout, "socket_timeout"),
        )
        self._client = client
        self._renew()

    def _renew(self) -> None:
        self._redis = RedisClient(self._options, self._client)
        kind = ClusterStore if self._redis.is_cluster else SingleServerStore
        self._store: SingleServerStore = kind(self._redis, RedisKeys(self.key_prefix))
        self._server_clock = ServerClock(self._store.time, server="Redis")

    async def _disconnect(self) -> None:
        await self._redis.close()

    def _another(self) -> Callable[[], AbstractAsyncContextManager[Any]]:
        if self._client is not None:
            raise self._home.wrong(hint="give redis_url instead of a client of yours, which belongs to one loop too")
        return super()._another()

    def _get_redis(self) -> Redis | RedisCluster:
        """The client, for what only Redis knows: `await storage._get_redis().info("memory")`; may be awaited first."""
        return self._redis.client()

    async def delete_expired_snapshots(self) -> int:
        """Remove what is expired, and what Redis has freed by itself from the counts; how many.

        Looks only at what is expired. Where nobody calls it, what Redis has freed is taken out of the lists a day
        later, bit by bit with other saves.
        """
        return await self._store.sweep(await self._now_us())

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of; asks no server."""
        return {
            "storage_type": self._kind,
            "redis_url": self._redis.where,
            "key_prefix": self.key_prefix,
            "default_ttl": self.default_ttl,
            "compression_enabled": self.enable_compression,
            "compression_level": self.compression_level,
            "cluster": self._redis.is_cluster,
        }

    async def _save(self, snapshot: SagaSnapshot) -> None:
        level, saved_us = self.compression_level if self.enable_compression else None, await self._now_us()
        meta, value = await encode_value(snapshot, saved_us=saved_us, level=level, texts=self._texts)
        expires_us = meta.retention_us
        if expires_us is None and self.default_ttl is not None:
            expires_us = min(meta.saved_us + self.default_ttl * 1_000_000, _LAST_US)
        await self._store.save(NewEntry(meta=meta, value=value, expires_us=expires_us))

    async def _get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        value = await self._store.get(snapshot_id, await self._now_us())
        return None if value is None else await decode_value(value)

    async def _newest(self, saga_id: UUID, step_name: str | None, not_after_us: int | None) -> SagaSnapshot | None:
        pages = self._pages(saga_id, 1, step_name=step_name, not_after_us=not_after_us)
        async with aclosing(pages):
            async for page in pages:
                for stored in page:
                    snapshot = await _decoded(stored, saga_id)
                    if step_name in (None, snapshot.step_name):
                        return snapshot
        return None

    async def _list(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[SagaSnapshot]:
        found = list[SagaSnapshot]()
        async with aclosing(self._pages(saga_id, wanted)) as pages:
            async for page in pages:
                for stored in page[: wanted - len(found) - len(gaps)]:
                    with gaps.passing_over(stored.snapshot_id):
                        found.append(await _decoded(stored, saga_id))
                if len(found) + len(gaps) >= wanted:
                    break
        return found

    async def _delete(self, snapshot_id: UUID) -> bool:
        """A snapshot that Redis has freed by then was none."""
        return await self._store.delete(snapshot_id)

    async def _delete_saga(self, saga_id: UUID) -> int:
        return await self._store.clear(saga_id)

    async def _sagas(self, after: UUID | None) -> AsyncGenerator[UUID, None]:
        async for saga in self._store.saga_ids(after, await self._now_us()):
            yield saga

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        async for page in self._pages(saga_id, newest_first=False):
            for stored in page:
                with gaps.passing_over(stored.snapshot_id):
                    yield await _decoded(stored, saga_id)

    # Replay records have no time to live: they tell who replayed what. A record and its id in the directory change
    # together; its place under the saga is written before, on a Cluster in another slot, so that a crash leaves at most
    # a place without a record, which reads skip.

    async def _save_replay(self, record: ReplayRecord) -> None:
        replay_id, place = UUID(record["replay_id"]), SagaHome.of(UUID(record["original_saga_id"]))
        created_us, keys = to_micros(datetime.fromisoformat(record["created_at"])), self._store.keys
        member, of_saga = replay_id.hex + shard_of(replay_id), keys.replays_of(place)
        written = [keys.replay(replay_id), keys.replays(shard_of(replay_id))]
        if self._redis.is_cluster:
            async with self._redis.use() as client:
                await client.zadd(of_saga, {member: created_us})
        else:
            written.append(of_saga)
        args = [place.text.encode() + replay_bytes(record), replay_id.hex, keys.prefix, created_us, member]
        old = SagaHome.parse(await self._store.run("replay", written, args))
        if self._redis.is_cluster and old is not None and old != place:
            async with self._redis.use() as client:
                await client.zrem(keys.replays_of(old), member)

    async def _replay(self, replay_id: UUID) -> ReplayRecord | None:
        async with self._redis.use() as client:
            data: bytes | None = await client.get(self._store.keys.replay(replay_id))
        return None if data is None else replay_of_bytes(data[PLACE_BYTES:])

    async def _replays_of(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[ReplayRecord]:
        place, found, start = SagaHome.of(saga_id), list[ReplayRecord](), 0
        while len(found) + len(gaps) < wanted:
            async with self._redis.use() as client:
                last = start + min(wanted - len(found) - len(gaps), PAGE) - 1
                members: list[bytes] = await client.zrevrange(self._store.keys.replays_of(place), start, last)
            if not members:
                break
            found += gaps.readable(await self._read_replays([UUID(hex=m[:32].decode()) for m in members], saga_id))
            start += len(members)
        return found

    async def _replays(self, after: UUID | None) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
        async for ids in self._store.replay_ids(after):
            for each in await self._read_replays(ids):
                yield each

    async def _read_replays(
        self, replay_ids: Sequence[UUID], saga_id: UUID | None = None
    ) -> list[tuple[UUID, ReplayRecord | CorruptRecord]]:
        """The records that are there, or why one cannot be read; with `saga_id`, those that are still that saga's."""
        places = None if saga_id is None else (SagaHome.of(saga_id), None)
        keys = [self._store.keys.replay(replay_id) for replay_id in replay_ids]
        if not keys:
            return []
        async with self._redis.use() as client:
            values = await (client.mget_nonatomic(keys) if self._redis.is_cluster else client.mget(keys))
        return [
            attempted(replay_id, _decoded_replay, data, replay_id, saga_id)
            for replay_id, data in zip(replay_ids, values, strict=True)
            if data is not None and (places is None or SagaHome.parse(data) in places)
        ]

    async def _status(self, details: dict[str, Any]) -> str:
        """degraded: `details["warnings"]` says what to look at."""
        async with self._redis.use() as client:
            servers = await server_facts(client)
        details |= {"servers": shown(servers), "warnings": warnings(servers)}
        return "degraded" if details["warnings"] else "healthy"

    async def _totals(self, details: dict[str, Any]) -> tuple[int, int]:
        """Live snapshots and the bytes of their values, from counters."""
        totals = await self._store.totals(await self._now_us())
        if totals.with_expired:
            details["total_size_bytes"] = "includes expired snapshots; delete_expired_snapshots() removes them"
        return totals.snapshots, totals.size

    async def _pages(self, saga_id: UUID, limit: int = PAGE, **which: Any) -> AsyncGenerator[list[Stored], None]:
        """Live snapshots of a saga in order, at most `limit` at a time; `which` as `page` has it."""
        cursor: IndexCursor | None = None
        while True:
            page, cursor = await self._store.page(saga_id, await self._now_us(), limit=limit, behind=cursor, **which)
            yield page
            if cursor is None:
                return

    async def _now_us(self) -> int:
        """By Redis' clock, unless one was given."""
        return to_micros(await self._server_clock.read() if self._clock is None else self._clock.now())


async def _decoded(stored: Stored, saga_id: UUID) -> SagaSnapshot:
    """The snapshot that the index of a saga has there. Raises CorruptRecord."""
    found = await decode_value(stored.value)
    check_answer(found, snapshot_id=stored.snapshot_id, saga_id=saga_id)
    stored.check_order(found)
    return found


def _decoded_replay(data: bytes, replay_id: UUID, saga_id: UUID | None) -> ReplayRecord:
    """Raises CorruptRecord."""
    return checked_replay(replay_of_bytes(data[PLACE_BYTES:]), replay_id=replay_id, saga_id=saga_id)
