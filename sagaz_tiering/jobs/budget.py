"""What runs may spend: the daily budget of requests and money, and how much of it `scrub` takes for looking into packs.

What a job spends on the object store is counted first, and refused once the day's is used up. `scrub` looks into the
packs of longest ago, as far as its own budget goes, or into all.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime, timedelta

from sagaz_tiering import metrics
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.costs import Cost, restore_cost
from sagaz_tiering.costs.economics import THAW_DAYS
from sagaz_tiering.errors import BudgetSpent
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import counted


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


@dataclass(slots=True)
class Budget:
    """What a run may still spend: without a word as much as it wants."""

    requests: int = sys.maxsize
    bytes: int = sys.maxsize

    def take(self, requests: int, size: int) -> bool:
        """Whether there was so much left; it is gone now."""
        if self.requests < requests or self.bytes < size:
            return False
        self.requests -= requests
        self.bytes -= size
        return True


async def what_is_due(context: JobContext, tally: Tally) -> tuple[datetime, Budget, int]:
    """Which packs are looked into: those that were not since then, by this budget; how many that are."""
    jobs = context.settings.jobs
    if context.all_packs:
        before, budget = context.now - timedelta(microseconds=1), Budget()
    else:
        before, budget = context.now - jobs.scrub_cycle, Budget(jobs.scrub_requests, jobs.scrub_bytes)
    due, done = await context.catalog.scrubbing.due(before)
    if done and not context.all_packs:
        tally.add("packs_looked_into_before", done)
        tally.note(
            f"{counted(done, 'pack was', 'packs were')} looked into within jobs.scrub_cycle already; damage since then "
            "is not seen; all of them at once: sagaz-tiering job scrub --once --all"
        )
    return before, budget, due


def tell_left(context: JobContext, tally: Tally, due: int) -> None:
    """How many of those that are due it did not come to, and why."""
    left = due - tally.counts["packs_to_look_into"]
    if left > 0:
        why = "it was stopped" if context.stopping.is_set() else "jobs.scrub_requests or jobs.scrub_bytes is spent"
        tally.add("packs_left", left, note=f"{counted(left, 'pack is', 'packs are')} left to later runs: {why}")
