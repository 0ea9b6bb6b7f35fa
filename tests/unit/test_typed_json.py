"""Values come back exactly, or are refused with the path; hostile text is refused too (guarantee G4)."""

from __future__ import annotations

import json
import struct
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, auto
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from golden.samples import EVERY_TYPE
from hypothesis import given, settings
from hypothesis import strategies as st
from sagaz.core.types import (  # type: ignore[import-untyped]  # sagaz ships no py.typed
    SagaStatus,
    SagaStepStatus,
)
from support.exact import exactly

from sagaz_tiering.codec.typed_json import Encoding, classes, dumps, loads, register_enum
from sagaz_tiering.snapshot import ReplayStatus, SnapshotStrategy

pytestmark = pytest.mark.guarantee("G4")

BERLIN = ZoneInfo("Europe/Berlin")


def round_trip(value: Any) -> Any:
    return loads(*dumps(value))


def _offsets() -> st.SearchStrategy[timezone]:
    day = timedelta(days=1) - timedelta(microseconds=1)
    return st.one_of(
        st.builds(timezone, st.timedeltas(-day, day)),
        st.builds(timezone, st.timedeltas(-day, day), st.text(max_size=5)),
    )


ZONES = st.one_of(st.none(), st.just(UTC), _offsets(), st.sampled_from([BERLIN, ZoneInfo("America/New_York")]))
TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXT,
    st.binary(max_size=12),
    st.builds(lambda at, fold: at.replace(fold=fold), st.datetimes(timezones=ZONES), st.sampled_from([0, 1])),
    st.builds(lambda at, fold: at.replace(fold=fold), st.times(timezones=ZONES), st.sampled_from([0, 1])),
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    st.decimals().filter(lambda value: not value.is_snan()),
    st.sampled_from([SagaStatus.FAILED, SagaStepStatus.SKIPPED, ReplayStatus.SUCCESS, SnapshotStrategy.MANUAL]),
)
KEYS = st.recursive(HASHABLE, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
VALUES = st.recursive(
    st.one_of(HASHABLE, st.decimals(), st.builds(bytearray, st.binary(max_size=8))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.builds(tuple, st.lists(inner, max_size=4)),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.dictionaries(TEXT, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=15,
)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(VALUES)
def test_any_supported_value_comes_back_exactly(value: Any) -> None:
    """Types, order, folds, zones, the sign of zero and NaN included."""
    assert exactly(round_trip(value)) == exactly(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
).filter(lambda value: "inf" not in repr(value))


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(JSON)
def test_json_values_take_the_plain_encoding(value: Any) -> None:
    """What JSON can say is ordinary JSON, readable by anything, keys with a tilde included."""
    encoding, data = dumps({"~datetime": value})
    assert encoding is Encoding.PLAIN
    assert exactly(json.loads(data)) == exactly({"~datetime": value})
    assert exactly(loads(encoding, data)) == exactly({"~datetime": value})


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_each_listed_type_comes_back_exactly(name: str) -> None:
    """The sample of every type that is promised, one by one."""
    assert exactly(round_trip(EVERY_TYPE[name])) == exactly(EVERY_TYPE[name])


@pytest.mark.parametrize(
    "value",
    [1, 1.0, True, 0, 0.0, -0.0, False, "1", None, [1, 1.0, True], {"1": 1}, {1: "1"}, {True: 1}, {1.0: 1}],
    ids=repr,
)
def test_values_that_compare_equal_keep_their_own_type(value: Any) -> None:
    """1, 1.0 and True are three values, as elements and as keys."""
    assert exactly(round_trip(value)) == exactly(value)


def test_integers_without_end_come_back() -> None:
    """Python refuses decimal texts over 4,300 digits; the hexadecimal tag has no such limit."""
    value = {"large": 10**5_000, "small": -(10**5_000)}
    assert round_trip(value) == value


@pytest.mark.parametrize("bits", ["7ff8000000000000", "fff8000000000000", "7ff0000000000001", "fff80000deadbeef"])
def test_every_nan_keeps_its_bits(bits: str) -> None:
    """NaN has a sign and a payload, and some libraries use them."""
    value = [struct.unpack(">d", bytes.fromhex(bits))[0]]
    assert exactly(round_trip(value)) == exactly(value)


@pytest.mark.parametrize("member", [*SagaStatus, *SagaStepStatus, *ReplayStatus, *SnapshotStrategy], ids=str)
def test_engine_enums_come_back_as_members(member: Enum) -> None:
    """Statuses survive as members, as values and as keys, also those that equal their text."""
    back = round_trip({"at": [member], "by": {member: member}})
    assert back["at"][0] is member
    assert list(back["by"].items()) == [(member, member)]
    assert next(iter(back["by"])) is member


def test_engine_enum_without_the_engine_comes_back_as_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without sagaz installed still reads the snapshot."""
    encoding, data = dumps({"status": SagaStatus.FAILED})
    monkeypatch.setitem(sys.modules, "sagaz.core.types", None)
    classes._engine_enum.cache_clear()
    try:
        assert loads(encoding, data) == {"status": "failed"}
    finally:
        classes._engine_enum.cache_clear()


def test_names_in_data_are_never_imported() -> None:
    """An enum name in stored bytes that is not allow-listed is a value, not an import."""
    assert loads(Encoding.TYPED, b'{"~enum":["antigravity.Flight","up"]}') == "up"
    assert "antigravity" not in sys.modules


def test_registered_enum_comes_back_as_member() -> None:
    """Own enums are stored after one call, Flag combinations included."""

    @register_enum
    class Access(Flag):
        READ = auto()
        WRITE = auto()

    both = Access.READ | Access.WRITE
    assert round_trip([both]) == [both]
    assert type(round_trip([both])[0]) is Access


def test_register_enum_refuses_other_classes() -> None:
    """Registering a plain class is a programming error that shows at once."""
    with pytest.raises(TypeError, match="Enum class"):
        register_enum(dict)  # type: ignore[type-var]  # the point of the test


def test_sets_are_written_in_one_order() -> None:
    """The same set gives the same bytes, however it was filled: a snapshot's checksum is its version."""
    crowded = {i * 64 for i in range(5)}  # all in one hash bucket: the order of insertion shows
    backwards = {i * 64 for i in reversed(range(5))}
    assert list(crowded) != list(backwards)
    assert dumps({"tags": crowded}) == dumps({"tags": backwards})


@pytest.mark.parametrize("micros", [1, -1, 999_999, 1_000_000, 61_000_000, 86_399_999_999, -86_399_999_999])
def test_odd_offsets_come_back_exactly(micros: int) -> None:
    """Offsets that the standard library writes but misreads are kept, for datetimes and times."""
    zone = timezone(timedelta(microseconds=micros))
    value = [datetime(2026, 1, 1, tzinfo=zone), time(1, tzinfo=zone)]
    assert exactly(round_trip(value)) == exactly(value)


def test_two_lone_surrogates_do_not_become_one_character() -> None:
    """The pair d83d de00 as two code points is not the emoji that it would be in UTF-16."""
    assert round_trip({"a": "\ud83d\ude00"}) == {"a": "\ud83d\ude00"}
    assert round_trip({"a": "\ud83d\ude00"}) != {"a": "\U0001f600"}


def test_shared_values_are_not_cycles() -> None:
    """The same list in two places comes back as two equal lists."""
    shared = [date(2026, 1, 1)]
    assert round_trip({"a": shared, "b": [shared, shared]}) == {"a": shared, "b": [shared, shared]}


def test_decimal_is_exact_whatever_the_context() -> None:
    """The caller's decimal context neither rounds nor traps what is stored."""
    value = Decimal("123456789012345678901234567890.1234567890123456789000")
    assert exactly(round_trip([value, Decimal("sNaN12"), UUID(int=1), date(1, 1, 1), time(0)])) == exactly(
        [value, Decimal("sNaN12"), UUID(int=1), date(1, 1, 1), time(0)]
    )
