"""`timeline`, `show` and `explain`: one saga or one snapshot, wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from sagaz_tiering.cli.failures import NotFound, UsageError, say
from sagaz_tiering.cli.options import ConfigOption, DebugOption, JsonOption, parse_id, parse_time
from sagaz_tiering.cli.session import check_schema_if_reachable, execute, opened
from sagaz_tiering.terminal import (
    make_console,
    make_table,
    pretty_json,
    print_json,
    safe,
    show_time,
    show_usd,
    show_when,
)

if TYPE_CHECKING:
    from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef
    from sagaz_tiering.tiered import Explanation, TieredStorage


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (timeline, show, explain):
        app.command()(command)


def timeline(
    saga_id: Annotated[str, typer.Argument(metavar="SAGA_ID")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Every snapshot of a saga and the tier it is in, oldest first; needs no archived bytes."""

    async def work() -> None:
        saga = parse_id(saga_id, "SAGA_ID")
        async with opened(config) as runtime:
            await check_schema_if_reachable(runtime)
            refs = sorted(await runtime.storage().timeline(saga), key=lambda ref: ref.order_key)
            now = runtime.clock.now()
        if not refs:
            raise NotFound(f"no snapshots of saga {saga}", hint="it never saved one here, or all have expired")
        if as_json:
            print_json({"saga_id": str(saga), "snapshots": [ref.to_dict() for ref in refs]})
            return
        name = next((ref.saga_name for ref in refs if ref.unreadable is None), "")
        title = f"saga {saga} ({safe(name)})"
        make_console().print(timeline_table(refs, now, title=title))

    execute(work, as_json=as_json, debug=debug)


def timeline_table(refs: list[SnapshotRef], now: datetime, *, title: str | None = None) -> Any:
    """The rows of a timeline for the terminal."""
    columns = ("created at", "step", "name", "status", "tier", "expires", "snapshot")
    rows = [
        (
            show_time(ref.created_at),
            ref.step_index,
            ref.step_name,
            ref.status if ref.unreadable is None else "unreadable",
            place_of(ref),
            show_when(ref.expires_at, now) or "never",
            ref.snapshot_id,
        )
        for ref in refs
    ]
    return make_table(columns, rows, title=title)


def place_of(ref: SnapshotRef) -> str:
    """`hot`, `durable` or `cold GLACIER`."""
    return f"{ref.tier} {ref.storage_class}" if ref.storage_class else str(ref.tier)


def show(
    snapshot_id: Annotated[str | None, typer.Argument(metavar="[SNAPSHOT_ID]")] = None,
    saga: Annotated[str | None, typer.Option("--saga", metavar="SAGA_ID", help="A snapshot of this saga.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="With --saga: its newest (the default).")] = False,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="With --saga: the newest at or before TIME.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print one snapshot as JSON, values that JSON does not know tagged with their type."""

    async def work() -> None:
        read, what = _query(snapshot_id, saga, latest=latest, at=at)
        async with opened(config) as runtime:
            await check_schema_if_reachable(runtime)
            found = await read(runtime.storage())
        if found is None:
            raise NotFound(f"no {what}", hint="it does not exist, or has expired")
        document = snapshot_document(found)
        if as_json:
            print_json(document)
        else:
            print(pretty_json(document))

    execute(work, as_json=as_json, debug=debug)


def _query(
    snapshot_id: str | None, saga: str | None, *, latest: bool, at: str | None
) -> tuple[Callable[[TieredStorage], Any], str]:
    """The read that the arguments ask for, and what it looks for in words."""
    if (snapshot_id is None) == (saga is None):
        raise UsageError("give either a SNAPSHOT_ID or --saga SAGA_ID", hint="see: sagaz-tiering show --help")
    if snapshot_id is not None:
        if latest or at is not None:
            raise UsageError("--latest and --at need --saga SAGA_ID instead of a SNAPSHOT_ID")
        wanted = parse_id(snapshot_id, "SNAPSHOT_ID")
        return (lambda storage: storage.get_snapshot(wanted)), f"snapshot {wanted}"
    if latest and at is not None:
        raise UsageError("--latest and --at exclude each other")
    owner: UUID = parse_id(saga or "", "--saga")
    if at is None:
        return (lambda storage: storage.get_latest_snapshot(owner)), f"snapshot of saga {owner}"
    moment = parse_time(at)
    what = f"snapshot of saga {owner} at or before {moment.isoformat()}"
    return (lambda storage: storage.get_snapshot_at_time(owner, moment)), what


def snapshot_document(snapshot: SagaSnapshot) -> dict[str, Any]:
    """A snapshot as JSON values; what JSON does not know is tagged (`{"~decimal": "1.50"}`)."""
    from sagaz_tiering.codec.typed_json import dumps

    _, text = dumps(snapshot.context)
    return {**snapshot.to_dict(), "context": json.loads(text.decode("utf-8", "surrogatepass"))}


def explain(
    snapshot_id: Annotated[str, typer.Argument(metavar="SNAPSHOT_ID")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Where a snapshot is and why, which policy rules it, when it moves and when it expires."""

    async def work() -> int:
        wanted = parse_id(snapshot_id, "SNAPSHOT_ID")
        async with opened(config) as runtime:
            await check_schema_if_reachable(runtime)
            explanation = await runtime.storage().explain(wanted)
            now = runtime.clock.now()
        if as_json:
            print_json(explanation.to_dict())
        elif explanation.found:
            _print_explanation(explanation, now)
        else:
            say(f"snapshot {wanted}: {explanation.reason}", "it does not exist, or has expired")
        return 0 if explanation.found else NotFound.exit_code

    execute(work, as_json=as_json, debug=debug)


def _cost(explanation: Explanation) -> str | None:
    """Its share of its pack; None where no pack holds it."""
    if explanation.usd_per_month is None or explanation.usd_to_date is None:
        return None
    return (
        f"{show_usd(explanation.usd_per_month)} a month, {show_usd(explanation.usd_to_date)} so far "
        "(its share of its pack, by list prices)"
    )


def _print_explanation(explanation: Explanation, now: datetime) -> None:
    rows = [
        ("snapshot", explanation.snapshot_id),
        ("is in", ", ".join(place_of(ref) for ref in explanation.copies)),
        *(
            (
                "pack",
                f"{p.where}, bytes {p.offset} to {p.offset + p.length}, in {p.storage_class} since "
                f"{show_when(p.since, now)}",
            )
            for p in explanation.places
            if p.offset is not None and p.length is not None
        ),
        ("policy", f"{explanation.policy or 'none matches'} (revision {explanation.policy_revision})"),
        ("age counts from", f"{explanation.clock}: {show_when(explanation.clock_at, now)}"),
        ("next move", explanation.next_move or "none"),
        ("due", show_when(explanation.due_at, now) if explanation.next_move else None),
        ("expires", show_when(explanation.expires_at, now) or "never"),
        ("cost", _cost(explanation)),
    ]
    console = make_console()
    for label, value in rows:
        if value is not None:
            console.print(f"{label + ':':<17}{safe(value, limit=500)}", soft_wrap=True)
    console.print(f"{'why:':<17}{safe(explanation.reason, limit=2000)}", soft_wrap=True)
    for blocker in explanation.blockers:
        console.print(f"{'blocked:':<17}{safe(blocker, limit=2000)}", soft_wrap=True)
