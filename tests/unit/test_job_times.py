"""When jobs are to run by what people write: cron, time zones, windows; over changes of the clocks and leap days."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.config.load import load_config
from sagaz_tiering.config.schedule import DAYS, JobTimes, Schedule
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.jobs import JOBS
from sagaz_tiering.jobs.times import are_kept, longest_wait, next_runs, next_start

BERLIN = ZoneInfo("Europe/Berlin")
MINIMAL = """\
tiers:
  hot: {url: "redis://localhost:6379/0"}
  cold: {url: "s3://bucket/prefix"}
catalog: {url: "postgresql://localhost/sagaz"}
"""
NIGHTS = [{"days": "mon-fri", "from": "20:00", "until": "06:00"}]
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


def times(**given: Any) -> JobTimes:
    return JobTimes.model_validate(given)


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def starts(when: JobTimes, after: datetime, count: int) -> list[str]:
    """The next starts, as a clock on a wall in Berlin shows them."""
    found = []
    for _ in range(count):
        after = when.next_after(after)
        assert after.tzinfo is UTC
        found.append(after.astimezone(BERLIN).strftime("%a %d %H:%M %Z"))
    return found


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 2 * * *", "2026-03-28 01:00", ["Sat 28 02:00 CET", "Sun 29 03:00 CEST", "Mon 30 02:00 CEST"]),
        ("30 2 * * *", "2026-03-28 12:00", ["Sun 29 03:00 CEST", "Mon 30 02:30 CEST"]),
        ("0 2 * * *", "2026-10-24 12:00", ["Sun 25 02:00 CEST", "Mon 26 02:00 CET"]),
        ("0 * * * *", "2026-10-25 01:30", ["Sun 25 02:00 CEST", "Sun 25 02:00 CET", "Sun 25 03:00 CET"]),
        ("0 0-23 * * *", "2026-10-25 01:30", ["Sun 25 02:00 CEST", "Sun 25 02:00 CET", "Sun 25 03:00 CET"]),
        (f"0 {','.join(map(str, range(24)))} * * *", "2026-10-25 02:30", ["Sun 25 02:00 CET", "Sun 25 03:00 CET"]),
        ("0 */1 * * *", "2026-10-25 01:30", ["Sun 25 02:00 CEST", "Sun 25 02:00 CET", "Sun 25 03:00 CET"]),
        ("0 */2 * * *", "2026-10-25 01:30", ["Sun 25 02:00 CEST", "Sun 25 04:00 CET", "Sun 25 06:00 CET"]),
        ("0 1-23 * * *", "2026-10-25 01:30", ["Sun 25 02:00 CEST", "Sun 25 03:00 CET"]),
        ("0 * * * *", "2026-03-29 00:30", ["Sun 29 01:00 CET", "Sun 29 03:00 CEST"]),
        ("30 2,3 * * *", "2026-03-28 12:00", ["Sun 29 03:00 CEST", "Sun 29 03:30 CEST"]),
    ],
    ids=[
        "left out",
        "half past",
        "twice",
        "every hour twice",
        "a range of every hour",
        "a list of every hour",
        "steps of an hour",
        "every other hour",
        "not every hour",
        "every hour left out",
        "half left out",
    ],
)
def test_cron_goes_by_the_clock_on_the_wall(cron: str, after: str, expected: list[str]) -> None:
    """What falls into the hour that spring leaves out runs at its end; in autumn once, unless it runs every hour."""
    when = times(cron=cron, timezone="Europe/Berlin")
    assert starts(when, berlin(after), len(expected)) == expected


def test_cron_knows_leap_days() -> None:
    """The 29th of February comes every four years, and the last day of a month is what it is."""
    when = times(cron="0 2 29 2 *")
    first = when.next_after(datetime(2026, 3, 1, tzinfo=UTC))
    assert (first, when.next_after(first)) == (
        datetime(2028, 2, 29, 2, tzinfo=UTC),
        datetime(2032, 2, 29, 2, tzinfo=UTC),
    )
    last = times(cron="0 2 last * *")
    assert last.next_after(datetime(2028, 2, 5, tzinfo=UTC)) == datetime(2028, 2, 29, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("1-5", ["Mon", "Tue", "Wed", "Thu", "Fri"]),
        ("0", ["Sun"]),
        ("7", ["Sun"]),
        ("5-7", ["Fri", "Sat", "Sun"]),
        ("sat,sun", ["Sat", "Sun"]),
        ("fri-mon", ["Mon", "Fri", "Sat", "Sun"]),
        ("*/2", ["Tue", "Thu", "Sat", "Sun"]),
        ("1-5/2", ["Mon", "Wed", "Fri"]),
    ],
)
def test_days_of_the_week_count_as_cron_counts_them(field: str, days: list[str]) -> None:
    """0 and 7 are Sunday, which APScheduler takes for Monday and for nothing."""
    when, after, found = times(cron=f"0 2 * * {field}"), datetime(2026, 3, 2, tzinfo=UTC), []
    for _ in days:
        after = when.next_after(after)
        found.append(after.strftime("%a"))
    assert found == days


def test_window_over_midnight_belongs_to_the_day_on_which_it_opens() -> None:
    """Friday's night ends on Saturday morning; the next one opens on Monday evening, whatever the clocks did."""
    when = times(every="5m", timezone="Europe/Berlin", windows=NIGHTS)
    assert when.is_open(berlin("2026-03-28 05:59"))
    assert not when.is_open(berlin("2026-03-28 06:00"))
    assert not when.is_open(berlin("2026-03-29 03:30"))
    assert when.opens(berlin("2026-03-28 06:00")) == berlin("2026-03-30 20:00")
    assert when.next_after(berlin("2026-03-28 05:57")) == berlin("2026-03-30 20:00")
    assert when.next_after(berlin("2026-03-30 20:00")) == berlin("2026-03-30 20:05")


@pytest.mark.parametrize(
    ("evening", "hours"),
    [("2026-03-28", 9), ("2026-10-24", 11), ("2026-06-06", 10)],
    ids=["spring", "autumn", "summer"],
)
def test_window_is_as_long_as_the_night(evening: str, hours: int) -> None:
    """Clocks that go forward shorten it by an hour, clocks that go back lengthen it."""
    when = times(every="5m", timezone="Europe/Berlin", windows=[{"from": "20:00", "until": "06:00"}])
    at, is_open = berlin(f"{evening} 19:30").astimezone(UTC), 0
    for _ in range(4 * 12):
        is_open += when.is_open(at)
        at += HOUR / 4
    assert is_open == 4 * hours


def test_window_that_a_change_of_the_clocks_leaves_out_opens_in_the_next_week() -> None:
    """From half past two to three on Sundays: on the last one of March that time does not come."""
    when = times(every="5m", timezone="Europe/Berlin", windows=[{"days": "sunday", "from": "02:30", "until": "03:00"}])
    assert when.opens(berlin("2026-03-23 12:00")) == berlin("2026-04-05 02:30")


@pytest.mark.parametrize("timing", [{"every": "1d", "jitter": "0s"}, {"cron": "30 2 * * *"}], ids=["every", "cron"])
def test_window_that_opens_in_the_hour_left_out_opens_at_its_end(timing: dict[str, str]) -> None:
    """From half past two: in the night without that time at three, and half an hour is left of it."""
    when = times(timezone="Europe/Berlin", windows=[{"from": "02:30", "until": "03:30"}], **timing)
    three = berlin("2026-03-29 03:00")
    assert when.opens(berlin("2026-03-28 04:00")) == three
    assert [when.is_open(three + minutes * MINUTE) for minutes in (-1, 0, 29, 30)] == [False, True, True, False]
    assert starts(when, berlin("2026-03-27 12:00"), 3) == [
        *("Sat 28 02:30 CET", "Sun 29 03:00 CEST", "Mon 30 02:30 CEST")
    ]


def open_times(window: dict[str, Any], zone: str, first: datetime, days: int) -> list[tuple[datetime, datetime]]:
    """When a window is open, looked up on a wall every five minutes; what is less than two hours apart is one."""
    opens, until = time.fromisoformat(window["from"]), time.fromisoformat(window["until"])
    found: list[tuple[datetime, datetime]] = []
    for look in range(days * 24 * 12):
        at = first + look * 5 * MINUTE
        wall = at.astimezone(ZoneInfo(zone))
        began = wall if opens < until or wall.time() >= opens else wall - DAY
        inside = opens <= wall.time() < until if opens < until else not until <= wall.time() < opens
        if inside and began.strftime("%a").lower() in window.get("days", DAYS):
            since = found.pop()[0] if found and at - found[-1][1] < 2 * HOUR else at
            found.append((since, at + 5 * MINUTE))
    return found


@pytest.mark.parametrize(
    ("every", "jitter", "zone", "window"),
    [
        ("1d", None, "UTC", {"from": "02:00", "until": "03:00"}),
        ("1d", "6h", "Europe/Berlin", {"from": "02:30", "until": "03:30"}),
        ("1d", "23h", "Europe/Berlin", {"from": "03:00", "until": "03:05"}),
        ("4h", "3h", "Europe/Berlin", {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "20:00", "until": "06:00"}),
        ("7d", "3d", "Europe/Berlin", {"days": ["sun"], "from": "02:30", "until": "03:30"}),
        ("1h", "59m", "America/New_York", {"from": "12:00", "until": "12:10"}),
        ("26h", None, "America/New_York", {"from": "01:00", "until": "02:30"}),
    ],
)
def test_job_starts_in_every_window_whatever_its_jitter(
    every: str, jitter: str | None, zone: str, window: dict[str, Any]
) -> None:
    """Over 400 days, by starts that come a little late: in each window at least one, and none outside."""
    draw, first = Random(every + zone), datetime(2026, 3, 1, tzinfo=UTC)
    when = times(every=every, timezone=zone, windows=[window], **({} if jitter is None else {"jitter": jitter}))
    windows = open_times(window, zone, first, 400)
    assert len(windows) > 50
    found = [when.opens(first)]
    while found[-1] < windows[-1][1]:
        late = found[-1] + timedelta(seconds=draw.random())
        found.append(when.jittered(when.next_after(late), draw.random()))
    within = [next((each for each in windows if each[0] <= at < each[1]), None) for at in found[:-1]]
    assert None not in within
    assert set(within) >= set(windows[:-1])


def test_interval_longer_than_from_window_to_window_keeps_its_length() -> None:
    """Every week is once a week, in the window that opens nearest, also where it opens each night."""
    when = times(every="7d", windows=[{"from": "02:00", "until": "03:00"}])
    first = datetime(2026, 3, 2, 2, 20, tzinfo=UTC)
    assert when.next_after(first) == datetime(2026, 3, 9, 2, tzinfo=UTC)
    assert when.next_after(first + 2 * HOUR) == datetime(2026, 3, 9, 2, tzinfo=UTC)
    assert times(every="47h", windows=when.windows).next_after(first) == datetime(2026, 3, 4, 2, tzinfo=UTC)


def test_window_may_have_a_zone_of_its_own_and_end_at_midnight() -> None:
    """And from one time to the same is a whole day."""
    when = times(
        every="1h",
        windows=[
            {"days": ["sat", "sun"], "from": "00:00", "until": "24:00", "timezone": "America/New_York"},
            {"days": "wed", "from": "22:00", "until": "24:00"},
        ],
    )
    new_york = ZoneInfo("America/New_York")
    assert when.opens(datetime(2026, 3, 6, tzinfo=UTC)) == datetime(2026, 3, 7, tzinfo=new_york)
    assert when.is_open(datetime(2026, 3, 8, 23, 59, tzinfo=new_york))
    assert not when.is_open(datetime(2026, 3, 9, tzinfo=new_york))
    assert when.is_open(datetime(2026, 3, 11, 23, 59, tzinfo=UTC))
    assert not when.is_open(datetime(2026, 3, 12, tzinfo=UTC))


def test_cron_waits_for_a_window() -> None:
    """Each hour, but only at night; a leap day that is a Tuesday is far away, and found."""
    when = times(cron="0 * * * *", timezone="Europe/Berlin", windows=NIGHTS)
    assert starts(when, berlin("2026-03-03 04:30"), 3) == ["Tue 03 05:00 CET", "Tue 03 20:00 CET", "Tue 03 21:00 CET"]
    rare = times(cron="0 2 29 2 *", windows=[{"days": "tue", "from": "01:00", "until": "03:00"}])
    assert rare.next_after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2028, 2, 29, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{cron: "0 2 * *"}', "cron: '0 2 * *' has 4 fields; write five fields: minute, hour"),
        ('{cron: "0 25 * * *"}', "the last value (25) is higher than the maximum value (23)"),
        ('{cron: "0 2 * * 8"}', "'8' is no day of the week; write 0 (Sunday) to 6, or mon to sun"),
        ('{cron: "0 2 31 2 *"}', "is never due; is there such a day in that month?"),
        ('{cron: "0 2 1 * 1"}', "says both a day of the month and one of the week"),
        ('{cron: "0 2 * * *", every: 1d}', "cron: is written beside every; remove one of them"),
        (
            '{cron: "0 2 * * *", timezone: Europe/Berln}',
            "timezone: 'Europe/Berln' is not the name of a time zone; did you",
        ),
        ("{timezone: Europe/Berlin}", "timezone: counts for cron and windows only, and there are none; remove it"),
        (
            "{windows: [{days: mo-fr, from: 20:00, until: 06:00}]}",
            "windows[0].days: 'mo-fr' is no day; write days such as",
        ),
        ("{windows: [{from: 25:00, until: 06:00}]}", "windows[0].from: '25:00' is not a time of day; write hours"),
        ("{windows: [{form: 20:00, until: 06:00}]}", "windows[0].form: unknown key; did you mean 'from'?"),
        ("{windows: [{from: 20:00}]}", "windows[0].until: is required but missing; add it"),
        (
            '{cron: "0 12 * * *", windows: [{from: 20:00, until: 06:00}]}',
            "windows: are never open when cron, 0 12 * * *",
        ),
    ],
)
def test_schedule_that_cannot_be_meant_is_refused_with_its_line(written: str, said: str, tmp_path: Path) -> None:
    """Each error names the line and what to write instead."""
    path = tmp_path / "tiering.yaml"
    path.write_text(f"{MINIMAL}schedule:\n  transition: {written}\n")
    line = path.read_text().count("\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert said in str(caught.value)
    assert f"tiering.yaml:{line}: schedule.transition" in str(caught.value)


def ran(started: str, ended: str | None = None) -> JobRun:
    finished = None if ended is None else berlin(ended)
    return JobRun(job="age", started_at=berlin(started), finished_at=finished, error=None, summary=None)


def test_next_start_catches_up_once_and_keeps_to_the_windows() -> None:
    """What was missed runs at once, or when a window opens; what never ran waits for its time of day."""
    noon, nightly = berlin("2026-03-04 12:00"), times(cron="0 2 * * *", timezone="Europe/Berlin")
    tonight = berlin("2026-03-05 02:00")
    assert next_start(nightly, None, noon) == tonight
    assert next_start(nightly, ran("2026-03-04 02:00", "2026-03-04 02:10"), noon) == tonight
    assert next_start(nightly, ran("2026-03-03 02:00", "2026-03-03 02:10"), noon) == noon
    assert next_start(nightly, ran("2027-03-03 02:00", "2027-03-03 02:10"), noon) == tonight
    windowed = times(every="1h", timezone="Europe/Berlin", windows=NIGHTS)
    assert next_start(windowed, None, noon) == berlin("2026-03-04 20:00")
    assert next_start(windowed, ran("2026-03-04 20:00", "2026-03-04 20:30"), berlin("2026-03-04 21:00")) == berlin(
        "2026-03-04 21:30"
    )


def test_schedule_is_kept_where_jobs_run_on_time() -> None:
    """Not by what a person ran, nor by what a daemon that has gone ran last; a run under way is seen by its lease."""
    now, schedule = datetime(2026, 3, 4, 12, tzinfo=UTC), Schedule()

    def runs(ago: timedelta, *jobs: str) -> list[JobRun]:
        at = now - ago
        return [JobRun(job=job, started_at=at, finished_at=at, error=None, summary=None) for job in jobs]

    everything = tuple(Schedule.model_fields)
    lately, hour = timedelta(seconds=30), timedelta(hours=1)
    assert are_kept(schedule, runs(lately, *everything), (), now)
    assert not are_kept(schedule, [], (), now)
    assert not are_kept(schedule, runs(hour, *everything), (), now)
    by_hand = runs(lately, "age", "reconcile", "restore")
    assert not are_kept(schedule, by_hand, (), now)
    others = [run for run in runs(lately, *everything) if run.job != "reconcile"] + runs(hour, "reconcile")
    assert not are_kept(schedule, others, (), now)
    assert are_kept(schedule, others, ("reconcile/0",), now)
    only_at_night = Schedule.model_validate({job: {"cron": "0 2 * * *"} for job in everything})
    assert are_kept(only_at_night, [], (), now)


def test_longest_wait_is_what_a_schedule_leaves_out() -> None:
    """Of an interval itself; of nights on weekdays the time from Saturday morning to Monday evening."""
    now = datetime(2026, 6, 3, tzinfo=UTC)
    assert longest_wait(times(every="5m"), now) == timedelta(minutes=5)
    assert longest_wait(times(cron="0 2 * * *"), now) == DAY
    nights = times(every="1h", windows=NIGHTS)
    assert 2 * DAY < longest_wait(nights, now) <= 2 * DAY + 15 * HOUR


def test_schedule_has_times_for_each_job_that_is_scheduled() -> None:
    """A job without times there would run once a day, and nobody could say when."""
    assert set(Schedule.model_fields) == {name for name, job in JOBS.items() if job.scheduled}


def test_next_runs_names_every_job() -> None:
    """With its times as text, and whether it may run now."""
    schedule = Schedule.model_validate(
        {"transition": {"cron": "0 2 * * *"}, "scrub": {"windows": [{"from": "20:00", "until": "06:00"}]}}
    )
    found = {run.job: run for run in next_runs(schedule, [], datetime(2026, 3, 4, 12, tzinfo=UTC))}
    assert list(found) == list(Schedule.model_fields)
    assert (found["age"].times, found["age"].is_open) == ("every 5m", True)
    assert found["age"].latest - found["age"].at == timedelta(seconds=30)
    assert found["transition"].latest == found["transition"].at
    assert (found["transition"].times, found["transition"].at.hour) == ("cron 0 2 * * * UTC", 2)
    assert (found["scrub"].times, found["scrub"].is_open) == ("every 1d, in windows", False)
