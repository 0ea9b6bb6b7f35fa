"""The scheduler's jobs by the uptime and by the clock of the store, side by side."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped]  # ships no types

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.config.schedule import JobTimes
from sagaz_tiering.daemon.schedule import JobTrigger, UptimeJobStore

HOUR, YEAR = timedelta(hours=1), timedelta(days=365)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOURLY, DAILY = JobTimes(every=HOUR, jitter=timedelta(0)), JobTimes(cron="0 18 * * *")


class Seconds:
    """An uptime of the test."""

    def __init__(self) -> None:
        self.now = 4000.0

    def __call__(self) -> float:
        return self.now


class Jobs:
    """An hourly job and one at 18:00, by a host's clock and the store's, both at noon."""

    def __init__(self) -> None:
        self.seconds, self.clock = Seconds(), VirtualClock(NOON)
        self.store = UptimeJobStore(self.seconds)
        self.store.follow(self.clock)
        self.scheduler = AsyncIOScheduler(timezone=UTC, jobstores={"default": self.store})
        self.scheduler.start(paused=True)
        self.store.get_due_jobs(NOON)
        for name, times in (("hourly", HOURLY), ("daily", DAILY)):
            trigger = JobTrigger(times, self.clock)
            first = trigger.get_next_fire_time(None, NOON)
            self.scheduler.add_job(print, trigger, id=name, next_run_time=first)

    def pass_time(self, by: timedelta) -> None:
        """For the machine and the store's clock."""
        self.seconds.now += by.total_seconds()
        self.clock.advance(by)

    def due(self, host: datetime) -> set[str]:
        """What is due when the host's clock shows that."""
        return {job.id for job in self.store.get_due_jobs(host)}


@pytest.mark.parametrize("jump", [YEAR, -YEAR], ids=["ahead", "back"])
async def test_store_moves_its_jobs_with_the_clock_of_the_host(jump: timedelta) -> None:
    """An interval is due by the uptime, a time of day by the store's clock, whatever the host's says."""
    jobs = Jobs()
    assert jobs.due(NOON + jump) == set()
    jobs.pass_time(HOUR - timedelta(seconds=1))
    assert jobs.due(NOON) == set()
    jobs.pass_time(timedelta(seconds=1))
    assert jobs.due(NOON - jump) == {"hourly"}
    jobs.pass_time(5 * HOUR)
    assert jobs.due(NOON) == {"hourly", "daily"}
    jobs.scheduler.shutdown()


async def test_store_follows_a_clock_that_is_put_right() -> None:
    """A time of day that the clock skips is late; put back it is as far ahead again. Intervals stay as they are."""
    jobs = Jobs()
    jobs.clock.advance(7 * HOUR)
    assert jobs.due(NOON) == {"daily"}
    jobs.clock.advance(-9 * HOUR)
    assert jobs.due(NOON) == set()
    assert jobs.scheduler.get_job("daily").next_run_time == NOON + 8 * HOUR
    assert jobs.scheduler.get_job("hourly").next_run_time == NOON + HOUR
    jobs.scheduler.shutdown()


def test_trigger_does_not_step_through_what_was_missed() -> None:
    """However long ago it should have fired, the next time is one interval and a random delay ahead."""
    jitter = timedelta(minutes=6)
    trigger = JobTrigger(JobTimes(every=HOUR, jitter=jitter), VirtualClock(NOON - YEAR))
    for previous in (None, NOON - 100 * YEAR, NOON):
        assert NOON + HOUR <= trigger.get_next_fire_time(previous, NOON) <= NOON + HOUR + jitter


def test_trigger_keeps_its_jitter_within_the_window() -> None:
    """However short that is, in its first half."""
    night = {"from": "02:00", "until": "02:10"}
    times = JobTimes.model_validate({"every": "1d", "jitter": "2h", "windows": [night]})
    fires = [JobTrigger(times, VirtualClock(NOON)).get_next_fire_time(None, NOON) for _ in range(100)]
    assert all(NOON + 14 * HOUR <= at <= NOON + 14 * HOUR + timedelta(minutes=5) for at in fires)
    assert len(set(fires)) > 90
