"""When which job runs: every job by its interval, one run at a time, caught up after downtime.

By the machine's uptime alone: nobody can set it, while the wall clock may jump by years. A machine that slept finds
what it missed soon after it woke.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import uniform

from sagaz_tiering import metrics
from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.daemon.backoff import FullJitter
from sagaz_tiering.engine import JobReport
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.logs import Logger
from sagaz_tiering.server_clock import uptime_s

_log = Logger(__name__)

STAGGER = timedelta(seconds=0.5)
"""Between two jobs that are both late at start."""
RETRY_FIRST = timedelta(seconds=5)
RETRY_CAP = timedelta(minutes=5)
_CANCEL_GRACE_S = 5.0
_LOOK_EVERY_S = 30.0
"""Timers of the event loop stand still while the machine sleeps; so often the uptime is asked."""
OVERDUE_AFTER = timedelta(minutes=2)
"""A job that should have begun so long ago and has not is told."""


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
        self, run_job: Callable[[str], Awaitable[JobReport]], *, uptime: Callable[[], float] = uptime_s
    ) -> None:
        """`uptime` gives seconds that only grow."""
        self._run_job = run_job
        self._uptime = uptime
        self._times: dict[str, Times] = {}
        self._due: dict[str, float] = {}
        self._due_changed: dict[str, asyncio.Event] = {}
        self._backoffs: dict[str, FullJitter] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    def start(self, times: Mapping[str, Times], delays: Mapping[str, timedelta]) -> None:
        """Begin; each job first runs after its delay."""
        self._times = dict(times)
        for name, when in times.items():
            jitter_s = _jitter_s(when) if delays[name] > when.jitter else 0.0
            self._due[name] = self._uptime() + delays[name].total_seconds() + jitter_s
            self._due_changed[name] = asyncio.Event()
            self._backoffs[name] = FullJitter(first=RETRY_FIRST, cap=RETRY_CAP)
            self._keepers.append(asyncio.create_task(self._keep(name), name=f"schedule of {name}"))

    def change(self, times: Mapping[str, Times]) -> None:
        """New intervals; a job whose times stay the same keeps its next run."""
        for name, when in times.items():
            if name in self._times and self._times[name] != when:
                self._times[name] = when
                self._set_due(name, self._uptime() + when.every.total_seconds() + _jitter_s(when))

    @property
    def running(self) -> list[str]:
        """Jobs that run now."""
        return sorted(self._running)

    def due_in(self) -> dict[str, timedelta]:
        """How long until each job is due; less than nothing for what is late."""
        now = self._uptime()
        return {name: timedelta(seconds=due - now) for name, due in self._due.items()}

    def overdue(self) -> dict[str, timedelta]:
        """Jobs that should have begun OVERDUE_AFTER ago or longer, and by how long; not those that run."""
        late = {name: -left for name, left in self.due_in().items() if name not in self._running}
        return {name: by for name, by in late.items() if by >= OVERDUE_AFTER and not self._stopping}

    def run_now(self, name: str) -> None:
        """Bring the next run of a job forward to now, unless it runs already."""
        if name in self._due and name not in self._running:
            self._set_due(name, self._uptime())

    async def stop(self, grace: timedelta) -> bool:
        """Start nothing any more, wait up to `grace` for what runs, cancel the rest; whether all ended by itself."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
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
        return not unfinished

    def _set_due(self, name: str, due: float) -> None:
        self._due[name] = due
        self._due_changed[name].set()

    async def _keep(self, name: str) -> None:
        """Run the job whenever it is due, each time as a task of its own: however that ends, the next one comes."""
        while not self._stopping:
            while (left := self._due[name] - self._uptime()) > 0:
                self._due_changed[name].clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _LOOK_EVERY_S)):
                        await self._due_changed[name].wait()
            when = self._times[name]
            self._due[name] = self._uptime() + when.every.total_seconds() + _jitter_s(when)
            self._running[name] = asyncio.create_task(self._attempt(name), name=f"job {name}")
            await asyncio.wait([self._running[name]])

    async def _attempt(self, name: str) -> None:
        metrics.JOB_RUNNING.labels(job=name).set(1)
        began = self._uptime()
        try:
            await self._one_run(name)
        except asyncio.CancelledError:
            metrics.JOB_RUNS.labels(job=name, outcome="cut_short").inc()
            raise
        finally:
            metrics.JOB_RUNNING.labels(job=name).set(0)
            metrics.JOB_SECONDS.labels(job=name).observe(self._uptime() - began)
            del self._running[name]
            # A run that took longer than its interval is followed by the next at once, which is not late by that.
            self._due[name] = max(self._due[name], self._uptime())

    async def _one_run(self, name: str) -> None:
        try:
            report = await self._run_job(name)
        except SagazTieringError as exc:
            if not exc.permanent:
                self._retry_soon(name)
            about = {"kind": type(exc).__name__, "permanent": exc.permanent}
            next_run_in_s = round(max(self.due_in()[name].total_seconds(), 0.0), 1)
            _log.error("job.failed", job=name, error=str(exc), hint=exc.hint, next_run_in_s=next_run_in_s, **about)
            _count_failure(name, exc)
        except Exception as exc:  # noqa: BLE001 - a job ends here; a defect in one must not take the others with it
            _log.exception("job.failed", job=name, error=str(exc), kind=type(exc).__name__, permanent=True)
            _count_failure(name, exc)
        else:
            self._backoffs[name].reset()
            _report(report)

    def _retry_soon(self, name: str) -> None:
        """Bring the next run forward, where the interval is longer than the back-off."""
        soon = self._uptime() + self._backoffs[name].next().total_seconds()
        self._set_due(name, min(self._due[name], soon))


def _jitter_s(when: Times) -> float:
    return uniform(0, when.jitter.total_seconds())


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
