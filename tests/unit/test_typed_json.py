"""Values come back exactly, or are refused with the path; hostile text is refused too (guarantee G4)."""

from __future__ import annotations

import json
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum, auto
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest
from golden.samples import EVERY_TYPE
from hypothesis import given, settings
from hypothesis import strategies as st
from sagaz.core.types import (  # type: ignore[import-untyped]  # sagaz ships no py.typed
    ParallelFailureStrategy,
    SagaStatus,
    SagaStepStatus,
)
from support.exact import exactly

from sagaz_tiering.errors import CorruptRecord, NotSerializable
from sagaz_tiering.snapshot import ReplayStatus, SnapshotStrategy
from sagaz_tiering.typed_json import MAX_DEPTH, Encoding, dumps, enums, loads, register_enum

BERLIN = ZoneInfo("Europe/Berlin")


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Shape(Enum):
    ROUND = "round"


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Moment(datetime):
    pass


class Zone(tzinfo):
    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(0)

    def dst(self, dt: datetime | None) -> None:
        return None

    def tzname(self, dt: datetime | None) -> str:
        return "ZONE"


@dataclass
class Money:
    amount: int = 1


Point = namedtuple("Point", "x y")


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
    enums._engine_enum.cache_clear()
    try:
        assert loads(encoding, data) == {"status": "failed"}
    finally:
        enums._engine_enum.cache_clear()


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
        register_enum(Money)  # type: ignore[type-var]  # the point of the test


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


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"items": [0, 1, 2, {"price": 1j}]}, "context.items[3].price", "complex"),
        ({"a": {"we ird": object()}}, 'context.a["we ird"]', "object"),
        ({"a": {7: (1, Money())}}, "context.a[7][1]", "dataclass"),
        ({"s": {1, Point(1, 2)}}, "context.s{…}", "namedtuple"),
        ({"p": Point(1, 2)}, "context.p", "namedtuple"),
        ({"o": OrderedDict(a=1)}, "context.o", "OrderedDict"),
        ({"d": defaultdict(int)}, "context.d", "defaultdict"),
        ({"c": Counter("a")}, "context.c", "Counter"),
        ({"t": Text("x")}, "context.t", "come back as a str"),
        ({Text("x"): 1}, "context[<Text key>]", "come back as a str"),
        ({"n": Whole(1)}, "context.n", "come back as a int"),
        ({"m": Moment(2026, 1, 1)}, "context.m", "come back as a datetime"),
        ({"f": len}, "context.f", "code, not data"),
        ({"l": lambda: 1}, "context.l", "code, not data"),
        ({"c": Money}, "context.c", "code, not data"),
        ({"colour": Colour.RED}, "context.colour", "not registered"),
        ({"colour": [Level.LOW]}, "context.colour[0]", "not registered"),
        ({"shape": Shape.ROUND}, "context.shape", "register_enum"),
        ({"e": ParallelFailureStrategy.FAIL_FAST}, "context.e", "not registered"),
        ({Colour.RED: 1}, "context[<Colour key>]", "not registered"),
        ({"v": memoryview(b"x")}, "context.v", "memoryview"),
        ({"r": range(3)}, "context.r", "range"),
        ({"j": orjson.Fragment(b"1")}, "context.j", "Fragment"),
        ({"z": datetime(2026, 1, 1, tzinfo=Zone())}, "context.z", "time zone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_come_back_is_refused_with_its_path(value: Any, path: str, reason: str) -> None:
    """The message starts with the place and says why; the hint says what to do."""
    with pytest.raises(NotSerializable) as caught:
        dumps(value)
    assert caught.value.path == path
    assert reason in str(caught.value) + caught.value.hint
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.hint


def test_refusal_beside_a_typed_value_is_found_too() -> None:
    """The tagged walk refuses what the fast path refuses."""
    with pytest.raises(NotSerializable, match=r"^context\.b: "):
        dumps({"a": date(2026, 1, 1), "b": Colour.RED})


@pytest.mark.parametrize("typed", [False, True])
def test_cycle_is_refused_where_it_closes(typed: bool) -> None:
    """Never a RecursionError, never a hang."""
    value: dict[str, Any] = {"a": {"b": [1]}, "t": (1,) if typed else 1}
    value["a"]["b"].append(value["a"])
    with pytest.raises(NotSerializable, match=r"^context\.a\.b\[1\]: refers back to context\.a "):
        dumps(value)


def nested(levels: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS = {
    "list": lambda v: [v],
    "dict": lambda v: {"a": v},
    "tuple": lambda v: (v,),
    "odd keys": lambda v: {1: v},
    "frozenset": lambda v: frozenset([v]),
    "both": lambda v: [{"t": (v,)}],
}


@pytest.mark.parametrize("name", WRAPS)
def test_nesting_is_exact_up_to_the_limit_and_refused_above(name: str) -> None:
    """The documented depth works for every kind of container; one level more is an error with a path."""
    per_wrap = 3 if name == "both" else 1
    value = nested(MAX_DEPTH // per_wrap, WRAPS[name])
    assert round_trip(value) == value
    with pytest.raises(NotSerializable, match="nested deeper than"):
        dumps(nested(MAX_DEPTH // per_wrap + 1, WRAPS[name]))


@pytest.mark.parametrize("levels", [MAX_DEPTH + 40, 1_000, 100_000])
@pytest.mark.parametrize("name", ["list", "tuple"])
def test_excessive_nesting_never_overflows_the_stack(levels: int, name: str) -> None:
    """However deep, the answer is NotSerializable."""
    with pytest.raises(NotSerializable):
        dumps({"a": nested(levels, WRAPS[name])})


def test_shared_values_are_not_cycles() -> None:
    """The same list in two places comes back as two equal lists."""
    shared = [date(2026, 1, 1)]
    assert round_trip({"a": shared, "b": [shared, shared]}) == {"a": shared, "b": [shared, shared]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"a":1,"a":2}',
        b'{"~what":1}',
        b'{"~uuid":"x"}',
        b'{"~uuid":"{12345678-1234-4678-9234-567812345678}"}',
        b'{"~uuid":1}',
        b'{"~uuid":"12345678-1234-4678-9234-567812345678","b":1}',
        b'{"~datetime":"2026-02-30T00:00:00"}',
        b'{"~datetime":"20260301T000000"}',
        b'{"~datetime":["2026-03-01T00:00:00",2,null]}',
        b'{"~datetime":["2026-03-01T00:00:00",0,"../../etc/passwd"]}',
        b'{"~datetime":["2026-03-01T00:00:00",0,"No/Where"]}',
        b'{"~datetime":["2026-03-01T00:00:00+00:00",0,"Europe/Berlin"]}',
        b'{"~datetime":["2026-03-01T00:00:00",0,[86400000000,null]]}',
        b'{"~datetime":["2026-03-01T00:00:00",0,[1,2]]}',
        b'{"~datetime":["2026-03-01T00:00:00",0,[true,null]]}',
        b'{"~datetime":["2026-03-01T00:00:00",0]}',
        b'{"~time":"25:00:00"}',
        b'{"~date":"2026-13-01"}',
        b'{"~timedelta":[1,2]}',
        b'{"~timedelta":[0,86400,0]}',
        b'{"~timedelta":[99999999999,0,0]}',
        b'{"~timedelta":[true,0,0]}',
        b'{"~decimal":"1_0"}',
        b'{"~decimal":"ten"}',
        b'{"~bytes":"a"}',
        b'{"~bytes":"//="}',
        b'{"~bytes":"\xc3\xa9=="}',
        b'{"~set":[[1]]}',
        b'{"~set":[1,1]}',
        b'{"~set":{}}',
        b'{"~frozenset":1}',
        b'{"~tuple":"ab"}',
        b'{"~int":"12"}',
        b'{"~int":12}',
        b'{"~float":"1.0"}',
        b'{"~float":"0000000000000000"}',
        b'{"~float":"nanny"}',
        b'{"~dict":[[1]]}',
        b'{"~dict":[[[],1]]}',
        b'{"~dict":[[1,2],[1,3]]}',
        b'{"~enum":"x"}',
        b'{"~enum":[1,2]}',
        b"NaN",
        b"-Infinity",
        b"\xff",
        b"1" * 5_000,
        b"[" * 300 + b"]" * 300,
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_hostile_typed_text_is_corrupt(data: bytes) -> None:
    """Nothing but CorruptRecord comes out of what was never written."""
    with pytest.raises(CorruptRecord):
        loads(Encoding.TYPED, data)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b'"\xff"', b"[" * 300 + b"]" * 300, b"[" * 100_000])
def test_hostile_plain_text_is_corrupt(data: bytes) -> None:
    """The fast path has the same manners."""
    with pytest.raises(CorruptRecord):
        loads(Encoding.PLAIN, data)


def test_mutated_text_gives_a_value_or_corrupt_record() -> None:
    """Random damage never escapes as another exception."""
    random = Random(20260301)
    encoding, text = dumps(EVERY_TYPE)
    assert encoding is Encoding.TYPED
    refused = 0
    for _ in range(4_000):
        data = bytearray(text)
        for _ in range(random.randint(1, 3)):
            data[random.randrange(len(data))] = random.choice(b'"[]{}~,:0e\\\xffa-')
        try:
            loads(random.choice([Encoding.TYPED, Encoding.PLAIN]), bytes(data))
        except CorruptRecord:
            refused += 1
    assert refused > 1_000


def test_decimal_is_exact_whatever_the_context() -> None:
    """The caller's decimal context neither rounds nor traps what is stored."""
    value = Decimal("123456789012345678901234567890.1234567890123456789000")
    assert exactly(round_trip([value, Decimal("sNaN12"), UUID(int=1), date(1, 1, 1), time(0)])) == exactly(
        [value, Decimal("sNaN12"), UUID(int=1), date(1, 1, 1), time(0)]
    )
