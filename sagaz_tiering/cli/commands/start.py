"""What a deployment begins with: `init`, `run`, `demo`, `doctor`, `torture`, `console-token`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.options import CONFIG_PLACES, ConfigOption, DebugOption, argument, flag, locate_config, option
from sagaz_tiering.cli.session import Answer, Call, command, fields
from sagaz_tiering.cli.stderr import UsageError, report
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.terminal import counted, safe

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.clock import VirtualClock
    from sagaz_tiering.doctor import Finding
    from sagaz_tiering.torture.run import TortureOutcome

_TICK_S = 1.0
_TOKEN_BYTES = 32
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@command(config=False)
async def init(
    call: Call,
    file: Annotated[Path, argument("[FILE]", "File to write.")] = CONFIG_PLACES[0],
    bucket: Annotated[str | None, option("NAME[/PREFIX]", "Packs go to this S3 bucket instead of a folder.")] = None,
) -> Answer:
    """Write a configuration for the servers that are here. It is commented; then it says what to do next."""
    import shlex

    from sagaz_tiering.doctor.setup import configuration, look, password_advice, preparations

    _refuse_if_there(file)
    found = await look(os.environ, Path.home())
    data = ".sagaz-tiering" if file.parent.name != "config" else "../.sagaz-tiering"
    _write(file, configuration(found, bucket, data))
    option = "" if file == CONFIG_PLACES[0] else f" --config {shlex.quote(str(file))}"
    verbs = ("catalog migrate", "doctor", "run")
    commands = [*preparations(found), *(f"sagaz-tiering {verb}{option}" for verb in verbs)]
    advice = []
    answers = {"tiers.hot.url": found.redis, "catalog.url": found.postgresql}
    if not found.embedded and not all(answers[name] for name in answers if name not in found.urls):
        started = "or have them started: pip install 'sagaz-tiering[embedded]', and init again"
        advice.append(f"start the servers that do not answer, {started}")
    if (password := password_advice(found)) is not None:
        advice.append(password)
    if found.aws is not None and bucket is None and "tiers.cold.url" not in found.urls:
        advice.append("with --bucket NAME packs go to S3")
    document = {"file": str(file), "found": found, "commands": commands, "advice": advice}
    notes, steps = [f"note: {each}" for each in advice], [f"  {each}" for each in commands]
    return Answer(document, [*found.told(), f"wrote {file}; read it, it is short", *notes, "next:", *steps])


def _refuse_if_there(file: Path) -> None:
    if os.path.lexists(file):
        raise UsageError(f"{file} is there already, and was left as it is", hint="name another FILE, or move that one")


def _write(file: Path, text: str) -> None:
    """Only where nothing is, and only what is a configuration."""
    from sagaz_tiering.config.load import load_config
    from sagaz_tiering.drivers.files import refusing

    with refusing(f"{file}: cannot be written", "name another FILE"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    try:
        load_config(file)
    except ConfigError:
        file.unlink()
        raise


def run(
    config: ConfigOption = None,
    json_logs: Annotated[bool, flag("--json", "Log as JSON lines, also on a terminal.")] = False,
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


@command(config=False)
async def demo(
    call: Call,
    sagas: Annotated[int, option("", "How many sagas to run.", min=3, max=5000)] = 120,
    keep: Annotated[Path | None, option("DIR", "Keep the servers' data and the configuration in DIR.")] = None,
    console: Annotated[bool, flag("--console", "Look around in a browser at the end.")] = False,
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


@command()
async def doctor(
    call: Call, deadline: Annotated[float, option("SECONDS", "Of the checks of each server.", min=0.1, max=3600)] = 30
) -> Answer:
    """Check everything that a deployment needs. Try out the object store; say what to do."""
    from sagaz_tiering.doctor import examine
    from sagaz_tiering.doctor.finding import exit_code

    findings = await examine(locate_config(call.config), deadline=timedelta(seconds=deadline))
    code, counts = exit_code(findings), Counter(found.level.value for found in findings)
    levels = {level: counts[level] for level in _STYLES}
    document = {"ok": code == 0, "exit_code": code, "counts": levels, "findings": findings}
    return Answer(document, _examined(findings, counts), code)


def _examined(findings: Sequence[Finding], counts: Counter[str]) -> Iterator[Any]:
    from rich.text import Text

    for found in findings:
        line = Text(f"{found.level.value:<8}", style=_STYLES[found.level.value])
        yield line.append(f" {safe(found.subject)}: {safe(found.message, limit=2000)}", style="default")
        if found.hint:
            yield f"{'':<9}{safe(found.hint, limit=2000)}"
    yield f"{counts['ok']} ok, {counted(counts['warning'], 'warning')}, {counted(counts['error'], 'error')}"


@command(config=False)
async def torture(
    call: Call,
    seconds: Annotated[float, option("", "How long to kill processes.", min=1, max=86_400)] = 20,
    seed: Annotated[int | None, option("S", "Of what is saved, and when to kill.")] = None,
    snapshots: Annotated[int, option("N", "About how many to save.", min=1)] = 3000,
) -> Answer:
    """Kill savers and daemons at random, on its own servers. Then compare every snapshot with what was promised."""
    from sagaz_tiering.torture.run import default_seed, run_torture

    chosen = default_seed() if seed is None else seed

    def say(line: str) -> None:
        if not call.as_json:
            print(safe(line, limit=1000), flush=True)

    say(f"seed {chosen}")
    outcome = await run_torture(seconds=seconds, seed=chosen, snapshots=snapshots, say=say)
    return Answer(outcome.to_dict(), _held(outcome), outcome.exit_code)


def _held(outcome: TortureOutcome) -> Iterator[str]:
    yield from (f"{name.replace('_', ' ')}: {count:,}" for name, count in sorted(outcome.counts.items()))
    if outcome.difference:
        yield f"DIFFERENCE: {outcome.difference}"
    else:
        yield f"it held: nothing lost, nothing doubled, nothing left over ({outcome.seconds:.0f} s)"


@command()
async def console_token(
    call: Call, operator: Annotated[bool, flag("--operator", "For who may also restore, hold and forget.")] = False
) -> Answer:
    """Make a token for the console. Give it to people, and its hash to the configuration; nothing is stored."""
    import secrets
    from hashlib import sha256

    token = secrets.token_urlsafe(_TOKEN_BYTES)
    setting = f"{'operator' if operator else 'viewer'}_token_hash"
    digest = sha256(token.encode()).hexdigest()
    rows = [
        ("token", f"{token}  (shown only now)"),
        ("setting", f"console: {{{setting}: {digest}}}"),
        ("or", f"SAGAZ_TIERING_CONSOLE__{setting.upper()}={digest}"),
    ]
    return Answer({"token": token, "setting": f"console.{setting}", "hash": digest}, fields(rows, width=9))
