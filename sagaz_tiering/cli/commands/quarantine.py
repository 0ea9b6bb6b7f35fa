"""`quarantine`: what failed again and again, or is not what it should be."""

from __future__ import annotations

from typing import Annotated

import typer

from sagaz_tiering.cli.failures import NotFound
from sagaz_tiering.cli.options import MOST, ConfigOption, DebugOption, JsonOption
from sagaz_tiering.cli.session import execute, opened
from sagaz_tiering.terminal import make_console, make_table, print_json, safe, show_time

group = typer.Typer(name="quarantine", help="What jobs found wrong or gave up.", no_args_is_help=True)
ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="An object key or snapshot id, as `list` shows it.")]


@group.command("list")
def list_items(
    dropped: Annotated[bool, typer.Option("--dropped", help="Also what was dropped.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST, help="The newest so many.")] = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What is wrong: missing, truncated or altered packs, foreign objects, packs that a job could not move."""

    async def work() -> None:
        async with opened(config) as runtime:
            found = await runtime.catalog.quarantine.items(limit, dropped_too=dropped)
        if as_json:
            print_json({"items": [one.to_dict() for one in found]})
        elif found:
            columns = ("kind", "item", "state", "attempts>", "last seen", "reason")
            rows = [[o.kind, o.item, o.state, o.attempts, show_time(o.last_seen), safe(o.reason)] for o in found]
            make_console().print(make_table(columns, rows))
        else:
            print("nothing in quarantine")

    execute(work, as_json=as_json, debug=debug)


@group.command("retry")
def retry(
    item: ItemArgument, config: ConfigOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Look at an item again now; a sound pack leaves the quarantine, another stays and jobs try it again."""

    async def work() -> int:
        from sagaz_tiering.jobs.context import Tally
        from sagaz_tiering.jobs.scrub import Budget, look_into

        async with opened(config) as runtime:
            catalog, context = runtime.catalog, runtime.job_context()
            if not await catalog.quarantine.retry(item):
                raise NotFound(f"{item!r:.200} is not in quarantine", hint="see: sagaz-tiering quarantine list")
            pack, tally, sound = await catalog.scrubbing.by_key(item), Tally(None), False
            ttl = context.settings.jobs.lease_ttl
            async with catalog.leases.hold(f"scrub/{item[-40:]}", context.owner, ttl) as lease:
                if pack is not None and lease is not None:
                    sound = await look_into(context, lease, pack, Budget(1000, 2**40), tally)
        document = {"item": item, "sound": sound, "notes": tally.notes}
        if as_json:
            print_json(document)
        else:
            print(f"{safe(item)}: {'sound, it has left the quarantine' if sound else 'will be tried again'}")
            for note in tally.notes:
                print(f"note: {safe(note, limit=1000)}")
        return 0

    execute(work, as_json=as_json, debug=debug)


@group.command("drop")
def drop(
    item: ItemArgument, config: ConfigOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Do not report an item any more. Nothing is deleted."""

    async def work() -> None:
        async with opened(config) as runtime:
            if not await runtime.catalog.quarantine.drop(item):
                raise NotFound(f"{item!r:.200} is not in quarantine", hint="see: sagaz-tiering quarantine list")
        if as_json:
            print_json({"item": item, "state": "DROPPED"})
        else:
            print(f"dropped {safe(item)}")

    execute(work, as_json=as_json, debug=debug)
