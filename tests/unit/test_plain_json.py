"""The short way to JSON is taken for ordinary contexts, and never for a value that would not come back the same."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter, OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import orjson
import pytest
from golden import samples
from support import payload

from sagaz_tiering.codec import value as codec
from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.typed_json import LARGE, MAX_DEPTH, Encoding, Shape, dumps, loads, shape_of, text
from sagaz_tiering.errors import NotSerializable

Point = namedtuple("Point", "x y")


class Colour(str, Enum):  # noqa: UP042 - the older kind, which is a str to many checks
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


@dataclass
class Item:
    sku: str


def plain_json(value: Any) -> bytes | None:
    """What is written of it on the event loop as ordinary JSON; None if it is heavy, or not exactly JSON."""
    if shape_of(value) is Shape.LARGE:
        return None
    try:
        encoding, written = dumps(value)
    except NotSerializable:
        return None
    return written if encoding is Encoding.PLAIN else None


NOT_EXACT: dict[str, Any] = {
    "tuple": (1, 2),
    "empty tuple": (),
    "named tuple": Point(1, 2),
    "str enum": Colour.RED,
    "int enum": Number.ONE,
    "str subclass": Text("x"),
    "ordered dict": OrderedDict(a=1),
    "counter": Counter("aab"),
    "dataclass": Item("a"),
    "uuid": UUID(int=1),
    "datetime": datetime(2026, 3, 1, tzinfo=UTC),
    "date": date(2026, 3, 1),
    "time": time(12, 0),
    "decimal": Decimal("1.10"),
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "set": {1},
    "complex": 1j,
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "large integer": 2**64,
    "small integer": -(2**63) - 1,
    "surrogate": "\ud800",
    "int key": {1: 2},
    "enum key": {Colour.RED: 1},
    "subclass key": {Text("x"): 1},
    "fragment": orjson.Fragment(b"1"),
}


@pytest.mark.parametrize("name", NOT_EXACT)
def test_what_json_would_change_is_left_to_the_long_way(name: str) -> None:
    """At any depth: orjson by itself writes many of these as something else."""
    value = NOT_EXACT[name]
    for holder in ({"a": value}, {"a": [{"b": value}]}, {"a": [{"b": [1, {"c": {"d": value}}]}] * 2}):
        assert plain_json(holder) is None


def test_ordinary_values_come_back_the_same() -> None:
    """The corners of what JSON has."""
    value: dict[str, Any] = {
        "": None,
        "numbers": [0, -0.0, 1e308, 5e-324, 2**64 - 1, -(2**63), 1.0, True],
        "text": ["\x00", "é", "😀", '"\\', "null", "~uuid"],
        "nested": {"a": {"b": {"c": [[[{}]]]}}},
    }
    written = plain_json(value)
    assert written is not None
    found = loads(Encoding.PLAIN, written)
    assert repr(found) == repr(value)


def test_depth_ends_where_it_ends_for_readers() -> None:
    """What readers would refuse is refused when it is saved, and nothing else."""

    def nested(levels: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(levels - 1):
            value = [value]
        return value

    assert plain_json(nested(MAX_DEPTH)) is not None
    assert plain_json(nested(MAX_DEPTH + 1)) is None
    with pytest.raises(NotSerializable, match="nested deeper"):
        dumps(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "value",
    [
        {"a": "x" * LARGE},
        {"a": {"b": "x" * LARGE}},
        {"a": list(range(LARGE // 4))},
        {"a": {"rows": [{"id": 1}] * LARGE}},
        {"a": {"b": {"c": {"d": {"e": {"f": list(range(LARGE))}}}}}},
        {str(i): i for i in range(LARGE // 4)},
    ],
    ids=["text", "wrapped text", "list", "rows", "deep", "dict"],
)
def test_what_is_heavy_is_left_to_the_long_way(value: Any) -> None:
    """Which writes it on a thread."""
    assert plain_json(value) is None


def shared(levels: int) -> list[Any]:
    """A list of two elements that are the same list of two elements, and so on."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"b": {"c": {"d": [list(range(1000, 2000))] * 1000}}}},
        {"rows": [{"cells": {"more": list(range(1000, 100_000))}} for _ in range(20)]},
        {"rows": [{"cells": {"more": {"text": "x" * 2**20}}} for _ in range(20)]},
        {"rows": [{"cells": [{"text": text} for text in ["x" * 2**20] * 50]} for _ in range(20)]},
        shared(20),
        {"a": [[[[[[None] * 100] * 100] * 100] * 100] * 100]},
        {"events": [{"payload": "x" * 2**21}] * 20 + [{"done": True}]},
        {"a": [0, 0, shared(40), 0, 0]},
        {"a": [{}] * 10_000_000},
    ],
    ids=["lists", "rows", "texts", "shared text", "shared lists", "shared rows", "unlike rows", "hidden", "empty"],
)
def test_what_is_heavy_far_below_is_not_written_before_it_shows(value: Any) -> None:
    """orjson does not stop halfway: the event loop would wait for what is then thrown away."""
    tracemalloc.start()
    try:
        assert plain_json(value) is None
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_cycle_is_left_to_the_long_way() -> None:
    """Which refuses it by its depth."""
    value: dict[str, Any] = {}
    value["a"] = [value]
    assert plain_json(value) is None


@pytest.mark.parametrize(
    "value",
    [
        {
            "rows": [
                {"id": f"{row:08}", "pieces": row, "price": 1.5, "at": {"store": "X", "shelf": None}}
                for row in range(200)
            ]
        },
        {"a": {"b": {"c": {"d": {"e": [{"f": [{"g": {"h": [1, 2, {"i": "x"}]}}]}] * 20}}}}},
        {"text": "é" * 20_000, "lines": [["x" * 100] * 10] * 20},
    ],
    ids=["rows", "wrappers", "text"],
)
def test_ordinary_shapes_take_the_short_way(value: Any) -> None:
    """However deep: what counts is how much it is."""
    written = plain_json(value)
    assert written is not None
    assert loads(Encoding.PLAIN, written) == value


async def test_ordinary_snapshots_are_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look over all values in Python, and no copy of any."""
    walked = []

    def counted(value: Any) -> Shape:
        walked.append(value)
        return shape_of(value)

    def fail(*_: object) -> None:
        raise AssertionError("the long way was taken")

    monkeypatch.setattr(codec, "shape_of", counted)
    for name in ("shape_of", "tag", "whole_copy"):
        monkeypatch.setattr(text, name, fail)
    snapshots = list(payload.snapshots(20))
    for snapshot in snapshots:
        assert (await encode_record(snapshot, saved_us=1)).encoding is Encoding.PLAIN
    assert len(walked) == len(snapshots)


async def test_snapshot_that_json_would_change_takes_the_long_way() -> None:
    """And comes back as it was."""
    snapshot = samples.snapshot(0, context={"at": datetime(2026, 3, 1, tzinfo=UTC), "pair": (1, 2), "nan": math.inf})
    record = await encode_record(snapshot, saved_us=1)
    assert record.encoding is Encoding.TYPED
    assert codec.decode(record) == snapshot
