"""The hot tier: snapshots in Redis, each operation one round trip, each change all or nothing.

Saves and reads of single snapshots share one connection (`redis_lane`), everything else a pool.

Every multi-key change is one Lua script, so a crash cannot leave a value that no index finds. No value has a
time to live: Redis alone may hold it. Layout: `hot_keys`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import redis.asyncio
import redis.exceptions as driver

from sagaz_tiering.errors import ConfigError, HotTierUnavailable
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage import hot_keys
from sagaz_tiering.storage.hot_keys import SHARDS, HotKeys
from sagaz_tiering.storage.hot_sample import sample_turns
from sagaz_tiering.storage.hot_values import ClaimedSaga, Gone, Header
from sagaz_tiering.storage.redis_client import load_script, redis_errors, run_script
from sagaz_tiering.storage.redis_lane import Lane

_PAGE = 500
_LONG_VALUE = 256 * 1024
"""A value from this size on is sent by itself, so that none waits behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotOptions:
    """How to reach Redis. `max_connections`: callers beyond it wait (at most `socket_timeout` each)."""

    url: str
    shown_url: str
    key_prefix: str = "sagaz"
    socket_timeout: timedelta = timedelta(seconds=2)
    max_connections: int = 64


class HotTier:
    """Snapshots in Redis. `async with HotTier(options) as hot`; connects when first used."""

    def __init__(self, options: HotOptions) -> None:
        self.options = options
        self.keys = HotKeys(options.key_prefix)
        self._client: redis.asyncio.Redis | None = None
        self._lane: Lane | None = None

    async def open(self) -> None:
        """Make the connection pool and the lane (nothing is sent yet)."""
        seconds = self.options.socket_timeout.total_seconds()
        try:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                self.options.url,
                max_connections=self.options.max_connections,
                timeout=max(seconds, 5.0),
                socket_timeout=seconds,
                socket_connect_timeout=seconds,
                decode_responses=False,
                health_check_interval=30,
            )
        except ValueError as exc:
            raise ConfigError(f"tiers.hot.url is not a Redis URL: {self.options.shown_url}") from exc
        self._client = redis.asyncio.Redis.from_pool(pool)
        self._lane = Lane(pool.make_connection, seconds)

    async def close(self) -> None:
        """Close every connection."""
        lane, self._lane = self._lane, None
        if lane is not None:
            await lane.close()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def __aenter__(self) -> HotTier:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ping(self) -> None:
        """Raise HotTierUnavailable unless Redis answers."""
        with self._translated() as client:
            await client.ping()

    async def info(self) -> dict[str, Any]:
        """Redis INFO (empty where the server has none)."""
        with self._translated() as client:
            try:
                found: dict[str, Any] = await client.info()
            except driver.ResponseError:
                return {}
        return found

    async def save(self, meta: SnapshotMeta, value: bytes, *, due_us: int | None, expires_us: int | None) -> bool:
        """Store one snapshot; False if a newer save of it is there already."""
        saga, snapshot, keys = meta.saga_id.hex, meta.snapshot_id.hex, self.keys
        run = self._ask if len(value) < _LONG_VALUE else self._eval
        stored = await run(
            "save",
            [
                keys.value(saga, snapshot),
                keys.index(saga),
                keys.pointer(snapshot),
                keys.due(saga[0]),
                keys.expiry(saga[0]),
            ],
            [
                value,
                meta.created_us,
                hot_keys.member(meta.step_index, meta.snapshot_id),
                hot_keys.pointer(meta),
                meta.saved_us,
                saga,
                "" if due_us is None else due_us,
                "" if expires_us is None else expires_us,
                keys.prefix,
                snapshot,
            ],
        )
        return bool(stored)

    async def get(self, snapshot_id: UUID) -> bytes | Gone | None:
        """The value of one snapshot; None where Redis knows nothing of it."""
        found = await self._ask("get", [self.keys.pointer(snapshot_id.hex)], [self.keys.prefix, snapshot_id.hex])
        return Gone(snapshot_id) if found == 0 else found

    async def newest(
        self, saga_id: UUID, *, not_after_us: int | None = None, step_name: str | None = None
    ) -> bytes | Gone | None:
        """The value of the newest snapshot of a saga, at or before a time, of a step."""
        saga = saga_id.hex
        found = await self._ask(
            "newest",
            [self.keys.index(saga)],
            [
                self.keys.value_prefix(saga),
                "+inf" if not_after_us is None else not_after_us,
                (step_name or "").encode("utf-8", "surrogatepass"),
                "0" if step_name is None else "1",
            ],
        )
        return Gone(UUID(hex=found[0].decode())) if isinstance(found, list) else found

    async def values(self, saga_id: UUID, limit: int) -> list[bytes | Gone]:
        """The newest `limit` values of a saga, newest first."""
        saga, found = saga_id.hex, []
        raw = await self._eval("list", [self.keys.index(saga)], [self.keys.value_prefix(saga), 0, limit - 1])
        for member, value in zip(raw[::2], raw[1::2], strict=True):
            found.append(Gone(hot_keys.member_id(member)) if value is None else value)
        return found

    async def headers(self, saga_id: UUID) -> AsyncIterator[list[Header]]:
        """What is known of a saga's snapshots without their bodies, oldest first, a page at a time.

        Under concurrent saves a snapshot may be seen twice, under concurrent deletes one may be missed.
        """
        saga, first = saga_id.hex, 0
        while True:
            raw = await self._eval(
                "headers", [self.keys.index(saga)], [self.keys.value_prefix(saga), first, first + _PAGE - 1]
            )
            page = [
                Header(snapshot_id=hot_keys.member_id(m), created_us=int(float(at)), member=m, head=head, length=length)
                for m, at, head, length in zip(raw[::4], raw[1::4], raw[2::4], raw[3::4], strict=True)
            ]
            if page:
                yield page
            if len(page) < _PAGE:
                return
            first += _PAGE

    async def fetch(self, saga_id: UUID, snapshot_ids: Sequence[UUID]) -> list[bytes | None]:
        """The values of these snapshots of one saga, in one trip."""
        saga = saga_id.hex
        with self._translated() as client:
            values: list[Any] = await client.mget([self.keys.value(saga, s.hex) for s in snapshot_ids])
        return values

    async def owners(self, snapshot_ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Of these snapshots, those that Redis has, and the saga that each belongs to there; one trip."""
        with self._translated() as client:
            pipe = client.pipeline(transaction=False)
            for snapshot_id in snapshot_ids:
                pipe.get(self.keys.pointer(snapshot_id.hex))
            pointers = await pipe.execute() if snapshot_ids else []
        return {
            snapshot_id: hot_keys.owner(pointer)
            for snapshot_id, pointer in zip(snapshot_ids, pointers, strict=True)
            if pointer is not None
        }

    async def delete(self, snapshot_id: UUID) -> bool:
        """Remove one snapshot; False if it was not there."""
        args = [self.keys.prefix, snapshot_id.hex, snapshot_id.bytes]
        return bool(await self._eval("delete", [self.keys.pointer(snapshot_id.hex)], args))

    async def evict(self, metas: Sequence[SnapshotMeta]) -> int:
        """Compare-and-delete: remove exactly these saves (or older ones of the same ids); how many went."""
        sagas: dict[str, list[SnapshotMeta]] = {}
        for meta in metas:
            sagas.setdefault(meta.saga_id.hex, []).append(meta)
        calls = []
        for saga, group in sagas.items():
            for start in range(0, len(group), _PAGE):
                args: list[Any] = [self.keys.prefix, saga]
                for meta in group[start : start + _PAGE]:
                    place = hot_keys.member(meta.step_index, meta.snapshot_id)
                    args += [meta.snapshot_id.hex, place, *hot_keys.version(meta)]
                shard = saga[0]
                calls.append(([self.keys.index(saga), self.keys.due(shard), self.keys.expiry(shard)], args))
        return sum(gone for gone, _left in await self._eval_many("evict", calls))

    async def claim(
        self, *, shard: str, expiring: bool, now_us: int, count: int, ttl: timedelta, token: str
    ) -> list[ClaimedSaga]:
        """Up to `count` sagas of a shard whose turn has come and that nobody works on."""
        index = self.keys.expiry(shard) if expiring else self.keys.due(shard)
        ms = int(ttl.total_seconds() * 1000)
        raw = await self._eval("claim", [index], [f"{self.keys.prefix}:claim:", now_us, count, ms, token])
        return [ClaimedSaga(UUID(hex=saga.decode()), token) for saga in raw[::2]]

    async def claim_these(self, saga_ids: Sequence[UUID], *, ttl: timedelta, token: str) -> set[UUID]:
        """Of these sagas, the ones that nobody worked on; they are ours now."""
        ms = int(ttl.total_seconds() * 1000)
        with self._translated() as client:
            pipe = client.pipeline(transaction=False)
            for saga_id in saga_ids:
                pipe.set(self.keys.claim(saga_id.hex), token, nx=True, px=ms)
            answers = await pipe.execute()
        return {saga_id for saga_id, ok in zip(saga_ids, answers, strict=True) if ok}

    async def settle(self, turns: Sequence[tuple[ClaimedSaga, int, int | None, int | None]]) -> None:
        """For each (saga, snapshots left, next due, next expiry): note the next turns and let go of it."""
        calls = []
        for claimed, left, due_us, expires_us in turns:
            saga = claimed.saga_id.hex
            keys = [
                self.keys.index(saga),
                self.keys.due(saga[0]),
                self.keys.expiry(saga[0]),
                self.keys.claim(saga),
            ]
            next_turns = ["" if us is None else us for us in (due_us, expires_us)]
            calls.append((keys, [saga, left, *next_turns, claimed.token]))
        await self._eval_many("settle", calls)

    async def due_sagas(self, shard: str, *, expiring: bool, now_us: int) -> AsyncIterator[UUID]:
        """Sagas of a shard whose turn has come, without claiming them (dry runs)."""
        index = self.keys.expiry(shard) if expiring else self.keys.due(shard)
        first = 0
        while True:
            with self._translated() as client:
                page: Any = await client.zrangebyscore(index, "-inf", now_us, start=first, num=_PAGE)
            for saga in page:
                yield UUID(hex=saga.decode())
            if len(page) < _PAGE:
                return
            first += _PAGE

    async def look_again(self, shard: str) -> int:
        """Make every saga of a shard due for another look (the policies changed); how many sagas."""
        seen = 0
        for index in (self.keys.due(shard), self.keys.expiry(shard)):
            with self._translated() as client:
                async for saga, _score in client.zscan_iter(index, count=_PAGE):
                    await client.zadd(self.keys.due(shard), {saga: 0}, lt=True)
                    seen += 1
        return seen

    async def counts(self, now_us: int) -> dict[str, int]:
        """`sagas_waiting` for a move some day and `sagas_due` now."""
        with self._translated() as client:
            pipe = client.pipeline(transaction=False)
            for shard in SHARDS:
                pipe.zcard(self.keys.due(shard))
                pipe.zcount(self.keys.due(shard), "-inf", now_us)
            answers = await pipe.execute()
        return {"sagas_waiting": sum(answers[::2]), "sagas_due": sum(answers[1::2])}

    async def sample(self, limit: int, *, expiring: bool) -> tuple[list[UUID], int]:
        """About `limit` of the sagas that wait for a move (or an expiry) some day, and how many do."""
        with self._translated() as client:
            return await sample_turns(client, self.keys, limit, expiring=expiring)

    async def snapshots(self) -> AsyncIterator[tuple[UUID, UUID, int]]:
        """(saga id, snapshot id, value bytes) of every snapshot, by SCAN: for totals, never for reads."""
        prefix = f"{self.keys.prefix}:{{".encode()
        with self._translated() as client:
            batch: list[bytes] = []
            async for key in client.scan_iter(match=f"{self.keys.prefix}:{{*}}:*", count=1000):
                batch.append(key)
                if len(batch) == _PAGE:
                    for found in await self._lengths(client, batch, prefix):
                        yield found
                    batch = []
            for found in await self._lengths(client, batch, prefix):
                yield found

    async def saga_ids(self) -> AsyncIterator[list[UUID]]:
        """Every saga that Redis has something of, in no order, some twice, by SCAN: for transfer and backup."""
        start = len(self.keys.index(""))
        pattern = self.keys.index("?" * 32)
        with self._translated() as client:
            cursor: int = 0
            while True:
                cursor, keys = await client.scan(cursor, match=pattern, count=1000)
                yield [UUID(hex=key[start - 1 : -1].decode()) for key in keys if isinstance(key, bytes)]
                if cursor == 0:
                    return

    async def _lengths(
        self, client: redis.asyncio.Redis, keys: Sequence[bytes], prefix: bytes
    ) -> list[tuple[UUID, UUID, int]]:
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.strlen(key)
        lengths = await pipe.execute() if keys else []
        names = [key.removeprefix(prefix).decode().split("}:") for key in keys]
        return [
            (UUID(hex=saga), UUID(hex=snapshot), length)
            for (saga, snapshot), length in zip(names, lengths, strict=True)
        ]

    async def _ask(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """A short call, on the connection that all share."""
        if self._lane is None:
            return await self._eval(name, keys, args)  # which tells that it is closed
        try:
            return await self._lane.run(load_script(name), keys, args)
        except (driver.RedisError, OSError):
            with self._translated():
                raise

    async def _eval(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        with self._translated() as client:
            return await run_script(client, load_script(name), keys, args)

    async def _eval_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """The same script many times, pipelined; a server that does not know the script is taught it first."""
        script = load_script(name)
        answers: list[Any] = []
        with self._translated() as client:
            for start in range(0, len(calls), _PAGE):
                batch = calls[start : start + _PAGE]
                for attempt in (1, 2):
                    pipe = client.pipeline(transaction=False)
                    for keys, args in batch:
                        pipe.evalsha(script.digest, len(keys), *keys, *args)
                    try:
                        answers += await pipe.execute()
                        break
                    except driver.NoScriptError:
                        if attempt == 2:
                            raise
                        await client.script_load(script.text)
        return answers

    @contextmanager
    def _translated(self) -> Iterator[redis.asyncio.Redis]:
        """The client, with driver errors as HotTierUnavailable (or ConfigError where retrying cannot help)."""
        if self._client is None:
            raise HotTierUnavailable("the Redis client is closed", hint="open the storage with `async with`")
        with redis_errors(
            self.options.shown_url,
            setting="tiers.hot.url",
            when_full="raise maxmemory or let the age job catch up",
        ):
            yield self._client
