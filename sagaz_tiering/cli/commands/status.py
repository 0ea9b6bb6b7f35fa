"""`status`: what is in each tier, what it costs, what the jobs did, who is at work; also with a server down.

`status --history`: how that came to be.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from sagaz_tiering.cli.options import flag, option
from sagaz_tiering.cli.session import NO_DAEMON, Answer, Call, command, stopped_by_signals
from sagaz_tiering.cli.stderr import UsageError
from sagaz_tiering.terminal import (
    counted,
    make_console,
    make_table,
    safe,
    show_bytes,
    show_counts,
    show_distance,
    show_time,
    show_usd,
    show_when,
)

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime

_LOST_PRINTED = 10
_WIDE = 130
"""Columns; in fewer, times of jobs are told by their distance alone, and no schedule."""
_BARS = "▁▂▃▄▅▆▇█"
_MOST_BARS = 24
STANDINGS: Final = {
    "owner": "this catalog owns the cold tier",
    "unclaimed": "nobody owns the cold tier yet: the first job that writes to it takes it",
    "unfinished": "this catalog owns the cold tier; the last note of that in the bucket is being completed",
    "late": "this catalog owns the cold tier, but the note of that in the bucket is some steps behind",
    "unproven": "this catalog may own the cold tier: its database is a copy, or was moved",
    "behind": "this catalog does not own the cold tier any more: it is behind what the bucket says",
    "wrong-bucket": "the cold tier is not where this catalog has its packs",
    "foreign": "another catalog owns the cold tier",
}
"""What `MarkStanding` tells people."""


@command()
async def status(
    call: Call,
    count: Annotated[bool, flag("--count", "Count the snapshots in Redis too (walks all keys).")] = False,
    history: Annotated[bool, flag("--history", "How it grew, moved and what it cost instead.")] = False,
    days: Annotated[int, option("", "With --history: so many days.", min=1, max=731)] = 30,
    watch: Annotated[bool, flag("--watch", "Again and again until Ctrl-C.")] = False,
    every: Annotated[float, option("SECONDS", "With --watch: how often.", min=0.1)] = 5.0,
) -> Answer | int:
    """What is in each tier, what it costs, what the jobs did. Also which leases are held."""
    if history:
        if watch:
            raise UsageError("--history changes by the hour", hint="leave out --watch")
        call.refuse("count", why="is of what there is now, not for --history")
    else:
        call.refuse("days", why="goes with --history", hint="add --history, or leave out --days")
    if not watch:
        call.refuse("every", why="goes with --watch", hint="add --watch, or leave out --every")
    if history:
        return await _history(call, days)
    async with call.opened() as runtime:
        if watch:
            return await _watch(call, runtime, every, count=count)
        return await _now(runtime, count=count)


async def _watch(call: Call, runtime: Runtime, every_s: float, *, count: bool) -> int:
    """On a terminal in one place; with --json a document a line."""
    import asyncio

    with stopped_by_signals() as stopping:
        while not stopping.event.is_set():
            on_screen = sys.stdout.isatty() and not call.as_json
            answer = await _now(runtime, count=count, in_a_line=on_screen)
            if on_screen:
                answer.show_screen()
            else:
                answer.show(as_json=call.as_json, compact=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.event.wait(), every_s)
    return stopping.exit_code


async def _now(runtime: Runtime, *, count: bool, in_a_line: bool = False) -> Answer:
    from sagaz_tiering.operations.status import collect

    now = runtime.clock.now()
    document, failures = await collect(runtime.job_context(), count=count)
    code = max((failure.exit_code for failure in failures.values()), default=0)
    problems = [(f"{name}: {failure}", failure.hint) for name, failure in failures.items()]
    return Answer(document, _lines(document, now, in_a_line=in_a_line), code, problems)


def _lines(document: dict[str, Any], now: datetime, *, in_a_line: bool = False) -> Iterator[Any]:
    """`in_a_line`: each tier and job takes one, however narrow the window is."""
    cut = ("notes", "result") if in_a_line else (None, None)
    columns = ("tier", "snapshots>", "objects>", "bytes>", "$ per month>", "notes")
    yield make_table(columns, _tiers(document), cut=cut[0])
    if "next_runs" in document:
        last = {run["job"]: run for run in document["jobs"]}
        narrow = make_console().width < _WIDE
        rows = [_job_row(last.get(run["job"]), run, now, narrow=narrow) for run in document["next_runs"]]
        yield make_table(("job", "last run", "next run", *([] if narrow else ["schedule"]), "result"), rows, cut=cut[1])
    if not document.get("daemon_seen", True):
        yield f"{NO_DAEMON} (next runs are as it would start them)"
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
        yield f"dictionary of {name}: {size}, trained from {counted(each['sagas'], 'saga')}, saves {each['saves']:.0%}"
    if "spending" in document:
        yield _spent(document["spending"])
    owner = document.get("owner")
    if owner is not None:
        waits = "" if owner["journal_published"] else "; entries of its journal are not there yet"
        yield f"{STANDINGS.get(owner['standing'], safe(owner['standing']))}{waits}"
    if "servers" in document:
        yield f"servers: {safe(', '.join(document['servers'].values()), limit=1000)}"
    policies = document["policies"]
    names = safe(", ".join(policies["names"]) or "none", limit=500)
    yield f"policies: {names} (revision {policies['revision']})"


def _spent(spending: dict[str, Any]) -> str:
    """Today's spending in one line."""
    usd, requests = spending["usd_per_day"], spending["requests_per_day"]
    limits = ["" if requests is None else f" of {requests:,}", "" if usd is None else f" of {show_usd(usd)}"]
    return f"spent today: {spending['requests']:,}{limits[0]} requests, {show_usd(spending['usd'])}{limits[1]}" + (
        "" if usd is not None or requests is not None else " (no budget)"
    )


def _tiers(document: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    hot, durable = document.get("hot"), document.get("durable")
    if hot is not None:
        memory = show_bytes(hot["bytes"]) if "bytes" in hot else None
        notes = f"{counted(hot['sagas_waiting'], 'saga')} waiting, {hot['sagas_due']:,} due"
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


def _job_row(
    last: dict[str, Any] | None, following: dict[str, Any], now: datetime, *, narrow: bool = False
) -> tuple[object, ...]:
    at = max(datetime.fromisoformat(following["at"]), now)
    show = show_distance if narrow else show_when
    when = (show(at, now, datetime.fromisoformat(following["latest"])), *([] if narrow else [following["times"]]))
    if last is None:
        return (following["job"], "never", *when, None)
    done = show_counts((last["summary"] or {}).get("counts", last["summary"] or {}))
    result = f"failed: {last['error']}" if last["error"] else done
    if last["stopped"]:
        result = f"stopped, {last['stopped']}: {done}"
    return (following["job"], show(datetime.fromisoformat(last["started_at"]), now), *when, result)


async def _history(call: Call, days: int) -> Answer:
    from sagaz_tiering.operations.status import history

    async with call.opened(migrated=True) as runtime:
        now = runtime.clock.now()
        document = await history(runtime.catalog, now - timedelta(days=days), now)
    return Answer(document, _history_lines(document))


def _history_lines(document: dict[str, Any]) -> Iterator[Any]:
    points = document["points"]
    if not points:
        yield "no history yet: a daemon (`sagaz-tiering run`) writes it every hour"
        return
    each = "one an hour" if document["step_hours"] == 1 else f"the last of each {document['step_hours']} h"
    when = [datetime.fromisoformat(points[at]["hour"]) for at in (0, -1)]
    yield f"{show_time(when[0])} to {show_time(when[1])}, {counted(len(points), 'point')}, {each}"
    columns = ("tier", "snapshots>", "came>", "bytes>", "grew>", "$ per month>", "bytes over time")
    yield make_table(columns, _growth(points, document["came"]), spare=("bytes over time", "came"))
    bills = [sum(held["usd_per_month"] or 0 for held in point["holdings"]) for point in points]
    yield f"storage: {show_usd(bills[0])} a month then, {show_usd(bills[-1])} now {_bars(bills)}"
    spent = document["spent"]
    requests, usd = sum(day["requests"] for day in spent), sum(day["usd"] for day in spent)
    yield f"spent on requests: {show_usd(usd)} for {requests:,} {_bars([day['usd'] for day in spent])}"


def _growth(points: Sequence[dict[str, Any]], came: dict[str, int]) -> Iterator[tuple[object, ...]]:
    """One row for each tier and class that there ever was, from the first point to the last."""
    held = [{(each["tier"], each["storage_class"]): each for each in point["holdings"]} for point in points]
    for tier, storage_class in dict.fromkeys(name for at in held for name in at):
        sizes = [at.get((tier, storage_class), {"bytes": 0})["bytes"] for at in held]
        last = held[-1].get((tier, storage_class), {"snapshots": 0, "usd_per_month": 0})
        grew, usd = sizes[-1] - sizes[0], last["usd_per_month"]
        yield (
            f"{tier} {storage_class}".strip(),
            last["snapshots"],
            came.get(storage_class) if tier == "cold" else None,
            show_bytes(sizes[-1]),
            f"{'-' if grew < 0 else '+'}{show_bytes(abs(grew))}",
            None if usd is None else show_usd(usd),
            _bars(sizes),
        )


def _bars(values: Sequence[float]) -> str:
    """A line of bars from nothing to the largest; of more values than fit the largest of each few."""
    few = -(-len(values) // _MOST_BARS) or 1
    heights = [max(values[start : start + few]) for start in range(0, len(values), few)]
    most = max(heights, default=0)
    return "".join(_BARS[round(value / most * (len(_BARS) - 1)) if most else 0] for value in heights)
