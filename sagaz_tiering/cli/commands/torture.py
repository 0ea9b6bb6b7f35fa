"""`torture`: does it hold on this machine?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from sagaz_tiering.cli.session import Answer, Call, command
from sagaz_tiering.terminal import safe

if TYPE_CHECKING:
    from sagaz_tiering.torture.run import TortureOutcome


@command(config=False)
async def torture(
    call: Call,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="How long to kill processes.")] = 20,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Of what is saved, and when to kill.")] = None,
    snapshots: Annotated[int, typer.Option(metavar="N", min=1, help="About how many to save.")] = 3000,
) -> Answer:
    """Kill savers and daemons at random, on its own servers. Then compare every snapshot with what was promised."""
    from sagaz_tiering.torture.run import default_seed, run_torture

    chosen = default_seed() if seed is None else seed

    def say(line: str) -> None:
        if not call.as_json:
            print(safe(line, limit=1000), flush=True)

    say(f"seed {chosen}")
    outcome = await run_torture(seconds=seconds, seed=chosen, snapshots=snapshots, say=say)
    return Answer(outcome.to_dict(), _lines(outcome), outcome.exit_code)


def _lines(outcome: TortureOutcome) -> Iterator[str]:
    for name, count in sorted(outcome.counts.items()):
        yield f"{name.replace('_', ' ')}: {count:,}"
    if outcome.difference:
        yield f"DIFFERENCE: {outcome.difference}"
    else:
        yield f"it held: nothing lost, nothing doubled, nothing left over ({outcome.seconds:.0f} s)"
