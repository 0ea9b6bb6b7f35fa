"""APScheduler by the machine's uptime, and by the clock that the store goes by where a job has times of day.

APScheduler compares instants of the host's clock, and steps through every interval that has passed by it; both go wrong
where that clock jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import random
from typing import Final, cast

from apscheduler.job import Job  # type: ignore[import-untyped]  # ships no types
from apscheduler.jobstores.memory import MemoryJobStore  # type: ignore[import-untyped]  # as above
from apscheduler.triggers.base import BaseTrigger  # type: ignore[import-untyped]  # as above

from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.config.schedule import JobTimes

_NOTED: Final = timedelta(seconds=1)
"""A correction of the clock by less is waited for, so that its noise moves nothing."""


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
