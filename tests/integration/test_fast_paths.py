"""What makes saves and reads fast is really used, and takes nothing from what they promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import redis.asyncio
from support.gate import Gate, through
from support.payload import saga
from support.tiers import NOW, Product, config, product

from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.value import to_value
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.errors import HotTierUnavailable, StatementRefused
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.tiered import freshness, hot_notes

DURABLE, HOT = "payment-order", "fast-order"
SILENCE = timedelta(milliseconds=300)


@pytest.fixture
async def shop(
    database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Product]:
    """The whole product, with nothing in the background that would be counted."""
    for name in ("_FRESH_SECONDS", "_LOOK_AFTER_SECONDS"):
        monkeypatch.setattr(freshness, name, 600.0)
    monkeypatch.setattr(hot_notes, "_EVERY_S", 600.0)
    settings = config(database=database, redis_url=redis_url, cold=tmp_path, dictionaries={"enabled": False})
    async with product(settings) as opened:
        yield opened


def small(saga_name: str, **changes: Any) -> SagaSnapshot:
    """A fresh snapshot of a few hundred bytes."""
    one = saga(1, begun=NOW, saga_name=saga_name)[0]
    given = {"snapshot_id": uuid4(), "saga_id": uuid4(), "context": {"total": 3}}
    return replace(one, **{**given, **changes})


@dataclass(slots=True)
class Traffic:
    """What Redis saw: scripts run, times that it read from a socket, connections."""

    scripts: int = 0
    reads: int = 0
    connections: int = 0


@asynccontextmanager
async def traffic(url: str) -> AsyncIterator[Traffic]:
    """Of the block, without what the counting itself takes."""
    async with redis.asyncio.Redis.from_url(url, single_connection_client=True) as client:
        seen, before = Traffic(), await _counted(client)
        yield seen
        after = await _counted(client)
        seen.scripts = after.scripts - before.scripts
        seen.reads = after.reads - before.reads - 2
        seen.connections = after.connections - before.connections


async def _counted(client: redis.asyncio.Redis) -> Traffic:
    stats, commands = await client.info("stats"), await client.info("commandstats")
    scripts = sum(commands.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))
    return Traffic(scripts, stats["total_reads_processed"], stats["total_connections_received"])


@asynccontextmanager
async def gated(redis_url: str) -> AsyncIterator[tuple[Gate, HotTier]]:
    """A hot tier that can be cut off."""
    parts = urlsplit(redis_url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with Gate(parts.hostname, parts.port) as gate:
        url = through(redis_url, gate.port)
        async with HotTier(HotSettings(url=url)) as hot:
            yield gate, hot


async def test_lone_calls_take_one_trip_each(shop: Product, redis_url: str) -> None:
    """A save, by id, latest, of a step, at a time: one script, one read by the server, no new connection."""
    saved = [small(HOT) for _ in range(3)]
    calls: list[Any] = [
        lambda one: shop.storage.save_snapshot(one),
        lambda one: shop.storage.get_snapshot(one.snapshot_id),
        lambda one: shop.storage.get_latest_snapshot(one.saga_id),
        lambda one: shop.storage.get_latest_snapshot(one.saga_id, before_step=one.step_name),
        lambda one: shop.storage.get_snapshot_at_time(one.saga_id, one.created_at),
    ]
    for call in calls:
        await call(saved[0])
    for call in calls:
        async with traffic(redis_url) as seen:
            for one in saved:
                await call(one)
        assert (seen.scripts, seen.reads, seen.connections) == (3, 3, 0)


async def test_concurrent_saves_and_reads_share_writes(shop: Product, redis_url: str) -> None:
    """Two hundred at once: one script each, but few writes, over the one connection."""
    saved = [small(HOT, context={"number": number}) for number in range(200)]
    await shop.storage.save_snapshot(small(HOT))
    async with traffic(redis_url) as seen:
        await asyncio.gather(*(shop.storage.save_snapshot(one) for one in saved))
    assert seen.scripts == 200
    assert seen.reads < 40
    assert seen.connections == 0
    async with traffic(redis_url) as seen:
        found = await asyncio.gather(*(shop.storage.get_snapshot(one.snapshot_id) for one in saved))
    assert found == saved, "answers went to the wrong callers"
    assert (seen.scripts, seen.connections) == (200, 0)
    assert seen.reads < 20


async def test_large_value_does_not_travel_with_others(shop: Product, redis_url: str) -> None:
    """It has a connection of its own, so that none waits behind it."""
    await shop.storage.save_snapshot(small(HOT))
    large = small(HOT, context={"noise": [uuid4().hex for _ in range(20_000)]})
    async with traffic(redis_url) as seen:
        await shop.storage.save_snapshot(large)
    assert seen.connections == 1
    assert await shop.storage.get_snapshot(large.snapshot_id) == large


async def test_concurrent_durable_saves_share_transactions(shop: Product, database: str) -> None:
    """A row knows the transaction that wrote it."""
    saved = [small(DURABLE) for _ in range(128)]
    await asyncio.gather(*(shop.storage.save_snapshot(one) for one in saved))
    connection = await asyncpg.connect(database)
    try:
        rows, transactions = await connection.fetchrow(
            "SELECT count(*), count(DISTINCT xmin::text) FROM sagaz_tiering.saga_snapshots"
        )
    finally:
        await connection.close()
    assert rows == 128
    assert transactions < 20


async def test_connection_given_back_is_not_reset(shop: Product, database: str) -> None:
    """That would be another trip for each statement; the last thing that the server heard of is the statement."""
    await shop.runtime.db.fetchval("SELECT 4711")
    connection = await asyncpg.connect(database)
    try:
        last = await connection.fetch(
            "SELECT query FROM pg_stat_activity"
            " WHERE application_name = 'sagaz-tiering' AND datname = current_database()"
        )
    finally:
        await connection.close()
    assert "SELECT 4711" in [row["query"] for row in last]


async def test_bad_row_does_not_fail_its_batch(shop: Product) -> None:
    """One that the driver refuses and one that the server refuses: the others are committed."""
    durable = shop.runtime.catalog.durable
    records = [await encode_record(small(DURABLE), saved_us=1_800_000_000_000_000) for _ in range(12)]
    metas = [record.meta for record in records]
    metas[3] = metas[3]._replace(step_index=2**31)
    metas[7] = metas[7]._replace(body_crc=None)
    found = await asyncio.gather(
        *(
            durable.put(meta, to_value(record, level=None), due_us=None, expires_us=None, fallback=False)
            for meta, record in zip(metas, records, strict=True)
        ),
        return_exceptions=True,
    )
    assert [at for at, done in enumerate(found) if getattr(done, "in_the_way_us", 0) is not None] == [3, 7]
    assert isinstance(found[3], StatementRefused)
    assert isinstance(found[7], StatementRefused)
    assert (await durable.totals(NOW))["snapshots"] == 10


async def test_error_of_one_script_reaches_only_its_caller(shop: Product, redis_url: str) -> None:
    """Where something else sits under a pointer's name."""
    saved = [small(HOT) for _ in range(20)]
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.lpush(shop.runtime.hot.keys.pointer(saved[7].snapshot_id.hex), "not a pointer")
    await asyncio.gather(*(shop.runtime.hot.get(uuid4()) for _ in range(3)))
    found = await asyncio.gather(*(shop.runtime.hot.get(one.snapshot_id) for one in saved), return_exceptions=True)
    assert isinstance(found[7], HotTierUnavailable)
    assert "WRONGTYPE" in str(found[7])
    assert found[:7] + found[8:] == [None] * 19


async def test_cancelled_callers_do_not_shift_answers(shop: Product) -> None:
    """Each of the others gets its own snapshot, whenever its neighbours gave up."""
    saved = [small(HOT, context={"number": number}) for number in range(60)]
    await asyncio.gather(*(shop.storage.save_snapshot(one) for one in saved))
    for turns in range(6):
        reads = [asyncio.create_task(shop.storage.get_snapshot(one.snapshot_id)) for one in saved]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in reads[::3]:
            task.cancel()
        found = await asyncio.gather(*reads, return_exceptions=True)
        kept = [(one, read) for at, (one, read) in enumerate(zip(saved, found, strict=True)) if at % 3]
        assert [read for _one, read in kept] == [one for one, _read in kept]


async def test_cancelled_save_does_not_hold_up_the_next_of_its_id(shop: Product) -> None:
    """Saves of one id take turns; one that is given up passes its turn on."""
    first = small(DURABLE)
    for turns in range(8):
        versions = [replace(first, context={"round": turns, "version": number}) for number in range(3)]
        tasks = [asyncio.create_task(shop.storage.save_snapshot(one)) for one in versions]
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await shop.storage.get_snapshot(first.snapshot_id) == versions[2]


@pytest.mark.parametrize("saga_name", [DURABLE, HOT])
async def test_later_of_two_concurrent_saves_stays(shop: Product, saga_name: str) -> None:
    """In Redis and in PostgreSQL, though the clock stands still and others are saved at the same time."""
    ids = [uuid4() for _ in range(30)]
    rounds = [[small(saga_name, snapshot_id=i, context={"version": v}) for i in ids] for v in range(4)]
    await asyncio.gather(*(shop.storage.save_snapshot(one) for versions in rounds for one in versions))
    found = await asyncio.gather(*(shop.storage.get_snapshot(i) for i in ids))
    assert [one.context for one in found if one is not None] == [{"version": 3}] * 30
    if saga_name == DURABLE:
        for snapshot_id, last in zip(ids, rounds[-1], strict=True):
            [located] = await shop.runtime.catalog.locations.find(snapshot_id)
            assert located.ref.saga_id == last.saga_id


async def test_scripts_that_redis_forgot_are_taught_again(shop: Product, redis_url: str) -> None:
    """To a server that was restarted, by many callers at once."""
    saved = [small(HOT) for _ in range(50)]
    await shop.storage.save_snapshot(small(HOT))
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.script_flush()
    await asyncio.gather(*(shop.storage.save_snapshot(one) for one in saved))
    assert await asyncio.gather(*(shop.storage.get_snapshot(one.snapshot_id) for one in saved)) == saved


async def test_lost_connection_is_made_anew_unnoticed(redis_url: str) -> None:
    """Whether it was lost while idle or with questions under way, which are asked again."""
    async with gated(redis_url) as (gate, hot), redis.asyncio.Redis.from_url(redis_url) as client:
        for _ in range(3):
            assert await hot.get(uuid4()) is None
            await client.client_kill_filter(_type="normal", skipme=True)
        assert await hot.get(uuid4()) is None
        await client.execute_command("CLIENT", "PAUSE", "300")
        reads = [asyncio.create_task(hot.get(uuid4())) for _ in range(20)]
        await asyncio.sleep(0)
        await gate.shut()
        await gate.open()
        assert await asyncio.gather(*reads) == [None] * 20
        assert gate.opened == 5


async def test_redis_that_goes_away_fails_all_under_way_and_heals(redis_url: str) -> None:
    """Nobody hangs; the next call after it is back works."""
    async with gated(redis_url) as (gate, hot):
        assert await hot.get(uuid4()) is None
        await gate.shut()
        found = await asyncio.gather(*(hot.get(uuid4()) for _ in range(20)), return_exceptions=True)
        assert {type(error) for error in found} == {HotTierUnavailable}
        await gate.open()
        assert await hot.get(uuid4()) is None


async def test_silent_redis_is_given_up_after_its_time_out(own_redis: Any) -> None:
    """All who wait are told; so is one who asks while nothing answers at all."""
    server = await own_redis()
    options = HotSettings(url=server.url, socket_timeout=SILENCE)
    async with HotTier(options) as hot, redis.asyncio.Redis.from_url(server.url) as client:
        assert await hot.get(uuid4()) is None
        await client.execute_command("CLIENT", "PAUSE", "1500")
        found = await asyncio.gather(*(hot.get(uuid4()) for _ in range(20)), return_exceptions=True)
        assert {type(error) for error in found} == {HotTierUnavailable}
        with pytest.raises(HotTierUnavailable):
            await hot.get(uuid4())
        await client.ping()
        assert await hot.get(uuid4()) is None
