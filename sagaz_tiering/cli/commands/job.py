"""`job NAME`: run one of the daemon's jobs by hand."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.app.process import yield_to_others
from sagaz_tiering.cli.failures import UsageError
from sagaz_tiering.cli.options import ConfigOption, DebugOption, JsonOption
from sagaz_tiering.cli.session import execute, opened
from sagaz_tiering.terminal import make_console, make_table, print_json, safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.jobs import JobContext, JobReport

SKIPPED = 7
"""Exit code of `--once` where another process was at it: nothing ran, as with any lease conflict."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("job")(job)


def job(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="age, reconcile, transition, restore, expire, compact, scrub, collect or train."
        ),
    ],
    once: Annotated[bool, typer.Option("--once", help="Run once instead of by the schedule until Ctrl-C.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do (once).")] = False,
    allow_mass_delete: Annotated[
        bool,
        typer.Option("--allow-mass-delete", help="expire, once: end snapshots earlier than promised."),
    ] = False,
    accept_lost: Annotated[
        bool, typer.Option("--accept-lost", help="reconcile, once: do not report what Redis lost any more.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a job: at its scheduled interval until Ctrl-C, or once. --json prints one report a line."""

    async def work() -> int:
        check_name(name)
        if allow_mass_delete and not (name == "expire" and once):
            raise UsageError("--allow-mass-delete is for: job expire --once", hint="a schedule must not have it")
        if accept_lost and not (name == "reconcile" and once):
            raise UsageError("--accept-lost is for: job reconcile --once", hint="a schedule must not have it")
        async with opened(config) as runtime:
            await runtime.check()
            yield_to_others(runtime.config.jobs.nice)
            context = replace(
                runtime.job_context(), allow_mass_delete=allow_mass_delete, accept_lost=accept_lost, alone=True
            )
            return await _repeat(runtime, context, name, once=once or dry_run, dry_run=dry_run, as_json=as_json)

    execute(work, as_json=as_json, debug=debug)


def check_name(name: str) -> None:
    """Raise UsageError, with the nearest name, for a job that does not exist."""
    import difflib

    from sagaz_tiering.jobs import JOBS

    if name in JOBS:
        return
    near = difflib.get_close_matches(name.lower(), JOBS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"no job {name!r:.80}", hint=f"{hint}jobs are: {', '.join(JOBS)}")


async def _repeat(runtime: Runtime, context: JobContext, name: str, *, once: bool, dry_run: bool, as_json: bool) -> int:
    from sagaz_tiering.jobs import run_job

    every = _interval(runtime, name)
    with _stopped_by_signals(context.stopping):
        while True:
            with progress(name) as show:
                context.progress = show
                report = await run_job(name, context, dry_run=dry_run)
            _show(report, as_json=as_json, compact=not once)
            if once:
                return SKIPPED if report.skipped else 0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(context.stopping.wait(), every.total_seconds())
            if context.stopping.is_set():
                return 0


def _interval(runtime: Runtime, name: str) -> timedelta:
    """The job's own schedule; a job without one runs as often as `age`, which it serves."""
    schedule: Any = runtime.config.schedule
    every: timedelta = getattr(schedule, name, schedule.age).every
    return every


@contextmanager
def _stopped_by_signals(stopping: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets the running step finish, the second ends it."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop() -> None:
        if stopping.is_set() and task is not None:
            task.cancel()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def progress(name: str) -> Iterator[Callable[[str, int], None] | None]:
    """Counters that move on stderr while the job runs; nothing where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f}"))
    with Progress(*columns, TimeElapsedColumn(), console=make_console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(kind: str, more: int) -> None:
            if kind not in tasks:
                tasks[kind] = bars.add_task(safe(f"{name}: {kind}"), total=None)
            bars.advance(tasks[kind], more)

        yield advance


def _show(report: JobReport, *, as_json: bool, compact: bool) -> None:
    if as_json:
        print_json(report.to_dict(), compact=compact)
        return
    console = make_console()
    if report.skipped:
        console.print(f"{report.job}: skipped, another process is running it")
    else:
        what = "would do" if report.dry_run else "done"
        console.print(f"{report.job}: {what} in {report.seconds:.2f} s")
        counts = [(kind.replace("_", " "), f"{count:,}") for kind, count in report.counts.items() if count]
        if counts:
            console.print(make_table(("what", "count>"), counts))
        elif not report.notes:
            console.print("nothing to do")
    for note in report.notes:
        console.print(f"note: {safe(note, limit=1000)}")
