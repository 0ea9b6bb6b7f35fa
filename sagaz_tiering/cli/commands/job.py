"""`job NAME`: run one of the daemon's jobs by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.failures import UsageError
from sagaz_tiering.cli.progress import progress
from sagaz_tiering.cli.session import Answer, Call, command, table
from sagaz_tiering.cli.stopping import stopped_by_signals

if TYPE_CHECKING:
    from sagaz_tiering.app.runtime import Runtime
    from sagaz_tiering.jobs import JobContext, JobReport

SKIPPED = 7
"""Exit code of `--once` where another process was at it: nothing ran, as with any lease conflict."""


@command()
async def job(
    call: Call,
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
) -> int:
    """Run a job: at its scheduled interval until Ctrl-C, or once. --json prints one report a line."""
    check_name(name)
    if allow_mass_delete and not (name == "expire" and once):
        raise UsageError("--allow-mass-delete is for: job expire --once", hint="a schedule must not have it")
    if accept_lost and not (name == "reconcile" and once):
        raise UsageError("--accept-lost is for: job reconcile --once", hint="a schedule must not have it")
    from sagaz_tiering.app.process import yield_to_others

    async with call.opened() as runtime:
        await runtime.check()
        yield_to_others(runtime.config.jobs.nice)
        context = replace(
            runtime.job_context(), allow_mass_delete=allow_mass_delete, accept_lost=accept_lost, alone=True
        )
        return await _repeat(runtime, context, name, once=once or dry_run, dry_run=dry_run, as_json=call.as_json)


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
    with stopped_by_signals(context.stopping):
        while True:
            with progress(name) as show:
                context.progress = show
                report = await run_job(name, context, dry_run=dry_run)
            Answer(report.to_dict(), _lines(report)).show(as_json=as_json, compact=not once)
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


def _lines(report: JobReport) -> Iterator[Any]:
    if report.skipped:
        yield f"{report.job}: skipped, another process is running it"
    else:
        what = "would do" if report.dry_run else "done"
        yield f"{report.job}: {what} in {report.seconds:.2f} s"
        counts = [(kind.replace("_", " "), f"{count:,}") for kind, count in report.counts.items() if count]
        if counts or not report.notes:
            yield from table(("what", "count>"), counts, nothing="nothing to do")
    for note in report.notes:
        yield f"note: {note}"
