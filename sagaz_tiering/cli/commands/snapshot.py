"""`timeline`, `show` and `explain`: one saga or one snapshot, wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from sagaz_tiering.cli.failures import NotFound, UsageError
from sagaz_tiering.cli.options import parse_id, parse_time
from sagaz_tiering.cli.session import Answer, Call, command, fields
from sagaz_tiering.terminal import make_table, safe, show_time, show_usd, show_when

if TYPE_CHECKING:
    from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef
    from sagaz_tiering.tiered import Explanation, TieredStorage


@command()
async def timeline(call: Call, saga_id: Annotated[str, typer.Argument(metavar="SAGA_ID")]) -> Answer:
    """Every snapshot of a saga and the tier it is in, oldest first; needs no archived bytes."""
    saga = parse_id(saga_id, "SAGA_ID")
    async with call.opened(migrated=True) as runtime:
        refs = sorted(await runtime.storage().timeline(saga), key=lambda ref: ref.order_key)
        now = runtime.clock.now()
    if not refs:
        raise NotFound(f"no snapshots of saga {saga}", hint="it never saved one here, or all have expired")
    return Answer({"saga_id": str(saga), "snapshots": refs}, _timeline(saga, refs, now))


def _timeline(saga: UUID, refs: list[SnapshotRef], now: datetime) -> Iterator[Any]:
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
    name = next((ref.saga_name for ref in refs if ref.unreadable is None), "")
    yield make_table(columns, rows, title=f"saga {saga} ({safe(name)})")


def place_of(ref: SnapshotRef) -> str:
    """`hot`, `durable` or `cold GLACIER`."""
    return f"{ref.tier} {ref.storage_class}" if ref.storage_class else str(ref.tier)


@command()
async def show(
    call: Call,
    snapshot_id: Annotated[str | None, typer.Argument(metavar="[SNAPSHOT_ID]")] = None,
    saga: Annotated[str | None, typer.Option("--saga", metavar="SAGA_ID", help="A snapshot of this saga.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="With --saga: its newest (the default).")] = False,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="With --saga: the newest at or before TIME.")
    ] = None,
) -> Answer:
    """Print one snapshot as JSON, values that JSON does not know tagged with their type."""
    read, what = _query(snapshot_id, saga, latest=latest, at=at)
    async with call.opened(migrated=True) as runtime:
        found = await read(runtime.storage())
    if found is None:
        raise NotFound(f"no {what}", hint="it does not exist, or has expired")
    return Answer(snapshot_document(found), pretty=True)


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


@command()
async def explain(call: Call, snapshot_id: Annotated[str, typer.Argument(metavar="SNAPSHOT_ID")]) -> Answer:
    """Where a snapshot is and why, which policy rules it, when it moves and when it expires."""
    wanted = parse_id(snapshot_id, "SNAPSHOT_ID")
    async with call.opened(migrated=True) as runtime:
        explanation = await runtime.storage().explain(wanted)
        now = runtime.clock.now()
    if explanation.found:
        return Answer(explanation, _explained(explanation, now))
    problem = (f"snapshot {wanted}: {explanation.reason}", "it does not exist, or has expired")
    return Answer(explanation, (), NotFound.exit_code, () if call.as_json else [problem])


def _cost(explanation: Explanation) -> str | None:
    """Its share of its pack; None where no pack holds it."""
    if explanation.usd_per_month is None or explanation.usd_to_date is None:
        return None
    return (
        f"{show_usd(explanation.usd_per_month)} a month, {show_usd(explanation.usd_to_date)} so far "
        "(its share of its pack, by list prices)"
    )


def _explained(explanation: Explanation, now: datetime) -> Iterator[str]:
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
        ("why", explanation.reason),
        *(("blocked", blocker) for blocker in explanation.blockers),
    ]
    return fields(rows, width=17)
