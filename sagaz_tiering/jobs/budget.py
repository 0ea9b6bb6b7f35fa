"""The daily budget: what a job spends on the object store is counted first, and refused once the day's is used up."""

from __future__ import annotations

from sagaz_tiering import metrics
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.costs import Cost, restore_cost
from sagaz_tiering.costs.economics import THAW_DAYS
from sagaz_tiering.errors import BudgetSpent
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.storage_class import StorageClass


async def spend(context: JobContext, kind: str, cost: Cost, *, must: bool = False) -> None:
    """Count `cost` before it is spent; raises BudgetSpent, with nothing counted, where today's budget has no room.

    `must`: what cannot wait (an erasure, bytes that are thawed and billed already) is counted and never refused.
    """
    budget, today = context.settings.budget, context.now.date()
    requests, usd = (None, None) if must else (budget.requests_per_day, budget.usd_per_day)
    if not await context.catalog.spending.spend(
        today, kind, cost.requests, cost.usd, most_requests=requests, most_usd=usd
    ):
        spent = await context.catalog.spending.on(today)
        raise BudgetSpent(
            f"today's budget is used up: {sum(s.requests for s in spent):,} requests and "
            f"${sum(s.usd for s in spent):.4f} spent, {_limits(requests, usd)}; the next step costs "
            f"{cost.requests:,} requests and ${cost.usd:.2g}"
        )
    metrics.spend(kind, cost.requests, cost.usd)


async def spend_reads(
    context: JobContext, kind: str, storage_class: StorageClass, *, requests: int = 1, size: int = 0, must: bool = False
) -> None:
    """The same of so many requests that read `size` bytes together."""
    usd = context.prices.get_usd(storage_class, requests, total_bytes=size)
    await spend(context, kind, Cost(requests=requests, usd=usd), must=must)


async def thaw(context: JobContext, kind: str, pack: Pack, *, must: bool = False) -> RestoreState:
    """Ask for a readable copy of an archived pack (Bulk costs least), which a later run finds."""
    cost = restore_cost(context.prices, pack.storage_class, objects=1, total_bytes=pack.byte_size)
    await spend(context, kind, cost, must=must)
    return await context.objects.restore(pack.object_key, days=THAW_DAYS, tier="Bulk")


def _limits(requests: int | None, usd: float | None) -> str:
    parts = [
        None if requests is None else f"{requests:,} requests",
        None if usd is None else f"${usd:,.2f}",
    ]
    return " and ".join(part for part in parts if part) + " allowed"
