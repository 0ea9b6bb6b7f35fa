"""`demo`: the whole product in half a minute or, on a busy machine, a minute, on real servers that it starts itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sagaz_tiering.cli.failures import UsageError
from sagaz_tiering.cli.session import Answer, Call, command

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.clock import VirtualClock

_TICK_S = 1.0


@command(config=False)
async def demo(
    call: Call,
    sagas: Annotated[int, typer.Option(min=3, max=5000, help="How many sagas to run.")] = 120,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the servers' data and the configuration in DIR.")
    ] = None,
    console: Annotated[bool, typer.Option("--console", help="Look around in a browser at the end.")] = False,
) -> Answer:
    """See it work: real sagas, seven years in seconds. It checks that no snapshot is lost."""
    if console and call.as_json:
        raise UsageError("--console tells people where to look", hint="leave out --json")
    from sagaz_tiering.demo import run_demo

    look_around = _keep_console_open if console else None
    outcome = await run_demo(sagas=sagas, keep=keep, quiet=call.as_json, look_around=look_around)
    return Answer(outcome.to_dict(), exit_code=outcome.exit_code)


async def _keep_console_open(runtime: Runtime, clock: VirtualClock, say: Callable[[str], None]) -> None:
    """Until Ctrl-C; the clock goes on, and so do the jobs."""
    import asyncio
    import secrets
    import signal
    from datetime import timedelta
    from hashlib import sha256

    from sagaz_tiering.config.sections import ConsoleSettings
    from sagaz_tiering.console import serve_console
    from sagaz_tiering.daemon.health import without_daemon

    token, ended, loop = secrets.token_urlsafe(18), asyncio.Event(), asyncio.get_running_loop()
    settings = ConsoleSettings(enabled=True, port=0, operator_token_hash=sha256(token.encode()).hexdigest())
    async with without_daemon(runtime) as state, serve_console(settings, state) as (host, port):
        say("The console is open. Look around in a browser:")
        say(f"address   http://{host}:{port}/")
        say(f"token     {token}")
        say("Ctrl-C ends it, and with it the servers.")
        loop.add_signal_handler(signal.SIGINT, ended.set)
        while not ended.is_set():
            try:
                async with asyncio.timeout(_TICK_S):
                    await ended.wait()
            except TimeoutError:
                clock.advance(timedelta(seconds=_TICK_S))
        loop.remove_signal_handler(signal.SIGINT)
