"""When which job runs: by its interval or by cron, in its windows, one run at a time, caught up after downtime.

APScheduler keeps them, by the machine's uptime: nobody can set it, while a host's clock may jump by years. Times of day
are those of the clock that everything goes by. A machine that slept finds what it missed soon after it woke.

APScheduler compares instants of the host's clock, and steps through every interval that has passed by it; both go wrong
where that clock jumps. After a failure the next run comes soon, each time later and at random, so that many daemons do
not come back in step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from random import random, uniform
from typing import Final, cast

from apscheduler.events import (  # type: ignore[import-untyped]  # ships no types
    EVENT_JOB_ERROR,
    EVENT_JOB_EXECUTED,
    EVENT_JOB_MAX_INSTANCES,
    JobExecutionEvent,
    JobSubmissionEvent,
)
from apscheduler.job import Job  # type: ignore[import-untyped]  # ships no types
from apscheduler.jobstores.memory import MemoryJobStore  # type: ignore[import-untyped]  # as above
from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped]  # as above
from apscheduler.triggers.base import BaseTrigger  # type: ignore[import-untyped]  # as above

from sagaz_tiering import metrics
from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.config.schedule import JobTimes, Schedule
from sagaz_tiering.drivers.server_clock import uptime_s
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import JOBS, WINDOW_CLOSED, JobReport
from sagaz_tiering.jobs.times import longest_wait, next_start
from sagaz_tiering.logs import Logger

_log = Logger(__name__)

STAGGER = timedelta(seconds=0.5)
"""Between two jobs that are both late at start."""
RETRY_FIRST = timedelta(seconds=5)
RETRY_CAP = timedelta(minutes=5)
_CANCEL_GRACE_S = 5.0
_LOOK_EVERY_S = 30.0
"""Timers of the event loop stand still while the machine sleeps; so often the scheduler is woken."""
OVERDUE_AFTER = timedelta(minutes=2)
"""A job that should have begun so long ago and has not is told."""
_NOTED: Final = timedelta(seconds=1)
"""A correction of the clock by less is waited for, so that its noise moves nothing."""


def times_of(schedule: Schedule) -> dict[str, JobTimes]:
    """The times of every job that nobody has to order."""
    return {name: schedule.of(name) for name, job in JOBS.items() if job.scheduled}


def first_delays(times: Mapping[str, JobTimes], last_runs: Iterable[JobRun], now: datetime) -> dict[str, timedelta]:
    """How long after `now` each job first runs.

    What failed or was cut off last, or is late by its times, runs as soon as a window is open, one after the other; so
    does what never ran, unless it has times of day to wait for. (Where another daemon is at it, the lease tells.)
    """
    last = {run.job: run for run in last_runs}
    delays: dict[str, timedelta] = {}
    late = 0
    for job, when in times.items():
        run = last.get(job)
        left = (next_start(when, run, now) if run is None or run.ended_well else when.opens(now)) - now
        if left <= timedelta(0):
            left = STAGGER * late
            late += 1
        delays[job] = left
    return delays


class JobSchedule:
    """Runs jobs until stopped. `run_job(name)` does one run and may raise whatever it likes."""

    def __init__(
        self, run_job: Callable[[str], Awaitable[JobReport]], *, uptime: Callable[[], float] = uptime_s
    ) -> None:
        """`uptime` gives seconds that only grow."""
        self._run_job = run_job
        self._uptime = uptime
        self._times: dict[str, JobTimes] = {}
        self._backoffs: dict[str, FullJitter] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._outlasted: set[str] = set()
        self._stopping = False
        self._clock: Clock = SystemClock()
        self._next_look: asyncio.TimerHandle | None = None
        self._jobs = UptimeJobStore(uptime)
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,  # the local zone of a container may not be found
            jobstores={"default": self._jobs},
            # However late: late is better than not at all, and once is enough.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._outlast, EVENT_JOB_MAX_INSTANCES)
        self._scheduler.add_listener(self._follow, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)

    def start(self, times: Mapping[str, JobTimes], delays: Mapping[str, timedelta], clock: Clock) -> None:
        """Begin; each job first runs after its delay. `clock` tells the times of day."""
        self._times = dict(times)
        self._clock = clock
        self._jobs.follow(clock)
        for name, when in times.items():
            now = clock.now()
            jittered = when.jittered(now + delays[name], random() if delays[name] > when.jitter else 0.0)
            first = self._jobs.now() + (jittered - now)
            self._scheduler.add_job(
                self._attempt, self._trigger(name), id=name, name=name, args=[name], next_run_time=first
            )
            self._backoffs[name] = FullJitter(first=RETRY_FIRST, cap=RETRY_CAP)
        self._scheduler.start()
        self._look()

    def change(self, times: Mapping[str, JobTimes]) -> None:
        """New intervals; a job whose times stay the same keeps its next run."""
        for name, when in times.items():
            if name in self._times and self._times[name] != when:
                self._times[name] = when
                trigger, now = self._trigger(name), self._jobs.now()
                # Not `reschedule_job`, which goes by the wall clock.
                self._run_in(name, trigger.get_next_fire_time(None, now) - now, trigger=trigger)

    @property
    def running(self) -> list[str]:
        """Jobs that run now."""
        return sorted(self._running)

    def due_in(self) -> dict[str, timedelta]:
        """How long until each job is due; less than nothing for what is late."""
        now = self._jobs.now()
        due_in = {job.id: job.next_run_time - now for job in self._scheduler.get_jobs()}
        return due_in | dict.fromkeys(self._outlasted, timedelta())

    def overdue(self) -> dict[str, timedelta]:
        """Jobs that should have begun OVERDUE_AFTER ago or longer, and by how long; not those that run."""
        late = {name: -left for name, left in self.due_in().items() if name not in self._running}
        return {name: by for name, by in late.items() if by >= OVERDUE_AFTER and not self._stopping}

    def run_now(self, name: str) -> None:
        """Bring the next run of a job forward to now, unless it runs already."""
        if name in self._times and name not in self._running:
            self._run_in(name, timedelta())

    async def stop(self, grace: timedelta) -> bool:
        """Start nothing any more, wait up to `grace` for what runs, cancel the rest; whether all ended by itself."""
        self._stopping = True
        if self._next_look is not None:
            self._next_look.cancel()
        if self._scheduler.running:
            self._scheduler.pause()  # `shutdown` would cancel what runs
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
            await asyncio.sleep(0)  # it is done in the loop's next pass
        return not unfinished

    def _trigger(self, name: str) -> JobTrigger:
        longest = longest_wait(self._times[name], self._clock.now())
        metrics.JOB_LONGEST_WAIT.labels(job=name).set(longest.total_seconds())
        return JobTrigger(self._times[name], self._clock)

    def _run_in(self, name: str, delay: timedelta, **changes: JobTrigger) -> None:
        """Its next run is after that, whatever its interval."""
        if not self._stopping:
            self._scheduler.modify_job(name, next_run_time=self._jobs.now() + delay, **changes)

    def _look(self) -> None:
        self._scheduler.wakeup()
        self._next_look = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _outlast(self, event: JobSubmissionEvent) -> None:
        """A run still goes on when the next one is due: that one comes right after it."""
        self._outlasted.add(event.job_id)

    def _follow(self, event: JobExecutionEvent) -> None:
        if event.job_id in self._outlasted:
            self._outlasted.discard(event.job_id)
            self.run_now(event.job_id)

    async def _attempt(self, name: str) -> None:
        """One run, as a task of its own: however that ends, it has ended well for the scheduler."""
        if self._stopping:  # it was due in the moment before
            return
        run = self._running[name] = asyncio.create_task(self._measured(name), name=f"job {name}")
        try:
            await asyncio.wait([run])
        finally:
            del self._running[name]

    async def _measured(self, name: str) -> None:
        metrics.JOB_RUNNING.labels(job=name).set(1)
        began = self._uptime()
        try:
            report = await self._run_job(name)
        except asyncio.CancelledError:
            metrics.JOB_RUNS.labels(job=name, outcome="cut_short").inc()
            raise
        except SagazTieringError as exc:
            if not exc.permanent:
                self._retry_soon(name)
            about = {"kind": type(exc).__name__, "permanent": exc.permanent}
            next_run_in_s = round(max(self.due_in().get(name, timedelta()).total_seconds(), 0.0), 1)
            _log.error("job.failed", job=name, error=str(exc), hint=exc.hint, next_run_in_s=next_run_in_s, **about)
            _count_failure(name, exc)
        except Exception as exc:  # noqa: BLE001 - a job ends here; a defect in one must not take the others with it
            _log.exception("job.failed", job=name, error=str(exc), kind=type(exc).__name__, permanent=True)
            _count_failure(name, exc)
        else:
            self._backoffs[name].reset()
            now, opens_at = self._clock.now(), report.opens_at
            if report.counts.get(WINDOW_CLOSED):
                opens_at = self._times[name].opens(now)
            if opens_at is not None:
                self._run_in(name, opens_at - now)
            _report(report)
        finally:
            metrics.JOB_RUNNING.labels(job=name).set(0)
            metrics.JOB_SECONDS.labels(job=name).observe(self._uptime() - began)

    def _retry_soon(self, name: str) -> None:
        """Bring the next run forward, where the interval is longer than the back-off."""
        soon = self._backoffs[name].next()
        if not self._stopping and soon < self.due_in()[name]:
            metrics.JOB_RETRIES.labels(job=name).inc()
            self._run_in(name, soon)


def _count_failure(name: str, exc: Exception) -> None:
    metrics.JOB_RUNS.labels(job=name, outcome="failed").inc()
    metrics.JOB_ERRORS.labels(job=name, reason=type(exc).__name__).inc()


def _report(report: JobReport) -> None:
    if report.skipped:
        metrics.JOB_RUNS.labels(job=report.job, outcome="skipped").inc()
        _log.debug("job.skipped", job=report.job, reason="another process holds the lease")
        return
    if report.opens_at is not None:
        metrics.JOB_RUNS.labels(job=report.job, outcome="outside").inc()
        _log.debug(
            "job.skipped", job=report.job, reason="no window of it is open", opens_at=report.opens_at.isoformat()
        )
        return
    counts = report.counts
    outcome = "budget" if counts.get("budget_spent") else "closed" if counts.get(WINDOW_CLOSED) else "done"
    metrics.JOB_RUNS.labels(job=report.job, outcome=outcome).inc()
    metrics.JOB_LAST_SUCCESS.labels(job=report.job).set_to_current_time()
    for kind, count in report.counts.items():
        metrics.JOB_ITEMS.labels(job=report.job, kind=kind).inc(max(count, 0))
    notes = {"notes": report.notes} if report.notes else {}
    _log.info("job.finished", job=report.job, seconds=round(report.seconds, 3), **report.counts, **notes)


class JobTrigger(BaseTrigger):  # type: ignore[misc]  # untyped
    """Fires when `times` say so by `clock`, and up to their jitter later, within their windows. What was missed
    meanwhile is one run."""

    __slots__ = ("_clock", "times")

    def __init__(self, times: JobTimes, clock: Clock) -> None:
        self.times = times
        self._clock = clock

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """As far from `now` as `clock` is from the next start, whenever it should have fired before."""
        at = self._clock.now()
        return now + (self.times.jittered(self.times.next_after(at), random()) - at)


class UptimeJobStore(MemoryJobStore):  # type: ignore[misc]  # untyped
    """Jobs in memory, due by the uptime; those with times of day also where `clock` is corrected against it.

    Whenever the scheduler asks what is due, they are first moved by as much as the host's clock has run away from the
    uptime since it last asked, by the very instant that it then compares with.
    """

    def __init__(self, uptime: Callable[[], float]) -> None:
        """`uptime` gives seconds that only grow."""
        super().__init__()
        self._uptime = uptime
        self._booted = datetime.now(UTC) - timedelta(seconds=uptime())
        self.follow(SystemClock())

    def follow(self, clock: Clock) -> None:
        """Times of day are those of `clock` from now on."""
        self._clock = clock
        self._clock_booted = clock.now() - timedelta(seconds=self._uptime())

    def now(self) -> datetime:
        """What the host's clock would show had it not jumped since the last look: what an interval is counted from."""
        return self._booted + timedelta(seconds=self._uptime())

    def get_due_jobs(self, now: datetime) -> list[Job]:
        booted = now - timedelta(seconds=self._uptime())
        jumped, self._booted = booted - self._booted, booted
        corrected = self._corrected()
        for job in self.get_all_jobs():
            if job.next_run_time is not None:
                job.next_run_time += jumped
                if corrected and job.trigger.times.by_calendar:
                    job.next_run_time = self._by_clock(job, corrected, now)
                self.update_job(job)
        return cast(list[Job], super().get_due_jobs(now))

    def _corrected(self) -> timedelta:
        """By how much the clock was put right since the last look."""
        by = self._clock.now() - timedelta(seconds=self._uptime()) - self._clock_booted
        if abs(by) < _NOTED:
            return timedelta()
        self._clock_booted += by
        return by

    def _by_clock(self, job: Job, corrected: timedelta, now: datetime) -> datetime:
        """Forward: a time that was skipped is late. Back: the clock was wrong before, and so was what it said."""
        if corrected > timedelta():
            return cast(datetime, job.next_run_time - corrected)
        return cast(datetime, job.trigger.get_next_fire_time(None, now))


class FullJitter:
    """Delays drawn from 0 to `first`, then 0 to twice that, … at most `cap`.

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, *, first: timedelta, cap: timedelta, draw: Callable[[float, float], float] = uniform) -> None:
        """`draw(low, high)` gives seconds between the two."""
        self._first = first
        self._cap = cap
        self._draw = draw
        self._failures = 0

    def next(self) -> timedelta:
        """The delay after one more failure."""
        ceiling = min(self._cap, self._first * 2 ** min(self._failures, 32))
        self._failures += 1
        return timedelta(seconds=self._draw(0, ceiling.total_seconds()))

    def reset(self) -> None:
        """It worked; the next failure is the first again."""
        self._failures = 0
