"""Whatever a context holds: stored equal, or refused by a message to act on, which the host's log shows."""

from __future__ import annotations

import array
import asyncio
import collections
import contextvars
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import io
import ipaddress
import itertools
import pathlib
import queue
import random
import re
import string
import sys
import threading
import types
import uuid
import zoneinfo
from collections.abc import Iterator
from typing import Any, NamedTuple

import pydantic
import pytest
import sagaz.core.types
import structlog
from support.snapshots import make, number
from support.stores import Place
from support.tiers import NOW

from sagaz_tiering import metrics, register_enum, register_type
from sagaz_tiering.errors import ConfigError, NotSerializable
from sagaz_tiering.storage.memory import InMemorySnapshotStorage


class Colour(enum.Enum):
    RED = 1


class Prio(enum.IntEnum):
    HIGH = 2


class Kind(enum.StrEnum):
    A = "a"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@register_enum
class Known(enum.Enum):
    YES = ("y", 1)


@register_enum
class Pair(tuple[int, int], enum.Enum):
    ONE = (1, 2)


class Point(NamedTuple):
    x: int = 1


@dataclasses.dataclass
class Plain:
    n: int = 1


@register_type
@dataclasses.dataclass
class Registered:
    n: int = 1


class Model(pydantic.BaseModel):
    n: int = 1


@register_type
class RegisteredModel(pydantic.BaseModel):
    n: int = 1
    at: dt.datetime = NOW


class Custom:
    pass


def generator() -> Iterator[int]:
    yield 1


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
EQUAL: dict[str, Any] = {
    "none": None,
    "bool": True,
    "int": -7,
    "large int": 2**200,
    "float": 0.1,
    "inf": float("inf"),
    "str": "ü\x00\ud800",
    "bytes": b"\x00",
    "bytearray": bytearray(b"a"),
    "list": [1],
    "tuple": (1,),
    "set": {1},
    "frozenset": frozenset({1}),
    "dict": {1: 2, (1, 2): 3, None: 4},
    "datetime": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "naive datetime": dt.datetime(2026, 1, 1),  # noqa: DTZ001  # contexts may hold such
    "zoned datetime": dt.datetime(2026, 1, 1, tzinfo=BERLIN),
    "fold": dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    "date": dt.date(2026, 1, 1),
    "time": dt.time(1, 2),
    "timedelta": dt.timedelta(1),
    "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.uuid4(),
    "registered enum": Known.YES,
    "registered enum of tuples": Pair.ONE,
    "enum of sagaz": sagaz.core.types.SagaStatus.EXECUTING,
    "registered dataclass": Registered(2),
    "registered model": RegisteredModel(n=3),
}
REFUSED: dict[str, Any] = {
    "enum": Colour.RED,
    "int enum": Prio.HIGH,
    "str enum": Kind.A,
    "flag": Rights.READ | Rights.WRITE,
    "namedtuple": Point(),
    "dataclass": Plain(),
    "model": Model(),
    "ordered dict": collections.OrderedDict(a=1),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1]),
    "chain map": collections.ChainMap({"a": 1}),
    "user dict": collections.UserDict(a=1),
    "mapping proxy": types.MappingProxyType({"a": 1}),
    "namespace": types.SimpleNamespace(a=1),
    "complex": 1j,
    "fraction": fractions.Fraction(1, 3),
    "range": range(3),
    "slice": slice(1),
    "memoryview": memoryview(b"a"),
    "array": array.array("i", [1]),
    "path": pathlib.Path("/x"),
    "address": ipaddress.ip_address("10.0.0.1"),
    "network": ipaddress.ip_network("10.0.0.0/8"),
    "timezone": dt.UTC,
    "zone": BERLIN,
    "pattern": re.compile("a"),
    "match": re.match("a", "a"),
    "template": string.Template("a"),
    "exception": ValueError("x"),
    "class": Custom,
    "object": Custom(),
    "function": len,
    "method": "".join,
    "lambda": lambda: None,
    "partial": functools.partial(len, "a"),
    "module": sys,
    "generator": generator(),
    "iterator": iter([1]),
    "count": itertools.count(),
    "map": map(str, [1]),
    "dict view": {}.keys(),
    "lock": threading.Lock(),
    "event": asyncio.Event(),
    "queue": queue.Queue(),
    "context var": contextvars.ContextVar("v"),
    "bytes io": io.BytesIO(b"a"),
    "random": random.Random(1),
    "ellipsis": ...,
    "not implemented": NotImplemented,
    "secret": pydantic.SecretStr("hidden"),
    "url": pydantic.AnyUrl("https://example.org"),
}


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What the library told the host's log."""
    with structlog.testing.capture_logs() as found:
        yield found


@pytest.mark.guarantee("G4")
async def test_kinds_of_values_that_come_back_equal(place: Place) -> None:
    """On every storage: of the same type, and equal."""
    storage = await place.open()
    await storage.save_snapshot(make(1, context=dict(EQUAL)))
    found = await storage.get_snapshot(number(1))
    assert found is not None
    for name, value in EQUAL.items():
        assert type(found.context[name]) is type(value), name
        assert found.context[name] == value, name


@pytest.mark.guarantee("G4")
@pytest.mark.parametrize("name", REFUSED)
async def test_kinds_of_values_that_are_refused(name: str, lines: list[dict[str, Any]]) -> None:
    """The error and the log name the place, the type and what to store instead, and the page that has it all."""
    storage, value = InMemorySnapshotStorage(), REFUSED[name]
    with pytest.raises(NotSerializable) as refused:
        await storage.save_snapshot(make(1, context={"order": {"v": value}}))
    assert str(refused.value).startswith("context.order.v: ")
    assert type(value).__name__ in str(refused.value)
    assert "store" in refused.value.hint
    assert "What a context may hold" in refused.value.hint
    (line,) = [each for each in lines if each["event"] == "snapshot.save_failed"]
    assert line["error"] == str(refused.value)
    assert line["hint"] == refused.value.hint
    assert await storage.get_snapshot(number(1)) is None


def counted(storage: str) -> float:
    """Values that were stored as text."""
    return metrics.REGISTRY.get_sample_value("sagaz_tiering_values_stored_as_text_total", {"storage": storage}) or 0.0


def asked_for_text(place: Place) -> dict[str, Any]:
    """Options to open a storage with that keeps texts."""
    if place.kind != "tiered":
        return {"on_unsupported": "text"}
    path = pathlib.Path(place.options["config"])
    other = path.with_name("text.yaml")
    other.write_text(path.read_text() + "limits: {on_unsupported: text}\n")
    return {"config": str(other)}


async def test_text_in_place_of_values_where_it_is_asked_for(place: Place, lines: list[dict[str, Any]]) -> None:
    """On every storage, as sagaz does: subclasses as their base, all else its text; counted, and told once."""
    storage, before = await place.open(**asked_for_text(place)), counted(place.kind)
    context = {**EQUAL, "path": pathlib.Path("/x"), "deep": [{"kind": Kind.A, "point": Point(4), Colour.RED: Custom}]}
    await storage.save_snapshot(make(1, context=context))
    found = await storage.get_snapshot(number(1))
    assert found is not None
    assert {name: found.context[name] for name in EQUAL} == EQUAL
    assert found.context["path"] == "/x"
    assert found.context["deep"] == [{"kind": "a", "point": (4,), "Colour.RED": str(Custom)}]
    assert counted(place.kind) - before == 5
    await storage.save_snapshot(make(2, context=context))
    told = [each for each in lines if each["event"] == "snapshot.stored_as_text"]
    assert [(each["storage"], each["types"]["PosixPath"]) for each in told] == [(place.kind, 1)]
    assert context["path"] == pathlib.Path("/x")


@pytest.mark.parametrize("name", REFUSED)
async def test_every_refused_kind_can_be_kept_as_text(name: str) -> None:
    """Each has a text or a base; what comes back is stored again as it is."""
    storage = InMemorySnapshotStorage(on_unsupported="text")
    await storage.save_snapshot(make(1, context={"v": REFUSED[name], "big": ["x" * 1000] * 300}))
    found = await storage.get_snapshot(number(1))
    assert found is not None
    plain = InMemorySnapshotStorage()
    await plain.save_snapshot(found)
    assert await plain.get_snapshot(number(1)) == found


async def test_what_has_no_text_is_refused_even_then() -> None:
    """A cycle, keys that would become one, and a value whose `str` raises: nothing is dropped without a word."""

    class Mute:
        def __str__(self) -> str:
            raise ValueError("no")

    cycle: dict[str, Any] = {"p": pathlib.Path("/x")}
    cycle["me"] = cycle
    storage = InMemorySnapshotStorage(on_unsupported="text")
    for context in ({"m": Mute()}, {"d": {pathlib.Path("/x"): 1, "/x": 2}}, cycle):
        with pytest.raises(NotSerializable):
            await storage.save_snapshot(make(1, context=context))
    with pytest.raises(ConfigError, match="on_unsupported"):
        InMemorySnapshotStorage(on_unsupported="txt")  # type: ignore[arg-type]
