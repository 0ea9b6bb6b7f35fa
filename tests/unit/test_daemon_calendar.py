"""Days of a daemon whose jobs have times of day: which runs start, by a clock of the test, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from support.virtual_time import VirtualTimeLoop

from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.config.schedule import JobTimes
from sagaz_tiering.daemon import schedule as daemon_schedule
from sagaz_tiering.daemon.schedule import JobSchedule, first_delays
from sagaz_tiering.jobs import WINDOW_CLOSED, JobReport

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)
SOON = timedelta(seconds=31)
"""After so long at most a machine that slept finds what it missed."""
NIGHTLY = {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}
NIGHTS = {
    "every": "4h",
    "jitter": "0s",
    "timezone": "Europe/Berlin",
    "windows": [{"days": "mon-fri", "from": "20:00", "until": "06:00"}],
}


class Machine:
    """Its clock, which the test sets, and its uptime, which counts the sleep that the event loop does not see."""

    def __init__(self, began: datetime) -> None:
        self._began = began.astimezone(UTC)
        self.slept = timedelta()

    def now(self) -> datetime:
        """What the store's clock says."""
        return self._began + timedelta(seconds=asyncio.get_running_loop().time()) + self.slept

    def uptime(self) -> float:
        """Since it was switched on."""
        return asyncio.get_running_loop().time() + self.slept.total_seconds()


async def _live(
    times: JobTimes,
    began: datetime,
    lasting: timedelta,
    sleeps: Sequence[tuple[timedelta, timedelta]],
    last: list[JobRun],
    work: timedelta,
) -> list[datetime]:
    machine, starts, left = Machine(began), list[datetime](), work

    async def run_job(name: str) -> JobReport:  # as that of `jobs` does
        nonlocal left
        report = JobReport(job=name, dry_run=False, started_at=machine.now())
        if not times.is_open(machine.now()):
            report.opens_at = times.opens(machine.now())
            return report
        starts.append(machine.now())
        while left:
            await asyncio.sleep(HOUR.total_seconds())
            left -= HOUR
            if not times.is_open(machine.now()):
                report.counts[WINDOW_CLOSED] = 1
                break
        return report

    schedule = JobSchedule(run_job, uptime=machine.uptime)
    schedule.start({"age": times}, first_delays({"age": times}, last, machine.now()), machine)
    for after, asleep in sleeps:
        await asyncio.sleep(after.total_seconds())
        machine.slept += asleep
    await asyncio.sleep((began.astimezone(UTC) + lasting - machine.now()).total_seconds())
    await schedule.stop(timedelta())
    return starts


def starts_of(
    times: dict[str, Any],
    began: str,
    lasting: timedelta,
    *,
    sleeps: Sequence[tuple[timedelta, timedelta]] = (),
    last: str | None = None,
    work: timedelta = timedelta(),
) -> list[str]:
    """When runs started, as a clock on a wall in Berlin shows it, each within a moment after its time.

    There are whole hours of `work` to do.
    """
    start = datetime.fromisoformat(began).replace(tzinfo=BERLIN)
    ran: list[JobRun] = []
    if last is not None:
        at = datetime.fromisoformat(last).replace(tzinfo=BERLIN)
        ran = [JobRun(job="age", started_at=at, finished_at=at, error=None, summary=None)]
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        found = runner.run(_live(JobTimes.model_validate(times), start, lasting, sleeps, ran, work))
    shown = []
    for each in found:
        whole = each.replace(second=0, microsecond=0)
        assert each - whole < SOON
        shown.append(whole.astimezone(BERLIN).strftime("%a %d %H:%M %Z"))
    return shown


@pytest.mark.parametrize(
    ("began", "expected"),
    [
        ("2026-03-28 12:00", ["Sun 29 03:00 CEST", "Mon 30 02:00 CEST"]),
        ("2026-10-24 12:00", ["Sun 25 02:00 CEST", "Mon 26 02:00 CET"]),
        ("2028-02-28 12:00", ["Tue 29 02:00 CET", "Wed 01 02:00 CET"]),
    ],
    ids=["spring", "autumn", "leap day"],
)
def test_nightly_run_starts_once_each_night(began: str, expected: list[str]) -> None:
    """Whatever the clocks on the wall do in it."""
    assert starts_of(NIGHTLY, began, 44 * HOUR) == expected


def test_leap_day_run_starts_on_that_day_alone() -> None:
    """Four years after the last one it is there, and on the day after it is not."""
    assert starts_of({"cron": "30 1 29 2 *"}, "2028-02-28 12:00", 72 * HOUR) == ["Tue 29 02:30 CET"]


def test_machine_that_slept_runs_what_it_missed_once() -> None:
    """Three nights in one sleep are one run soon after it, and the next night is on time."""
    sleeps = [(8 * HOUR, 60 * HOUR)]
    assert starts_of(NIGHTLY, "2026-06-01 12:00", 96 * HOUR, sleeps=sleeps) == [
        "Thu 04 08:00 CEST",
        "Fri 05 02:00 CEST",
    ]


def test_daemon_that_was_down_catches_up_and_one_that_is_new_waits() -> None:
    """The run of last night is made up for at the start; where none ever was, it waits for the night."""
    tonight = ["Tue 02 02:00 CEST"]
    assert starts_of(NIGHTLY, "2026-06-01 12:00", 24 * HOUR) == tonight
    assert starts_of(NIGHTLY, "2026-06-01 12:00", 24 * HOUR, last="2026-06-01 02:00") == tonight
    caught_up = starts_of(NIGHTLY, "2026-06-01 12:00", 24 * HOUR, last="2026-05-31 02:00")
    assert caught_up == ["Mon 01 12:00 CEST", *tonight]


def test_runs_keep_to_their_windows() -> None:
    """From the opening on, every four hours, not on the day, nor in the nights of the weekend."""
    assert starts_of(NIGHTS, "2026-10-23 12:00", 84 * HOUR) == [
        *("Fri 23 20:00 CEST", "Sat 24 00:00 CEST", "Sat 24 04:00 CEST"),
        *("Mon 26 20:00 CET",),
    ]


def test_machine_that_slept_over_its_window_waits_for_the_next_one() -> None:
    """What it missed in the night does not run on the day."""
    sleeps = [(9 * HOUR, 16 * HOUR)]
    found = starts_of(NIGHTS, "2026-06-01 12:00", 36 * HOUR, sleeps=sleeps)
    assert found == ["Mon 01 20:00 CEST", "Tue 02 20:00 CEST"]


def test_run_that_its_window_ended_goes_on_when_the_next_one_opens() -> None:
    """However long its interval; once it is through, that counts again."""
    weekly = {**NIGHTS, "every": "7d"}
    found = starts_of(weekly, "2026-06-01 19:00", 50 * HOUR, work=15 * HOUR)
    assert found == ["Mon 01 20:00 CEST", "Tue 02 20:00 CEST"]


def test_run_that_came_too_late_for_its_window_starts_when_the_next_one_opens() -> None:
    """A machine that slept over it tries on the day; that start is made up for the same evening, not in a week."""
    weekly = {**NIGHTS, "every": "7d"}
    sleeps = [(timedelta(minutes=30), 12 * HOUR)]
    assert starts_of(weekly, "2026-06-01 19:00", 26 * HOUR, sleeps=sleeps) == ["Tue 02 20:00 CEST"]


@pytest.mark.parametrize("seed", range(5))
def test_first_start_keeps_to_a_window_shorter_than_its_jitter(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes in the night, and a jitter of an hour."""
    monkeypatch.setattr(daemon_schedule, "random", Random(seed).random)
    night = {"from": "02:00", "until": "02:10"}
    times = JobTimes.model_validate({"every": "1d", "jitter": "1h", "timezone": "Europe/Berlin", "windows": [night]})
    began = datetime(2026, 6, 2, tzinfo=BERLIN)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        [start] = runner.run(_live(times, began, 4 * HOUR, (), [], timedelta()))
    assert times.is_open(start)
