"""`hold`, `release` and `holds`: what must not expire or be erased, by whose order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from sagaz_tiering.cli.asking import confirm, login_name
from sagaz_tiering.cli.failures import NotFound, UsageError
from sagaz_tiering.cli.filters import check_one_way, filtered, named, sagas_meant
from sagaz_tiering.cli.options import MATCH_KEYS, YesOption, parse_id, parse_match
from sagaz_tiering.cli.paging import CursorOption, LimitOption, cut, listed, read_number
from sagaz_tiering.cli.session import Answer, Call, command, table
from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.terminal import document, safe, show_time

if TYPE_CHECKING:
    from sagaz_tiering.catalog.holds import Coverage, Hold
    from sagaz_tiering.config.patterns import Match
    from sagaz_tiering.tiered import SagaFilters, TieredStorage

WhoOption = Annotated[str | None, typer.Option("--who", metavar="NAME", help="Who orders it. Default: the login name.")]


@command()
@filtered()
async def hold(
    call: Call,
    saga_id: Annotated[str | None, typer.Argument(metavar="[SAGA_ID]")] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The case or order that asks for it.")] = "",
    match: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=PATTERN", help=f"Instead of a saga: {', '.join(MATCH_KEYS)}; now and later ones."),
    ] = None,
    future: Annotated[bool, typer.Option("--future", help="Place it also where nothing is there to hold yet.")] = False,
    who: WhoOption = None,
    yes: YesOption = False,
    *,
    filters: SagaFilters,
) -> Answer:
    """Place a legal hold. What it covers neither expires nor can be deleted until it is released.

    By what sagas are found by (--attribute, --name and so on), on each that is found now.
    """
    if not match:
        check_one_way(saga_id, filters)
    elif saga_id is not None or filters:
        raise UsageError("give either a SAGA_ID, what it is found by, or --match", hint="--match saga_name=payment-*")
    if not reason.strip():
        raise UsageError("a legal hold needs a reason", hint="--reason TEXT: the case or order that asks for it")
    async with call.opened() as runtime:
        storage = runtime.storage()
        if filters:
            return await _hold_found(call, storage, filters, reason=reason, who=who or login_name(), yes=yes)
        on = parse_match(match or []) if saga_id is None else parse_id(saga_id, "SAGA_ID")
        if not future and (await _covered(storage, on)).is_nothing:
            raise NotFound(
                "nothing is held: no tier has a snapshot that this hold covers, so it was not placed",
                hint="check the id or the patterns, which are case-sensitive; --future holds what is still to come",
            )
        placed = await storage.holder.hold(on, reason=reason, who=who or login_name())
        waits, covered = await storage.publish_journal(), await _covered(storage, on)
    told = {"covers": document(covered, "snapshots"), "in_bucket": not waits, "in_redis": not placed.not_marked}
    return Answer({**placed.to_dict(), **told}, _placed(placed, on, covered, waits))


async def _hold_found(
    call: Call, storage: TieredStorage, filters: SagaFilters, *, reason: str, who: str, yes: bool
) -> Answer:
    """A hold on every saga that is found now, each by its id; later ones are a matter of --match."""
    found = await sagas_meant(storage, filters)
    if len(found) > 1:
        question = f"place a hold on each of {len(found):,} sagas?"
        await confirm(question, yes=yes, as_json=call.as_json, about=named(found))
    placed = [await storage.holder.hold(one.saga_id, reason=reason, who=who) for one in found]
    waits = await storage.publish_journal()
    document = {"holds": placed, "in_bucket": not waits, "in_redis": not any(each.not_marked for each in placed)}
    lines = table(("hold", "subject"), [[each.hold_id, each.saga_id or each.subject] for each in placed], nothing="")
    return Answer(document, chain(lines, [published(waits)]))


def _placed(placed: Hold, on: UUID | Match, covered: Coverage, waits: str) -> Iterator[str]:
    from sagaz_tiering.config.patterns import ANY, Match

    yield f"held: {safe(placed.subject)}; hold {placed.hold_id}"
    yield f"covers now: {covered}"
    if isinstance(on, Match) and (on.step_name, on.status) != (ANY, ANY):
        yield "of each saga only the snapshots that match; for whole sagas: --match saga_name alone, or SAGA_ID"
    yield published(waits)
    if placed.not_marked:
        yield (
            "not yet in Redis, where `hot` policies are acknowledged: the next run of any job of a daemon "
            "puts it there, or, when Redis answers: sagaz-tiering job reconcile --once"
        )
        yield f"  {placed.not_marked}"


async def _covered(storage: TieredStorage, on: UUID | Match) -> Coverage:
    """Without Redis nobody can tell all; a hold must not wait for that."""
    from sagaz_tiering.catalog.holds import Coverage

    try:
        return await storage.covered(on)
    except HotTierUnavailable:
        return Coverage(exact=False)


@command()
async def release(
    call: Call,
    wanted: Annotated[str, typer.Argument(metavar="SAGA_ID|HOLD_ID")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it may go.")],
    who: WhoOption = None,
) -> Answer:
    """End a hold, or every hold that was placed on a saga. By the id of the hold, or of the saga."""
    asked = parse_id(wanted, "SAGA_ID|HOLD_ID")
    async with call.opened() as runtime:
        found = await runtime.catalog.holds.named(asked)
        if not found:
            raise NotFound(f"no hold in force is or is on {asked}", hint="see: sagaz-tiering holds")
        storage = runtime.storage()
        count = await storage.holder.release(found, reason=reason, who=who or login_name())
        waits = await storage.publish_journal()
    return Answer(
        {"released": count, "holds": found, "in_bucket": not waits},
        [f"released {count}: {'; '.join(safe(h.subject) for h in found)}", published(waits)],
    )


def published(waits: str) -> str:
    """Whether the bucket's journal has it, from which it comes back after a loss of PostgreSQL."""
    if waits:
        return (
            f"not yet written to the bucket, so a loss of PostgreSQL would lose it; a daemon writes it there: {waits}"
        )
    return "also written to the bucket, so it survives the loss of PostgreSQL"


@command()
async def holds(
    call: Call,
    log: Annotated[bool, typer.Option("--log", help="Every hold and release ever, newest first.")] = False,
    limit: LimitOption = 1000,
    cursor: CursorOption = None,
) -> Answer:
    """Holds in force, or the log of all."""
    nothing = "no legal holds"
    async with call.opened() as runtime:
        if log:
            found = await runtime.catalog.holds.entries(limit + 1, read_number(cursor))
            entries, following = cut(found, limit, lambda entry: entry["entry_id"])
            columns = ("at", "action", "who", "reason", "saga_id", "match", "hold_id")
            shown = [column.removesuffix("_id") for column in columns]
            rows = [[show_time(e["at"]), *(e[name] for name in columns[1:])] for e in entries]
            return listed("log", entries, following, table(shown, rows, nothing=nothing))
        in_force, following = await runtime.catalog.holds.page(limit, cursor)
    titles = ("since", "subject", "by", "reason", "hold")
    held = [[show_time(h.placed_at), h.saga_id or h.subject, h.placed_by, h.reason, h.hold_id] for h in in_force]
    return listed("holds", in_force, following, table(titles, held, nothing=nothing))
