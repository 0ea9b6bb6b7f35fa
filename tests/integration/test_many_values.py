"""Sagas of many values and rows: the limit holds on each way to it, and is told; nothing looks at all of them twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
import structlog
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, make, number
from support.tiers import Places, Product, config, product

from sagaz_tiering import metrics
from sagaz_tiering.attributes import MAX_VALUES
from sagaz_tiering.catalog.migrations import migrations
from sagaz_tiering.daemon.totals import TotalsKeeper
from sagaz_tiering.drivers.postgresql.pool import Connection

POLICIES = [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "400d"}]
ANEW = """
INSERT INTO sagaz_tiering.saga_snapshots
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, body_crc, value, attributes)
SELECT gen_random_uuid(), saga_id, saga_name, step_name, step_index, status, created_at + interval '1 day', saved_at, 0,
       value, 'order_id=another ' || step_index
  FROM sagaz_tiering.saga_snapshots WHERE snapshot_id = $1
"""


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    """Sagas are found by order."""
    attributes = [{"name": "order_id", "path": "order_id"}]
    async with product(config(**places, policies=POLICIES, attributes=attributes)) as opened:
        yield opened


async def calls(conn: Connection) -> dict[str, int]:
    """How often each function ran in this transaction since it began to be tracked."""
    rows = await conn.fetch(
        "SELECT funcname, calls FROM pg_stat_xact_user_functions WHERE schemaname = 'sagaz_tiering'"
    )
    return {row["funcname"]: row["calls"] for row in rows}


async def values(shop: Product, most: int) -> list[int]:
    """By which orders the saga is found."""
    return [at for at in range(most) if len(await shop.storage.find(attributes={"order_id": at}))]


@pytest.mark.parametrize("table", ["saga_snapshots", "hot_saves"])
async def test_statement_over_many_rows_looks_at_each_of_their_sagas_once(shop: Product, table: str) -> None:
    """However many rows of a saga it changes."""
    for at in range(40):
        await shop.storage.save_snapshot(make(at, context={"order_id": at % 4}))
    if table == "hot_saves":
        await shop.runtime.db.execute(
            "INSERT INTO sagaz_tiering.hot_saves (snapshot_id, saga_id, saga_name, step_name, step_index, status,"
            " created_at, saved_at, attributes) SELECT snapshot_id, saga_id, saga_name, step_name, step_index,"
            " status, created_at, saved_at, attributes FROM sagaz_tiering.saga_snapshots"
        )
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_snapshots")
    async with shop.runtime.db.transaction() as conn:
        await conn.execute("SET LOCAL track_functions = 'all'")
        await conn.execute(f"UPDATE sagaz_tiering.{table} SET attributes = 'order_id=' || step_index % 3 + 7")
        told = await calls(conn)
        assert {told[each] for each in ("refresh_saved_anew", "refresh_sagas", "drop_tokens")} == {1}
    assert await values(shop, 12) == [7, 8, 9]


async def test_save_of_a_saga_of_many_values_does_not_look_at_all_of_it(shop: Product) -> None:
    """What is beyond the limit stays out by one look at what is known of the saga."""
    for at in range(MAX_VALUES + 2):
        await shop.storage.save_snapshot(make(at, context={"order_id": at}))
    async with shop.runtime.db.transaction() as conn:
        await conn.execute("SET LOCAL track_functions = 'all'")
        await conn.execute(ANEW, number(0))
        told = await calls(conn)
        assert told["note_saga_ends"] == 1
        assert not {"add_tokens", "tokens_in_tables", "place_sagas"} & told.keys()
    assert await values(shop, MAX_VALUES + 2) == list(range(MAX_VALUES))


@pytest.mark.parametrize("way", ["one after the other", "at once", "in one statement", "packed"])
async def test_limit_holds_for_snapshots_that_were_made_at_one_instant(shop: Product, way: str) -> None:
    """Each of them is its saga's first."""
    snapshots = [make(at, created_at=BEGUN, context={"order_id": at}) for at in range(MAX_VALUES + 4)]
    if way == "at once":
        await asyncio.gather(*map(shop.storage.save_snapshot, snapshots))
    else:
        for each in snapshots:
            await shop.storage.save_snapshot(each)
    if way == "in one statement":
        db = shop.runtime.db
        await db.execute("CREATE TABLE kept AS SELECT * FROM sagaz_tiering.saga_snapshots")
        await db.execute("DELETE FROM sagaz_tiering.saga_snapshots")
        await db.execute("INSERT INTO sagaz_tiering.saga_snapshots SELECT * FROM kept")
        await db.execute("DROP TABLE kept")
    if way == "packed":
        shop.clock.advance(shop.clock.now() - BEGUN)
        await shop.run("age")
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_attributes")
        await shop.runtime.db.execute("SELECT sagaz_tiering.place_sagas(ARRAY[$1::uuid], false)", SAGA)
    assert len(await values(shop, len(snapshots))) == MAX_VALUES


async def test_sagas_of_many_values_are_counted_and_told(shop: Product, caplog: pytest.LogCaptureFixture) -> None:
    """Once; and not counted any more when what was beyond the limit is gone."""
    structlog.reset_defaults()  # a command that another test ran in this process may have sent the log elsewhere
    caplog.set_level(logging.WARNING, logger="sagaz_tiering")
    for at in range(MAX_VALUES + 1):
        await shop.storage.save_snapshot(make(at, context={"order_id": at}))
    keeper, gauge = TotalsKeeper(shop.runtime.job_context()), metrics.SAGAS_OF_MANY_VALUES
    for _ in range(2):
        await keeper.once()
        assert gauge.labels(attribute="order_id")._value.get() == 1
    [line] = [each.message for each in caplog.records if "attribute.left_out" in each.message]
    assert "order_id" in line
    await shop.storage.delete_snapshot(number(MAX_VALUES))
    await keeper.once()
    assert not next(iter(gauge.collect())).samples
    await shop.storage.save_snapshot(make(MAX_VALUES + 1, context={"order_id": MAX_VALUES + 1}))
    await shop.storage.cleanup_saga(SAGA)
    assert await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.sagas_of_many_values") == 0


async def test_sagas_that_had_many_values_before_they_were_noted_are_noted_by_the_migration(shop: Product) -> None:
    """Those beyond the limit alone."""
    for at in range(MAX_VALUES + 1):
        await shop.storage.save_snapshot(make(at, context={"order_id": at}))
        if at < MAX_VALUES:
            await shop.storage.save_snapshot(make(100 + at, saga_id=OTHER_SAGA, context={"order_id": at}))
    db, noted = shop.runtime.db, "SELECT saga_id, attribute FROM sagaz_tiering.sagas_of_many_values"
    await db.execute("DELETE FROM sagaz_tiering.sagas_of_many_values")
    [sql] = [each.sql for each in migrations() if each.version == 39]
    async with db.transaction() as conn:
        await conn.execute(sql[sql.rindex("INSERT INTO sagaz_tiering.sagas_of_many_values") :])
    assert [tuple(row) for row in await db.fetch(noted)] == [(SAGA, "order_id")]
