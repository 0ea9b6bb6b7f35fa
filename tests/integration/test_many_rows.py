"""What must not slow down with the number of rows: look-ups are index reads, and `status` counts no large table."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from support.snapshots import make, save_all
from support.tiers import DAY, NOW, Product, config, product

from sagaz_tiering.catalog import durable, saga_keys
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.daemon.health import Readiness, serve
from sagaz_tiering.daemon.totals import TotalsKeeper
from sagaz_tiering.drivers.postgresql import pool
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load, name_of
from sagaz_tiering.operations.status import collect

pytestmark = pytest.mark.guarantee("G6")

PACKS = """
INSERT INTO sagaz_tiering.packs
    (pack_uuid, object_key, state, storage_class, policy, retention_revision, byte_size, snapshot_count, live_count,
     sha256, min_created_at, max_created_at, max_clock_at, lease_name, lease_epoch, created_at, class_since)
SELECT gen_random_uuid(), 'packs/2026/01/never/' || n, 'ACTIVE', 'STANDARD_IA', 'default', 'r', 1, 5000, 5000, '',
       now(), now(), now(), 'age/0', 1, now(), now() FROM generate_series(1, 10) AS n
"""
STEPS = """
INSERT INTO sagaz_tiering.steps (digest, saga_name, step_name, step_index, status)
SELECT sha256(n::text::bytea), 'order', 'step', n, 'completed' FROM generate_series(1, 5) AS n
"""
FRAMES = """
INSERT INTO sagaz_tiering.frames (saga_id, pack_id, frame_no, byte_offset, byte_length)
SELECT gen_random_uuid(), pack_id, frame_no, 0, 1
  FROM sagaz_tiering.packs, generate_series($1::integer, $2::integer - 1) AS frame_no
"""
PLACES = """
INSERT INTO sagaz_tiering.snapshots (created_at, pack_id, frame_no, step_id, snapshot_id)
SELECT now(), pack_id, frame_no, step_id, gen_random_uuid() FROM sagaz_tiering.frames, sagaz_tiering.steps
 WHERE frame_no >= $1::integer
"""
DURABLE = """
INSERT INTO sagaz_tiering.saga_snapshots
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, due_at, body_crc, value)
SELECT gen_random_uuid(), gen_random_uuid(), 'order', 'step', 1, 'completed', now(), now(), $2, 1,
       repeat('x', 900)::bytea
  FROM generate_series(1, $1::integer)
"""

NOTED = """
INSERT INTO sagaz_tiering.hot_saves
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, attributes)
SELECT gen_random_uuid(), gen_random_uuid(), 'name' || n % $2::integer, 'step', 0, 'failed', now(), now(), 'order=' || n
  FROM generate_series(1, $1::integer) AS n
"""

MANY_IN_A_FRAME = """
WITH ids AS (
    INSERT INTO sagaz_tiering.snapshots (created_at, pack_id, frame_no, step_id, snapshot_id)
    SELECT now(), 1, 0, 1, gen_random_uuid() FROM generate_series(1, $1::integer)
    RETURNING replace(snapshot_id::text, '-', '') AS id)
SELECT string_agg('order=' || i.id || U&'\\001E' || i.id, U&'\\001F' ORDER BY i.id) || U&'\\001F'
       || 'region=eu' || U&'\\001F' || 'customer=c' || U&'\\001E' || string_agg(i.id, ',' ORDER BY i.id)
  FROM ids i
"""

READ = """
SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables) + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)
"""


@pytest.fixture
async def shop(empty_database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Product]:
    """A product whose tables are about to be filled."""
    async with product(config(database=empty_database, redis_url=redis_url, cold=tmp_path / "cold")) as opened:
        yield opened


async def fill_durable(db: Database, count: int) -> None:
    """So many more durable rows, each of a saga of its own; all at once would take longer than a statement may."""
    for start in range(0, count, 1_000):
        await db.execute(DURABLE, min(1_000, count - start), NOW)


async def scanned(shop: Product, query: str, *args: Any) -> set[str]:
    """The tables that a query reads from end to end."""
    found: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        if node["Node Type"] == "Seq Scan":
            found.add(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(json.loads(await shop.runtime.db.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *args))[0]["Plan"])
    return found


async def archive(shop: Product, sagas: int, *, there: int = 0) -> None:
    """Ten packs of so many sagas with five snapshots each, where `there` are already."""
    db = shop.runtime.db
    if not there:
        await db.execute(PACKS)
        await db.execute(STEPS)
    await db.execute(FRAMES, there, sagas)
    await db.execute(PLACES, there)
    await db.execute("UPDATE sagaz_tiering.sagas_filled SET up_to = '00000000-0000-0000-0000-000000000000'")
    while not await db.fetchval("SELECT sagaz_tiering.fill_sagas(10000)"):
        pass
    await db.execute("ANALYZE")


async def test_lookups_are_index_reads(shop: Product) -> None:
    """By id, of a saga, and where a saga's packs are: no plan reads a table that grows."""
    await archive(shop, 1000)
    await fill_durable(shop.runtime.db, 5_000)
    await shop.runtime.db.execute("ANALYZE")
    growing = {"snapshots", "frames", "saga_snapshots"}
    sql, saga_id = load("sagaz_tiering.catalog", "locations"), UUID(int=5)
    assert not growing & await scanned(shop, sql["find"], saga_id)
    for limit in (1, 5, 2**31 - 1):
        for not_after, step in ((None, None), (NOW, None), (None, "step")):
            asked = (saga_id, not_after, step, limit, True)
            assert not growing & await scanned(shop, sql["find_of_saga"], *asked)
    assert not growing & await scanned(shop, sql["packs_of"], [saga_id])
    assert not growing & await scanned(
        shop, load("sagaz_tiering.catalog", "durable")["expired"], NOW, NOW, saga_id, 2000
    )


async def test_status_does_not_count_many_rows(shop: Product) -> None:
    """A few durable rows are counted; of many the statistics tell, about right."""
    copies, now = shop.runtime.catalog.durable, shop.clock.now()
    await save_all(shop.storage, [make(at) for at in range(3)])
    exact = await copies.totals(now)
    assert await copies.estimate(now) == {**exact, "estimated": False}
    assert exact["snapshots"] == 3
    await fill_durable(shop.runtime.db, 20_000)
    await shop.runtime.db.execute("ANALYZE sagaz_tiering.saga_snapshots")
    found = await copies.estimate(now)
    assert found["estimated"]
    assert found["snapshots"] == pytest.approx(20_003, rel=0.02)
    assert found["bytes"] == pytest.approx(20_000 * 1100, rel=0.3)
    assert found["due"] == 20_000
    explain = f"EXPLAIN (ANALYZE, COSTS off) {load('sagaz_tiering.catalog', 'durable')['estimate']}"
    plan = [row[0] for row in await shop.runtime.db.fetch(explain, NOW - DAY, 1000, 9)]
    scans = [line for line in plan if "Seq Scan on saga_snapshots" in line]
    assert scans
    assert all("never executed" in line for line in scans)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of those that pools run from now on."""
    found, run = list[str](), pool._Stateless._until_done

    async def noted(self: Any, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found.append(name_of(args[0]))
        return await run(self, call, args, kwargs)

    monkeypatch.setattr(pool._Stateless, "_until_done", noted)
    return found


async def read(db: Database) -> int:
    """Entries of tables and indexes that were read so far, by both connections of the pool."""
    async with db.connection() as one, db.connection() as other:
        for conn in (one, other):
            await conn.execute("SELECT pg_stat_force_next_flush()")
    return int(await db.fetchval(READ))


async def test_metrics_and_status_read_no_more_where_there_are_more_snapshots(
    empty_database: str, redis_url: str, tmp_path: Path, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times the snapshots in as many packs are as many statements, and rows below the same limits.

    A scrape asks nothing: what /metrics tells was looked at before.
    """
    monkeypatch.setattr(durable, "MOST_DUE", 5_000)
    monkeypatch.setattr(saga_keys, "MOST_FRAMES", 500)
    settings = config(database=empty_database, redis_url=redis_url, cold=tmp_path / "cold")
    settings = settings.model_copy(update={"catalog": settings.catalog.model_copy(update={"pool_max": 2})})
    async with product(settings) as shop:
        db, context = shop.runtime.db, shop.runtime.job_context()

        async def status() -> None:
            assert (await collect(context, count=False))[1] == {}

        async def asked_and_read(ask: Callable[[], Awaitable[None]]) -> tuple[list[str], int]:
            await ask()  # the first one writes the hour, and reads what is kept from then on
            before = await read(db)
            statements.clear()
            await ask()
            asked = list(statements)
            return asked, await read(db) - before

        await shop.runtime.check()  # the bucket is ours from here on
        found = []
        for there, sagas, copies in ((0, 50, 0), (50, 500, 15_000), (500, 600, 5_000)):
            await archive(shop, sagas, there=there)
            await fill_durable(db, copies)
            await db.execute("ANALYZE sagaz_tiering.saga_snapshots")
            found.append([await asked_and_read(ask) for ask in (TotalsKeeper(context).once, status)])
        for (look, rows), (shown, more_rows) in found:
            assert (look, shown) == (found[0][0][0], found[0][1][0])
            assert rows <= 5_000 + 100
            assert more_rows <= 5_000 + 2 * 500 + 100
        assert [len(asked) for asked, _ in found[0]] == [4, 14]
        statements.clear()
        async with (
            serve("127.0.0.1", 0, Readiness(lambda: 0.0)) as (host, port),
            aiohttp.ClientSession() as session,
            session.get(f"http://{host}:{port}/metrics") as answer,
        ):
            assert "sagaz_tiering_stored_snapshots" in await answer.text()
        assert statements == []


async def test_statement_of_many_rows_does_as_well_after_others_of_one(empty_database: str) -> None:
    """Plans that a connection keeps, of one row and of empty tables: quadratic, each would take many minutes."""
    async with Database(CatalogSettings(url=empty_database)) as db:
        await migrate(db)
        async with db.connection() as conn:
            await conn.execute(NOTED, 200, 200)
            for table in ("hot_saves", "sagas", "saga_names", "saga_attributes"):
                await conn.execute(f"DELETE FROM sagaz_tiering.{table}")
            await conn.execute("ANALYZE")
            for _ in range(7):
                await conn.execute(NOTED, 1, 1)
                await conn.execute("UPDATE sagaz_tiering.hot_saves SET expires_at = now()")
            await conn.execute(NOTED, 10_000, 5_000, timeout=180)
            await conn.execute(NOTED, 40_000, 50, timeout=180)
            await conn.execute("UPDATE sagaz_tiering.hot_saves SET expires_at = now()", timeout=180)
            assert await conn.fetchval("SELECT count(*) FROM sagaz_tiering.sagas WHERE name_id IS NOT NULL") == 50_007


async def test_frame_of_many_snapshots_is_trimmed_at_once(empty_database: str) -> None:
    """What is left of its attributes, where half of its snapshots went; quadratic, it would take many minutes."""
    async with Database(CatalogSettings(url=empty_database)) as db:
        await migrate(db)
        async with db.connection() as conn:
            text = await conn.fetchval(MANY_IN_A_FRAME, 40_000)
            await conn.execute("ALTER TABLE sagaz_tiering.snapshots DISABLE TRIGGER USER")
            await conn.execute("DELETE FROM sagaz_tiering.snapshots WHERE get_byte(uuid_send(snapshot_id), 0) < 128")
            left = await conn.fetchval("SELECT sagaz_tiering.attributes_of_present(1, 0, $1)", text, timeout=180)
            kept = [id_ for id_ in text.rpartition("\x1e")[2].split(",") if id_ >= "8"]
            orders = [f"order={id_}\x1e{id_}" for id_ in kept]
            assert left == "\x1f".join([*orders, "region=eu", "customer=c\x1e" + ",".join(kept)])
