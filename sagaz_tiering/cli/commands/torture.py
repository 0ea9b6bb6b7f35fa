"""`torture`: does it hold on this machine?"""

from __future__ import annotations

from typing import Annotated

import typer

from sagaz_tiering.cli.options import DebugOption, JsonOption
from sagaz_tiering.cli.session import execute
from sagaz_tiering.terminal import print_json, safe


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(torture)


def torture(
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=86_400, help="How long to kill processes.")] = 20,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="Of what is saved, and when to kill.")] = None,
    snapshots: Annotated[int, typer.Option("--snapshots", metavar="N", min=1, help="About how many to save.")] = 3000,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Kill savers and daemons at random on servers of its own, then compare every snapshot with what was promised."""

    async def work() -> int:
        from sagaz_tiering.torture.run import default_seed, run_torture

        chosen = default_seed() if seed is None else seed

        def say(line: str) -> None:
            if not as_json:
                print(safe(line, limit=1000), flush=True)

        say(f"seed {chosen}")
        outcome = await run_torture(seconds=seconds, seed=chosen, snapshots=snapshots, say=say)
        if as_json:
            print_json(outcome.to_dict())
            return outcome.exit_code
        for name, count in sorted(outcome.counts.items()):
            print(f"{name.replace('_', ' ')}: {count:,}")
        if outcome.difference:
            print(f"DIFFERENCE: {safe(outcome.difference, limit=5000)}")
        else:
            print(f"it held: nothing lost, nothing doubled, nothing left over ({outcome.seconds:.0f} s)")
        return outcome.exit_code

    execute(work, as_json=as_json, debug=debug)
