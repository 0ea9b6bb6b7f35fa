"""Totals, the hourly history and the metrics of the store, over real servers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.payload import snapshots
from support.prometheus import needs_promtool, run_promtool
from support.tiers import DAY, Places, Product, rule
from support.yaml_config import write_config

from sagaz_tiering import metrics
from sagaz_tiering.daemon.totals import TotalsKeeper
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.operations.status import history, note_hour, take_stock

POLICIES: list[dict[str, Any]] = [rule("all", "*", {"STANDARD_IA": "1d", "GLACIER": "40d"}, even_if_costlier=True)]


SECTIONS: dict[str, Any] = {"policies": POLICIES}
"""One policy over a directory."""


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
    before = await take_stock(context)
    assert before.hot is not None
    assert (before.durable.snapshots, before.hot.sagas_due, before.hot.untold) == (15, 3, 0)
    assert before.hot.memory > 0
    assert before.hot.due_since is not None
    assert before.hot.due_since <= before.at
    due = next(each for each in before.open_work if each.what == "due")
    assert due.since is not None
    assert due.since <= before.at
    await shop.runtime.db.execute("UPDATE sagaz_tiering.saga_snapshots SET due_at = '-infinity' WHERE step_index > 0")
    assert (await take_stock(context)).open_work == before.open_work, "a look that other policies ask for is not late"
    await shop.run("age")
    after = await take_stock(context)
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
    assert not await note_hour(shop.runtime.job_context(), await take_stock(shop.runtime.job_context())), (
        "it is written"
    )
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


async def test_status_draws_the_history(shop: Product, places: Places, tmp_path: Path) -> None:
    """A table with growth and money, the same as JSON; before a daemon ran it says who writes it."""
    path = write_config(tmp_path / "tiering.yaml", **places)
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


async def test_metrics_tell_the_store_with_four_statements_and_none_for_a_scrape(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is, a look is four statements of few rows; a scrape asks nobody, and answers from memory."""
    asked: list[int] = []
    fetch = Database.fetch
    row = Database.fetchrow

    async def counted(db: Database, query: str, *args: Any) -> list[Any]:
        found = await fetch(db, query, *args)
        asked.append(len(found))
        return found

    async def counted_row(db: Database, query: str, *args: Any) -> Any:
        asked.append(1)
        return await row(db, query, *args)

    await save(shop, 3)
    keeper = TotalsKeeper(shop.runtime.job_context())
    await keeper.once()
    assert value("lag_seconds", tier="durable") > 0
    assert value("queue_length", queue="hot_due") == 3
    assert value("stored_snapshots", tier="durable", storage_class="") == 15
    await shop.run("age")
    await save(shop, 50, start=10)
    await shop.run("age")
    monkeypatch.setattr(Database, "fetch", counted)
    monkeypatch.setattr(Database, "fetchrow", counted_row)
    await keeper.once()
    assert len(asked) == 4
    assert sum(asked) < 20
    asked.clear()
    text = metrics.exposition()
    assert asked == []
    monkeypatch.undo()
    assert value("lag_seconds", tier="durable") == value("lag_seconds", tier="hot") == 0
    place = {"tier": "cold", "storage_class": "STANDARD_IA"}
    assert value("stored_snapshots", **place) == 265
    assert value("stored_usd_per_month", **place) > 0
    assert value("pack_live_ratio", storage_class="STANDARD_IA") == 1
    assert 0 < value("pack_fill_ratio", storage_class="STANDARD_IA") < 1
    assert value("packs_undersized", storage_class="STANDARD_IA") == value("stored_packs", **place)
    assert value("hot_memory_bytes") > 0
    assert value("spent_today_requests") > 0
    assert value("budget_usd_per_day") == float("inf")
    assert value("totals_timestamp_seconds") == shop.clock.now().timestamp()
    assert value("pool_limit", server="postgresql") >= 1
    assert b"sagaz_tiering_stored_bytes{" in text


async def test_metrics_tell_quarantine_holds_and_restores(shop: Product) -> None:
    """By kind and state, with the age of the oldest restore; what is resolved is gone from the metrics too."""
    catalog, keeper = shop.runtime.catalog, TotalsKeeper(shop.runtime.job_context())
    await save(shop, 1)
    await shop.run("age")
    shop.clock.advance(40 * DAY)
    await shop.run("transition")
    (one,) = {each.saga_id for each in snapshots(1, created_at=shop.clock.now())}
    await shop.storage.hold(one, "audit", who="counsel")
    await shop.storage.restore(one)
    await catalog.quarantine.record("snapshot", "x", "foreign", shop.clock.now(), budget=1)
    shop.clock.advance(timedelta(hours=2))
    await keeper.once()
    assert value("quarantined", kind="snapshot", state="quarantined") == 1
    assert value("holds") == 1
    assert value("restores", state="restoring") == 1
    assert value("restore_oldest_open_seconds") == 7200
    assert value("restore_late_seconds") == 0
    shop.clock.advance(7 * DAY)
    await catalog.quarantine.resolve("snapshot", "x")
    await keeper.once()
    assert value("restore_late_seconds") > 0
    assert (
        metrics.REGISTRY.get_sample_value("sagaz_tiering_quarantined", {"kind": "snapshot", "state": "quarantined"})
        is None
    )


@needs_promtool
async def test_promtool_accepts_the_metrics_of_a_store(shop: Product) -> None:
    """`check metrics` on what /metrics answers, with samples of most metrics."""
    await save(shop, 2)
    await TotalsKeeper(shop.runtime.job_context()).once()
    run_promtool("check", "metrics", given=metrics.exposition())


def value(name: str, **labels: str) -> float:
    """What a metric says now."""
    found = metrics.REGISTRY.get_sample_value(f"sagaz_tiering_{name}", labels)
    assert found is not None, (name, labels)
    return found
