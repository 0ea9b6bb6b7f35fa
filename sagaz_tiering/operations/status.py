"""What is where, what it costs, what the jobs did, who is at work: now as one document, and over time.

`collect` answers also with a server down. `take_stock` is a fixed number of statements, whatever there is: nothing
walks Redis, which tells its memory and the length of its queues. The first look of each hour writes the history.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.history import JobRun, Spent
from sagaz_tiering.catalog.leases import HeldLease
from sagaz_tiering.catalog.mark import MarkLook
from sagaz_tiering.catalog.migrations import check_schema
from sagaz_tiering.catalog.surveys import HOUR, ColdTotal, Holding, OpenWork
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.config.sections import BudgetSettings
from sagaz_tiering.errors import HotTierUnavailable, SagazTieringError, SchemaMismatch, TierUnavailable
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.ownership import look, refuse
from sagaz_tiering.jobs.times import NextRun, are_kept, next_runs
from sagaz_tiering.terminal import document, plain

_LOST_SHOWN = 1_000
_POINTS = 120
"""At most about so many points: a terminal is not wider, and two years have 17,520 hours."""
INFO_KEYS = ("redis_version", "valkey_version", "used_memory", "maxmemory", "maxmemory_policy")


async def collect(context: JobContext, *, count: bool) -> tuple[dict[str, Any], dict[str, SagazTieringError]]:
    """Every section that can be had, and the errors of the servers that did not answer; `count` walks Redis's keys."""
    now, standing = context.now, list[MarkLook]()
    parts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "redis": lambda: _hot(context, now, count=count),
        "postgresql": lambda: _catalog(context, now),
        "object store": lambda: _cold(context),
        "owner": lambda: _owner(context, standing),
        "bucket": lambda: _refuse(context, standing),
    }
    policies = [policy.name for policy in context.policies.policies]
    document: dict[str, Any] = {
        "at": now.isoformat(),
        "policies": {"revision": context.policies.revision, "names": policies},
        "servers": {
            "redis": str(context.hot.connection.settings.url),
            "postgresql": context.catalog.db.shown_url,
            "object store": context.objects.url,
        },
    }
    failures: dict[str, SagazTieringError] = {}
    for name, ask in parts.items():
        try:
            document |= await ask()
        except SagazTieringError as exc:
            failures[name] = exc
    document["errors"] = {
        name: {"error": str(exc), "type": type(exc).__name__, "hint": exc.hint} for name, exc in failures.items()
    }
    return document, failures


async def upcoming(context: JobContext, *jobs: str) -> tuple[list[NextRun], bool]:
    """When these jobs start next, and whether somebody keeps to the schedule. Raises CatalogUnavailable."""
    last_runs, held = await context.catalog.history.last_runs(), await context.catalog.leases.held()
    found = next_runs(context.settings.schedule, last_runs, context.now)
    return [run for run in found if run.job in jobs], _is_seen(context, last_runs, held)


def _is_seen(context: JobContext, last_runs: Sequence[JobRun], held: Sequence[HeldLease]) -> bool:
    return are_kept(context.settings.schedule, last_runs, (lease.name for lease in held), context.now)


async def _hot(context: JobContext, now: datetime, *, count: bool) -> dict[str, Any]:
    hot: dict[str, Any] = await context.hot.queue.counts(to_micros(now))
    info = await context.hot.connection.info()
    hot |= {key: info[key] for key in INFO_KEYS if key in info}
    if count:
        hot |= {"snapshots": 0, "bytes": 0}
        async for _saga, _snapshot, length in context.hot.snapshots():
            hot["snapshots"] += 1
            hot["bytes"] += length
    return {"hot": hot}


async def _catalog(context: JobContext, now: datetime) -> dict[str, Any]:
    await check_schema(context.catalog.db)
    catalog, monthly_usd = context.catalog, context.prices.monthly_usd
    durable, totals = await catalog.durable.estimate(now), await catalog.packs.totals()
    costs = [monthly_usd(each.storage_class, object_count=each.packs, total_bytes=each.bytes) for each in totals]
    return {
        "hot_tier": await _hot_tier(context),
        "durable": durable,
        "packs": [document(each) | {"usd_per_month": cost} for each, cost in zip(totals, costs, strict=True)],
        "jobs": plain(last_runs := await catalog.history.last_runs()),
        "next_runs": plain(next_runs(context.settings.schedule, last_runs, now)),
        "leases": plain(held := await catalog.leases.held()),
        "daemon_seen": _is_seen(context, last_runs, held),
        "dictionaries": plain(await catalog.dictionaries.list_current()),
        "encryption": {"warnings": await context.keys.warnings()},
        "spending": await _spending(context, now),
    }


async def _hot_tier(context: JobContext) -> dict[str, Any]:
    """Whether Redis is trusted, and what it lost."""
    state = await context.catalog.hot_tier.state()
    lost = await context.catalog.hot_saves.page(UUID(int=0), _LOST_SHOWN, only_lost=True) if state.lost else []
    names = ("snapshot_id", "saga_id", "saga_name", "step_name")
    return {
        **document(state, without=("nonce", "good_at")),
        "lost_snapshots": [
            {**{name: plain(getattr(save.meta, name)) for name in names}, "lost_at": plain(save.lost_at)}
            for save in lost
        ],
        "warnings": state.warnings(),
    }


async def _spending(context: JobContext, now: datetime) -> dict[str, Any]:
    """What the jobs spent today (UTC), and the budget."""
    today = await context.catalog.spending.on(now.date())
    by_kind = {spent.kind: {"requests": spent.requests, "usd": spent.usd} for spent in today}
    return {"day": now.date().isoformat(), **spent_of(context.settings.budget, today), "by_kind": by_kind}


def spent_of(budget: BudgetSettings, spent: Sequence[Spent]) -> dict[str, Any]:
    """The sums beside what a day may have (None: no limit)."""
    return {
        "requests": sum(each.requests for each in spent),
        "usd": sum(each.usd for each in spent),
        "requests_per_day": budget.requests_per_day,
        "usd_per_day": budget.usd_per_day,
    }


async def _owner(context: JobContext, standing: list[MarkLook]) -> dict[str, Any]:
    """How the catalog stands to the bucket's mark, and how much of its journal is there."""
    try:
        await check_schema(context.catalog.db)
        seen = await look(context)
    except (SchemaMismatch, TierUnavailable):  # that server's own section tells
        return {}
    standing.append(seen)
    owner = {
        "standing": seen.standing.value,
        "step": seen.row.counter,
        "bucket_step": None if seen.mark is None else seen.mark.counter,
        "journal": seen.row.journal_number,
        "bucket_journal": None if seen.mark is None else seen.mark.journal,
        "journal_published": not await context.catalog.journal.any_unpublished(),
    }
    return {"owner": owner}


async def _refuse(context: JobContext, standing: list[MarkLook]) -> dict[str, Any]:
    for seen in standing:
        await refuse(context, seen)
    return {}


async def _cold(context: JobContext) -> dict[str, Any]:
    await context.objects.check()
    return {"cold": {"url": context.objects.url}}


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


async def take_stock(context: JobContext) -> StoreTotals:
    """Look now: four statements, one trip to Redis for each of its answers. Raises CatalogUnavailable."""
    now, catalog = context.now, context.catalog
    target, share = context.settings.tiers.cold.pack.target, context.settings.jobs.compact_small_share
    cold = tuple(await catalog.totals.cold(int(target * share), _hour(now)))
    estimate = await catalog.durable.estimate(now)
    durable = DurableTotals(snapshots=estimate["snapshots"], bytes=estimate["bytes"], due=estimate["due"])
    hot = None
    with suppress(HotTierUnavailable):  # its own ping tells
        hot = await _hot_totals(context, now)
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
    return await context.catalog.totals.note_hour(_hour(totals.at), totals.holdings)


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


async def _hot_totals(context: JobContext, now: datetime) -> HotTotals:
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


async def history(catalog: Catalog, since: datetime, now: datetime) -> dict[str, Any]:
    """From `since` to now: `points` (the last hour of each step), snapshots that `came` into each storage class, and
    what was `spent` on requests by day. Raises CatalogUnavailable.
    """
    begin = _hour(since)
    step = max(HOUR, timedelta(hours=-(-int((now - begin) / HOUR) // _POINTS)))
    return {
        "since": begin.isoformat(),
        "until": now.isoformat(),
        "step_hours": step // HOUR,
        "points": plain(await catalog.totals.hours(begin, step)),
        "came": await catalog.totals.came(begin),
        "spent": await catalog.spending.since(begin.date()),
    }
