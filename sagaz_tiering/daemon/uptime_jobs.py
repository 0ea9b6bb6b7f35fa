"""APScheduler by the machine's uptime: intervals that are counted by it, and the store that keeps their jobs in step.

APScheduler compares instants of the wall clock, and steps through every interval that has passed by it; both go wrong
where that clock jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.job import Job  # type: ignore[import-untyped]  # ships no types
from apscheduler.jobstores.memory import MemoryJobStore  # type: ignore[import-untyped]  # as above
from apscheduler.triggers.base import BaseTrigger  # type: ignore[import-untyped]  # as above


class UptimeInterval(BaseTrigger):  # type: ignore[misc]  # untyped
    """Fires `every` after it last did, and up to `jitter` later. What was missed meanwhile is one run, not many."""

    __slots__ = ("_every", "_jitter_s")

    def __init__(self, every: timedelta, jitter: timedelta) -> None:
        self._every = every
        self._jitter_s = jitter.total_seconds()

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """From `now` on, whenever it should have fired before."""
        fires: datetime = self._apply_jitter(now + self._every, self._jitter_s, now)
        return fires


class UptimeJobStore(MemoryJobStore):  # type: ignore[misc]  # untyped
    """Jobs in memory. Those with an `UptimeInterval` are due by the uptime, all others by the wall clock.

    Whenever the scheduler asks what is due, the former are first moved by as much as the wall clock has run away from
    the uptime since it last asked, by the very instant that it then compares with.
    """

    def __init__(self, uptime: Callable[[], float]) -> None:
        """`uptime` gives seconds that only grow."""
        super().__init__()
        self._uptime = uptime
        self._booted = datetime.now(UTC) - timedelta(seconds=uptime())

    def now(self) -> datetime:
        """What the wall clock would show had it not jumped since the last look: what an interval is counted from."""
        return self._booted + timedelta(seconds=self._uptime())

    def get_due_jobs(self, now: datetime) -> list[Job]:
        booted = now - timedelta(seconds=self._uptime())
        jumped, self._booted = booted - self._booted, booted
        for job in self.get_all_jobs():
            if isinstance(job.trigger, UptimeInterval) and job.next_run_time is not None:
                job.next_run_time += jumped
                self.update_job(job)
        due: list[Job] = super().get_due_jobs(now)
        return due
