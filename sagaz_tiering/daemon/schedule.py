"""When which job runs: every job by its interval, one run at a time, caught up after downtime.

APScheduler waits for instants of the wall clock. A clock that is set back would stop every job for as long, so a watch
by the monotonic clock brings forward what is late by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import uniform

from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped]  # ships no types
from apscheduler.triggers.interval import IntervalTrigger  # type: ignore[import-untyped]  # ships no types

from sagaz_tiering import metrics
from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.daemon.backoff import FullJitter
from sagaz_tiering.engine import JobReport
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.logs import Logger

_log = Logger(__name__)

STAGGER = timedelta(seconds=0.5)
"""Between two jobs that are both late at start."""
RETRY_FIRST = timedelta(seconds=5)
RETRY_CAP = timedelta(minutes=5)
_CANCEL_GRACE_S = 5.0
_LOOK_EVERY = timedelta(seconds=1)
OVERDUE_AFTER = timedelta(minutes=2)
"""A job that should have begun so long ago and has not is told."""

Monotonic = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Interval and random delay of one job."""

    every: timedelta
    jitter: timedelta


def first_delays(times: Mapping[str, Times], last_runs: Iterable[JobRun], now: datetime) -> dict[str, timedelta]:
    """How long after `now` each job first runs.

    What never finished, failed or was cut off last, or finished longer ago than its interval, runs at once, one
    after the other; the rest waits for what is left of its interval. (Where another daemon is at it right now,
    the lease tells.)
    """
    finished = {run.job: run.finished_at for run in last_runs if _ended_well(run)}
    delays: dict[str, timedelta] = {}
    late = 0
    for job, when in times.items():
        last = finished.get(job)
        # A last run in the future (a clock that was wrong) must not stop the job for longer than its interval.
        left = timedelta(0) if last is None else min(last + when.every - now, when.every)
        if left <= timedelta(0):
            left = STAGGER * late
            late += 1
        delays[job] = left
    return delays


def _ended_well(run: JobRun) -> bool:
    return run.error is None and run.finished_at is not None and run.finished_at >= run.started_at


class JobSchedule:
    """Runs jobs until stopped. `run_job(name)` does one run and may raise whatever it likes."""

    def __init__(
        self,
        run_job: Callable[[str], Awaitable[JobReport]],
        *,
        monotonic: Monotonic = time.monotonic,
        look_every: timedelta = _LOOK_EVERY,
    ) -> None:
        """`monotonic` gives seconds that only grow; every `look_every` it is asked what is late."""
        self._run_job = run_job
        self._monotonic = monotonic
        self._look_every = look_every
        self._due_by: dict[str, float] = {}
        self._watch: asyncio.Task[None] | None = None
        self._times: dict[str, Times] = {}
        self._backoffs: dict[str, FullJitter] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        # UTC, since the local zone of a container may not be found.
        self._scheduler = AsyncIOScheduler(timezone=UTC)

    def start(self, times: Mapping[str, Times], delays: Mapping[str, timedelta]) -> None:
        """Begin; each job first runs after its delay."""
        now = datetime.now(UTC)
        for name, when in times.items():
            jitter = timedelta(seconds=uniform(0, when.jitter.total_seconds())) if delays[name] > when.jitter else None
            self._scheduler.add_job(
                self._attempt,
                _trigger(when),
                args=[name],
                id=name,
                next_run_time=now + delays[name] + (jitter or timedelta(0)),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,  # however late: late is better than not at all
            )
            self._due_by[name] = self._monotonic() + (delays[name] + (jitter or timedelta(0))).total_seconds()
            self._backoffs[name] = FullJitter(first=RETRY_FIRST, cap=RETRY_CAP)
        self._times = dict(times)
        self._scheduler.start()
        self._watch = asyncio.create_task(self._bring_forward(), name="schedule")

    def change(self, times: Mapping[str, Times]) -> None:
        """New intervals; a job whose times stay the same keeps its next run."""
        for name, when in times.items():
            if name in self._times and self._times[name] != when:
                self._times[name] = when
                self._due_by[name] = self._monotonic() + (when.every + when.jitter).total_seconds()
                self._scheduler.reschedule_job(name, trigger=_trigger(when))

    @property
    def running(self) -> list[str]:
        """Jobs that run now."""
        return sorted(self._running)

    def next_runs(self) -> dict[str, datetime]:
        """When each job runs next."""
        return {job.id: job.next_run_time for job in self._scheduler.get_jobs()}

    def overdue(self) -> dict[str, timedelta]:
        """Jobs that should have begun OVERDUE_AFTER ago or longer, and by how long; not those that run."""
        now = self._monotonic()
        late = {name: timedelta(seconds=now - due) for name, due in self._due_by.items() if name not in self._running}
        return {name: by for name, by in late.items() if by >= OVERDUE_AFTER and not self._stopping}

    async def _bring_forward(self) -> None:
        """Run at once what is late by the monotonic clock, though the wall clock says that its time has not come."""
        while not self._stopping:
            await asyncio.sleep(self._look_every.total_seconds())
            now, wall = self._monotonic(), datetime.now(UTC)
            for name, next_run in self.next_runs().items():
                is_late = now > self._due_by[name] and name not in self._running
                if is_late and next_run > wall and not self._stopping:
                    _log.warning("schedule.clock_set_back", job=name, by_s=round((next_run - wall).total_seconds(), 1))
                    self._scheduler.modify_job(name, next_run_time=wall)

    def run_now(self, name: str) -> None:
        """Bring the next run of a job forward to now, unless it runs already."""
        if name in self._times and name not in self._running and not self._stopping:
            with contextlib.suppress(KeyError):
                self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    async def stop(self, grace: timedelta) -> bool:
        """Start nothing any more, wait up to `grace` for what runs, cancel the rest; whether all ended by itself."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        if self._scheduler.running:
            self._scheduler.pause()  # shutdown would cancel what runs
        tasks = dict(self._running)
        unfinished: set[asyncio.Task[None]] = set()
        if tasks:
            _, unfinished = await asyncio.wait(tasks.values(), timeout=grace.total_seconds())
            for task in unfinished:
                task.cancel()
        if unfinished:
            names = sorted(name for name, task in tasks.items() if task in unfinished)
            _log.warning("daemon.jobs_cut_short", jobs=names, grace_s=grace.total_seconds())
            await asyncio.wait(unfinished, timeout=_CANCEL_GRACE_S)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        return not unfinished

    async def _attempt(self, name: str) -> None:
        task = asyncio.current_task()
        if self._stopping or task is None:
            return
        self._running[name] = task
        when = self._times[name]
        self._due_by[name] = self._monotonic() + (when.every + when.jitter).total_seconds()
        metrics.JOB_RUNNING.labels(job=name).set(1)
        began = time.monotonic()
        try:
            await self._one_run(name)
        except asyncio.CancelledError:
            metrics.JOB_RUNS.labels(job=name, outcome="cut_short").inc()
            raise
        finally:
            metrics.JOB_RUNNING.labels(job=name).set(0)
            metrics.JOB_SECONDS.labels(job=name).observe(time.monotonic() - began)
            del self._running[name]
            # A run longer than its interval is followed by the next one as the scheduler finds time.
            self._due_by[name] = max(self._due_by[name], self._monotonic() + self._look_every.total_seconds())

    async def _one_run(self, name: str) -> None:
        try:
            report = await self._run_job(name)
        except SagazTieringError as exc:
            retry_at = None if exc.permanent else self._retry_soon(name)
            about = {"kind": type(exc).__name__, "permanent": exc.permanent}
            next_run = retry_at or self.next_runs().get(name)
            _log.error("job.failed", job=name, error=str(exc), hint=exc.hint, next_run=next_run, **about)
            _count_failure(name, exc)
        except Exception as exc:  # noqa: BLE001 - a job ends here; a defect in one must not take the others with it
            _log.exception("job.failed", job=name, error=str(exc), kind=type(exc).__name__, permanent=True)
            _count_failure(name, exc)
        else:
            self._backoffs[name].reset()
            _report(report)

    def _retry_soon(self, name: str) -> datetime | None:
        """Bring the next run forward, where the interval is longer than the back-off; when that is."""
        soon = datetime.now(UTC) + self._backoffs[name].next()
        regular = self.next_runs().get(name)
        if self._stopping or regular is None or regular <= soon:
            return regular
        with contextlib.suppress(KeyError):
            self._scheduler.modify_job(name, next_run_time=soon)
        return soon


def _trigger(when: Times) -> IntervalTrigger:
    return IntervalTrigger(seconds=when.every.total_seconds(), jitter=when.jitter.total_seconds() or None, timezone=UTC)


def _count_failure(name: str, exc: Exception) -> None:
    metrics.JOB_RUNS.labels(job=name, outcome="failed").inc()
    metrics.JOB_ERRORS.labels(job=name, reason=type(exc).__name__).inc()


def _report(report: JobReport) -> None:
    if report.skipped:
        metrics.JOB_RUNS.labels(job=report.job, outcome="skipped").inc()
        _log.debug("job.skipped", job=report.job, reason="another process holds the lease")
        return
    outcome = "budget" if report.counts.get("budget_spent") else "done"
    metrics.JOB_RUNS.labels(job=report.job, outcome=outcome).inc()
    metrics.JOB_LAST_SUCCESS.labels(job=report.job).set_to_current_time()
    for kind, count in report.counts.items():
        metrics.JOB_ITEMS.labels(job=report.job, kind=kind).inc(max(count, 0))
    notes = {"notes": report.notes} if report.notes else {}
    _log.info("job.finished", job=report.job, seconds=round(report.seconds, 3), **report.counts, **notes)
