"""`hold`, `release` and `holds`: what must not expire or be erased, by whose order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from sagaz_tiering.cli.asking import login_name
from sagaz_tiering.cli.failures import NotFound, UsageError
from sagaz_tiering.cli.options import MATCH_KEYS, MOST, ConfigOption, DebugOption, JsonOption, parse_id, parse_match
from sagaz_tiering.cli.session import execute, opened
from sagaz_tiering.terminal import make_console, make_table, print_json, safe, show_time

if TYPE_CHECKING:
    from sagaz_tiering.catalog.holds import Coverage
    from sagaz_tiering.config.patterns import Match
    from sagaz_tiering.tiered import TieredStorage

WhoOption = Annotated[str | None, typer.Option("--who", metavar="NAME", help="Who orders it. Default: the login name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (hold, release, holds):
        app.command()(command)


def hold(
    saga_id: Annotated[str | None, typer.Argument(metavar="[SAGA_ID]")] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="The case or order that asks for it.")] = "",
    match: Annotated[
        list[str] | None,
        typer.Option(
            "--match", metavar="KEY=PATTERN", help=f"Instead of a saga: {', '.join(MATCH_KEYS)}; now and later ones."
        ),
    ] = None,
    future: Annotated[bool, typer.Option("--future", help="Place it also where nothing is there to hold yet.")] = False,
    who: WhoOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Place a legal hold: what it covers neither expires nor can be deleted until it is released."""

    async def work() -> None:
        from sagaz_tiering.config.patterns import ANY, Match

        if (saga_id is None) == (not match):
            raise UsageError("give either a SAGA_ID or --match", hint="--match saga_name=payment-*")
        if not reason.strip():
            raise UsageError("a legal hold needs a reason", hint="--reason TEXT: the case or order that asks for it")
        on = parse_id(saga_id, "SAGA_ID") if saga_id else parse_match(match or [])
        async with opened(config) as runtime:
            storage = runtime.storage()
            if not future and (await _covered(storage, on)).is_nothing:
                raise NotFound(
                    "nothing is held: no tier has a snapshot that this hold covers, so it was not placed",
                    hint="check the id or the patterns, which are case-sensitive; --future holds what is still to come",
                )
            placed = await storage.holder.hold(on, reason=reason, who=who or login_name())
            waits, covered = await storage.publish_journal(), await _covered(storage, on)
        if as_json:
            told = {"covers": covered.to_dict(), "in_bucket": not waits, "in_redis": not placed.not_marked}
            print_json({**placed.to_dict(), **told})
        else:
            print(f"held: {safe(placed.subject)}; hold {placed.hold_id}")
            print(f"covers now: {covered}")
            if isinstance(on, Match) and (on.step_name, on.status) != (ANY, ANY):
                print(
                    "of each saga only the snapshots that match; for whole sagas: --match saga_name alone, or SAGA_ID"
                )
            say_published(waits)
            if placed.not_marked:
                print(
                    "not yet in Redis, where `hot` policies are acknowledged: the next run of any job of a daemon "
                    "puts it there, or, when Redis answers: sagaz-tiering job reconcile --once\n"
                    f"  {safe(placed.not_marked, limit=1000)}"
                )

    execute(work, as_json=as_json, debug=debug)


async def _covered(storage: TieredStorage, on: UUID | Match) -> Coverage:
    """Without Redis nobody can tell all; a hold must not wait for that."""
    from sagaz_tiering.catalog.holds import Coverage
    from sagaz_tiering.errors import HotTierUnavailable

    try:
        return await storage.covered(on)
    except HotTierUnavailable:
        return Coverage(exact=False)


def release(
    wanted: Annotated[str, typer.Argument(metavar="SAGA_ID|HOLD_ID")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why it may go.")],
    who: WhoOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """End a hold by its id, or every hold that was placed on a saga by the saga's id."""

    async def work() -> None:
        asked = parse_id(wanted, "SAGA_ID|HOLD_ID")
        async with opened(config) as runtime:
            store = runtime.catalog.holds
            found = [h for h in await store.in_force() if asked in (h.hold_id, h.saga_id)]
            if not found:
                raise NotFound(f"no hold in force is or is on {asked}", hint="see: sagaz-tiering holds")
            storage = runtime.storage()
            count = await storage.holder.release(found, reason=reason, who=who or login_name())
            waits = await storage.publish_journal()
        if as_json:
            print_json({"released": count, "holds": [h.to_dict() for h in found], "in_bucket": not waits})
        else:
            print(f"released {count}: {'; '.join(safe(h.subject) for h in found)}")
            say_published(waits)

    execute(work, as_json=as_json, debug=debug)


def say_published(waits: str) -> None:
    """Whether the bucket's journal has it, from which it comes back after a loss of PostgreSQL."""
    if waits:
        print(f"not yet in the bucket's journal, a daemon writes it there: {safe(waits, limit=1000)}")
    else:
        print("in the bucket's journal too")


def holds(
    log: Annotated[bool, typer.Option("--log", help="Every hold and release ever, newest first.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST, help="With --log: so many entries.")] = 1000,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Holds in force, or the log of all."""

    async def work() -> None:
        async with opened(config) as runtime:
            if log:
                entries = await runtime.catalog.holds.entries(limit)
            in_force = await runtime.catalog.holds.in_force()
        if as_json:
            print_json({"log": entries} if log else {"holds": [h.to_dict() for h in in_force]})
            return
        if log:
            columns = ("at", "action", "who", "reason", "saga", "match", "hold")
            rows = [
                [show_time(e["at"]), e["action"], e["who"], e["reason"], e["saga_id"], e["match"], e["hold_id"]]
                for e in entries
            ]
        else:
            columns = ("since", "subject", "by", "reason", "hold")  # type: ignore[assignment]  # another table
            rows = [[show_time(h.placed_at), h.subject, h.placed_by, h.reason, h.hold_id] for h in in_force]
        if rows:
            make_console().print(make_table(columns, rows))
        else:
            print("no legal holds")

    execute(work, as_json=as_json, debug=debug)
