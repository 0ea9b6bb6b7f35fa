"""Large deletes stop and ask (design G9): a wrong `retain` must not empty a store over night."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.errors import MassDelete

Preview = Callable[[JobContext, Tally], Awaitable[None]]


async def refuse_mass_delete(context: JobContext, most: Preview, preview: Preview) -> None:
    """Raise MassDelete if the run would remove more than the configured share of all snapshots.

    `preview` counts what would go; `most` is quicker and never counts less, which nearly always settles it. A few
    (`expire_free_count`) always go. Redis is counted whole only if the rest does not settle it.
    """
    options = context.options
    if context.allow_mass_delete or options.expire_max_share >= 1:
        return
    for count in (most, preview):
        planned = Tally(None)
        await count(context, planned)
        going = sum(planned.counts[kind] for kind in ("hot", "durable", "archived"))
        # With fewer going out of Redis than `most` says the share is smaller still: they are in both numbers.
        total = await _in_postgresql(context) + planned.counts["hot"]
        if going <= max(options.expire_free_count, total * options.expire_max_share):
            return
    total = await _in_postgresql(context) + sum([1 async for _ in context.hot.snapshots()])
    if going > total * options.expire_max_share:
        raise MassDelete(
            f"this run would remove {going:,} of {total:,} copies of snapshots ({going / total:.0%}), more than "
            f"jobs.expire_max_share allows ({options.expire_max_share:.0%}); nothing was removed",
            hint=(
                "look at it with: sagaz-tiering job expire --dry-run; if it is meant, run once: "
                "sagaz-tiering job expire --once --allow-mass-delete; else correct `retain` or place holds"
            ),
        )


async def _in_postgresql(context: JobContext) -> int:
    """Durable copies and live archived snapshots."""
    packs = await context.catalog.packs.totals()
    durable = await context.catalog.durable.totals(context.now)
    return durable["snapshots"] + sum(total.snapshots for total in packs if total.state == "ACTIVE")
