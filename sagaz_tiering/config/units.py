"""Durations and sizes as people write them: `7d`, `1h30m`, `500ms`, `32MiB`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from sagaz_tiering.config.schema import problem

MAX_DURATION = timedelta(days=365_000)
"""A thousand years: any snapshot time plus any duration is still a date."""

MAX_SIZE = 2**50

_MICROSECOND = timedelta(microseconds=1)
_DURATION_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": _MICROSECOND,
}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,18}}){unit})?" for unit in _DURATION_UNITS))
_DURATION_FORM = "write whole numbers with units, such as 7d, 24h, 5m, 30s, 500ms or 1h30m"

_SIZE_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile("([0-9]{1,18})(" + "|".join(_SIZE_UNITS) + ")?")
_SIZE_FORM = "write a whole number of bytes or use B, KiB, MiB, GiB or TiB, such as 32MiB"


def micros(duration: timedelta) -> int:
    """Whole microseconds of a duration, exact (no floats)."""
    return duration // _MICROSECOND


def parse_duration(value: object) -> timedelta:
    """`value` (text with units, or a timedelta) as a duration, zero included.

    Raises ValueError (PydanticCustomError) that names the accepted forms: a bare number has no unit, and
    months and years have no fixed length.
    """
    duration = value if isinstance(value, timedelta) else _parse_duration_text(value)
    if duration < timedelta(0):
        raise problem(f"a duration cannot be negative: {_shown(value)}")
    if duration > MAX_DURATION:
        raise _too_long(value)
    return duration


def _parse_duration_text(value: object) -> timedelta:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = str(value).strip() if number or isinstance(value, str) else ""
    if re.fullmatch(r"-[0-9.]+[a-z]*", text):
        raise problem(f"a duration cannot be negative: {_shown(value)}")
    if re.fullmatch(r"[0-9.]+", text):
        raise problem(f"{_shown(value)} has no unit; write one, such as {text[:20]}s, {text[:20]}m or {text[:20]}d")
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        raise problem(f"{_shown(value)} is not a duration; {_DURATION_FORM} (a year is 365d)")
    try:
        pairs = zip(match.groups(), _DURATION_UNITS.values(), strict=True)
        return sum((int(count) * unit for count, unit in pairs if count), timedelta(0))
    except OverflowError as exc:
        raise _too_long(value) from exc


def _too_long(value: object) -> PydanticCustomError:
    return problem(f"{_shown(value)} is too long; the longest duration is {MAX_DURATION.days}d")


def parse_positive_duration(value: object) -> timedelta:
    """Like `parse_duration`, zero refused."""
    duration = parse_duration(value)
    if not duration:
        raise problem("must be longer than zero")
    return duration


def format_duration(duration: timedelta) -> str:
    """The shortest exact text that `parse_duration` reads back: `7d`, `1h30m`, `0s`."""
    rest, text = duration, ""
    for unit, length in _DURATION_UNITS.items():
        if unit != "w":
            count, rest = divmod(rest, length)
            text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_size(value: object) -> int:
    """`value` (text with a binary unit, or a number of bytes) in bytes, above zero.

    Raises ValueError (PydanticCustomError): decimal units are refused, since MB is read both ways.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise problem(f"{_shown(value)} is not a size; {_SIZE_FORM}{_meant_size(value)}")
        size = int(match[1]) * _SIZE_UNITS[match[2] or "B"]
    if not 0 < size <= MAX_SIZE:
        raise problem(f"a size must be between 1 byte and {format_size(MAX_SIZE)}: {_shown(value)}")
    return size


def format_size(size: int) -> str:
    """The shortest exact text that `parse_size` reads back: `32MiB`."""
    for unit, length in reversed(_SIZE_UNITS.items()):
        if size >= length and size % length == 0:
            return f"{size // length}{unit}"
    return f"{size}B"


def _meant_size(value: object) -> str:
    match = re.fullmatch(r"\s*([0-9]+)\s*([kKmMgGtT])i?[bB]?\s*", value) if isinstance(value, str) else None
    return f"; did you mean {match[1]}{match[2].upper()}iB?" if match else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_positive_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
"""A duration above zero."""

DurationOrZero = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]
"""A duration that may be zero."""

ByteSize = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size, return_type=str, when_used="json")]
"""A size in bytes, above zero."""

Count = Annotated[int, Field(ge=1, le=10_000)]
"""A number of things, at least one."""
