"""When jobs run: the plan after a start, and the schedule with jobs of this test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from support.virtual_time import VirtualTimeLoop

from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.config.schedule import JobTimes
from sagaz_tiering.daemon.schedule import OVERDUE_AFTER, STAGGER, FullJitter, JobSchedule, first_delays
from sagaz_tiering.errors import CatalogUnavailable, SchemaMismatch
from sagaz_tiering.jobs import JobReport

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
QUICK = JobTimes(every=timedelta(milliseconds=20), jitter=timedelta(0))
SLOW = JobTimes(every=HOUR, jitter=timedelta(0))
NONE = timedelta(0)


def ran(job: str, finished: datetime | None, *, started: datetime = NOW - 4 * HOUR, error: str | None = None) -> JobRun:
    return JobRun(job=job, started_at=started, finished_at=finished, error=error, summary=None)


def report(job: str) -> JobReport:
    return JobReport(job=job, dry_run=False, started_at=NOW)


@asynccontextmanager
async def scheduled(
    run_job: Callable[[str], object], times: dict[str, JobTimes], delays: dict[str, timedelta] | None = None
) -> AsyncIterator[JobSchedule]:
    schedule = JobSchedule(run_job)  # type: ignore[arg-type]  # coroutine functions of the tests
    schedule.start(times, delays or dict.fromkeys(times, NONE), SystemClock())
    try:
        yield schedule
    finally:
        await schedule.stop(NONE)


def test_first_delays_catch_up_what_is_late_one_after_the_other() -> None:
    """Jobs that never ran, did not end well or are overdue run at once, staggered; the others wait their rest."""
    quarter = NOW - 0.25 * HOUR
    runs = [
        ran("unfinished", None),
        ran("cut_off", quarter, started=NOW - 0.1 * HOUR),
        ran("failed", quarter, error="PostgreSQL was gone"),
        ran("overdue", NOW - 3 * HOUR),
        ran("recent", quarter),
    ]
    times = dict.fromkeys(("never", *(run.job for run in runs)), SLOW)
    assert first_delays(times, runs, NOW) == {
        "never": NONE,
        "unfinished": STAGGER,
        "cut_off": 2 * STAGGER,
        "failed": 3 * STAGGER,
        "overdue": 4 * STAGGER,
        "recent": 0.75 * HOUR,
    }


def test_first_delays_survive_a_clock_that_was_ahead() -> None:
    """A run that finished in the future delays the next by one interval at most."""
    assert first_delays({"age": SLOW}, [ran("age", NOW + 1000 * HOUR)], NOW) == {"age": HOUR}


def test_backoff_grows_to_its_cap_and_starts_over() -> None:
    """Ceilings double up to the cap; a success resets them."""
    backoff = FullJitter(first=timedelta(seconds=1), cap=timedelta(seconds=5), draw=lambda _, high: high)
    assert [backoff.next().total_seconds() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next() == timedelta(seconds=1)


async def test_schedule_runs_one_instance_of_a_job_at_a_time() -> None:
    """A run that takes longer than the interval is not joined by a second one."""
    at_once = most = runs = 0
    enough = asyncio.Event()

    async def run_job(name: str) -> JobReport:
        nonlocal at_once, most, runs
        at_once, runs = at_once + 1, runs + 1
        most = max(most, at_once)
        await asyncio.sleep(3 * QUICK.every.total_seconds())
        at_once -= 1
        if runs == 3:
            enough.set()
        return report(name)

    async with scheduled(run_job, {"age": QUICK}):
        await asyncio.wait_for(enough.wait(), 300)
    assert most == 1


async def test_schedule_survives_jobs_that_fail() -> None:
    """Errors of ours, permanent or not, and defects: the job runs again and the others go on."""
    errors = [CatalogUnavailable("gone"), SchemaMismatch("old"), ZeroDivisionError("a defect")]
    survived = {"age": asyncio.Event(), "expire": asyncio.Event()}

    async def run_job(name: str) -> JobReport:
        if name == "age" and errors:
            raise errors.pop()
        survived[name].set()
        return report(name)

    async with scheduled(run_job, {"age": QUICK, "expire": QUICK}):
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in survived.values())), 300)
    assert not errors


async def test_schedule_tries_again_soon_after_a_transient_error_only() -> None:
    """A lost server is asked again long before the interval ends; a permanent error waits for it."""
    tried: dict[str, int] = {"age": 0, "expire": 0}
    both = asyncio.Event()

    async def run_job(name: str) -> JobReport:
        tried[name] += 1
        if all(tried.values()):
            both.set()
        raise CatalogUnavailable("gone") if name == "age" else SchemaMismatch("old")

    async with scheduled(run_job, {"age": SLOW, "expire": SLOW}) as schedule:
        await asyncio.wait_for(both.wait(), 300)
        for _ in range(10):  # let the failed runs end
            await asyncio.sleep(0)
        due_in = schedule.due_in()
    assert due_in["age"] < timedelta(minutes=1)
    assert due_in["expire"] > timedelta(minutes=50)


async def test_schedule_stop_waits_for_what_runs_and_starts_nothing() -> None:
    """A step under way ends by itself within the grace."""
    started, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run_job(name: str) -> JobReport:
        started.set()
        await may_end.wait()
        ended.set()
        return report(name)

    async with scheduled(run_job, {"age": SLOW}) as schedule:
        await asyncio.wait_for(started.wait(), 300)
        stopping = asyncio.create_task(schedule.stop(timedelta(seconds=30)))
        await asyncio.sleep(0)
        assert not stopping.done()
        may_end.set()
        assert await stopping
    assert ended.is_set()


async def test_schedule_stop_cancels_what_outlasts_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    """A step that does not end is cancelled, and stop says so, also when asked again; no library has its own say."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def run_job(name: str) -> JobReport:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return report(name)

    async with scheduled(run_job, {"age": SLOW}) as schedule:
        await asyncio.wait_for(started.wait(), 300)
        assert not await schedule.stop(timedelta(milliseconds=10))
    assert cancelled.is_set()
    await asyncio.sleep(0)
    assert not [record for record in caplog.records if not record.name.startswith("sagaz_tiering.")]


async def test_schedule_change_touches_only_what_changed() -> None:
    """A new interval is in force at once; a job whose times stay keeps its next run."""

    async def run_job(name: str) -> JobReport:
        return report(name)

    times = {"age": SLOW, "expire": SLOW}
    async with scheduled(run_job, times, dict.fromkeys(times, 10 * HOUR)) as schedule:
        schedule.change({"age": JobTimes(every=timedelta(minutes=5), jitter=NONE), "expire": SLOW})
        due_in = schedule.due_in()
    assert due_in["expire"] > 9 * HOUR
    assert due_in["age"] <= timedelta(minutes=5)


async def test_schedule_goes_on_after_a_run_that_was_cancelled_by_itself() -> None:
    """A cancellation that a driver let out is the end of that run, not of the job."""
    again = asyncio.Event()
    runs = 0

    async def run_job(name: str) -> JobReport:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise asyncio.CancelledError
        again.set()
        return report(name)

    async with scheduled(run_job, {"age": QUICK}):
        await asyncio.wait_for(again.wait(), 300)


class Seconds:
    """An uptime of the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_schedule_tells_which_jobs_are_overdue() -> None:
    """Not those that run, and not those whose time has not come."""
    began, end = asyncio.Event(), asyncio.Event()

    async def run_job(name: str) -> JobReport:
        began.set()
        await end.wait()
        return report(name)

    seconds = Seconds()
    schedule = JobSchedule(run_job, uptime=seconds)
    schedule.start({"age": SLOW, "expire": SLOW}, {"age": NONE, "expire": HOUR}, SystemClock())
    async with asyncio.timeout(300):
        await began.wait()
    assert schedule.overdue() == {}
    seconds.now = HOUR.total_seconds() + 10
    assert schedule.overdue() == {}
    seconds.now += OVERDUE_AFTER.total_seconds()
    assert schedule.overdue() == {"expire": OVERDUE_AFTER + timedelta(seconds=10)}
    end.set()
    await schedule.stop(HOUR)
    assert schedule.overdue() == {}


def test_schedule_finds_soon_what_a_machine_missed_in_its_sleep() -> None:
    """The loop's timers do not count the sleep, the uptime does: half a minute after it a job that is due has begun."""
    slept_s = 0.0
    began: list[float] = []

    async def live() -> None:
        nonlocal slept_s
        loop = asyncio.get_running_loop()

        async def run_job(name: str) -> JobReport:
            began.append(loop.time())
            return report(name)

        schedule = JobSchedule(run_job, uptime=lambda: loop.time() + slept_s)
        schedule.start({"age": SLOW}, {"age": HOUR}, SystemClock())
        await asyncio.sleep(100)
        assert not began
        slept_s = HOUR.total_seconds()
        await asyncio.sleep(31)
        assert len(began) == 1
        assert schedule.due_in()["age"] > 0.98 * HOUR
        await schedule.stop(HOUR)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(live())
