"""Policies by outcome, a product under them, and sagas of small snapshots that end as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from sagaz_tiering.snapshot import SagaSnapshot
from support.snapshots import SAGA, make
from support.tiers import DAY, NOW, Places, Product, config, product

MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
YEARS, MONTH = 2555 * DAY, 30 * DAY
POLICIES: Sequence[dict[str, Any]] = (
    {"name": "failed", "match": {"outcome": ["failed", "rolled_back"]}, "move": MOVE, "retain": "2555d"},
    {"name": "rest", "match": {}, "move": MOVE, "retain": "30d"},
)


def opener(places: Places) -> Callable[..., AbstractAsyncContextManager[Product]]:
    """What opens the product with these policies behind others, all of a durability."""

    @asynccontextmanager
    async def open_product(
        durability: str = "durable", *, now: datetime = NOW, policies: Sequence[dict[str, Any]] = (), **policy: Any
    ) -> AsyncIterator[Product]:
        given = [{**each, "durability": durability, **policy} for each in (*policies, *POLICIES)]
        async with product(config(**places, policies=given), now=now) as shop:
            yield shop

    return open_product


async def saved(shop: Product, *statuses: str, saga_id: UUID = SAGA, first: int = 0) -> list[SagaSnapshot]:
    """One snapshot of each status, a minute apart."""
    snapshots = [make(first + at, status=status, saga_id=saga_id) for at, status in enumerate(statuses)]
    for snapshot in snapshots:
        await shop.storage.save_snapshot(snapshot)
    return snapshots


async def saga_rows(shop: Product) -> list[dict[str, Any]]:
    """The catalog's sagas, but for whether they changed."""
    query = "SELECT saga_id, ended_at, end_step, end_id, status, kept_us FROM sagaz_tiering.sagas ORDER BY saga_id"
    return [dict(row) for row in await shop.runtime.db.fetch(query)]
