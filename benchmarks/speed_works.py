"""What `speed.py` compares: the facade, sagaz's own backends, and the bare client calls that nothing beats by much."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import aioboto3
import asyncpg
import orjson
import redis.asyncio
import zstandard
from by_turns import OURS, Target, Turn, Work, p50_ms, per_second
from sagaz.core import replay as peer_values
from sagaz.core.saga import Saga
from sagaz.core.storage.backends.postgresql.snapshot import PostgreSQLSnapshotStorage as PeerPostgreSQL
from sagaz.core.storage.backends.redis.snapshot import RedisSnapshotStorage as PeerRedis
from support.payload import saga

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.codec.threaded import encode_value
from sagaz_tiering.codec.value import MAX_SNAPSHOT_BYTES
from sagaz_tiering.drivers.redis.scripts import load_script
from sagaz_tiering.embedded.servers import Endpoints
from sagaz_tiering.hot import layout
from sagaz_tiering.jobs import run_job
from sagaz_tiering.snapshot import ReplayConfig, SagaSnapshot, SnapshotStrategy

HOT, DURABLE = "hot-order", "durable-order"
FOUND, NOT_FOUND = "with-attributes", "without"
ATTRIBUTES = [
    {"name": "order_id", "path": "order", "saga_name": f"{FOUND}-*"},
    {"name": "customer", "path": "customer.id", "saga_name": f"{FOUND}-*"},
]
AT_ONCE = 64
LEVEL = 3
PEER, LIMIT = "peer", "limit"
STEPS = 5

_compress = zstandard.ZstdCompressor(level=LEVEL).compress
_decompress = zstandard.ZstdDecompressor().decompress


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Where all of them work: the same servers for everyone."""

    runtime: Runtime
    redis: redis.asyncio.Redis
    postgres: asyncpg.Pool
    s3: Any
    peer_redis: PeerRedis
    peer_postgres: PeerPostgreSQL


@asynccontextmanager
async def open_field(runtime: Runtime, running: Endpoints, bucket: str) -> AsyncIterator[Field]:
    """Everyone's clients, with sagaz's defaults for sagaz."""
    url, database = runtime.hot.connection.settings.url.get_secret_value(), runtime.db.settings.url.get_secret_value()
    assert database is not None
    async with AsyncExitStack() as stack:
        client = redis.asyncio.Redis.from_url(f"{url}?max_connections={AT_ONCE}")
        stack.push_async_callback(client.aclose)
        session = aioboto3.Session(running.s3_access_key_id, running.s3_secret_access_key)
        yield Field(
            runtime=runtime,
            redis=client,
            postgres=await stack.enter_async_context(asyncpg.create_pool(database, min_size=5, max_size=20)),
            s3=await stack.enter_async_context(
                session.client("s3", region_name="us-east-1", endpoint_url=running.s3_endpoint)
            ),
            peer_redis=await stack.enter_async_context(PeerRedis(url)),
            peer_postgres=await stack.enter_async_context(PeerPostgreSQL(database)),
        )


class Snapshots:
    """Fresh snapshots, a few sagas' contexts by turns, of now."""

    def __init__(self, runtime: Runtime) -> None:
        begun = runtime.clock.now() - timedelta(hours=1)
        self._models = itertools.cycle([one for number in range(60) for one in saga(number, begun=begun)])

    def take(self, count: int, saga_name: str = HOT, saga_id: UUID | None = None) -> list[SagaSnapshot]:
        """So many, each of a saga of its own unless one is given."""
        return [
            replace(one, snapshot_id=uuid4(), saga_id=saga_id or uuid4(), saga_name=saga_name)
            for one in itertools.islice(self._models, count)
        ]


def theirs(snapshot: SagaSnapshot) -> Any:
    """The same as sagaz's own class."""
    return peer_values.SagaSnapshot(
        **{f.name: getattr(snapshot, f.name) for f in fields(peer_values.SagaSnapshot) if hasattr(snapshot, f.name)}
    )


def body(snapshot: SagaSnapshot) -> dict[str, Any]:
    """What must be written of a snapshot in any case."""
    return {"context": snapshot.context, "completed_steps": snapshot.completed_steps, "external_refs": {}}


def bare_encode(snapshot: SagaSnapshot) -> bytes:
    """JSON and zstd, nothing checked."""
    return _compress(orjson.dumps(body(snapshot)))


def bare_decode(value: bytes) -> Any:
    """The other way."""
    return orjson.loads(_decompress(value))


async def script_call(field: Field, snapshot: SagaSnapshot) -> tuple[str, list[Any], list[Any]]:
    """Our own save as a script call with everything ready."""
    keys = field.runtime.hot.keys
    meta, value = await encode_value(snapshot, saved_us=1, level=LEVEL, max_bytes=MAX_SNAPSHOT_BYTES)
    of_saga, of_snapshot = meta.saga_id.hex, meta.snapshot_id.hex
    names = [keys.value(of_saga, of_snapshot), keys.index(of_saga), keys.pointer(of_snapshot), keys.due(of_saga[0])]
    given = [value, meta.created_us, layout.member(meta.step_index, meta.snapshot_id), layout.pointer(meta)]
    rest = [meta.saved_us, of_saga, meta.created_us, "", keys.prefix, of_snapshot, ""]
    names += [keys.expiry(of_saga[0]), keys.delete_mark(of_snapshot)]
    names += [keys.held_mark(of_saga), keys.held_id_mark(of_snapshot)]
    return load_script("sagaz_tiering.hot", "save").digest, names, given + rest


def save_one(field: Field, snapshots: Snapshots, count: int) -> Work:
    """One client, one after the other."""
    storage = field.runtime.storage()

    async def limit() -> float:
        taken = snapshots.take(count)
        calls = [(one, *await script_call(field, one)) for one in taken]
        await field.redis.script_load(load_script("sagaz_tiering.hot", "save").text)

        async def call(ready: Any) -> None:
            snapshot, digest, keys, args = ready
            bare_encode(snapshot)
            await field.redis.evalsha(digest, len(keys), *keys, *args)

        return await p50_ms(call, calls)

    async def peer() -> float:
        return await p50_ms(field.peer_redis.save_snapshot, [theirs(one) for one in snapshots.take(count)])

    async def ours() -> float:
        return await p50_ms(storage.save_snapshot, snapshots.take(count))

    targets = [Target(other=LIMIT, times=1.3), Target(other=PEER, times=1 / 2.2)]
    return Work(
        name="save to Redis, p50, one client",
        unit="ms",
        contenders={PEER: peer, LIMIT: limit, OURS: ours},
        targets=targets,
    )


def save_many(field: Field, snapshots: Snapshots, count: int) -> Work:
    """64 at once, acknowledged by Redis."""
    storage = field.runtime.storage()

    async def bare() -> float:
        ready = [(one.snapshot_id.hex, bare_encode(one)) for one in snapshots.take(count)]
        return await per_second(lambda each: field.redis.set(f"bare:{each[0]}", each[1]), ready, AT_ONCE)

    async def pipelined() -> float:
        ready = [(one.snapshot_id.hex, bare_encode(one)) for one in snapshots.take(count)]

        async def call(batch: Sequence[tuple[str, bytes]]) -> None:
            pipe = field.redis.pipeline(transaction=False)
            for key, value in batch:
                pipe.set(f"bare:{key}", value)
            await pipe.execute()

        batches = [ready[at : at + AT_ONCE] for at in range(0, count, AT_ONCE)]
        return await per_second(call, batches, 1) * count / len(batches)

    async def peer() -> float:
        return await per_second(field.peer_redis.save_snapshot, [theirs(one) for one in snapshots.take(count)], AT_ONCE)

    async def ours() -> float:
        return await per_second(storage.save_snapshot, snapshots.take(count), AT_ONCE)

    return Work(
        name=f"save to Redis, {AT_ONCE} at once",
        unit="/s",
        contenders={PEER: peer, "bare SET": bare, "pipelined SET": pipelined, OURS: ours},
        targets=[Target(other=PEER, times=4)],
    )


def save_durable(field: Field, snapshots: Snapshots, count: int) -> Work:
    """64 at once, acknowledged by PostgreSQL, in Redis too; sagaz's is in PostgreSQL alone."""
    storage = field.runtime.storage()

    async def bare() -> float:
        ready = [(one.snapshot_id, bare_encode(one)) for one in snapshots.take(count)]
        await field.postgres.execute("CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, value bytea)")
        return await per_second(
            lambda each: field.postgres.execute("INSERT INTO bare VALUES ($1, $2)", *each), ready, AT_ONCE
        )

    async def peer() -> float:
        return await per_second(
            field.peer_postgres.save_snapshot, [theirs(one) for one in snapshots.take(count)], AT_ONCE
        )

    async def ours() -> float:
        return await per_second(storage.save_snapshot, snapshots.take(count, DURABLE), AT_ONCE)

    return Work(
        name=f"save durable, {AT_ONCE} at once",
        unit="/s",
        contenders={PEER: peer, "bare bytea": bare, OURS: ours},
        targets=[Target(other=PEER, times=2)],
    )


def save_found(field: Field, snapshots: Snapshots, count: int) -> list[Work]:
    """With two attributes, beside the same without: one client, and many at once."""
    storage = field.runtime.storage()

    def one(name: str) -> Turn:
        async def run() -> float:
            return await p50_ms(storage.save_snapshot, snapshots.take(count, name))

        return run

    def many(name: str) -> Turn:
        async def run() -> float:
            return await per_second(storage.save_snapshot, snapshots.take(4 * count, name), AT_ONCE)

        return run

    hot, durable = f"{FOUND}-{HOT}", f"{FOUND}-{DURABLE}"
    return [
        Work(
            name="save to Redis with two attributes, p50, one client",
            unit="ms",
            contenders={NOT_FOUND: one(HOT), OURS: one(hot)},
            targets=[Target(other=NOT_FOUND, times=1.1)],
        ),
        Work(
            name=f"save to Redis with two attributes, {AT_ONCE} at once",
            unit="/s",
            contenders={NOT_FOUND: many(HOT), OURS: many(hot)},
            targets=[Target(other=NOT_FOUND, times=0.9)],
        ),
        Work(
            name=f"save durable with two attributes, {AT_ONCE} at once",
            unit="/s",
            contenders={NOT_FOUND: many(DURABLE), OURS: many(durable)},
            targets=[Target(other=NOT_FOUND, times=0.9)],
        ),
    ]


def reads(field: Field, snapshots: Snapshots, count: int) -> list[Work]:
    """By id, the latest, at a time."""
    storage, peer = field.runtime.storage(), field.peer_redis
    saved = snapshots.take(count)

    async def prepare() -> None:
        if not await field.redis.exists(f"bare:{saved[-1].snapshot_id.hex}"):
            for one in saved:
                await storage.save_snapshot(one)
                await peer.save_snapshot(theirs(one))
                await field.redis.set(f"bare:{one.snapshot_id.hex}", bare_encode(one))

    def turn(call: Any) -> Any:
        async def run() -> float:
            await prepare()
            return await p50_ms(call, saved)

        return run

    async def limit(one: SagaSnapshot) -> None:
        bare_decode(await field.redis.get(f"bare:{one.snapshot_id.hex}"))

    by_id = {
        PEER: turn(lambda one: peer.get_snapshot(one.snapshot_id)),
        LIMIT: turn(limit),
        OURS: turn(lambda one: storage.get_snapshot(one.snapshot_id)),
    }
    latest = {
        PEER: turn(lambda one: peer.get_latest_snapshot(one.saga_id)),
        OURS: turn(lambda one: storage.get_latest_snapshot(one.saga_id)),
    }
    at_time = {
        PEER: turn(lambda one: peer.get_snapshot_at_time(one.saga_id, one.created_at)),
        OURS: turn(lambda one: storage.get_snapshot_at_time(one.saga_id, one.created_at)),
    }
    faster = [Target(other=PEER, times=1 / 1.6)]
    return [
        Work(name="get by id, p50", unit="ms", contenders=by_id, targets=[Target(other=LIMIT, times=1.3)]),
        Work(name="latest, p50", unit="ms", contenders=latest, targets=faster),
        Work(name="at a time, p50", unit="ms", contenders=at_time, targets=faster),
    ]


def list_100(field: Field, snapshots: Snapshots, count: int) -> Work:
    """The newest hundred of a saga of 120."""
    storage, peer, saga_id = field.runtime.storage(), field.peer_redis, uuid4()
    saved = snapshots.take(120, saga_id=saga_id)
    saved = [replace(one, created_at=one.created_at + timedelta(seconds=at)) for at, one in enumerate(saved)]

    def turn(call: Any) -> Any:
        async def run() -> float:
            if not await field.redis.exists(f"bare:{saved[-1].snapshot_id.hex}"):
                for one in saved:
                    await storage.save_snapshot(one)
                    await peer.save_snapshot(theirs(one))
                    await field.redis.set(f"bare:{one.snapshot_id.hex}", bare_encode(one))
            return await p50_ms(call, range(count))

        return run

    async def limit(_: int) -> None:
        values = await field.redis.mget([f"bare:{one.snapshot_id.hex}" for one in saved[-100:]])
        assert len([bare_decode(value) for value in values]) == 100

    contenders = {
        PEER: turn(lambda _: peer.list_snapshots(saga_id, limit=100)),
        LIMIT: turn(limit),
        OURS: turn(lambda _: storage.list_snapshots(saga_id, limit=100)),
    }
    return Work(name="list 100, p50", unit="ms", contenders=contenders, targets=[Target(other=PEER, times=1 / 5)])


def whole_saga(field: Field, snapshots: Snapshots, count: int) -> Work:
    """Five steps of the real engine, a snapshot before each; the context is what a step of an order carries."""
    context = snapshots.take(1)[0].context

    async def act(ctx: dict[str, Any]) -> dict[str, Any]:
        return {"done": True}

    def turn(storage: Any, name: str) -> Any:
        config = ReplayConfig(enable_snapshots=storage is not None, snapshot_strategy=SnapshotStrategy.BEFORE_EACH_STEP)

        async def run() -> float:
            made = []
            for _ in range(count):
                given: dict[str, Any] = (
                    {} if storage is None else {"snapshot_storage": storage, "replay_config": config}
                )
                one = Saga(name=name, **given)
                for step in range(STEPS):
                    await one.add_step(f"step{step}", act)
                one.context.data.update(context)
                made.append(one)
            return await p50_ms(lambda each: each.execute(), made)

        return run

    peers = turn(field.peer_redis, HOT)
    return Work(
        name=f"saga of {STEPS} steps, p50",
        unit="ms",
        contenders={"no snapshots": turn(None, HOT), PEER: peers, OURS: turn(field.runtime.storage(), HOT)},
        targets=[Target(other=PEER, times=1.6 / 3.5)],
    )


def cold(field: Field, bucket: str, count: int) -> Work:
    """Archived snapshots; against a range GET of the very bytes with nothing looked up."""
    runtime = field.runtime
    begun = runtime.clock.now() - timedelta(days=40)
    saved = [replace(one, saga_name=HOT) for number in range(40) for one in saga(number, begun=begun, seed=7)]
    places: list[Any] = []

    async def prepare() -> None:
        if not places:
            await asyncio.gather(*(runtime.storage().save_snapshot(one) for one in saved))
            await run_job("age", runtime.job_context())
            for one in saved[::STEPS]:
                [found] = await runtime.catalog.locations.find(one.snapshot_id)
                places.append(found.place)

    async def get(place: Any) -> None:
        answer = await field.s3.get_object(
            Bucket=bucket,
            Key=f"bench/{place.object_key}",
            Range=f"bytes={place.offset}-{place.offset + place.length - 1}",
        )
        await answer["Body"].read()

    async def limit() -> float:
        await prepare()
        return await p50_ms(get, places[:count])

    async def ours() -> float:
        await prepare()
        return await p50_ms(lambda one: runtime.storage().get_snapshot(one.snapshot_id), saved[::STEPS][:count])

    return Work(
        name="cold get by id, p50 (S3 server)",
        unit="ms",
        contenders={"bare range GET": limit, OURS: ours},
        targets=[Target(other="bare range GET", times=1.3)],
    )
