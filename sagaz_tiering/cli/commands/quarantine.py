"""`quarantine`: what failed again and again, or is not what it should be."""

from __future__ import annotations

from typing import Annotated

import typer

from sagaz_tiering.cli.failures import NotFound
from sagaz_tiering.cli.paging import CursorOption, LimitOption, at_time, cut, listed, read_time
from sagaz_tiering.cli.session import Answer, Call, command, table
from sagaz_tiering.terminal import safe, show_time

group = typer.Typer(name="quarantine", help="What jobs found wrong or gave up.", no_args_is_help=True)
ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="An object key or snapshot id, as `list` shows it.")]


@group.command("list")
@command()
async def list_items(
    call: Call,
    dropped: Annotated[bool, typer.Option("--dropped", help="Also what was dropped.")] = False,
    limit: LimitOption = 100,
    cursor: CursorOption = None,
) -> Answer:
    """What is wrong. Missing, truncated or altered packs, foreign objects, packs that a job could not move."""
    async with call.opened() as runtime:
        behind = read_time(cursor, str)
        items = await runtime.catalog.quarantine.items(limit + 1, dropped_too=dropped, behind=behind)
    found, following = cut(items, limit, lambda each: at_time(each.last_seen, f"{each.kind}/{each.item}"))
    columns = ("kind", "item", "state", "attempts>", "last seen", "reason")
    rows = ([o.kind, o.item, o.state, o.attempts, show_time(o.last_seen), o.reason] for o in found)
    shown = table(columns, rows, nothing="nothing in quarantine", spare=("attempts", "last seen"))
    return listed("items", found, following, shown)


@group.command("retry")
@command()
async def retry(call: Call, item: ItemArgument) -> Answer:
    """Look at an item again now. A sound pack leaves the quarantine, another stays and jobs try it again."""
    from sagaz_tiering.jobs.context import Tally
    from sagaz_tiering.jobs.scrub import look_into

    async with call.opened() as runtime:
        catalog, context = runtime.catalog, runtime.job_context()
        if not await catalog.quarantine.retry(item):
            raise _not_there(item)
        pack, tally, sound = await catalog.scrubbing.by_key(item), Tally(None), False
        ttl = context.settings.jobs.lease_ttl
        async with catalog.leases.hold(f"scrub/{item[-40:]}", context.owner, ttl) as lease:
            if pack is not None and lease is not None:
                sound = await look_into(context, lease, pack, tally)
    told = f"{safe(item)}: {'sound, it has left the quarantine' if sound else 'will be tried again'}"
    notes = [f"note: {note}" for note in tally.notes]
    return Answer({"item": item, "sound": sound, "notes": tally.notes}, [told, *notes])


@group.command("drop")
@command()
async def drop(call: Call, item: ItemArgument) -> Answer:
    """Do not report an item any more. Nothing is deleted."""
    async with call.opened() as runtime:
        if not await runtime.catalog.quarantine.drop(item):
            raise _not_there(item)
    return Answer({"item": item, "state": "DROPPED"}, [f"dropped {safe(item)}"])


def _not_there(item: str) -> NotFound:
    return NotFound(f"{item!r:.200} is not in quarantine", hint="see: sagaz-tiering quarantine list")
