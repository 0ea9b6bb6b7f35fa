"""`RedisSnapshotStorage`: snapshots in one Redis, or Redis Cluster, of their own, with a time to live."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.codec.threaded import decode_value, encode_value
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.drivers.redis import health as redis_health
from sagaz_tiering.drivers.redis.client import RedisClient
from sagaz_tiering.drivers.redis.url import RedisOptions, parse_redis_url, with_driver_options
from sagaz_tiering.drivers.server_clock import ServerClock
from sagaz_tiering.errors import ConfigError, CorruptRecord, SagazTieringError
from sagaz_tiering.snapshot import MAX_TIME, ReplayResult, SagaSnapshot, as_utc, as_uuid
from sagaz_tiering.storage import replay_records as replay_log
from sagaz_tiering.storage.answers import check_answer, text_ids_find_nothing
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.base import Health, as_duration, checked_limit
from sagaz_tiering.storage.redis.cluster import ClusterStore
from sagaz_tiering.storage.redis.keys import RedisKeys
from sagaz_tiering.storage.redis.replays import ReplayStore
from sagaz_tiering.storage.redis.single import IndexCursor, NewEntry, SingleServerStore, Stored
from sagaz_tiering.storage.reporting import Gaps, measured_read, reported_save

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

DEFAULT_URL: Final = "redis://localhost:6379"
DEFAULT_KEY_PREFIX: Final = "snapshot:"
DEFAULT_COMPRESSION_LEVEL: Final = 3
DEFAULT_MAX_CONNECTIONS: Final = 64
DEFAULT_SOCKET_TIMEOUT: Final = timedelta(seconds=5)

_KIND: Final = "redis"
_LEVELS: Final = range(1, 23)
_LAST_US: Final = to_micros(MAX_TIME) - 1


@text_ids_find_nothing
class RedisSnapshotStorage(AnyLoop):
    """Snapshots and replay records in Redis. `async with RedisSnapshotStorage("redis://localhost:6379") as storage`.

    A snapshot expires at its `retention_until`; one without lives `default_ttl` seconds from its save on, or for ever
    if that is not given. The clock given here decides what is visible; Redis frees the memory by itself. Replay
    records do not expire.

    Values tell how they are compressed, so compression may be changed at any time over what is stored. On one
    server every save and read is one round trip and every change is all or nothing; on a Cluster a save or a read by
    id takes two.
    """

    def __init__(
        self,
        redis_url: str = DEFAULT_URL,
        key_prefix: str = DEFAULT_KEY_PREFIX,
        default_ttl: int | None = None,
        enable_compression: bool = True,
        compression_level: int = DEFAULT_COMPRESSION_LEVEL,
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
        places = DEFAULT_MAX_CONNECTIONS if max_connections is None else max_connections
        deadline = DEFAULT_SOCKET_TIMEOUT if socket_timeout is None else as_duration(socket_timeout, "socket_timeout")
        _check(default_ttl, compression_level, places)
        super().__init__()
        self.redis_url = redis_url
        self.redis_kwargs = redis_kwargs
        self.key_prefix = key_prefix
        self.default_ttl = default_ttl
        self.enable_compression = enable_compression
        self.compression_level = compression_level
        self._clock = clock
        self._texts = texts_for(on_unsupported, _KIND)
        self._options = RedisOptions(
            address=with_driver_options(parse_redis_url(redis_url), redis_kwargs),
            keys=f"{key_prefix}*",
            max_connections=places,
            socket_timeout=deadline,
        )
        self._client = client
        self._renew()

    def _renew(self) -> None:
        self._redis = RedisClient(self._options, self._client)
        kind = ClusterStore if self._redis.is_cluster else SingleServerStore
        self._store: SingleServerStore = kind(self._redis, RedisKeys(self.key_prefix))
        self._replays = ReplayStore(self._store)
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

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store a snapshot (ours or any object with sagaz's attributes); an id saved before is replaced.

        Raises InvalidSnapshot where it would not come back equal, HotTierUnavailable where it is not stored for sure.
        """
        with reported_save(snapshot, _KIND):
            level = self.compression_level if self.enable_compression else None
            ours, saved_us = SagaSnapshot.of(snapshot), await self._now_us()
            meta, value = await encode_value(ours, saved_us=saved_us, level=level, texts=self._texts)
            expires_us = meta.retention_us
            if expires_us is None and self.default_ttl is not None:
                expires_us = min(meta.saved_us + self.default_ttl * 1_000_000, _LAST_US)
            await self._store.save(NewEntry(meta=meta, value=value, expires_us=expires_us))

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot by id. Raises CorruptRecord, as every read that has one snapshot for an answer."""
        with measured_read(_KIND):
            wanted = as_uuid(snapshot_id, "snapshot_id")
            value = await self._store.get(wanted, await self._now_us())
            if value is None:
                return None
            found = await decode_value(value)
            check_answer(found, snapshot_id=wanted)
            return found

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest snapshot of a saga; with `before_step`, the newest whose `step_name` equals it."""
        with measured_read(_KIND):
            return await self._newest(as_uuid(saga_id, "saga_id"), step_name=before_step)

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live snapshot created at or before `timestamp` (aware; raises NaiveTimestamp)."""
        moment_us = to_micros(as_utc(timestamp, "timestamp"))
        with measured_read(_KIND):
            return await self._newest(as_uuid(saga_id, "saga_id"), not_after_us=moment_us)

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit` snapshots of a saga, newest first. Raises ValueError for a negative limit.

        Raises CorruptRecord if any of them cannot be read; its `readable` has the others.
        """
        wanted, found, gaps = checked_limit(limit), list[SagaSnapshot](), Gaps(_KIND)
        saga = as_uuid(saga_id, "saga_id")
        with measured_read(_KIND):
            cursor: IndexCursor | None = None
            left = wanted
            while left > 0:
                page, cursor = await self._store.page(saga, await self._now_us(), limit=left, behind=cursor)
                for stored in page:
                    found += await _readable(stored, saga, gaps)
                left -= len(page)
                if cursor is None:
                    break
            gaps.check(found)
        return found

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove one, expired or unreadable ones too; False if there was none (or Redis has freed it by then)."""
        return await self._store.delete(as_uuid(snapshot_id, "snapshot_id"))

    async def cleanup_saga(self, saga_id: UUID | str) -> int:
        """Remove every snapshot of a saga; how many there were."""
        return await self._store.clear(as_uuid(saga_id, "saga_id"))

    async def delete_expired_snapshots(self) -> int:
        """Remove what is expired, and what Redis has freed by itself from the counts; how many.

        Looks only at what is expired. Where nobody calls it, what Redis has freed is taken out of the lists a day
        later, bit by bit with other saves.
        """
        return await self._store.sweep(await self._now_us())

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        async for saga in self._store.saga_ids(
            None if after is None else as_uuid(after, "after"), await self._now_us()
        ):
            yield saga

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
        await self._replays.save(replay_log.as_record(replay_result))

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """The record of a replay in the shape of `ReplayResult.to_dict`, or None. Raises CorruptRecord."""
        return await self._replays.get(as_uuid(replay_id, "replay_id"))

    async def list_replays(self, original_saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """Records of replays of a saga, newest first. Raises ValueError for a negative limit."""
        return await self._replays.of_saga(as_uuid(original_saga_id, "original_saga_id"), checked_limit(limit))

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record, ascending by replay id, from behind `after` on."""
        async for record in self._replays.iterate(None if after is None else as_uuid(after, "after")):
            yield record

    async def health_check(self) -> Health:
        """Live snapshots and the bytes of their values, from counters; what is wrong with the server, in `details`.

        degraded: `details["warnings"]` says what to look at. unhealthy: `details["error"]` says why.
        """
        began, now_us = time.monotonic(), await self._now_us()
        try:
            totals = await self._store.totals(now_us)
            async with self._redis.use() as client:
                servers = await redis_health.server_facts(client)
        except SagazTieringError as exc:
            return _health("unhealthy", began, 0, 0, {"error": str(exc), "hint": exc.hint})
        found = redis_health.warnings(servers)
        details: dict[str, Any] = {"servers": redis_health.shown(servers), "warnings": found}
        if totals.with_expired:
            details["total_size_bytes"] = "includes expired snapshots; delete_expired_snapshots() removes them"
        status = "degraded" if found else "healthy"
        return _health(status, began, totals.snapshots, totals.size, details)

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of; asks no server."""
        return {
            "storage_type": _KIND,
            "redis_url": self._redis.where,
            "key_prefix": self.key_prefix,
            "default_ttl": self.default_ttl,
            "compression_enabled": self.enable_compression,
            "compression_level": self.compression_level,
            "cluster": self._redis.is_cluster,
        }

    async def _newest(
        self, saga_id: UUID, *, step_name: str | None = None, not_after_us: int | None = None
    ) -> SagaSnapshot | None:
        cursor: IndexCursor | None = None
        while True:
            page, cursor = await self._store.page(
                saga_id, await self._now_us(), limit=1, step_name=step_name, not_after_us=not_after_us, behind=cursor
            )
            for stored in page:
                snapshot = await _decoded(stored, saga_id)
                check_answer(snapshot, not_after_us=not_after_us)
                if step_name is None or snapshot.step_name == step_name:
                    return snapshot
            if cursor is None:
                return None

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncIterator[SagaSnapshot]:
        cursor: IndexCursor | None = None
        while True:
            page, cursor = await self._store.page(saga_id, await self._now_us(), newest_first=False, behind=cursor)
            for stored in page:
                for snapshot in await _readable(stored, saga_id, gaps):
                    yield snapshot
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


async def _readable(stored: Stored, saga_id: UUID, gaps: Gaps) -> list[SagaSnapshot]:
    """The snapshot, if it can be read."""
    try:
        return [await _decoded(stored, saga_id)]
    except CorruptRecord as exc:
        gaps.add(stored.snapshot_id, exc)
        return []


def _health(status: str, began: float, count: int, size: int, details: dict[str, Any]) -> Health:
    return Health(
        status=status,
        latency_ms=(time.monotonic() - began) * 1000,
        snapshot_count=count,
        total_size_bytes=size,
        details=details,
    )


def _check(default_ttl: object, compression_level: object, max_connections: object) -> None:
    if default_ttl is not None and (type(default_ttl) is not int or default_ttl < 1):
        raise ConfigError(
            f"default_ttl must be a number of seconds above 0, not {default_ttl!r}",
            hint="None: snapshots do not expire",
        )
    if type(compression_level) is not int or compression_level not in _LEVELS:
        raise ConfigError(
            f"compression_level must be from 1 to 22, not {compression_level!r}",
            hint="enable_compression=False stores values as they are",
        )
    if type(max_connections) is not int or max_connections < 1:
        raise ConfigError(f"max_connections must be a number above 0, not {max_connections!r}")
