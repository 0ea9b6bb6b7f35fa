"""`demo`: the whole product in half a minute, on real servers that it starts itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagaz_tiering.cli.options import DebugOption, JsonOption
from sagaz_tiering.cli.session import execute
from sagaz_tiering.terminal import print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    sagas: Annotated[int, typer.Option(min=3, max=5000, help="How many sagas to run.")] = 120,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the servers' data and the configuration in DIR.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run real sagas, let their snapshots age seven years in seconds, and check that none is lost."""

    async def work() -> int:
        from sagaz_tiering.demo import run_demo

        outcome = await run_demo(sagas=sagas, keep=keep, quiet=as_json)
        if as_json:
            print_json(outcome.to_dict())
        return outcome.exit_code

    execute(work, as_json=as_json, debug=debug)
