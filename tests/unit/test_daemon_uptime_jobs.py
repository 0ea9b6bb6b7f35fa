"""The scheduler's jobs by the uptime and by the wall clock, side by side."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped]  # ships no types
from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]  # ships no types

from sagaz_tiering.daemon.uptime_jobs import UptimeInterval, UptimeJobStore

HOUR, YEAR = timedelta(hours=1), timedelta(days=365)


class Seconds:
    """An uptime of the test."""

    def __init__(self) -> None:
        self.now = 4000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("jump", [YEAR, -YEAR], ids=["ahead", "back"])
async def test_store_moves_intervals_with_the_wall_clock_and_nothing_else(jump: timedelta) -> None:
    """An interval is due when the uptime says so; a time of day, when the wall clock does."""
    seconds, wall = Seconds(), datetime(2026, 3, 1, 12, tzinfo=UTC)
    store = UptimeJobStore(seconds)
    scheduler = AsyncIOScheduler(timezone=UTC, jobstores={"default": store})
    scheduler.start(paused=True)
    store.get_due_jobs(wall)
    daily = wall.replace(hour=18)
    scheduler.add_job(print, UptimeInterval(HOUR, timedelta()), id="interval", next_run_time=store.now() + HOUR)
    scheduler.add_job(print, CronTrigger(hour=18, timezone=UTC), id="time of day", next_run_time=daily)

    due = {job.id for job in store.get_due_jobs(wall + jump)}
    assert due == ({"time of day"} if jump > timedelta() else set())
    assert scheduler.get_job("interval").next_run_time == wall + jump + HOUR
    assert scheduler.get_job("time of day").next_run_time == daily

    seconds.now += HOUR.total_seconds() - 1
    assert "interval" not in {job.id for job in store.get_due_jobs(wall)}
    seconds.now += 1
    assert "interval" in {job.id for job in store.get_due_jobs(wall)}
    scheduler.shutdown()


def test_interval_does_not_step_through_what_was_missed() -> None:
    """However long ago it should have fired, the next time is one interval and a random delay ahead."""
    now, jitter = datetime(2026, 3, 1, tzinfo=UTC), timedelta(minutes=6)
    for previous in (None, now - 100 * YEAR, now):
        fires = UptimeInterval(HOUR, jitter).get_next_fire_time(previous, now)
        assert now + HOUR <= fires <= now + HOUR + jitter
