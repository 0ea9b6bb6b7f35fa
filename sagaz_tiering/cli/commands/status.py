"""`status`: what is in each tier, what it costs, what the jobs did, who is at work; also with a server down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.failures import say
from sagaz_tiering.cli.options import ConfigOption, DebugOption, JsonOption
from sagaz_tiering.cli.session import execute, opened
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.terminal import make_console, make_table, print_json, safe, show_bytes, show_usd, show_when

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.jobs.ownership import MarkLook

_LOST_SHOWN = 1_000
_LOST_PRINTED = 10
INFO_KEYS = ("redis_version", "used_memory", "maxmemory", "maxmemory_policy")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(
    count: Annotated[bool, typer.Option("--count", help="Count the snapshots in Redis too (walks all keys).")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Snapshots, bytes and dollars per tier, the last run of each job, and the leases that are held."""

    async def work() -> int:
        async with opened(config) as runtime:
            now = runtime.clock.now()
            document, failures = await _collect(runtime, now, count=count)
        if as_json:
            print_json(document)
        else:
            _print(document, now)
        for name, failure in failures.items():
            say(f"{name}: {failure}", failure.hint)
        return max((failure.exit_code for failure in failures.values()), default=0)

    execute(work, as_json=as_json, debug=debug)


Failures = dict[str, SagazTieringError]


async def _collect(runtime: Runtime, now: datetime, *, count: bool) -> tuple[dict[str, Any], Failures]:
    """Every section that can be had, and the errors of the servers that did not answer."""
    parts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "redis": lambda: _hot(runtime, now, count=count),
        "postgresql": lambda: _catalog(runtime, now),
        "object store": lambda: _cold(runtime),
    }
    standing: list[MarkLook] = []
    parts["owner"] = lambda: _owner(runtime, standing)
    parts["bucket"] = lambda: _refuse(runtime, standing)
    document: dict[str, Any] = {
        "at": now.isoformat(),
        "policies": {
            "revision": runtime.policies.revision,
            "names": [policy.name for policy in runtime.policies.policies],
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


async def _hot(runtime: Runtime, now: datetime, *, count: bool) -> dict[str, Any]:
    from sagaz_tiering.clock import to_micros

    hot: dict[str, Any] = await runtime.hot.counts(to_micros(now))
    info = await runtime.hot.info()
    hot |= {key: info[key] for key in INFO_KEYS if key in info}
    if count:
        hot["snapshots"], hot["bytes"] = await count_hot(runtime)
    return {"hot": hot}


async def count_hot(runtime: Runtime) -> tuple[int, int]:
    """Snapshots and value bytes in Redis, by walking its keys."""
    found = size = 0
    async for _saga, _snapshot, length in runtime.hot.snapshots():
        found += 1
        size += length
    return found, size


async def _catalog(runtime: Runtime, now: datetime) -> dict[str, Any]:
    from sagaz_tiering.catalog.migrations import check_schema

    await check_schema(runtime.db)
    catalog = runtime.catalog
    durable = await catalog.durable.estimate(now)
    packs = [
        {
            "storage_class": total.storage_class.value,
            "state": total.state,
            "packs": total.packs,
            "bytes": total.bytes,
            "snapshots": total.snapshots,
            "packed": total.packed,
            "usd_per_month": runtime.prices.monthly_usd(
                total.storage_class, object_count=total.packs, total_bytes=total.bytes
            ),
        }
        for total in await catalog.packs.totals()
    ]
    runs = [
        {
            "job": run.job,
            "started_at": run.started_at.isoformat(),
            "finished_at": run.finished_at.isoformat() if run.finished_at else None,
            "error": run.error,
            "summary": run.summary,
        }
        for run in await catalog.history.last_runs()
    ]
    leases = [
        {"name": held.name, "owner": held.owner, "epoch": held.epoch, "expires_at": held.expires_at.isoformat()}
        for held in await catalog.leases.held()
    ]
    return {
        "hot_tier": await _hot_tier(runtime),
        "durable": durable,
        "packs": packs,
        "jobs": runs,
        "leases": leases,
        "dictionaries": [each.to_dict() for each in await catalog.dictionaries.list_current()],
        "encryption": {"warnings": await runtime.keys.warnings()},
        "spending": await _spending(runtime, now),
    }


async def _hot_tier(runtime: Runtime) -> dict[str, Any]:
    """Whether Redis is trusted, and what it lost."""
    from uuid import UUID

    state = await runtime.catalog.hot_tier.state()
    lost = await runtime.catalog.hot_saves.page(UUID(int=0), _LOST_SHOWN, only_lost=True) if state.lost else []
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


async def _spending(runtime: Runtime, now: datetime) -> dict[str, Any]:
    """What the jobs spent today (UTC), and the budget."""
    today, budget = await runtime.catalog.spending.on(now.date()), runtime.config.budget
    return {
        "day": now.date().isoformat(),
        "requests": sum(spent.requests for spent in today),
        "usd": sum(spent.usd for spent in today),
        "requests_per_day": budget.requests_per_day,
        "usd_per_day": budget.usd_per_day,
        "by_kind": {spent.kind: {"requests": spent.requests, "usd": spent.usd} for spent in today},
    }


async def _owner(runtime: Runtime, standing: list[MarkLook]) -> dict[str, Any]:
    """How the catalog stands to the bucket's mark, and how much of its journal is there."""
    from sagaz_tiering.catalog.migrations import check_schema
    from sagaz_tiering.errors import SchemaMismatch, TierUnavailable
    from sagaz_tiering.jobs.ownership import look

    try:
        await check_schema(runtime.db)
        seen = await look(runtime.job_context())
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
            "journal_published": not await runtime.catalog.journal.any_unpublished(),
        }
    }


async def _refuse(runtime: Runtime, standing: list[MarkLook]) -> dict[str, Any]:
    from sagaz_tiering.jobs.ownership import refuse

    for seen in standing:
        await refuse(runtime.job_context(), seen)
    return {}


async def _cold(runtime: Runtime) -> dict[str, Any]:
    await runtime.objects.check()
    return {"cold": {"url": runtime.objects.url}}


def _print(document: dict[str, Any], now: datetime) -> None:
    console = make_console()
    console.print(make_table(("tier", "snapshots>", "objects>", "bytes>", "$ per month>", "notes"), _tiers(document)))
    if document.get("jobs"):
        rows = [_job_row(run, now) for run in document["jobs"]]
        console.print(make_table(("job", "last run", "result"), rows))
    hot_tier = document.get("hot_tier", {"warnings": (), "lost_snapshots": ()})
    for warning in [*hot_tier["warnings"], *document.get("encryption", {"warnings": ()})["warnings"]]:
        console.print(f"warning: {safe(warning, limit=1000)}", soft_wrap=True)
    for lost in hot_tier["lost_snapshots"][:_LOST_PRINTED]:
        of = f"step {safe(lost['step_name'])} of {safe(lost['saga_name'])} {lost['saga_id']}"
        console.print(f"lost: {lost['snapshot_id']}, {of}", soft_wrap=True)
    for held in document.get("leases", ()):
        console.print(f"lease {safe(held['name'])} is held by {safe(held['owner'])} (epoch {held['epoch']})")
    for each in document.get("dictionaries", ()):
        name, size = safe(each["saga_name"]), show_bytes(each["bytes"])
        console.print(f"dictionary of {name}: {size}, trained from {each['sagas']} sagas, saves {each['saves']:.0%}")
    if "spending" in document:
        console.print(_spent(document["spending"]))
    owner = document.get("owner")
    if owner is not None:
        waits = "" if owner["journal_published"] else "; entries of its journal are not in the bucket yet"
        console.print(f"this catalog is {safe(owner['standing'])} of the bucket (step {owner['step']}){waits}")
    policies = document["policies"]
    names = safe(", ".join(policies["names"]) or "none", limit=500)
    console.print(f"policies: {names} (revision {policies['revision']})", soft_wrap=True)


def _spent(spending: dict[str, Any]) -> str:
    """Today's spending in one line."""
    usd, requests = spending["usd_per_day"], spending["requests_per_day"]
    limits = [
        "" if requests is None else f" of {requests:,}",
        "" if usd is None else f" of {show_usd(usd)}",
    ]
    return f"spent today: {spending['requests']:,}{limits[0]} requests, {show_usd(spending['usd'])}{limits[1]}" + (
        "" if usd is not None or requests is not None else " (no budget)"
    )


def _tiers(document: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    hot, durable = document.get("hot"), document.get("durable")
    if hot is not None:
        memory = show_bytes(hot["bytes"]) if "bytes" in hot else None
        notes = f"{hot['sagas_waiting']:,} sagas waiting, {hot['sagas_due']:,} due"
        if "used_memory" in hot:
            notes += f"; memory {show_bytes(hot['used_memory'])}, {hot.get('maxmemory_policy', '')}"
        rows.append(("hot (Redis)", hot.get("snapshots"), None, memory, None, notes))
    if durable:
        notes = f"{durable['due']:,} due, {durable['spilled']:,} not in Redis{', estimated' * durable['estimated']}"
        size = show_bytes(durable["bytes"])
        rows.append(("durable (PostgreSQL)", durable["snapshots"], None, size, None, notes))
    for pack in document.get("packs", ()):
        notes = "" if pack["state"] == "ACTIVE" else pack["state"].lower()
        size, cost = show_bytes(pack["bytes"]), show_usd(pack["usd_per_month"])
        rows.append((f"cold {pack['storage_class']}", pack["snapshots"], pack["packs"], size, cost, notes))
    return rows


def _job_row(run: dict[str, Any], now: datetime) -> tuple[object, ...]:
    counts = (run["summary"] or {}).get("counts", run["summary"] or {})
    done = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in counts.items() if value)
    result = f"failed: {run['error']}" if run["error"] else done or "nothing to do"
    return (run["job"], show_when(datetime.fromisoformat(run["started_at"]), now), result)
