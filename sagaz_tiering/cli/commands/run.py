"""`run`: the daemon."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sagaz_tiering.cli.failures import report
from sagaz_tiering.cli.options import ConfigOption, DebugOption, locate_config


def run(
    config: ConfigOption = None,
    json_logs: Annotated[bool, typer.Option("--json", help="Log as JSON lines, also on a terminal.")] = False,
    debug: DebugOption = False,
) -> None:
    """Run the daemon: the jobs by the schedule, until SIGTERM. They move, transition, expire and collect."""
    import asyncio

    environ = dict(os.environ)
    if json_logs:
        environ["SAGAZ_TIERING_LOG__FORMAT"] = "json"
    if debug:
        environ["SAGAZ_TIERING_LOG__LEVEL"] = "debug"
    try:
        path = locate_config(config)
        from sagaz_tiering import daemon
        from sagaz_tiering.app.process import tune_process
        from sagaz_tiering.console import serve_console

        tune_process()
        code = asyncio.run(daemon.run(path, environ, serve_console))
    except KeyboardInterrupt:
        code = 130
    except Exception as exc:  # noqa: BLE001  # the CLI ends here
        code = report(exc, as_json=json_logs, debug=debug)
    raise typer.Exit(code)
