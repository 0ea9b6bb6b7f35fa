"""One shape for every command: an async function is asked, and answers with a document and with lines.

`command` makes of it what Typer takes, with --config, --json and --debug; its errors become an exit code. Ctrl-C and
SIGTERM end it, or let it finish its running step first (`stopped_by_signals`).
"""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import typer

from sagaz_tiering.cli.options import Bundle, ConfigOption, DebugOption, JsonOption, locate_config
from sagaz_tiering.cli.stderr import UsageError, report, say
from sagaz_tiering.errors import CatalogUnavailable
from sagaz_tiering.terminal import Grid, make_console, make_table, pretty_json, print_json, print_table, safe, show_when

if TYPE_CHECKING:
    import asyncio

    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.config.model import TieringConfig
    from sagaz_tiering.jobs.times import NextRun
    from sagaz_tiering.storage.base import SnapshotStorage

_MAX_LINE = 5_000
INTERRUPTED = 130
TERMINATED = 143
_SHARED = (("config", ConfigOption, None), ("as_json", JsonOption, False), ("debug", DebugOption, False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What every command is told beside what it alone takes."""

    config: Path | None = None
    as_json: bool = False
    debug: bool = False
    typed: frozenset[str] = frozenset()
    """The options and arguments that were given, by the names of their parameters; the others have their default."""

    def refuse(self, *names: str, why: str, hint: str = "") -> None:
        """Raise UsageError if one of these options is given, which would do nothing here."""
        for name in names:
            if name in self.typed:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} {why}", hint=hint or f"leave out {option}")

    def loaded(self) -> TieringConfig:
        """What the configuration says."""
        path = locate_config(self.config)
        from sagaz_tiering.config.load import load_config

        return load_config(path)

    @asynccontextmanager
    async def opened(self, *, migrated: bool = False, up: bool = False) -> AsyncIterator[Runtime]:
        """Everything that the configuration names, opened; nothing is asked of a server yet.

        `migrated`: raise SchemaMismatch for a database without the right catalog (one that is down is the reader's to
        judge); `up`: CatalogUnavailable for one that is down, too.
        """
        config = self.loaded()
        from sagaz_tiering.app.runtime import open_runtime
        from sagaz_tiering.catalog.migrations import check_schema

        async with open_runtime(config) as runtime:
            if migrated or up:
                with suppress(*(() if up else (CatalogUnavailable,))):
                    await check_schema(runtime.db)
            yield runtime

    def opened_storage(self, url: str | None) -> AbstractAsyncContextManager[SnapshotStorage]:
        """The storage that `url` names, else the tiered one of the configuration."""
        place = f"tiered:{locate_config(self.config)}" if url is None else url
        from sagaz_tiering.app.storage_url import open_storage

        return open_storage(place)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found: one `document` for programs, `lines` (text and tables) for people.

    `problems` are (message, hint), said on stderr after it. Text is made safe when it is printed. `pretty`: people get
    the document too, as JSON that they can read.
    """

    document: Any
    lines: Iterable[Any] = ()
    exit_code: int = 0
    problems: Iterable[tuple[str, str]] = ()
    pretty: bool = False

    def show(self, *, as_json: bool, compact: bool = False) -> None:
        """Print it."""
        if as_json:
            print_json(self.document, compact=compact)
        elif self.pretty:
            print(pretty_json(self.document), flush=True)
        else:
            for line in self.lines:
                if isinstance(line, str):
                    print(safe(line, limit=_MAX_LINE), flush=True)
                elif isinstance(line, Grid):
                    print_table(make_console(), line)
                else:
                    make_console().print(line, soft_wrap=True)
        for message, hint in self.problems:
            say(message, hint)

    def show_screen(self) -> None:
        """On a terminal that is cleared: a line each, as many as the window has; `problems` below."""
        console, problems = make_console(), list(self.problems)
        with console.capture() as shown:
            for line in self.lines:
                if isinstance(line, Grid):
                    print_table(console, line)
                else:
                    console.print(safe(line, limit=_MAX_LINE), no_wrap=True, overflow="ellipsis")
        found = [line for line in shown.get().splitlines() if line.strip()]
        room = max(console.height - 1 - 2 * len(problems), 2)
        if len(found) > room:
            found = [*found[: room - 1], f"… {len(found) - room + 1} more lines in a higher window"]
        print("\x1b[H\x1b[2J" + "\n".join(found), flush=True)
        for message, hint in problems:
            say(message, hint)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str, **more: Any
) -> Iterator[Grid | str]:
    """The rows, or `nothing` where there is none; made when it is printed. `more`: see `make_table`."""
    found = list(rows)
    yield make_table(columns, found, **more) if found else nothing


def listed(name: str, page: Sequence[Any], next_page: str | None, lines: Iterable[Any]) -> Answer:
    """A page of a list, `name` in the document."""
    return Answer({name: page, "next": next_page}, chain(lines, more(next_page)))


def more(next_page: str | None) -> Iterator[str]:
    """The line below a page that is not the last."""
    if next_page is not None:
        yield f"more: --cursor {next_page}"


def fields(rows: Iterable[tuple[str, object]], *, width: int) -> Iterator[str]:
    """`label:   value` of each, values in one column; what is None is left out."""
    return (f"{label + ':':<{width}}{value}" for label, value in rows if value is not None)


NO_DAEMON = "no daemon ran the jobs lately, so nothing happens by itself; start one: sagaz-tiering run"


def show_next_run(run: NextRun, now: datetime) -> str:
    """`collect at 2026-03-01 02:00:00Z (in 5 h to 5 h 36 min), by every 6h`."""
    return f"{run.job} at {show_when(run.at, now, run.latest)}, by {run.times}"


def command(
    group: typer.Typer | None = None, name: str = "", *, config: bool = True
) -> Callable[[Callable[..., Awaitable[Answer | int]]], Callable[..., None]]:
    """For `async def work(call, …)`, which gives an Answer, or an exit code where it has said all itself. Of a `group`
    it is the command of that name; without a name it is what the group does where none of its commands is asked for. A
    parameter of a Bundle stands for its options."""
    shared = [_parameter(*each) for each in _SHARED if config or each[0] != "config"]

    def decorate(work: Callable[..., Awaitable[Answer | int]]) -> Callable[..., None]:
        bundles: dict[str, Bundle] = {}
        taken: list[inspect.Parameter] = []
        for each in list(inspect.signature(work, eval_str=True).parameters.values())[1:]:
            bundle = next((part for part in get_args(each.annotation) if isinstance(part, Bundle)), None)
            if bundle is None:
                taken.append(_parameter(each.name, each.annotation, each.default))
            else:
                bundles[each.name] = bundle
                taken += [_parameter(name, kind, default) for name, (kind, default) in bundle.options.items()]

        @wraps(work)
        def run(
            *, context: typer.Context, as_json: bool, debug: bool, config: Path | None = None, **given: Any
        ) -> None:
            if context.invoked_subcommand is not None:
                return
            typed = frozenset(each for each in given if _is_typed(context, each))

            async def answer() -> int:
                made = {
                    name: bundle.make({option: given.pop(option) for option in bundle.options})
                    for name, bundle in bundles.items()
                }
                call = Call(config=config, as_json=as_json, debug=debug, typed=typed)
                found = await work(call, **given, **made)
                if isinstance(found, int):
                    return found
                found.show(as_json=as_json)
                return found.exit_code

            _execute(answer, as_json=as_json, debug=debug)

        parameters = [*taken, *shared, _parameter("context", typer.Context)]
        run.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]  # what Typer reads
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        if group is None:
            return run
        return (group.command(name) if name else group.callback(invoke_without_command=True))(run)

    return decorate


def _parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _execute(work: Callable[[], Awaitable[int]], *, as_json: bool, debug: bool) -> NoReturn:
    """Run `work` to its end and leave with its exit code; errors are reported, Ctrl-C is 130."""
    import asyncio

    from sagaz_tiering.app.process import tune_process

    tune_process()
    _quiet_logs(debug)
    try:
        code = asyncio.run(_until_terminated(work))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as exc:  # noqa: BLE001  # the CLI ends here
        code = report(exc, as_json=as_json, debug=debug)
    raise typer.Exit(code)


async def _until_terminated(work: Callable[[], Awaitable[int]]) -> int:
    """SIGTERM unwinds `work` as Ctrl-C does, so that embedded servers and leases are given up."""
    import asyncio

    from sagaz_tiering.app.process import ignore_abandoned_connects

    task, terminated = asyncio.current_task(), False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        if task is not None:
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    ignore_abandoned_connects()
    try:
        return await work()
    except asyncio.CancelledError:
        if terminated:
            return TERMINATED
        raise


def _quiet_logs(debug: bool) -> None:
    """Logs on stderr, from warnings up: stdout is for the answer. Libraries do not join in with --debug."""
    import logging

    import structlog

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)

    def unless_told_anyway(_: object, __: str, event: Any) -> Any:
        """Of a clock that could not be measured: a command that needs PostgreSQL ends with the error itself."""
        if event.get("event") == "clock.not_measured" and not debug:
            raise structlog.DropEvent
        return event

    structlog.configure(
        processors=[unless_told_anyway, *structlog.get_config()["processors"]],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


class Stopping:
    """What signals asked for: the first one sets `event`, the second one ends the command at once."""

    def __init__(self, event: asyncio.Event | None, notice: str) -> None:
        import asyncio

        self.event, self._notice, self._task = event or asyncio.Event(), notice, asyncio.current_task()
        self.exit_code, self.is_cancelled = 0, False

    def ask(self, number: signal.Signals) -> None:
        """A signal came."""
        self.exit_code = TERMINATED if number == signal.SIGTERM else INTERRUPTED
        if not self.event.is_set():
            self.event.set()
            if self._notice:
                print(self._notice, file=sys.stderr)
        elif self._task is not None:
            self.is_cancelled = True
            self._task.cancel()


@contextmanager
def stopped_by_signals(event: asyncio.Event | None = None, *, notice: str = "") -> Iterator[Stopping]:
    """Within the block, signals ask for the stop of the task that it is in; the first is answered by `notice`."""
    import asyncio

    loop, stopping = asyncio.get_running_loop(), Stopping(event, notice)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.ask, number)
    try:
        yield stopping
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
