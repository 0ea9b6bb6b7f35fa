"""The jobs: one verb per module or folder, each a plan and an ordered run. `JOBS` is the only registry.

The modules and folders that it names are jobs, the others what several share: `context` (what a job is given
and gives back), `times` (when one starts and ends), `ownership` (who may write under the prefix), `claims` (which sagas
one has), `journal` (what the bucket is told), `mending` (what is put right first), `put_back` (between Redis and
PostgreSQL), `pack_objects` (packs in the object store), `dictionary_copies` and `attributes` (of what is packed).

What moves data lists the order of writes in its docstring, and what a crash after each leaves.
They never delete a copy before the next one is durable, verified and committed, and never without the lease.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Protocol, cast

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.migrations import check_schema
from sagaz_tiering.config.sections import MOST_PROCESSES
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import BudgetSpent, CatalogUnavailable, ConfigError, MasterKeyUnavailable, SagazTieringError
from sagaz_tiering.jobs.context import JobContext, JobReport, Tally
from sagaz_tiering.jobs.journal import publish_journal
from sagaz_tiering.jobs.mending import mark_new_holds
from sagaz_tiering.jobs.ownership import are_in_force, claim_prefix, with_accepted
from sagaz_tiering.jobs.times import WINDOW_CLOSED, within_window
from sagaz_tiering.logs import Logger

__all__ = ["JOBS", "WINDOW_CLOSED", "Job", "JobContext", "JobReport", "load_jobs", "run_job", "run_share"]

_log = Logger(__name__)

Run = Callable[[JobContext, Lease, Tally], Awaitable[None]]


class JobModule(Protocol):
    """The module of a job."""

    async def run(self, context: JobContext, lease: Lease, tally: Tally) -> None:
        """Do it, to the end of the backlog."""

    async def preview(self, context: JobContext, tally: Tally) -> None:
        """Ask for the same decisions, and count what a run would do."""


class SharedJobModule(JobModule, Protocol):
    """Of a job of which worker processes do a share."""

    async def run_share(self, context: JobContext, lease: Lease, tally: Tally) -> None:
        """What one of them does, beside the process that runs it."""


@dataclass(frozen=True, slots=True)
class Job:
    """As many processes as `slots` may run it at once. Workers, which do a share of a run, have leases of their
    own, as many as the runs may have workers: none takes the slot of a daemon. What is not `scheduled` runs when
    somebody orders it. Its `module`, of this room, is imported by `load`.
    """

    summary: str
    module: str
    slots: int = 1
    scheduled: bool = True

    def load(self) -> JobModule:
        """The module, and all that it needs."""
        return cast(JobModule, import_module(f"{__name__}.{self.module}"))


JOBS: Mapping[str, Job] = MappingProxyType(
    {
        "age": Job("move due snapshots from Redis and PostgreSQL into packs on the object store", "age.job", slots=8),
        "reconcile": Job("put right a Redis that lost its past, so that it is believed again", "reconcile"),
        "transition": Job("move packs to the colder storage class that their policy asks for", "transition"),
        "restore": Job("make the packs of restore requests readable and bring their snapshots back", "restore"),
        "expire": Job("remove what is past its retention: Redis, PostgreSQL, catalog, dead packs", "expire.job"),
        "compact": Job("write packs anew that hold dead bytes, are too small, or hold an erased saga", "compact.job"),
        "scrub": Job("compare the catalog with the bucket and look into packs", "scrub"),
        "collect": Job("remove objects under the prefix that no pack row names", "collect"),
        "reindex": Job(
            "give what is stored already the attributes that were configured since", "reindex", scheduled=False
        ),
        "train": Job("train compression dictionaries for saga names where they pay", "train"),
    }
)


def load_jobs() -> None:
    """Import all that jobs need, for a process that runs for long, whose package may be replaced meanwhile."""
    for job in JOBS.values():
        job.load()


async def run_job(name: str, context: JobContext, *, dry_run: bool = False) -> JobReport:
    """Run one job once, to the end of its backlog. Raises the error that stopped it; what was done stays done.

    Outside the job's windows it does nothing but to tell when one opens, unless the context is for `any_time`.
    Raises SchemaMismatch, and does nothing, where somebody migrated the catalog since this process started.
    """
    job = JOBS.get(name)
    if job is None:
        raise ConfigError(f"there is no job {name!r}", hint=f"jobs: {', '.join(JOBS)}")
    await check_schema(context.catalog.db)
    report = JobReport(job=name, dry_run=dry_run, started_at=context.now)
    began, tally = time.monotonic(), Tally(context.progress)
    run, times = context.for_a_run(), context.settings.schedule.of(name)
    if not (dry_run or context.any_time or times.is_open(context.now)):
        report.opens_at = times.opens(context.now)
        return report
    try:
        with traces.span(f"job {name}", job=name, dry_run=dry_run):
            if dry_run:
                await job.load().preview(await with_accepted(run), tally)
            else:
                leases = [name] if job.slots == 1 else [f"{name}/{slot}" for slot in range(job.slots)]
                await claim_prefix(run)
                await _publish(run, tally)
                await mark_new_holds(run)
                async with within_window(run, times, partial(tally.add, WINDOW_CLOSED)) as run:
                    report.skipped = not await _run_leased(leases, run, tally, partial(_run_recorded, name))
    finally:
        report.seconds = time.monotonic() - began
        report.counts, report.notes, report.refused = dict(tally.counts), tally.notes, tally.refused
    return report


async def _publish(context: JobContext, tally: Tally) -> None:
    """What happened is in the bucket's journal before anything is removed."""
    try:
        await publish_journal(context)
    except MasterKeyUnavailable as exc:
        tally.note(f"the journal waits for its master key: {exc}")
        _log.error("master_key.unavailable", error=str(exc), hint=exc.hint)


async def run_share(name: str, context: JobContext, tally: Tally) -> None:
    """What a worker process does of a run that the process beside it began and records. Raises what stopped it.

    Nothing, and a note, where other policies than those of the run were put in force meanwhile.
    """
    job = JOBS[name]
    assert context.workers is not None
    if not await are_in_force(context):
        tally.note("a worker process did nothing: other policies were put in force after the run began")
        return
    share = context.shared_by(context.workers.processes)
    leases = [f"{name}/worker/{slot}" for slot in range(job.slots * (MOST_PROCESSES - 1))]
    if not await _run_leased(leases, share, tally, cast(SharedJobModule, job.load()).run_share):
        tally.note("a worker process did nothing: every lease for workers is held")


async def _run_leased(leases: Iterable[str], context: JobContext, tally: Tally, run: Run) -> bool:
    """Run under the first of the leases that is free; False if all are held."""
    await claim_prefix(context)
    await context.dictionaries.freshen()
    for lease_name in leases:
        async with context.catalog.leases.hold(lease_name, context.owner, context.settings.jobs.lease_ttl) as lease:
            if lease is None:
                continue
            await run(await with_accepted(context), lease, tally)
            return True
    return False


async def _run_recorded(name: str, context: JobContext, lease: Lease, tally: Tally) -> None:
    history, stopped = context.catalog.history, None
    await history.started(name, context.now)
    try:
        await JOBS[name].load().run(context, lease, tally)
    except BudgetSpent as exc:
        stopped = str(exc)
        tally.add("budget_spent", note=f"{exc}; {exc.hint}")
    except SagazTieringError as exc:
        with suppress(CatalogUnavailable):
            await history.finished(name, context.now, error=str(exc), summary=tally.counts)
        raise
    if context.stopping.is_set() and stopped is None:
        stopped = "its window closed" if tally.counts[WINDOW_CLOSED] else "it was told to"
    await history.finished(name, context.now, stopped=stopped, summary=tally.counts)
