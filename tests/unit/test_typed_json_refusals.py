"""What cannot come back exactly is refused with its path; hostile text is refused too (guarantee G4)."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from enum import Enum, IntEnum, StrEnum
from random import Random
from typing import Any

import orjson
import pytest
from golden.samples import EVERY_TYPE
from sagaz.core.types import (  # type: ignore[import-untyped]  # sagaz ships no py.typed
    ParallelFailureStrategy,
)

from sagaz_tiering.codec.typed_json import MAX_DEPTH, Encoding, dumps, loads
from sagaz_tiering.errors import CorruptRecord, NotSerializable


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
