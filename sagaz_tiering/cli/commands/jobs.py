"""`job NAME`: run one of the daemon's jobs by hand; and `quarantine`: what jobs found wrong or gave up."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagaz_tiering.cli.options import Paging, argument, flag, words_of
from sagaz_tiering.cli.progress import progress
from sagaz_tiering.cli.session import Answer, Call, command, listed, stopped_by_signals, table
from sagaz_tiering.cli.stderr import NotFound, UsageError
from sagaz_tiering.terminal import safe, show_time

if TYPE_CHECKING:
    from sagaz_tiering.jobs import JobContext, JobReport

SKIPPED = 7
"""Exit code of `--once` where another process was at it: nothing ran, as with any lease conflict."""
OUTSIDE = 14
"""Exit code of `--once` where no window of the job is open: nothing ran."""
_JOBS = "age, reconcile, transition, restore, expire, compact, scrub, collect, reindex or train."
_LOOK_EVERY_S = 30.0
"""Timers stand still while the machine sleeps."""


@command()
async def job(
    call: Call,
    name: Annotated[str, argument("NAME", _JOBS, autocompletion=words_of("jobs", "JOBS"))],
    once: Annotated[bool, flag("--once", "Run once instead of by the schedule until Ctrl-C.")] = False,
    dry_run: Annotated[bool, flag("--dry-run", "Only say what it would do (once).")] = False,
    allow_mass_delete: Annotated[
        bool, flag("--allow-mass-delete", "expire, once: end snapshots earlier than promised.")
    ] = False,
    any_time: Annotated[
        bool, flag("--any-time", "once: run it now although no window of its schedule is open.")
    ] = False,
    all_packs: Annotated[
        bool, flag("--all", "scrub, once: look into every pack, whole, whenever it was looked into last.")
    ] = False,
    accept_lost: Annotated[
        bool, flag("--accept-lost", "reconcile, once: do not report what Redis lost any more.")
    ] = False,
    thaw: Annotated[bool, flag("--thaw", "reindex: ask for archived packs; a later run finds them readable.")] = False,
) -> int:
    """Run a job: now and by its schedule until Ctrl-C, or once. --json prints one report a line."""
    _check_name(name)
    if allow_mass_delete and not (name == "expire" and once):
        raise UsageError("--allow-mass-delete is for: job expire --once", hint="a schedule must not have it")
    if accept_lost and not (name == "reconcile" and once):
        raise UsageError("--accept-lost is for: job reconcile --once", hint="a schedule must not have it")
    if all_packs and not (name == "scrub" and (once or dry_run)):
        raise UsageError("--all is for: job scrub --once", hint="a schedule has its cycle and its budget")
    if any_time and not once:
        raise UsageError("--any-time is for: job NAME --once", hint="a schedule has its windows")
    if thaw and name != "reindex":
        raise UsageError("--thaw is for: job reindex")
    from sagaz_tiering.app.process import yield_to_others
    from sagaz_tiering.jobs import JOBS

    async with call.opened() as runtime:
        await runtime.check()
        yield_to_others(runtime.settings.jobs.nice)
        context = replace(
            runtime.job_context(),
            allow_mass_delete=allow_mass_delete,
            accept_lost=accept_lost,
            any_time=any_time,
            all_packs=all_packs,
            thaw=thaw,
            alone=True,
        )
        once = once or dry_run or not JOBS[name].scheduled
        return await _repeat(context, name, once=once, dry_run=dry_run, as_json=call.as_json)


def _check_name(name: str) -> None:
    """Raise UsageError, with the nearest name, for a job that does not exist."""
    import difflib

    from sagaz_tiering.jobs import JOBS

    if name in JOBS:
        return
    near = difflib.get_close_matches(name.lower(), JOBS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"no job {name!r:.80}", hint=f"{hint}jobs are: {', '.join(JOBS)}")


async def _repeat(context: JobContext, name: str, *, once: bool, dry_run: bool, as_json: bool) -> int:
    from sagaz_tiering.jobs import run_job

    times = context.settings.schedule.of(name)
    with stopped_by_signals(context.stopping):
        while True:
            with progress(name, await _totals(context, name)) as show:
                context.progress = show
                report = await run_job(name, context, dry_run=dry_run)
            answer = Answer(report.to_dict(), _lines(report), problems=_problems(report, once=once))
            answer.show(as_json=as_json, compact=not once)
            if once:
                return OUTSIDE if report.opens_at is not None else SKIPPED if report.skipped else 0
            following = times.opens(context.now) if _closed(report) else times.next_after(context.now)
            await _wait(context, report.opens_at or following)
            if context.stopping.is_set():
                return 0


async def _totals(context: JobContext, name: str) -> dict[str, int]:
    """How much there is to do, by kind of count, where that is known before and somebody looks."""
    if name != "age" or not sys.stderr.isatty():
        return {}
    return {"sagas": (await context.hot.queue.counts(context.now_us))["sagas_due"]}


async def _wait(context: JobContext, until: datetime) -> None:
    """Until then, or until stopped."""
    import asyncio

    while not context.stopping.is_set() and (left := (until - context.now).total_seconds()) > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(context.stopping.wait(), min(left, _LOOK_EVERY_S))


def _problems(report: JobReport, *, once: bool) -> Iterator[tuple[str, str]]:
    if report.opens_at is not None:
        said = f"{report.job} did not run: no window of it is open before {show_time(report.opens_at)}"
        yield said, f"to run it now all the same: sagaz-tiering job {report.job} --once --any-time" if once else ""


def _closed(report: JobReport) -> bool:
    from sagaz_tiering.jobs import WINDOW_CLOSED

    return WINDOW_CLOSED in report.counts


def _lines(report: JobReport) -> Iterator[Any]:
    if report.opens_at is not None:
        return
    if report.skipped:
        yield f"{report.job}: skipped, another process is running it"
    else:
        what = "would do" if report.dry_run else "stopped as its window closed" if _closed(report) else "done"
        yield f"{report.job}: {what} in {report.seconds:.2f} s"
        counts = [(kind.replace("_", " "), f"{count:,}") for kind, count in report.counts.items() if count]
        if counts or not report.notes:
            yield from table(("what", "count>"), counts, nothing="nothing to do")
    yield from (f"note: {note}" for note in report.notes)


group = typer.Typer(name="quarantine", help="What jobs found wrong or gave up.", no_args_is_help=True)
ItemArgument = Annotated[str, argument("ITEM", "An object key or snapshot id, as `list` shows it.")]


@command(group, "list")
async def list_items(
    call: Call,
    dropped: Annotated[bool, flag("--dropped", "Also what was dropped.")] = False,
    *,
    page: Annotated[Paging, Paging.up_to(100)],
) -> Answer:
    """What is wrong. Missing, truncated or altered packs, foreign objects, packs that a job could not move."""
    async with call.opened() as runtime:
        behind = page.behind_time(str)
        items = await runtime.catalog.quarantine.items(page.limit + 1, dropped_too=dropped, behind=behind)
    found, following = page.cut_by_time(items, lambda each: (each.last_seen, f"{each.kind}/{each.item}"))
    columns = ("kind", "item", "state", "attempts>", "last seen", "reason")
    rows = ([o.kind, o.item, o.state, o.attempts, show_time(o.last_seen), o.reason] for o in found)
    shown = table(columns, rows, nothing="nothing in quarantine", spare=("attempts", "last seen"))
    return listed("items", found, following, shown)


@command(group, "retry")
async def retry(call: Call, item: ItemArgument) -> Answer:
    """Look at an item again now. A sound pack leaves the quarantine, another stays and jobs try it again."""
    from sagaz_tiering.jobs.context import Tally
    from sagaz_tiering.jobs.scrub import look_into

    async with call.opened() as runtime:
        catalog, context = runtime.catalog, runtime.job_context()
        if not await catalog.quarantine.retry(item):
            raise _not_there(item)
        pack, tally, sound = await catalog.scrubbing.by_key(item), Tally(None), False
        ttl = context.settings.jobs.lease_ttl
        async with catalog.leases.hold(f"scrub/{item[-40:]}", context.owner, ttl) as lease:
            if pack is not None and lease is not None:
                sound = await look_into(context, lease, pack, tally)
    told = f"{safe(item)}: {'sound, it has left the quarantine' if sound else 'will be tried again'}"
    notes = [f"note: {note}" for note in tally.notes]
    return Answer({"item": item, "sound": sound, "notes": tally.notes}, [told, *notes])


@command(group, "drop")
async def drop(call: Call, item: ItemArgument) -> Answer:
    """Do not report an item any more. Nothing is deleted."""
    async with call.opened() as runtime:
        if not await runtime.catalog.quarantine.drop(item):
            raise _not_there(item)
    return Answer({"item": item, "state": "DROPPED"}, [f"dropped {safe(item)}"])


def _not_there(item: str) -> NotFound:
    return NotFound(f"{item!r:.200} is not in quarantine", hint="see: sagaz-tiering quarantine list")
