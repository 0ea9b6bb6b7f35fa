"""Times of day, days, time zones and lines of cron as people write them."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, time
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from sagaz_tiering.config.schema import problem

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
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown; the name of a folder; no name of a file
        pass
    else:
        return name
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
    from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]  # ships no types

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
        trigger = CronTrigger.from_crontab(line, UTC)
    except ValueError as exc:
        raise problem(f"{text!r:.60} is no line of cron: {exc}; {_CRON_FORM}") from exc
    if trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC)) is None:
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
