"""The daily budget: what a job spends on the object store is counted first, and refused once the day's is used up."""

from __future__ import annotations

from sagaz_tiering import metrics
from sagaz_tiering.costs import Cost
from sagaz_tiering.errors import BudgetSpent
from sagaz_tiering.jobs.context import JobContext


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


def _limits(requests: int | None, usd: float | None) -> str:
    parts = [
        None if requests is None else f"{requests:,} requests",
        None if usd is None else f"${usd:,.2f}",
    ]
    return " and ".join(part for part in parts if part) + " allowed"
