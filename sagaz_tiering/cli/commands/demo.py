"""`demo`: the whole product in half a minute, on real servers that it starts itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagaz_tiering.cli.session import Answer, Call, command


@command(config=False)
async def demo(
    call: Call,
    sagas: Annotated[int, typer.Option(min=3, max=5000, help="How many sagas to run.")] = 120,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the servers' data and the configuration in DIR.")
    ] = None,
) -> Answer:
    """Run real sagas, let their snapshots age seven years in seconds, and check that none is lost."""
    from sagaz_tiering.demo import run_demo

    outcome = await run_demo(sagas=sagas, keep=keep, quiet=call.as_json)
    return Answer(outcome.to_dict(), exit_code=outcome.exit_code)
