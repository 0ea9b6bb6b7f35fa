"""When jobs run: every so often or by cron, and in which windows. Pure: an instant goes in, an instant comes out."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sagaz_tiering.config.schema import DEFAULT_TEXT, Location, StrictModel, problem
from sagaz_tiering.config.units import Duration, DurationOrZero, format_duration

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]  # ships no types

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FULL = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIME = re.compile("([01]?[0-9]|2[0-3]):([0-5][0-9])")
_CRON_FORM = "write five fields: minute, hour, day of the month, month, day of the week, such as 0 2 * * *"
_CRON_DAYS: Final = ("sun", *DAYS)
"""As cron counts them from 0; 7 is Sunday too. APScheduler counts from Monday, so it is given names."""
_SHORT = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0"}
_SHORT |= {"@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}


def parse_timezone(name: str) -> str:
    """The name of a time zone that is known here, such as `Europe/Berlin`; raises PydanticCustomError."""
    with suppress(KeyError, OSError, ValueError):  # unknown; the name of a folder; no name of a file
        return ZoneInfo(name).key
    known = {each.lower(): each for each in available_timezones()}
    near = difflib.get_close_matches(name.lower().replace(" ", "_"), known, n=1)
    advice = f"did you mean {known[near[0]]}?" if near else "write one such as Europe/Berlin or UTC"
    raise problem(f"{name!r:.60} is not the name of a time zone; {advice}")


def parse_time_of_day(value: object) -> time:
    """`20:00`; `24:00` is midnight. Raises PydanticCustomError."""
    if isinstance(value, time):
        return value
    text = value.strip() if isinstance(value, str) else ""
    found = _TIME.fullmatch(text)
    if text == "24:00":
        return time()
    if found is None:
        raise problem(f"{value!r:.40} is not a time of day; write hours and minutes, such as 06:00 or 20:30")
    return time(int(found[1]), int(found[2]))


def parse_days(value: object) -> tuple[str, ...]:
    """Days of the week (`mon-fri`, `sat, sun`, `fri-mon`, a list of such) in order. Raises PydanticCustomError."""
    given = value if isinstance(value, list | tuple) else str(value).split(",")
    found: set[int] = set()
    for part in given:
        first, dash, last = str(part).strip().lower().partition("-")
        if first == "*" and not dash:
            return DAYS
        start, end = _day(first.strip(), part), _day((last if dash else first).strip(), part)
        found.update((start + ahead) % 7 for ahead in range((end - start) % 7 + 1))
    if not found:
        raise problem("names no day; leave it out for every day")
    return tuple(DAYS[day] for day in sorted(found))


def _day(name: str, part: object) -> int:
    for names in (DAYS, _FULL):
        if name in names:
            return names.index(name)
    raise problem(f"{part!r:.40} is no day; write days such as mon-fri or [sat, sun], of {', '.join(DAYS)}")


def parse_cron(text: str) -> str:
    """A line of cron with its days of the week as names; raises PydanticCustomError where it is none or never due."""
    fields = _SHORT.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise problem(f"{text!r:.60} has {len(fields)} fields; {_CRON_FORM}")
    *times, day, month, weekday = fields
    if "*" not in (day[:1], weekday[:1]):
        raise problem(
            f"{text!r:.60} says both a day of the month and one of the week, which cron takes as either and others as "
            "both; write * for one of them"
        )
    line = " ".join([*times, day, month, _named_days(weekday, text)])
    try:
        trigger = _trigger(line, UTC)
    except ValueError as exc:
        raise problem(f"{text!r:.60} is no line of cron: {exc}; {_CRON_FORM}") from exc
    if trigger.get_next_fire_time(None, _SOME_DAY) is None:
        raise problem(f"{text!r:.60} is never due; is there such a day in that month?")
    return line


def _named_days(field: str, text: str) -> str:
    """The field of days of the week with names in it, ranges and steps written out."""
    if field == "*":
        return field
    found: set[str] = set()
    for part in field.lower().split(","):
        span, slash, step = part.partition("/")
        first, dash, last = ("0", "-", "6") if span == "*" else span.partition("-")
        if slash and not (step.isdigit() and int(step) > 0):
            raise problem(f"{text!r:.60}: the step of {part!r:.20} is no number above 0; {_CRON_FORM}")
        start, end = _cron_day(first, text), _cron_day(last if dash else first, text)
        if slash and not dash:
            end = 6
        end += 7 if end < start else 0
        found.update(_CRON_DAYS[day % 7] for day in range(start, end + 1, int(step or 1)))
    return ",".join(day for day in _CRON_DAYS[:7] if day in found)


def _cron_day(name: str, text: str) -> int:
    """As cron counts them: 0 to 7 (Sunday is both), or a name."""
    if name.isdigit() and int(name) <= 7:
        return int(name)
    if name in DAYS:
        return _CRON_DAYS.index(name)
    raise problem(f"{text!r:.60}: {name!r:.20} is no day of the week; write 0 (Sunday) to 6, or mon to sun")


_SOME_DAY: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""What a schedule is tried from."""
_TRIES: Final = 500
"""Starts by cron that are looked through for one in a window: more than enough leap days for each day of the week."""
_MOMENT: Final = timedelta(microseconds=1)
_AHEAD: Final = 15
"""Days that are looked through for a window: in one week a change of the clocks may leave it out."""

Timezone = Annotated[str, AfterValidator(parse_timezone)]
Cron = Annotated[str, AfterValidator(parse_cron)]
TimeOfDay = Annotated[time, BeforeValidator(parse_time_of_day)]
Days = Annotated[tuple[str, ...], BeforeValidator(parse_days)]


class Window(StrictModel):
    """Hours of some days of the week; from late to early it ends on the day after."""

    days: Days = DAYS
    """Days on which it opens, such as `mon-fri` or `[sat, sun]`."""
    opens: TimeOfDay = Field(alias="from")
    """Time of day at which it opens, such as `"20:00"`."""
    until: TimeOfDay
    """Time of day at which it closes; not later than `from`: on the day after."""
    timezone: Timezone | None = None
    """Whose time of day that is, such as `Europe/Berlin`; null: the job's `timezone`."""

    def spans(self, zone: tzinfo, first: date, days: int) -> Iterator[tuple[datetime, datetime]]:
        """From when until when (UTC) it is open that opens on the day `first`, by the wall of `zone`, or one of the
        `days` from there."""
        for day in (first + timedelta(days=ahead) for ahead in range(days)):
            if DAYS[day.weekday()] in self.days:
                last = day if self.opens < self.until else day + timedelta(days=1)
                opens, closes = (_instant(*each, zone) for each in ((day, self.opens), (last, self.until)))
                if opens < closes:  # the clocks may leave it out
                    yield opens, closes


def _tenth_of_every(earlier: dict[str, Any]) -> timedelta:
    return (earlier.get("every") or timedelta(0)) / 10


class JobTimes(StrictModel):
    """When a job runs: `every` so often, or by `cron`; either way only within its `windows`, if it has any."""

    model_config = ConfigDict(json_schema_extra={"required": []})  # `Schedule` fills in what is not written

    every: Duration | None = None
    """Time between two starts."""
    cron: Cron | None = None
    """Instead of `every`, the times of day and days as cron has them: minute, hour, day of the month, month, day of the
    week, such as `0 2 * * *`."""
    timezone: Timezone = "UTC"
    """Whose time of day `cron` and `windows` mean, such as `Europe/Berlin`."""
    windows: tuple[Window, ...] = ()
    """When it may run; none: always. A run that is under way when its window closes finishes its step and stops."""
    jitter: DurationOrZero = Field(
        default_factory=_tenth_of_every, json_schema_extra={DEFAULT_TEXT: "a tenth of `every`; `0s` with `cron`"}
    )
    """Random delay of each start, within its window, so that replicas do not start together."""

    @field_validator("jitter")
    @classmethod
    def _check_jitter(cls, jitter: timedelta, info: ValidationInfo) -> timedelta:
        every = info.data.get("every")
        if every is not None and jitter >= every:
            raise problem(f"{format_duration(jitter)} is not shorter than every, {format_duration(every)}")
        return jitter

    def _problems(self) -> Iterator[tuple[Location, str]]:
        if self.every is not None and self.cron is not None:
            yield ("cron",), "is written beside every; remove one of them"
        elif self.every is None and self.cron is None:
            yield (), "needs every (such as 5m) or cron (such as 0 2 * * *)"
        elif self.cron is not None and self._in_window(_SOME_DAY) is None:
            yield ("windows",), f"are never open when cron, {self.cron}, is due; widen them, or change cron"
        if not self.by_calendar and self.timezone != "UTC":
            yield ("timezone",), "counts for cron and windows only, and there are none; remove it"

    @property
    def text(self) -> str:
        """`every 5m`, `cron 0 2 * * * Europe/Berlin`; with `, in windows` where it has some."""
        how = f"cron {self.cron} {self.timezone}" if self.every is None else f"every {format_duration(self.every)}"
        return f"{how}, in windows" if self.windows else how

    @property
    def by_calendar(self) -> bool:
        """Whether the time of day matters."""
        return self.cron is not None or bool(self.windows)

    def is_open(self, at: datetime) -> bool:
        """Whether a run may go on at that instant."""
        return not self.windows or any(opens <= at < closes for opens, closes in self._spans(at))

    def opens(self, at: datetime) -> datetime:
        """`at` where it is open then, else when it opens next."""
        if self.is_open(at):
            return at
        return min(opens for opens, _ in self._spans(at, ahead=_AHEAD) if opens > at)

    def next_after(self, at: datetime) -> datetime:
        """The first start after one at `at`, before any jitter; UTC.

        The first start in a window is when that opens. Where one does between two starts, it is the opening nearest to
        when the second is due, after half of `every` at least: so neither a late start nor a change of the clocks
        passes a window over.
        """
        if self.every is None:
            found = self._in_window(at)
            assert found is not None  # as a schedule it would not have been accepted
            return found
        due = at + self.every
        if not self.windows:
            return due
        opened, opens = self._last_opening(at + self.every / 2, due), self.opens(due)
        return opens if opened is None or timedelta() < opens - due <= due - opened else opened

    def jittered(self, start: datetime, share: float) -> datetime:
        """`share` (0 to 1) of the jitter after `start`, but never in the second half of what is left of its window."""
        room = self.jitter
        if self.windows:
            room = min(room, (self._closes(start, start + 2 * room) - start) / 2)
        return start + share * room

    def _closes(self, at: datetime, latest: datetime) -> datetime:
        """When it closes after `at`; `latest` where that is later."""
        spans = list(self._spans(at, ahead=_AHEAD))
        while at < latest and (later := [closes for opens, closes in spans if opens <= at < closes]):
            at = max(later)
        return min(at, latest)

    def _last_opening(self, since: datetime, until: datetime) -> datetime | None:
        """When it last opened after `since` and up to `until`."""
        opened = {opens for opens, _ in self._spans(until, back=_AHEAD) if since < opens <= until}
        return max((opens for opens in opened if not self.is_open(opens - _MOMENT)), default=None)

    def _in_window(self, at: datetime) -> datetime | None:
        """The first time of cron after `at` that is in a window; None where none ever is."""
        assert self.cron is not None
        for _ in range(_TRIES):
            found = _next_by_cron(self.cron, _zone(self.timezone), at)
            if found is None or self.is_open(found):
                return found
            at = self.opens(found) - _MOMENT
        return None

    def _spans(self, at: datetime, *, back: int = 1, ahead: int = 0) -> Iterator[tuple[datetime, datetime]]:
        """Of every window, those that open from `back` days before the day of `at` to `ahead` days after it."""
        for window in self.windows:
            zone = _zone(window.timezone or self.timezone)
            yield from window.spans(zone, at.astimezone(zone).date() - timedelta(days=back), back + 1 + ahead)


_zone = cache(ZoneInfo)


def _instant(day: date, wall: time, zone: tzinfo) -> datetime:
    """When (UTC) a wall of `zone` shows that; in an hour that comes twice the first time, in one that is left out when
    that ends."""
    before, after = (datetime.combine(day, wall.replace(fold=fold), zone) for fold in (0, 1))
    first, last = after.astimezone(UTC), before.astimezone(UTC)
    if last <= first:
        return last

    def changed(second: int) -> bool:
        return (first + timedelta(seconds=second)).astimezone(zone).utcoffset() == after.utcoffset()

    return first + timedelta(seconds=bisect_left(range(int((last - first).total_seconds())), True, key=changed))


def _next_by_cron(cron: str, zone: tzinfo, at: datetime) -> datetime | None:
    """By APScheduler, but what falls into an hour that is left out in spring is due when that ends.

    What falls into an hour that comes twice in autumn would run twice: the second time counts only where every hour
    does.
    """
    left_out = _next_left_out(cron, zone, at)
    if left_out is not None:
        return left_out
    trigger = _trigger(cron, zone)
    while True:
        found: datetime | None = trigger.get_next_fire_time(None, at.astimezone(UTC) + _MOMENT)
        if found is None or not _is_second(found) or _is_hourly(cron):
            return None if found is None else found.astimezone(UTC)
        at = found


def _next_left_out(cron: str, zone: tzinfo, at: datetime) -> datetime | None:
    """When that is due which comes next on the wall, if the clocks leave its time out."""
    wall = at.astimezone(zone).replace(tzinfo=UTC, fold=0)
    shown: datetime | None = _trigger(cron, UTC).get_next_fire_time(None, wall + _MOMENT)
    if shown is None:
        return None
    due = _instant(shown.date(), shown.time(), zone)
    return None if due.astimezone(zone).replace(tzinfo=UTC, fold=0) == shown else due


@cache
def _is_hourly(cron: str) -> bool:
    """Whether its field of hours names every hour."""
    field = cron.split()[1]
    trigger, hours = _trigger(f"0 {field} * * *", UTC), [_SOME_DAY + timedelta(hours=each) for each in range(24)]
    return all(trigger.get_next_fire_time(None, hour) == hour for hour in hours)


def _is_second(moment: datetime) -> bool:
    """Whether its time of day was there an hour before already."""
    return bool(moment.fold) and moment.utcoffset() != moment.replace(fold=0).utcoffset()


@cache
def _trigger(cron: str, zone: tzinfo) -> CronTrigger:
    from apscheduler.triggers.cron import CronTrigger

    return CronTrigger.from_crontab(cron, zone)


_ORDERED: Final = JobTimes(every=timedelta(days=1))


class Schedule(StrictModel):
    """When the daemon runs its jobs."""

    age: JobTimes = JobTimes(every=timedelta(minutes=5))
    """Moves snapshots that are due from Redis and PostgreSQL into packs."""
    reconcile: JobTimes = JobTimes(every=timedelta(minutes=1))
    """Puts right a Redis that went back to an older state, was emptied or replaced; at once when a daemon sees that."""
    transition: JobTimes = JobTimes(every=timedelta(hours=1))
    """Moves packs to colder storage classes."""
    expire: JobTimes = JobTimes(every=timedelta(minutes=15))
    """Deletes what is past its retention, in every tier."""
    restore: JobTimes = JobTimes(every=timedelta(minutes=1))
    """Makes archived packs readable that somebody asked for, and brings their snapshots back."""
    compact: JobTimes = JobTimes(every=timedelta(hours=6))
    """Writes packs anew that hold dead bytes, are too small, or hold an erased saga."""
    scrub: JobTimes = JobTimes(every=timedelta(days=1))
    """Compares the catalog with the bucket, and looks into packs."""
    collect: JobTimes = JobTimes(every=timedelta(hours=6))
    """Removes objects that no catalog row knows."""
    train: JobTimes = JobTimes(every=timedelta(hours=6))
    """Trains compression dictionaries where they pay."""

    @model_validator(mode="before")
    @classmethod
    def _keep_every(cls, given: Any) -> Any:
        """A job whose times say neither `every` nor `cron` starts as often as by default."""
        if not isinstance(given, Mapping):
            return given
        own = {name: field.default for name, field in cls.model_fields.items()}
        return {
            name: {"every": own[name].every, **times}
            if name in own and isinstance(times, Mapping) and times.get("cron") is None
            else times
            for name, times in given.items()
        }

    def of(self, job: str) -> JobTimes:
        """The times of the job of that name; one that only runs when somebody orders it has no window that closes."""
        times: JobTimes = getattr(self, job, _ORDERED)
        return times
