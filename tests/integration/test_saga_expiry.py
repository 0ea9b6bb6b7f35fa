"""What `expire` does with a saga as a whole: one date for all of it in every tier, and decided anew when it goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.outcomes import MONTH, MOVE, POLICIES, YEARS, opener, saga_rows, saved
from support.snapshots import OTHER_SAGA, SAGA, make
from support.tiers import DAY, NOW, Places, Product, config, insistent, product

from sagaz_tiering.config.policy import Policy
from sagaz_tiering.errors import HotTierUnavailable, MassDelete
from sagaz_tiering.jobs import run_job
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.tiered import hot_notes


@pytest.fixture
def opened(places: Places) -> Any:
    """Opens the product with policies by outcome."""
    return opener(places)


async def expiries(shop: Product, saga_id: UUID = SAGA) -> set[datetime | None]:
    """When the snapshots of a saga expire, as `timeline` tells."""
    return {ref.expires_at for ref in await shop.storage.timeline(saga_id)}


async def reads(shop: Product, one: SagaSnapshot) -> list[SagaSnapshot]:
    """What reads by id, of the newest and of all of its saga find."""
    found = [await shop.storage.get_snapshot(one.snapshot_id), await shop.storage.get_latest_snapshot(one.saga_id)]
    return [each for each in found if each is not None] + await shop.storage.list_snapshots(one.saga_id, limit=1)


async def archived_dates(shop: Product) -> set[datetime | None]:
    """What is recorded of all that is in packs."""
    return {row["expires_at"] for row in await shop.runtime.db.fetch("SELECT expires_at FROM sagaz_tiering.snapshots")}


async def changed(shop: Product) -> int:
    """Sagas whose archived part is to be decided anew."""
    return int(await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.sagas WHERE changed"))


async def compared(shop: Product) -> dict[str, int]:
    """What a run of `expire` does, which a dry run says before, without writing anything."""
    before = await saga_rows(shop), await archived_dates(shop), await changed(shop)
    dry = await shop.run("expire", dry_run=True)
    assert (await saga_rows(shop), await archived_dates(shop), await changed(shop)) == before
    done = await shop.run("expire")
    assert dry.counts == done.counts
    return done.counts


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_expire_decides_archived_parts_anew_when_a_saga_went_on(
    opened: Any, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completed and packed, rolled back three weeks later: all of it goes after seven years, and not a day before."""
    monkeypatch.setattr(hot_notes, "_EVERY_S", 3600)  # a slow machine tells the catalog no sooner than a fast one
    async with opened(durability) as shop:
        first = await saved(shop, "executing", "completed")
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        assert await archived_dates(shop) == {first[1].created_at + MONTH}
        shop.clock.advance(13 * DAY)
        late = make(9, status="rolled_back", created_at=shop.clock.now())
        await shop.storage.save_snapshot(late)  # with `hot` Redis alone knows of it
        shop.clock.advance(MONTH)
        assert await compared(shop) == {}
        assert await archived_dates(shop) == {late.created_at + YEARS}
        assert await changed(shop) == 0
        assert await expiries(shop) == {late.created_at + YEARS}
        await shop.run("age")
        shop.clock.advance(late.created_at + YEARS - shop.clock.now() - timedelta(microseconds=1))
        assert await compared(shop) == {}
        assert await shop.storage.list_snapshots(SAGA) == [late, first[1], first[0]]
        shop.clock.advance(timedelta(microseconds=1))
        assert (await compared(shop))["archived"] == 3
        if durability == "durable":
            assert await saga_rows(shop) == []


@pytest.mark.parametrize("retention", ["longest", "policy"])
async def test_saga_that_goes_on_to_a_shorter_rule_ends_when_it_was_promised(opened: Any, retention: str) -> None:
    """What was archived as failed stays seven years though the saga completed; `retention: policy` ends it sooner."""
    async with opened(retention=retention) as shop:
        (failed,) = await saved(shop, "failed")
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        done = make(5, status="completed", created_at=shop.clock.now())
        await shop.storage.save_snapshot(done)
        end = failed.created_at + YEARS if retention == "longest" else done.created_at + MONTH
        assert await compared(shop) == {}
        assert await expiries(shop) == {end}
        assert await archived_dates(shop) == {end}
        shop.clock.advance(end - shop.clock.now())
        assert sum([count for kind, count in (await compared(shop)).items() if kind != "packs_retired"]) == 2
        assert await saga_rows(shop) == []


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("in_redis", ["all", "newest", "none"])
async def test_durable_rows_expire_as_their_saga_ended(opened: Any, in_redis: str) -> None:
    """Saved under a rule that keeps what runs for ever, a saga that completes goes whole; one that runs stays."""
    async with opened(policies=[{"name": "running", "match": {"outcome": "running"}, "retain": "forever"}]) as shop:
        ended = await saved(shop, "executing", "executing", "completed")
        runs = await saved(shop, "executing", "executing", saga_id=OTHER_SAGA, first=20)
        gone = {"all": [], "newest": ended[:2], "none": ended}[in_redis]
        for snapshot in gone:
            await shop.runtime.hot.delete(snapshot.snapshot_id, until_us=2**52)
        if in_redis == "newest":  # of which no row tells
            await shop.runtime.db.execute("UPDATE sagaz_tiering.saga_snapshots SET expires_at = NULL")
        shop.clock.advance(ended[-1].created_at + MONTH - shop.clock.now() - timedelta(microseconds=1))
        assert await compared(shop) == {}
        shop.clock.advance(timedelta(microseconds=1))
        assert sum((await compared(shop)).values()) == 3
        query = "SELECT saga_id FROM sagaz_tiering.saga_snapshots"
        assert {row["saga_id"] for row in await shop.runtime.db.fetch(query)} == {OTHER_SAGA}
        assert await shop.storage.list_snapshots(OTHER_SAGA) == runs[::-1]
        assert [row["saga_id"] for row in await saga_rows(shop)] == [OTHER_SAGA]


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("policy", [{}, {"move": []}], ids=["moved", "never moved"])
async def test_rest_of_a_saga_whose_end_expired_is_judged_by_that(opened: Any, policy: dict[str, Any]) -> None:
    """A snapshot with a later date of its own goes at that date, not by the rule for sagas that run, in every read."""
    running = {"name": "running", "match": {"outcome": "running"}, "retain": "forever"}
    async with opened(policies=[running], **policy) as shop:
        own = make(0, status="executing", retention_until=NOW + 60 * DAY)
        done = make(5, status="completed")
        for snapshot in (own, done):
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(NOW + 31 * DAY - shop.clock.now())
        await compared(shop)
        assert await reads(shop, own) == [own] * 3
        shop.clock.advance(NOW + 60 * DAY - shop.clock.now())
        assert await reads(shop, own) == []
        await compared(shop)
        assert await shop.hot_count() == 0
        assert await saga_rows(shop) == []


@pytest.mark.guarantee("G9")
async def test_shorter_rule_that_was_accepted_is_not_defeated_by_an_old_promise(opened: Any) -> None:
    """What was packed in two parts and what is hot end together when the accepted rule says; all of it is asked for."""
    failed = {"name": "lost", "match": {"outcome": "failed"}, "move": MOVE, "retain": "400d"}
    async with opened(policies=[failed]) as shop:
        parts = []
        for at in range(3):
            parts.append(make(at, status="failed", created_at=shop.clock.now()))
            await shop.storage.save_snapshot(parts[-1])
            shop.clock.advance(9 * DAY)
            if at < 2:
                await shop.run("age")
        await shop.run("expire")
        end = parts[-1].created_at
        assert await expiries(shop) == {end + 400 * DAY}
        shorter = [{**failed, "retain": "100d"}, *POLICIES]
        policies = tuple(map(Policy.model_validate, insistent(shorter)))
        await shop.runtime.reload(shop.runtime.settings.model_copy(update={"policies": policies}))
        dry = await shop.run("expire", dry_run=True)
        assert "3 of 3 snapshots of policy 'lost'" in (dry.refused or "")
        with pytest.raises(MassDelete, match="3 of 3 snapshots of policy 'lost'"):
            await shop.run("expire")
        assert await expiries(shop) == {end + 400 * DAY}
        await run_job("expire", replace(shop.runtime.job_context(), allow_mass_delete=True))
        assert await expiries(shop) == {end + 100 * DAY}
        assert await archived_dates(shop) == {end + 100 * DAY}
        assert await changed(shop) == 0
        shop.clock.advance(end + 100 * DAY - shop.clock.now())
        assert sum((await compared(shop)).values()) >= 3
        assert await saga_rows(shop) == []


@pytest.mark.guarantee("G9")
async def test_default_clock_of_an_update_asks_nothing(opened: Any) -> None:
    """Counted from the end of its saga nothing ends earlier: all is dated anew, and siblings agree from then on."""
    async with opened(clock="created_at") as shop:
        days = [make(at, status="completed", created_at=NOW + at * 2 * DAY) for at in range(3)]
        for snapshot in days:
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(12 * DAY)
        await shop.run("age")
        await shop.run("expire")
        assert await expiries(shop) == {each.created_at + MONTH for each in days}
    async with opened() as shop:
        shop.clock.advance(12 * DAY)
        assert (await compared(shop))["packs_redated"] > 0
        assert await expiries(shop) == await archived_dates(shop) == {days[-1].created_at + MONTH}
        shop.clock.advance(days[-1].created_at + MONTH - shop.clock.now())
        assert (await compared(shop))["archived"] == 3


@pytest.mark.guarantee("G3")
async def test_nothing_archived_goes_while_redis_cannot_be_asked(own_redis: Any, database: str, tmp_path: Path) -> None:
    """It may know that a saga went on; the run says that it failed, and once Redis answers the saga stays."""
    server = await own_redis()
    policies = [{**each, "durability": "hot"} for each in POLICIES]
    settings = config(database=database, redis_url=server.url, cold=tmp_path / "cold", policies=policies)
    async with product(settings) as shop:
        first = await saved(shop, "executing", "completed")
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        late = make(9, status="rolled_back", created_at=shop.clock.now())
        await shop.storage.save_snapshot(late)
        shop.clock.advance(MONTH)
        server.pause()
        try:
            with pytest.raises(HotTierUnavailable):
                await shop.run("expire")
        finally:
            server.resume()
        assert await archived_dates(shop) == {first[1].created_at + MONTH}
        assert await compared(shop) == {}
        assert await shop.storage.list_snapshots(SAGA) == [late, first[1], first[0]]
