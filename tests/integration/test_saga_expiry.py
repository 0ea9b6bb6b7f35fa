"""What `expire` does with a saga as a whole: one date for all of it in every tier, and decided anew when it goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.snapshots import SAGA, make
from support.tiers import DAY, Product, config, product

from sagaz_tiering.snapshot import SagaSnapshot

MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
YEARS, MONTH = 2555 * DAY, 30 * DAY
POLICIES: Sequence[dict[str, Any]] = (
    {"name": "failed", "match": {"outcome": ["failed", "rolled_back"]}, "move": MOVE, "retain": "2555d"},
    {"name": "rest", "match": {}, "move": MOVE, "retain": "30d"},
)


@pytest.fixture
def opened(database: str, redis_url: str, tmp_path: Path) -> Any:
    """Open the product with these outcome policies, of a durability."""

    @asynccontextmanager
    async def open_product(durability: str = "durable", **policy: Any) -> AsyncIterator[Product]:
        policies = [{**each, "durability": durability, **policy} for each in POLICIES]
        settings = config(database=database, redis_url=redis_url, cold=tmp_path / "cold", policies=policies)
        async with product(settings) as shop:
            yield shop

    return open_product


async def saved(shop: Product, *statuses: str, saga_id: UUID = SAGA, first: int = 0) -> list[SagaSnapshot]:
    """One snapshot of each status, a minute apart."""
    snapshots = [make(first + at, status=status, saga_id=saga_id) for at, status in enumerate(statuses)]
    for snapshot in snapshots:
        await shop.storage.save_snapshot(snapshot)
    return snapshots


async def expiries(shop: Product, saga_id: UUID = SAGA) -> set[datetime | None]:
    """When the snapshots of a saga expire, as `timeline` tells."""
    return {ref.expires_at for ref in await shop.storage.timeline(saga_id)}


async def rows(shop: Product) -> list[dict[str, Any]]:
    """The catalog's sagas, but for whether they changed."""
    query = "SELECT saga_id, ended_at, end_step, end_id, status, kept_us FROM sagaz_tiering.sagas ORDER BY saga_id"
    return [dict(row) for row in await shop.runtime.db.fetch(query)]


async def archived_dates(shop: Product) -> set[datetime | None]:
    """What is recorded of all that is in packs."""
    return {row["expires_at"] for row in await shop.runtime.db.fetch("SELECT expires_at FROM sagaz_tiering.snapshots")}


async def changed(shop: Product) -> int:
    """Sagas whose archived part is to be decided anew."""
    return int(await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.sagas WHERE changed"))


async def compared(shop: Product) -> dict[str, int]:
    """What a run of `expire` does, which a dry run says before, without writing anything."""
    before = await rows(shop), await archived_dates(shop), await changed(shop)
    dry = await shop.run("expire", dry_run=True)
    assert (await rows(shop), await archived_dates(shop), await changed(shop)) == before
    done = await shop.run("expire")
    assert dry.counts == done.counts
    return done.counts


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_expire_decides_archived_parts_anew_when_a_saga_went_on(opened: Any, durability: str) -> None:
    """Completed and packed, rolled back three weeks later: all of it goes after seven years, and not a day before."""
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
            assert await rows(shop) == []


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
        assert await rows(shop) == []
