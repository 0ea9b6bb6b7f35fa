"""Who removes and who saves at once: no saga is lost from the catalog, and nobody waits crosswise.

Locks are taken in one order: rows of snapshots, then packs, names, sagas by id, frames and attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from support.outcomes import MONTH, saga_rows
from support.snapshots import OTHER_SAGA, SAGA, make, number
from support.tiers import DAY, Places, Product, config, product

from sagaz_tiering.drivers.postgresql.pool import Connection

POLICIES: list[dict[str, Any]] = [
    {"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "30d"}
]
ATTRIBUTES = [{"name": "order_id", "path": "order"}]
_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_LOCK_SAGAS = "SELECT 1 FROM sagaz_tiering.sagas ORDER BY saga_id FOR UPDATE"
_SAVE_ANOTHER = """
INSERT INTO sagaz_tiering.saga_snapshots
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, body_crc, value)
VALUES ($1, $2, 'order', 'step_9', 9, 'executing', $3, $3, 0, '')
"""


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    """A product with attributes, whose jobs have looked at everything once."""
    async with product(config(**places, policies=POLICIES, attributes=ATTRIBUTES)) as opened:
        await opened.run("age")
        await opened.run("expire")
        yield opened


@asynccontextmanager
async def crossing(shop: Product, doing: Callable[[], Awaitable[Any]], held: str) -> AsyncIterator[Connection]:
    """A transaction that has what `held` locks, in the block in which `doing` waits for it; both end afterwards."""
    async with shop.runtime.db.transaction() as conn:
        await conn.execute(held)
        other = asyncio.ensure_future(doing())
        async with asyncio.timeout(120):
            for _ in count():
                if other.done() or await shop.runtime.db.fetchval(_WAITS):
                    break
                await asyncio.sleep(0.02)
        yield conn
    await other


async def noted_too(shop: Product, *ids: UUID) -> None:
    """These durable rows are noted as Redis' alone as well, as what is saved durably after an outage is."""
    rows = await shop.runtime.catalog.durable.of_sagas([SAGA, OTHER_SAGA])
    metas = [meta for meta, _ in rows if meta.snapshot_id in ids]
    await shop.runtime.catalog.hot_saves.note(metas, [None] * len(metas))


@pytest.mark.guarantee("G12")
async def test_saga_that_goes_on_while_the_rest_of_it_expires_stays_known(shop: Product) -> None:
    """A save is under way when `expire` removes the only snapshot that it sees: the saga ends with that save."""
    await shop.storage.save_snapshot(make(0, context={}))
    shop.clock.advance(MONTH)
    now = shop.clock.now()
    async with shop.runtime.db.transaction() as conn:
        await conn.execute(_SAVE_ANOTHER, number(9), SAGA, now)
        expiring = asyncio.create_task(shop.run("expire"))
        async with asyncio.timeout(120):
            for _ in count():
                if expiring.done() or await shop.runtime.db.fetchval(_WAITS):
                    break
                await asyncio.sleep(0.02)
    report = await expiring
    assert sum(report.counts.values()) == 1
    assert [(row["saga_id"], row["end_id"]) for row in await saga_rows(shop)] == [(SAGA, number(9))]
    assert [each.saga_id for each in await shop.storage.find()] == [SAGA]


@pytest.mark.guarantee("G12")
async def test_two_that_remove_the_last_snapshots_of_a_saga_leave_no_row_of_it(shop: Product) -> None:
    """Each sees that the other's are gone."""
    await shop.storage.save_snapshot(make(0, context={}))
    await shop.storage.save_snapshot(make(1, context={}))

    def removal(at: int) -> str:
        return (
            "SELECT set_config('sagaz_tiering.expiring', 'on', true);"
            f"DELETE FROM sagaz_tiering.saga_snapshots WHERE snapshot_id = '{number(at)}'"
        )

    async def other() -> None:
        async with shop.runtime.db.transaction() as conn:
            await conn.execute(removal(1))

    async with crossing(shop, other, removal(0)):
        pass
    assert await saga_rows(shop) == []


@pytest.mark.parametrize("way", ["expire", "delete", "erase"])
async def test_removal_and_a_save_of_the_same_snapshot_do_not_wait_for_each_other(shop: Product, way: str) -> None:
    """A save has the snapshot's row and comes for its saga's; who removes it has noted saves to remove first."""
    await shop.storage.save_snapshot(make(0, context={"order": 1}))
    await shop.storage.save_snapshot(make(1, context={"order": 2}))
    await noted_too(shop, number(0), number(1))
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "expire": lambda: shop.run("expire"),
        "delete": lambda: shop.storage.delete_snapshot(number(1)),
        "erase": lambda: shop.storage.forget(SAGA),
    }
    if way == "expire":
        shop.clock.advance(MONTH + DAY)
    rows = "SELECT 1 FROM sagaz_tiering.saga_snapshots ORDER BY snapshot_id FOR UPDATE"
    async with crossing(shop, ways[way], rows) as conn:
        await conn.execute(_LOCK_SAGAS)
    assert len(await shop.storage.list_snapshots(SAGA)) == (1 if way == "delete" else 0)


@pytest.mark.parametrize("way", ["delete", "erase"])
async def test_removal_of_a_saga_and_expiry_in_its_pack_do_not_wait_for_each_other(shop: Product, way: str) -> None:
    """`expire` has the places and the pack and comes for the saga; who removes all of it has its durable rows too."""
    await shop.storage.save_snapshot(make(0, context={"order": 1}))
    shop.clock.advance(8 * DAY)
    assert (await shop.run("age")).counts["archived"] == 1
    await shop.storage.save_snapshot(make(1, context={"order": 2}, created_at=shop.clock.now()))
    remove = shop.storage.cleanup_saga if way == "delete" else shop.storage.forget
    async with crossing(shop, lambda: remove(SAGA), "SELECT 1 FROM sagaz_tiering.packs FOR UPDATE") as conn:
        await conn.execute(_LOCK_SAGAS)
    assert await saga_rows(shop) == []


async def test_new_name_is_added_before_sagas_are_locked(shop: Product) -> None:
    """A save has added the name and comes for the saga; so does who looks at the saga or publishes a pack of it."""
    await shop.storage.save_snapshot(make(0, context={}))
    end = (await shop.runtime.catalog.sagas.ends([SAGA]))[SAGA]
    for number_of, statement in enumerate(
        (
            "SELECT sagaz_tiering.refresh_sagas(ARRAY[$1::uuid])",
            "SELECT sagaz_tiering.note_archived(ARRAY[now()], ARRAY[1], ARRAY[0], ARRAY[$1::uuid], ARRAY[$2::uuid],"
            " ARRAY['executing'], ARRAY[NULL]::text[])",
        )
    ):
        name = f"new-{number_of}"
        async with shop.runtime.db.transaction() as conn:
            await conn.execute("SET LOCAL session_replication_role = replica")  # as an earlier version saved it
            await conn.execute("UPDATE sagaz_tiering.saga_snapshots SET saga_name = $1", name)
        arguments = (SAGA, end.snapshot_id)[: statement.count("$")]

        async def look(query: str = statement, given: tuple[UUID, ...] = arguments) -> None:
            async with shop.runtime.db.transaction() as other:
                await other.execute(query, *given)

        async with crossing(shop, look, f"SELECT sagaz_tiering.add_names(ARRAY['{name}'])") as conn:
            await conn.execute(_LOCK_SAGAS)
        [found] = await shop.storage.find()
        assert found.saga_name == name
