"""What is in each tier, what it costs, what the jobs did, who is at work: as one document, also with a server down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.catalog.leases import HeldLease
from sagaz_tiering.catalog.mark import MarkLook
from sagaz_tiering.catalog.migrations import check_schema
from sagaz_tiering.clock import to_micros
from sagaz_tiering.errors import SagazTieringError, SchemaMismatch, TierUnavailable
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.ownership import look, refuse
from sagaz_tiering.jobs.times import NextRun, are_kept, next_runs
from sagaz_tiering.terminal import document, plain

_LOST_SHOWN = 1_000
INFO_KEYS = ("redis_version", "valkey_version", "used_memory", "maxmemory", "maxmemory_policy")

Failures = dict[str, SagazTieringError]


async def collect(context: JobContext, *, count: bool) -> tuple[dict[str, Any], Failures]:
    """Every section that can be had, and the errors of the servers that did not answer; `count` walks Redis's keys."""
    now = context.now
    parts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "redis": lambda: _hot(context, now, count=count),
        "postgresql": lambda: _catalog(context, now),
        "object store": lambda: _cold(context),
    }
    standing: list[MarkLook] = []
    parts["owner"] = lambda: _owner(context, standing)
    parts["bucket"] = lambda: _refuse(context, standing)
    document: dict[str, Any] = {
        "at": now.isoformat(),
        "policies": {
            "revision": context.policies.revision,
            "names": [policy.name for policy in context.policies.policies],
        },
        "servers": {
            "redis": str(context.hot.connection.settings.url),
            "postgresql": context.catalog.db.shown_url,
            "object store": context.objects.url,
        },
    }
    failures: Failures = {}
    for name, ask in parts.items():
        try:
            document |= await ask()
        except SagazTieringError as exc:
            failures[name] = exc
    document["errors"] = {
        name: {"error": str(exc), "type": type(exc).__name__, "hint": exc.hint} for name, exc in failures.items()
    }
    return document, failures


async def upcoming(context: JobContext, *jobs: str) -> list[NextRun]:
    """When these jobs start next. Raises CatalogUnavailable."""
    found = next_runs(context.settings.schedule, await context.catalog.history.last_runs(), context.now)
    return [run for run in found if run.job in jobs]


async def daemon_seen(context: JobContext) -> bool:
    """Whether somebody keeps to the schedule. Raises CatalogUnavailable."""
    return _is_seen(context, await context.catalog.history.last_runs(), await context.catalog.leases.held())


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
    catalog = context.catalog
    durable = await catalog.durable.estimate(now)
    packs = [
        {
            **document(total),
            "usd_per_month": context.prices.monthly_usd(
                total.storage_class, object_count=total.packs, total_bytes=total.bytes
            ),
        }
        for total in await catalog.packs.totals()
    ]
    return {
        "hot_tier": await _hot_tier(context),
        "durable": durable,
        "packs": packs,
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
    return {
        "trusted": state.trusted,
        "changes": state.changes,
        "changed_at": state.changed_at.isoformat() if state.changed_at else None,
        "reason": state.reason,
        "reconciled_at": state.reconciled_at.isoformat() if state.reconciled_at else None,
        "lost": state.lost,
        "lost_ever": state.lost_ever,
        "lost_snapshots": [
            {
                "snapshot_id": str(save.meta.snapshot_id),
                "saga_id": str(save.meta.saga_id),
                "saga_name": save.meta.saga_name,
                "step_name": save.meta.step_name,
                "lost_at": save.lost_at.isoformat() if save.lost_at else None,
            }
            for save in lost
        ],
        "warnings": state.warnings(),
    }


async def _spending(context: JobContext, now: datetime) -> dict[str, Any]:
    """What the jobs spent today (UTC), and the budget."""
    today = await context.catalog.spending.on(now.date())
    return {
        "day": now.date().isoformat(),
        "requests": sum(spent.requests for spent in today),
        "usd": sum(spent.usd for spent in today),
        "requests_per_day": context.settings.budget.requests_per_day,
        "usd_per_day": context.settings.budget.usd_per_day,
        "by_kind": {spent.kind: {"requests": spent.requests, "usd": spent.usd} for spent in today},
    }


async def _owner(context: JobContext, standing: list[MarkLook]) -> dict[str, Any]:
    """How the catalog stands to the bucket's mark, and how much of its journal is there."""
    try:
        await check_schema(context.catalog.db)
        seen = await look(context)
    except (SchemaMismatch, TierUnavailable):  # that server's own section tells
        return {}
    standing.append(seen)
    return {
        "owner": {
            "standing": seen.standing.value,
            "step": seen.row.counter,
            "bucket_step": None if seen.mark is None else seen.mark.counter,
            "journal": seen.row.journal_number,
            "bucket_journal": None if seen.mark is None else seen.mark.journal,
            "journal_published": not await context.catalog.journal.any_unpublished(),
        }
    }


async def _refuse(context: JobContext, standing: list[MarkLook]) -> dict[str, Any]:
    for seen in standing:
        await refuse(context, seen)
    return {}


async def _cold(context: JobContext) -> dict[str, Any]:
    await context.objects.check()
    return {"cold": {"url": context.objects.url}}
