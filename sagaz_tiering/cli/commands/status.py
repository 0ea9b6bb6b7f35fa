"""`status`: what is in each tier, what it costs, what the jobs did, who is at work; also with a server down."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import typer

from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.terminal import make_table, safe, show_bytes, show_usd, show_when

_LOST_PRINTED = 10


@command()
async def status(
    call: Call,
    count: Annotated[bool, typer.Option("--count", help="Count the snapshots in Redis too (walks all keys).")] = False,
) -> Answer:
    """Snapshots, bytes and dollars per tier, the last run of each job, and the leases that are held."""
    from sagaz_tiering.operations.status import collect

    async with call.opened() as runtime:
        now = runtime.clock.now()
        document, failures = await collect(runtime.job_context(), count=count)
    code = max((failure.exit_code for failure in failures.values()), default=0)
    problems = [(f"{name}: {failure}", failure.hint) for name, failure in failures.items()]
    return Answer(document, _lines(document, now), code, problems)


def _lines(document: dict[str, Any], now: datetime) -> Iterator[Any]:
    yield make_table(("tier", "snapshots>", "objects>", "bytes>", "$ per month>", "notes"), _tiers(document))
    if document.get("jobs"):
        yield make_table(("job", "last run", "result"), [_job_row(run, now) for run in document["jobs"]])
    hot_tier = document.get("hot_tier", {"warnings": (), "lost_snapshots": ()})
    for warning in [*hot_tier["warnings"], *document.get("encryption", {"warnings": ()})["warnings"]]:
        yield f"warning: {warning}"
    for lost in hot_tier["lost_snapshots"][:_LOST_PRINTED]:
        of = f"step {safe(lost['step_name'])} of {safe(lost['saga_name'])} {lost['saga_id']}"
        yield f"lost: {lost['snapshot_id']}, {of}"
    for held in document.get("leases", ()):
        yield f"lease {safe(held['name'])} is held by {safe(held['owner'])} (epoch {held['epoch']})"
    for each in document.get("dictionaries", ()):
        name, size = safe(each["saga_name"]), show_bytes(each["bytes"])
        yield f"dictionary of {name}: {size}, trained from {each['sagas']} sagas, saves {each['saves']:.0%}"
    if "spending" in document:
        yield _spent(document["spending"])
    owner = document.get("owner")
    if owner is not None:
        waits = "" if owner["journal_published"] else "; entries of its journal are not in the bucket yet"
        yield f"this catalog is {safe(owner['standing'])} of the bucket (step {owner['step']}){waits}"
    policies = document["policies"]
    names = safe(", ".join(policies["names"]) or "none", limit=500)
    yield f"policies: {names} (revision {policies['revision']})"


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
