"""A job in its windows: outside it does nothing, at its end it stops, and the next one goes on from there."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from support.payload import snapshots
from support.tiers import DAY, NOW, Places, config, product

from sagaz_tiering.cli.commands import status
from sagaz_tiering.jobs import run_job, times
from sagaz_tiering.operations.status import collect

NIGHT = {"from": "20:00", "until": "06:00"}
HOUR = timedelta(hours=1)


async def test_run_stops_when_its_window_closes_and_goes_on_in_the_next_one(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step under way is finished, the rest waits; by day nothing runs but what is asked for at any time, or dry."""
    monkeypatch.setattr(times, "_LOOK_EVERY_S", 0.0)
    settings = config(**places, jobs={"batch_sagas": 1, "processes": 1}, schedule={"age": {"windows": [NIGHT]}})
    saved = list(snapshots(40, created_at=NOW))
    async with product(settings) as shop:
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(14 * DAY)
        context = shop.runtime.job_context()
        by_day = await run_job("age", context)
        assert (by_day.counts, by_day.opens_at) == ({}, shop.clock.now() + 8 * HOUR)
        assert (await run_job("age", context, dry_run=True)).counts["sagas"] == 40
        assert await shop.runtime.catalog.history.last_runs() == []

        shop.clock.advance(17 * HOUR)  # an hour before it closes

        def dawn(kind: str, _: int) -> None:
            if kind == "sagas" and shop.clock.now().hour < 6:
                shop.clock.advance(HOUR)

        cut = await run_job("age", replace(context, progress=dawn))
        assert cut.opens_at is None
        assert cut.counts["window_closed"] == 1
        assert 0 < cut.counts["sagas"] < 40
        [last] = await shop.runtime.catalog.history.last_runs()
        assert (last.error, last.stopped, last.ended_well) == (None, "its window closed", False)
        document, _ = await collect(context, count=False)
        [following] = [run for run in document["next_runs"] if run["job"] == "age"]
        assert following["at"] == (shop.clock.now() + 14 * HOUR).isoformat()
        assert told(document, shop.clock.now()).startswith("stopped, its window closed: sagas ")

        shop.clock.advance(14 * HOUR)
        rest = await run_job("age", context)
        assert "window_closed" not in rest.counts
        assert await shop.hot_count() == 0
        for snapshot in saved:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot

        shop.clock.advance(12 * HOUR)
        anyway = await run_job("age", replace(context, any_time=True))
        assert (anyway.opens_at, anyway.counts.get("sagas", 0)) == (None, 0)


async def test_status_says_what_was_stopped_and_no_failure(places: Places) -> None:
    """A daemon that ends lets its runs finish their step; nobody has to look into that."""
    async with product(config(**places)) as shop:
        context = shop.runtime.job_context()
        context.stopping.set()
        await run_job("age", context)
        document, _ = await collect(context, count=False)
        [last] = document["jobs"]
        assert (last["error"], last["stopped"]) == (None, "it was told to")
        assert told(document, shop.clock.now()) == "stopped, it was told to: nothing to do"


def told(document: dict[str, Any], now: datetime) -> str:
    """What `status` prints of the last run of the only job."""
    [last] = document["jobs"]
    return str(status._job_row(last, document["next_runs"][0], now)[-1])
