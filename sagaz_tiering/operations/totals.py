"""How much is where, what it costs and what waits: a fixed number of statements, whatever there is.

Nothing walks Redis: it tells its memory and the length of its queues. The first look of each hour writes the history.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sagaz_tiering.catalog.spending import Spent
from sagaz_tiering.catalog.totals import ColdTotal, Holding, OpenWork
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.jobs.context import JobContext


@dataclass(frozen=True, slots=True, kw_only=True)
class HotTotals:
    """What Redis tells of itself: bytes of memory (`limit` 0: none), sagas that wait, that are due, since when."""

    memory: int
    limit: int
    sagas_waiting: int
    sagas_due: int
    due_since: datetime | None
    untold: int
    """Saves that Redis alone has acknowledged and that the catalog is not told of yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableTotals:
    """Durable copies; estimated where there are many."""

    snapshots: int
    bytes: int
    due: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTotals:
    """One look at the whole store; `hot` is None while Redis does not answer."""

    at: datetime
    hot: HotTotals | None
    durable: DurableTotals
    cold: tuple[ColdTotal, ...]
    holdings: tuple[Holding, ...]
    open_work: tuple[OpenWork, ...]
    spent_today: tuple[Spent, ...]


async def look(context: JobContext) -> StoreTotals:
    """Look now: four statements, one trip to Redis for each of its answers. Raises CatalogUnavailable."""
    now = context.now
    target, share = context.settings.tiers.cold.pack.target, context.settings.jobs.compact_small_share
    hour = now.replace(minute=0, second=0, microsecond=0)
    catalog = context.catalog
    cold = tuple(await catalog.totals.cold(int(target * share), hour))
    estimate = await catalog.durable.estimate(now)
    durable = DurableTotals(snapshots=estimate["snapshots"], bytes=estimate["bytes"], due=estimate["due"])
    hot = None
    with suppress(HotTierUnavailable):  # its own ping tells
        hot = await _hot(context, now)
    return StoreTotals(
        at=now,
        hot=hot,
        durable=durable,
        cold=cold,
        holdings=tuple(_holdings(context, hot, durable, cold)),
        open_work=tuple(await catalog.totals.open_work(now)),
        spent_today=tuple(await catalog.spending.on(now.date())),
    )


async def note_hour(context: JobContext, totals: StoreTotals) -> bool:
    """Write the history's row of the hour that `totals` is from; False where it is written."""
    hour = totals.at.replace(minute=0, second=0, microsecond=0)
    return await context.catalog.totals.note_hour(hour, totals.holdings)


async def _hot(context: JobContext, now: datetime) -> HotTotals:
    queue, info = context.hot.queue, await context.hot.connection.info()
    oldest = await queue.oldest_due_us(to_micros(now))
    return HotTotals(
        memory=int(info.get("used_memory", 0)),
        limit=int(info.get("maxmemory", 0)),
        due_since=None if oldest is None else from_micros(oldest),
        untold=await queue.untold(),
        **await queue.counts(to_micros(now)),
    )


def _holdings(
    context: JobContext, hot: HotTotals | None, durable: DurableTotals, cold: tuple[ColdTotal, ...]
) -> list[Holding]:
    found = [] if hot is None else [Holding(tier="hot", bytes=hot.memory)]
    found.append(Holding(tier="durable", snapshots=durable.snapshots, bytes=durable.bytes))
    for each in cold:
        usd = context.prices.monthly_usd(each.storage_class, object_count=each.packs, total_bytes=each.bytes)
        found.append(
            Holding(
                tier="retiring" if each.retiring else "cold",
                storage_class=each.storage_class.value,
                snapshots=each.snapshots,
                packs=each.packs,
                bytes=each.bytes,
                usd_per_month=usd,
                came=0 if each.retiring else each.came,
            )
        )
    return found
