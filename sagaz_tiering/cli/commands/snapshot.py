"""`timeline`, `show` and `explain`: one saga or one snapshot, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from sagaz_tiering.cli.commands.diff import changes_in_one_line
from sagaz_tiering.cli.commands.find import Filters, one_meant
from sagaz_tiering.cli.options import AnySaga, Paging, Text, argument, flag, option
from sagaz_tiering.cli.parsing import parse_id, parse_time
from sagaz_tiering.cli.session import NO_DAEMON, Answer, Call, command, fields, more, show_next_run
from sagaz_tiering.cli.stderr import NotFound, UsageError
from sagaz_tiering.errors import CatalogUnavailable
from sagaz_tiering.terminal import make_console, make_table, plain, safe, show_moments, show_times, show_usd, show_when

_LEAST_WIDTH = 20
_GONE = "it was never saved here, has expired, or was deleted or erased (see: sagaz-tiering erasures)"

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.jobs.times import NextRun
    from sagaz_tiering.snapshot import SnapshotRef
    from sagaz_tiering.tiered.explain import Explanation, SagaExplanation
    from sagaz_tiering.tiered.storage import TieredStorage


@command()
async def timeline(
    call: Call,
    saga_id: AnySaga = None,
    changes: Annotated[
        bool, flag("--changes", "Instead of the tier: what each step changed. This reads the bodies.")
    ] = False,
    *,
    page: Annotated[Paging, Paging.up_to(1000)],
    filters: Filters,
) -> Answer:
    """Every snapshot of a saga, oldest first, and how it ended. With the tier of each; needs no archived bytes."""
    async with call.opened(migrated=True) as runtime:
        storage = runtime.storage()
        saga = await one_meant(storage, saga_id, filters)
        refs = sorted(await storage.timeline(saga), key=lambda ref: ref.order_key)
        whole = await storage.explain_saga(saga)
        now, asked = runtime.clock.now(), _where(runtime)
        told = await _told(storage, refs, as_json=call.as_json) if changes and refs else {}
    if not refs:
        from sagaz_tiering.tiered.compare import WHY_NONE

        raise NotFound(f"no snapshots of saga {saga}", hint=f"{WHY_NONE}; {asked}")
    shown, following = page.of(refs, lambda ref: ref.snapshot_id)
    document = {
        "saga_id": str(saga),
        "outcome": whole and whole.outcome,
        "saga_ended_at": whole and plain(whole.ended_at),
        "saga": plain(whole),
        "snapshots": [ref.to_dict() | {"changes": told.get(ref.snapshot_id)} for ref in shown] if changes else shown,
        "next": following,
    }
    lines = _timeline(saga, shown, whole, now, told if changes else None)
    return Answer(document, chain(lines, more(following)))


def _where(runtime: Runtime) -> str:
    """Where was looked, for whoever meant another store."""
    return f"asked was the catalog at {runtime.db.shown_url}"


async def _told(storage: TieredStorage, refs: Sequence[SnapshotRef], *, as_json: bool) -> dict[UUID, Any]:
    """What each snapshot changed: for programs all of it, for people a line with the name that `diff` takes."""
    from sagaz_tiering.tiered.compare import step_labels

    labels, told = {key: safe(label) for key, label in step_labels(refs).items()}, dict[UUID, Any]()
    of_step = max(map(len, labels.values()))
    moments = show_moments([ref.created_at for ref in refs])
    times = dict(zip((ref.snapshot_id for ref in refs), moments, strict=True))
    width = max(make_console().width - max(map(len, times.values())) - of_step - 2, _LEAST_WIDTH)
    async for each in storage.changes(refs[0].saga_id):
        if as_json:
            told[each.ref.snapshot_id] = [change.to_dict() for change in each.changes] if each.unknown is None else None
        elif each.ref.snapshot_id in labels:
            what = each.unknown or changes_in_one_line(each.changes, width)
            label = labels[each.ref.snapshot_id]
            told[each.ref.snapshot_id] = f"{times[each.ref.snapshot_id]} {label:<{of_step}} {what}"
    return told


def _timeline(
    saga: UUID, refs: list[SnapshotRef], whole: SagaExplanation | None, now: datetime, told: Mapping[UUID, Any] | None
) -> Iterator[Any]:
    name = next((ref.saga_name for ref in refs if ref.unreadable is None), "")
    outcome = "" if whole is None else f": {_outcome(whole, now)}"
    title = f"saga {saga} ({safe(name)}){outcome}"
    if told is None:
        created, times = _created(refs)
        columns = (created, "step", "name", "status", "tier", "expires", "snapshot")
        rows = ([time, *_row(ref, now)] for time, ref in zip(times, refs, strict=True))
        yield make_table(columns, rows, title=title, spare=("step", "snapshot", "expires"))
    else:
        yield title
        yield from (told[ref.snapshot_id] for ref in refs if ref.snapshot_id in told)
    if whole is not None:
        yield f"its outcome: {whole.why}"
        yield from (f"what happens to it: {each}" for each in _shares(whole, now))
        if whole.promise is not None:
            yield f"promised: {whole.promise}"


def _created(refs: Sequence[SnapshotRef]) -> tuple[str, list[str]]:
    """The name of the column, which has the day where it is the same for all, and the times."""
    times = show_moments([ref.created_at for ref in refs])
    days = {time.partition(" ")[0] for time in times}
    if len(days) > 1:
        return "created at", times
    return f"created {days.pop()}", [time.partition(" ")[2] for time in times]


def _row(ref: SnapshotRef, now: datetime) -> Sequence[object]:
    return (
        ref.step_index,
        ref.step_name,
        ref.status if ref.unreadable is None else "unreadable",
        place_of(ref),
        show_when(ref.expires_at, now) or "never",
        ref.snapshot_id,
    )


def place_of(ref: SnapshotRef) -> str:
    """`hot`, `durable` or `cold GLACIER`."""
    return f"{ref.tier} {ref.storage_class}" if ref.storage_class else str(ref.tier)


def _outcome(whole: SagaExplanation, now: datetime) -> str:
    if whole.ended_at is not None:
        return f"{safe(whole.outcome)}, ended at {show_when(whole.ended_at, now)}"
    return f"{safe(whole.outcome)}, newest snapshot of {show_when(whole.newest_at, now)}"


def _shares(whole: SagaExplanation, now: datetime) -> Iterator[str]:
    """What happens to all of a saga, a line for each part of it that goes another way."""
    for share in whole.shares:
        many = f"all {share.snapshots}" if share.snapshots == whole.snapshots else str(share.snapshots)
        who = f"{many} of its snapshots" if whole.snapshots > 1 else "its only snapshot"
        moves = "no further move"
        if share.to is not None:
            blocked = f" (blocked: {share.blocked})" if share.blocked else ""
            moves = f"to {share.to} at {_between(share.moves_first, share.moves_last, now)}{blocked}"
        if share.in_redis_until is not None:
            moves += f", what a restore brought back stays in Redis until {show_when(share.in_redis_until, now)}"
        expires = "never expires"
        if share.expires_last:
            expires = f"expires at {_between(share.expires_first, share.expires_last, now)}"
        elif share.expires_first is not None:
            expires = f"expires from {show_when(share.expires_first, now)} on"
        if share.held:
            of = "it" if whole.snapshots == 1 else "all of them" if share.held == share.snapshots else f"{share.held}"
            expires += f"; a legal hold is on {of}, and what is held stays until its release"
        yield f"{who} by policy {share.policy!r}: {moves}, {expires}"


def _between(first: datetime | None, last: datetime | None, now: datetime) -> str:
    if first == last:
        return str(show_when(first, now))
    return f"{show_when(first, now)} to {show_when(last, now)}"


@command()
async def show(
    call: Call,
    snapshot_id: Annotated[Text, argument("[SNAPSHOT_ID]")] = None,
    saga: Annotated[Text, option("SAGA_ID", "A snapshot of this saga.")] = None,
    latest: Annotated[bool, flag("--latest", "With --saga: its newest (the default).")] = False,
    at: Annotated[Text, option("TIME", "With --saga: the newest at or before TIME.")] = None,
) -> Answer:
    """Print one snapshot as JSON. Values that JSON does not know are tagged with their type."""
    read, what, hint = _query(snapshot_id, saga, latest=latest, at=at)
    async with call.opened(migrated=True) as runtime:
        found, asked = await read(runtime.storage()), _where(runtime)
    if found is None:
        raise NotFound(f"no {what}", hint=f"{hint}; {asked}")
    from sagaz_tiering.codec.changes import snapshot_document

    return Answer(snapshot_document(found), pretty=True)


def _query(
    snapshot_id: str | None, saga: str | None, *, latest: bool, at: str | None
) -> tuple[Callable[[TieredStorage], Any], str, str]:
    """The read that the arguments ask for, what it looks for in words, and a hint for where there is none."""
    if (snapshot_id is None) == (saga is None):
        raise UsageError("give either a SNAPSHOT_ID or --saga SAGA_ID", hint="see: sagaz-tiering show --help")
    if snapshot_id is not None:
        if latest or at is not None:
            raise UsageError("--latest and --at need --saga SAGA_ID instead of a SNAPSHOT_ID")
        wanted = parse_id(snapshot_id, "SNAPSHOT_ID")
        hint = f"{_GONE}; is it a saga's id? sagaz-tiering show --saga {wanted} --latest"
        return (lambda storage: storage.get_snapshot(wanted)), f"snapshot {wanted}", hint
    if latest and at is not None:
        raise UsageError("--latest and --at exclude each other")
    owner: UUID = parse_id(saga or "", "--saga")
    if at is None:
        return (lambda storage: storage.get_latest_snapshot(owner)), f"snapshot of saga {owner}", _GONE
    moment = parse_time(at)
    what = f"snapshot of saga {owner} at or before {moment.isoformat()}"
    return (lambda storage: storage.get_snapshot_at_time(owner, moment)), what, _GONE


@command()
async def explain(call: Call, snapshot_id: Annotated[str, argument("SNAPSHOT_ID")]) -> Answer:
    """Where a snapshot is and why, when it moves and expires. By which policy, and its saga; a saga's id will do."""
    from sagaz_tiering.operations.status import upcoming

    wanted = parse_id(snapshot_id, "SNAPSHOT_ID")
    async with call.opened(migrated=True) as runtime:
        explanation = await runtime.storage().explain(wanted)
        now, asked = runtime.clock.now(), _where(runtime)
        moves = "transition" if any(ref.storage_class for ref in explanation.copies[:1]) else "age"
        seen = True
        runs: list[NextRun] = []
        with suppress(CatalogUnavailable):  # what Redis alone could explain is explained
            runs, seen = await upcoming(runtime.job_context(), *((moves, "expire") if explanation.found else ()))
    document = {**plain(explanation), "next_runs": plain(runs), "daemon_seen": seen}
    if explanation.found:
        asked_for = f"{wanted} is the id of a saga; this is its newest snapshot, and what happens to all of it"
        told = (*_of_snapshot(explanation, now), *_of_saga(explanation.saga, now), *_next(runs, seen, now))
        return Answer(document, (*([asked_for] if explanation.asked_saga else []), *fields(told, width=17)))
    problem = (f"no snapshot and no saga {wanted}", f"{_GONE}; {asked}")
    return Answer(document, (), NotFound.exit_code, () if call.as_json else [problem])


def _next(runs: Sequence[NextRun], seen: bool, now: datetime) -> Iterator[tuple[str, object]]:
    yield from (("next run", show_next_run(run, now)) for run in runs)
    yield "note", None if seen or not runs else NO_DAEMON


def _cost(explanation: Explanation) -> str | None:
    """Its share of its pack; None where no pack holds it."""
    monthly, so_far = explanation.usd_per_month, explanation.usd_to_date
    if monthly is None or so_far is None:
        return None
    return f"{show_usd(monthly)} a month, {show_usd(so_far)} so far (its share of its pack, by list prices)"


def _of_snapshot(explanation: Explanation, now: datetime) -> Iterator[tuple[str, object]]:
    yield "snapshot", explanation.snapshot_id
    yield "is in", ", ".join(place_of(ref) for ref in explanation.copies)
    for p in explanation.places:
        if p.offset is not None and p.length is not None:
            where = f"{p.where}, bytes {p.offset} to {p.offset + p.length}"
            yield "pack", f"{where}, in {p.storage_class} since {show_when(p.since, now)}"
    yield "policy", f"{explanation.policy or 'none matches'} (revision {explanation.policy_revision})"
    yield "because", f"it is the first that matches: {explanation.matched}"
    yield "age counts from", f"{explanation.clock}: {show_when(explanation.clock_at, now)}"
    yield "next move", show_times(explanation.next_move or "none")
    yield "due", show_when(explanation.due_at, now) if explanation.next_move else None
    yield "expires", show_when(explanation.expires_at, now) or "never"
    yield "cost", _cost(explanation)
    yield "why", show_times(explanation.reason)
    yield from (("blocked", show_times(blocker)) for blocker in explanation.blockers)


def _of_saga(whole: SagaExplanation | None, now: datetime) -> Iterator[tuple[str, object]]:
    if whole is None:
        return
    yield "saga", f"{whole.saga_id} ({whole.saga_name}), {_outcome(whole, now)}"
    yield "its outcome", whole.why
    yield from (("all of it", each) for each in _shares(whole, now))
    yield "promised", whole.promise
