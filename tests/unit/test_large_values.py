"""Large values are worked on by a thread: the same bytes as of small ones, and the same refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from golden import samples
from golden.samples import EVERY_TYPE
from support import payload
from support.exact import exactly
from support.threads import OfLarge

from sagaz_tiering.codec.threaded import decode_record, decode_value, encode_record, encode_value
from sagaz_tiering.codec.typed_json import LARGE, MAX_DEPTH, Encoding, Shape, dumps, loads, private_copy, shape_of
from sagaz_tiering.codec.typed_json.write import tag
from sagaz_tiering.codec.value import body_shape, encode
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot, NotSerializable
from sagaz_tiering.snapshot import SagaSnapshot

SAVED_US = samples.SAVED_US

MANY = {
    "every type": [EVERY_TYPE] * 250,
    "documents": [payload.saga(number)[4].context for number in range(60)],
    "a document beside a typed value": [payload.saga(1)[4].context] * 60 + [Decimal(1)],
    "not a number among numbers": [*range(40_000), float("nan")],
    "lone surrogate": ["a"] * 40_000 + ["\ud800"],
    "integer over 64 bits": [*range(40_000), 2**70],
    "set": {"set": set(range(22_000)), "frozen": frozenset(map(str, range(12_000)))},
    "tuple": (tuple(range(40_000)), (1, ("x" * 300_000,))),
    "odd keys": {number: [number] for number in range(12_000)} | {(1, "2"): {"~": list(range(12_000))}},
    "tilde keys": {f"~{number}": {"a": number} for number in range(12_000)},
    "heavy members": {f"k{number}": "x" * 200_000 for number in range(9)},
    "escapes": {'"\\' * 99 + str(number): ['\\"' * 50_000, {"a": "\\" * 99_999}] for number in range(5)},
    "deep": {"a": [[[[[[[["x" * 9, {"b": number}]]]]]]] for number in range(3_000)]},
    "bytes": [b"\0" * 200_000, bytearray(200_000)],
    "empty ones": [[], {}, (), set()] * 5_000,
    "only a string": "ż" * 400_000,
}


PLAIN = ("documents", "heavy members", "deep", "escapes", "tilde keys")


@pytest.mark.parametrize("name", MANY)
@pytest.mark.guarantee("G4")
def test_large_value_gives_the_bytes_of_a_small_one(name: str) -> None:
    """Ordinary JSON where that is exact, the tagged text elsewhere; and it comes back exactly."""
    value = MANY[name]
    assert shape_of(value) is Shape.LARGE
    encoding, data = dumps(value)
    if name in PLAIN or type(value) is str:
        assert (encoding, data) == (Encoding.PLAIN, orjson.dumps(value))
    else:
        text = json.dumps(tag(value), ensure_ascii=False, separators=(",", ":"))
        assert (encoding, data) == (Encoding.TYPED, text.encode("utf-8", "surrogatepass"))
    assert exactly(loads(encoding, data)) == exactly(value)
    assert exactly(private_copy(value, 2**30)) == exactly(value)


@pytest.mark.parametrize("text", [b'"~date"', b'"\\u0000"', b"1e16", b"18446744073709551615", b"-0.0", b'{"~set":[]}'])
def test_large_plain_text_is_read_as_a_small_one(text: bytes) -> None:
    """Types and signs of numbers, and keys that look like tags."""
    small = loads(Encoding.PLAIN, b"[" + text + b"]")
    large = loads(Encoding.PLAIN, b"[" + text + b",0" * LARGE + b"]")
    assert exactly(large[:1]) == exactly(small)


# Refusals


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [*range(50_000), 1j]}, "context.a[50000]"),
        ({"a": {f"k{i}": [i] for i in range(30_000)} | {"z": {"bad": object}}}, "context.a.z.bad"),
        ({"a": [{"b": (*range(40_000), [1j])}]}, "context.a[0].b[40000][0]"),
        ({"s": {*range(40_000), 1j}}, "context.s{…}"),
        ({"a": dict.fromkeys(range(40_000)) | {1j: 1}}, "context.a[<complex key>]"),
        ({"d": [date(2026, 1, 1)] * 40_000 + [range(3)]}, "context.d[40000]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusal_in_a_large_value_carries_its_path(value: Any, path: str) -> None:
    """The same path, reason and hint as in a small one."""
    with pytest.raises(NotSerializable) as small:
        dumps(value, shape=Shape.TYPED)
    with pytest.raises(NotSerializable) as caught:
        dumps(value)
    assert caught.value.path == path
    assert (str(caught.value), caught.value.hint) == (str(small.value), small.value.hint)


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,)], ids=["list", "dict", "tuple"])
def test_large_value_keeps_the_limit_of_nesting(wrap: Callable[[Any], Any]) -> None:
    """As deep as documented, no deeper, read or written."""
    value: Any = list(range(60_000))
    for _ in range(MAX_DEPTH - 1):
        value = wrap(value)
    encoding, data = dumps(value)
    assert exactly(loads(encoding, data)) == exactly(value)
    assert private_copy(wrap(value), 2**30)[0 if type(wrap(1)) is not dict else "a"] is value
    with pytest.raises(NotSerializable, match="nested deeper than"):
        dumps(wrap(value))
    if encoding is Encoding.PLAIN:
        with pytest.raises(CorruptRecord, match="nested deeper than"):
            loads(encoding, b"[" + data + b"]")


def test_cycle_in_a_large_value_is_refused_where_it_closes() -> None:
    """However many branches it has."""
    value: dict[str, Any] = {"a": {"b": list(range(20_000))}}
    value["a"]["b"] += [value["a"], value["a"]]
    with pytest.raises(NotSerializable, match=r"^context\.a\.b\[20000\]: refers back to context\.a "):
        dumps(value)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 400_000,
        b'{"a":' * 80_000,
        b"[" + b"1," * 200_000 + b"]",
        b"[" + b"1," * 200_000 + b"1",
        b"[" + b"1," * 200_000 + b"1]]",
        b"[" + b"1," * 200_000 + b"1}",
        b"[" + b"[1]," * 100_000 + b"[1]2]",
        b"[" + b"[1]," * 100_000 + b",[1]]",
        b'{"a":' + b"[1," * 100_000 + b"}",
        b"[," + b"1," * 200_000 + b"1]",
        b"[ ," + b"1," * 200_000 + b"1]",
        b"{ ," + b'"a":1,' * 50_000 + b'"b":1}',
        b"[" + b"1," * 200_000 + b" ]",
        b'["' + b"x" * 400_000,
        b'["' + b'\\"' * 200_000 + b"]",
        b"[" + b'"\xff",' * 100_000 + b"1]",
    ],
    ids=lambda data: data[:8].decode("latin-1"),
)
@pytest.mark.parametrize("encoding", Encoding)
def test_hostile_large_text_is_corrupt(encoding: Encoding, data: bytes) -> None:
    """Nothing but CorruptRecord comes out of what was never written."""
    with pytest.raises(CorruptRecord):
        loads(encoding, data)


@pytest.mark.parametrize("key", [b"~set", b"~tuple", b"a"])
def test_tags_and_keys_are_checked_in_large_texts(key: bytes) -> None:
    """A key twice, or a tag beside another key, is seen however far apart they are."""
    rows = b"[" + b"1," * 200_000 + b"1]"
    with pytest.raises(CorruptRecord):
        loads(Encoding.TYPED, b'{"a":' + rows + b',"b":' + rows + b',"' + key + b'":' + rows + b"}")


# Changes meanwhile


@pytest.mark.parametrize("typed", [False, True])
def test_value_changed_while_it_is_saved_is_refused_clearly(typed: bool) -> None:
    """Never a torn snapshot, never the RuntimeError of a dict that changes its size."""
    first, last = {"count": 0}, {"count": 0}
    context: dict[str, Any] = {"first": first, "rows": [{"a": [i]} for i in range(20_000)], "grows": {}, "last": last}
    if typed:
        context["day"] = date(2026, 3, 1)
    stop = threading.Event()

    def change() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            first["count"] = last["count"] = count
            context["grows"][count % 50] = context["rows"][count % 99]["a"] = [count]
            context["grows"].pop((count * 7) % 50, None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        refused = 0
        for _ in range(4):
            try:
                saved = loads(*dumps(context))
            except InvalidSnapshot as exc:
                assert "changed while it was being saved" in str(exc)  # noqa: PT017  # a save may also succeed
                refused += 1
            else:
                assert saved["first"] == saved["last"]
    finally:
        stop.set()
        thread.join()
    assert refused
    assert loads(*dumps(context)) == context


# The event loop


@pytest.mark.parametrize("typed", [False, True], ids=["plain", "typed"])
async def test_large_snapshot_is_written_and_read_off_the_loop(of_large: OfLarge, typed: bool) -> None:
    """Its JSON and its compression: none of it is done by the thread of the event loop."""
    value = MANY["every type" if typed else "documents"]
    snapshot = samples.snapshot(0, context={"a": value})
    meta, stored = await encode_value(snapshot, saved_us=SAVED_US, level=3)
    record = await encode_record(snapshot, saved_us=SAVED_US)
    assert record.encoding is (Encoding.TYPED if typed else Encoding.PLAIN)
    assert record.meta == meta
    assert exactly((await decode_value(stored)).context) == exactly(snapshot.context)
    assert exactly((await decode_record(record)).context) == exactly(snapshot.context)
    assert of_large.names() == {"dumps", "compress", "decompress", "loads"}
    assert threading.get_ident() not in of_large.threads()


async def test_long_key_is_compressed_off_the_loop_too(of_large: OfLarge) -> None:
    """What only the written body shows to be large is noticed then."""
    snapshot = samples.snapshot(0, context={"k" * 1_000_000: 1})
    meta, value = await encode_value(snapshot, saved_us=SAVED_US, level=3)
    assert len(value) < 10_000
    assert await decode_value(value) == snapshot
    assert threading.get_ident() not in of_large.threads("compress", "decompress", "loads")
    record = await encode_record(snapshot, saved_us=SAVED_US)
    assert record.meta == meta
    assert await decode_record(record) == snapshot


def test_ordinary_snapshots_are_not_large() -> None:
    """The common case stays on the loop, in one go."""
    assert {body_shape(snapshot) for snapshot in payload.snapshots(20)} == {Shape.PLAIN}
    with_time = samples.snapshot(0, context={"at": datetime(2026, 3, 1, tzinfo=UTC)})
    assert body_shape(with_time) is Shape.TYPED
    assert encode(with_time, saved_us=SAVED_US) == encode(with_time, saved_us=SAVED_US, shape=Shape.TYPED)


@pytest.mark.parametrize(
    "context",
    [
        {"a": "x" * LARGE},
        {"a": [b"x" * LARGE]},
        {"a": (bytearray(LARGE),)},
        {"a": list(range(LARGE))},
        {"a": [[]] * LARGE},
        {"a": [set(range(LARGE))]},
        {"a": {i: i for i in range(LARGE)}},
    ],
    ids=lambda context: type(context["a"]).__name__,
)
def test_whatever_is_heavy_makes_a_snapshot_large(context: dict[str, Any]) -> None:
    """Text, bytes or many elements, in any container."""
    assert body_shape(samples.snapshot(0, context=context)) is Shape.LARGE


def test_shape_is_found_without_looking_at_everything() -> None:
    """A cycle, whatever its branches, ends; it is found out when it is written."""
    branches: list[Any] = []
    branches += [branches, branches]
    assert shape_of(branches) is Shape.LARGE
    with pytest.raises(NotSerializable, match="a cycle"):
        dumps(branches)


async def test_refusals_of_a_large_snapshot_reach_the_caller() -> None:
    """Errors come through the thread as they are."""
    bad: SagaSnapshot = replace(samples.snapshot(0), context={"rows": [*range(50_000), 1j]})
    with pytest.raises(NotSerializable, match=r"^context\.rows\[50000\]: "):
        await encode_value(bad, saved_us=SAVED_US, level=3)
