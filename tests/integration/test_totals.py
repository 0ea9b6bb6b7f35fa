"""Totals, the hourly history and the metrics of the store, over real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.payload import snapshots
from support.tiers import DAY, Product, config, product
from support.yaml_config import write_config

from sagaz_tiering.daemon.totals import TotalsKeeper
from sagaz_tiering.operations.history import history
from sagaz_tiering.operations.totals import look, note_hour

POLICIES: list[dict[str, Any]] = [
    {
        "name": "all",
        "match": {},
        "move": [{"to": "STANDARD_IA", "after": "1d"}, {"to": "GLACIER", "after": "40d"}],
        "even_if_costlier": True,
    }
]


@pytest.fixture
async def shop(database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Product]:
    """One policy over a directory."""
    settings = config(database=database, redis_url=redis_url, cold=tmp_path / "cold", policies=POLICIES)
    async with product(settings) as opened:
        yield opened


async def save(shop: Product, count: int, start: int = 0) -> None:
    """Sagas of five snapshots each, ten days old."""
    for snapshot in snapshots(count, start=start, created_at=shop.clock.now() - 10 * DAY):
        await shop.storage.save_snapshot(snapshot)


async def hour_passes(shop: Product) -> None:
    """Each of two daemons notices that the hour is over."""
    shop.clock.advance(timedelta(hours=1))
    await asyncio.gather(*(TotalsKeeper(shop.runtime.job_context()).once() for _ in range(2)))


async def test_totals_tell_what_is_where_and_what_is_late(shop: Product) -> None:
    """Before ageing all is durable and due; after it all is in packs with a price, and nothing waits."""
    context = shop.runtime.job_context()
    await save(shop, 3)
    before = await look(context)
    assert before.hot is not None
    assert (before.durable.snapshots, before.hot.sagas_due, before.hot.untold) == (15, 3, 0)
    assert before.hot.memory > 0
    assert before.hot.due_since is not None
    assert before.hot.due_since <= before.at
    due = next(each for each in before.open_work if each.what == "due")
    assert due.since is not None
    assert due.since <= before.at
    await shop.run("age")
    after = await look(context)
    assert after.hot is not None
    assert (after.durable.snapshots, after.hot.sagas_due, after.hot.due_since) == (0, 0, None)
    assert next(each for each in after.open_work if each.what == "due").since is None
    held = {(each.tier, each.storage_class): each for each in after.holdings}
    cold = held["cold", "STANDARD_IA"]
    assert (cold.snapshots, cold.packs) == (15, after.cold[0].packs)
    assert cold.usd_per_month == context.prices.monthly_usd(
        after.cold[0].storage_class, object_count=after.cold[0].packs, total_bytes=cold.bytes
    )
    assert held["hot", ""].snapshots is None


async def test_history_has_one_row_an_hour_and_keeps_two_years(shop: Product) -> None:
    """Two daemons write one row; moves are counted into the class that they went to; old rows go."""
    catalog = shop.runtime.catalog
    await save(shop, 3)
    await hour_passes(shop)
    first = shop.clock.now()
    await shop.run("age")
    await hour_passes(shop)
    assert not await note_hour(shop.runtime.job_context(), await look(shop.runtime.job_context())), "it is written"
    shop.clock.advance(40 * DAY)
    await shop.run("transition")
    await hour_passes(shop)
    document = await history(catalog, first - DAY, shop.clock.now())
    assert document["came"] == {"STANDARD_IA": 15, "GLACIER": 15}
    assert document["step_hours"] == 9
    names = [[f"{held['tier']} {held['storage_class']}" for held in point["holdings"]] for point in document["points"]]
    assert names[0] == ["hot ", "durable ", "cold STANDARD_IA"]
    assert names[-1] == ["hot ", "durable ", "cold GLACIER"]
    assert sum(day["requests"] for day in document["spent"]) > 0
    rows = "SELECT count(*) FROM sagaz_tiering.history"
    assert await catalog.db.fetchval(rows) == 3
    shop.clock.advance(800 * DAY)
    await hour_passes(shop)
    assert await catalog.db.fetchval(rows) == 1


async def test_status_draws_the_history(shop: Product, database: str, redis_url: str, tmp_path: Path) -> None:
    """A table with growth and money, the same as JSON; before a daemon ran it says who writes it."""
    path = write_config(tmp_path / "tiering.yaml", database=database, redis_url=redis_url, cold=tmp_path / "cold")
    empty = await cli("status", "--history", "--config", path)
    assert empty.code == 0, empty.err
    assert "no history yet" in empty.out
    await save(shop, 2)
    await hour_passes(shop)
    await shop.run("age")
    await hour_passes(shop)
    answer = await cli("status", "--history", "--days", 731, "--config", path)
    assert answer.code == 0, answer.err
    for text in ("cold STANDARD_IA", "came", "grew", "a month then", "█"):
        assert text in answer.out
    document = (await cli("status", "--history", "--days", 731, "--json", "--config", path)).document
    assert set(document) == {"since", "until", "step_hours", "points", "came", "spent"}
    assert document["points"][-1]["holdings"][0]["tier"] == "hot"
