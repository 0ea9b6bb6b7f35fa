"""Durations and sizes: what is read, what is refused and how, and that text round-trips."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_tiering.config.units import (
    MAX_DURATION,
    MAX_SIZE,
    format_duration,
    format_size,
    parse_duration,
    parse_positive_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", timedelta(days=7)),
        ("2555d", timedelta(days=2555)),
        ("24h", timedelta(hours=24)),
        ("5m", timedelta(minutes=5)),
        ("30s", timedelta(seconds=30)),
        ("500ms", timedelta(milliseconds=500)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("2w", timedelta(weeks=2)),
        (" 7d ", timedelta(days=7)),
        ("0s", timedelta(0)),
        (timedelta(days=3), timedelta(days=3)),
    ],
)
def test_duration_reads_whole_numbers_with_units(text: object, expected: timedelta) -> None:
    """Each unit, several units, surrounding blanks and a ready timedelta."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (300, "300 has no unit; write one, such as 300s, 300m or 300d"),
        ("300", "'300' has no unit"),
        (1.5, "has no unit"),
        (-5, "cannot be negative"),
        ("-5m", "cannot be negative"),
        (timedelta(seconds=-1), "cannot be negative"),
        ("7 days", "write whole numbers with units, such as 7d"),
        ("1.5h", "write whole numbers with units"),
        ("1y", "a year is 365d"),
        ("30m1h", "is not a duration"),
        ("", "is not a duration"),
        (None, "is not a duration"),
        (True, "is not a duration"),
        ("٧d", "is not a duration"),
        ("365001d", "the longest duration is 365000d"),
        ("999999999999999d", "the longest duration is 365000d"),
    ],
)
def test_duration_refusal_names_the_fix(value: object, fix: str) -> None:
    """What is not a duration is refused with what to write instead."""
    with pytest.raises(ValueError) as caught:
        parse_duration(value)
    assert fix in str(caught.value)


def test_positive_duration_refuses_zero() -> None:
    """Zero is refused where it makes no sense."""
    with pytest.raises(ValueError, match="longer than zero"):
        parse_positive_duration("0s")


@given(st.timedeltas(min_value=timedelta(0), max_value=MAX_DURATION))
def test_duration_text_reads_back_equal(duration: timedelta) -> None:
    """Formatting loses nothing, down to the microsecond."""
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("value", "expected"),
    [("32MiB", 32 * 2**20), ("64KiB", 2**16), ("1GiB", 2**30), ("17B", 17), ("17", 17), (4096, 4096)],
)
def test_size_reads_binary_units_and_bytes(value: object, expected: int) -> None:
    """Binary units, and plain numbers of bytes."""
    assert parse_size(value) == expected


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("32MB", "did you mean 32MiB?"),
        ("32 mib", "did you mean 32MiB?"),
        ("32k", "did you mean 32KiB?"),
        ("lots", "use B, KiB, MiB, GiB or TiB"),
        (0, "between 1 byte and 1024TiB"),
        (-1, "between 1 byte"),
        (True, "is not a size"),
        (None, "is not a size"),
    ],
)
def test_size_refusal_names_the_fix(value: object, fix: str) -> None:
    """Decimal and unknown units are refused with what to write instead."""
    with pytest.raises(ValueError) as caught:
        parse_size(value)
    assert fix in str(caught.value)


@given(st.integers(min_value=1, max_value=MAX_SIZE))
def test_size_text_reads_back_equal(size: int) -> None:
    """Formatting loses nothing."""
    assert parse_size(format_size(size)) == size
