"""Large values are worked on in pieces: the same bytes, the same refusals, and the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest
from golden import samples
from golden.samples import EVERY_TYPE
from hypothesis import given, settings
from hypothesis import strategies as st
from support import payload
from support.exact import exactly

from sagaz_tiering.codec import body_shape, encode, from_value
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot, NotSerializable
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.encoding import decode_record, decode_value, encode_record, encode_value
from sagaz_tiering.typed_json import LARGE, MAX_DEPTH, Encoding, Shape, dumps, loads, shape_of
from sagaz_tiering.typed_json.collector import full_collections_later
from sagaz_tiering.typed_json.freezing import Freezer, TooDeep, unchanged
from sagaz_tiering.typed_json.pieces import NotExact, plain_pieces, plain_text, tagged_text, typed_pieces
from sagaz_tiering.typed_json.slices import Unexpected, plain_value, typed_value
from sagaz_tiering.typed_json.tagging import tag

SAVED_US = samples.SAVED_US

TEXT = st.text(st.characters(exclude_categories=()), max_size=9) | st.sampled_from(['"', "\\", '\\",', "[{", "~a", ""])
PLAIN_TEXT = st.text(max_size=9) | st.sampled_from(['"', "\\", '\\",', '\\\\"]', "[{", "}],", "~a", ""])
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | PLAIN_TEXT,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(PLAIN_TEXT, inner, max_size=6),
    max_leaves=30,
).filter(lambda value: "inf" not in repr(value))
HASHABLE = st.integers() | st.dates() | TEXT | st.tuples(st.integers(), TEXT) | st.frozensets(st.integers(), max_size=4)
TYPED = st.recursive(
    st.none() | st.floats() | HASHABLE | st.decimals(allow_nan=False) | st.binary(max_size=9) | st.uuids(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(inner, max_size=6).map(tuple),
        st.sets(HASHABLE, max_size=6),
        st.frozensets(HASHABLE, max_size=6),
        st.dictionaries(TEXT, inner, max_size=6),
        st.dictionaries(HASHABLE, inner, max_size=6),
    ),
    max_leaves=30,
)
PIECES = st.sampled_from([1, 20, 50, 150, 500])


def large(kind: str) -> dict[str, Any]:
    """About 10 MB of JSON."""
    if kind == "documents":
        return {"documents": [snapshot.context for number in range(250) for snapshot in payload.saga(number)]}
    if kind == "typed values":
        moment = datetime(2026, 3, 1, tzinfo=UTC)
        return {
            "rows": [
                {"id": UUID(int=number), "price": Decimal(number) / 100, "at": moment.replace(microsecond=number)}
                for number in range(75_000)
            ]
        }
    if kind == "numbers":
        return {"numbers": list(range(1_450_000))}
    return {"text": "Żółw " * 1_250_000}


LARGE_KINDS = ("documents", "typed values", "numbers", "text")


# The bytes


@settings(max_examples=120, deadline=None, database=None, derandomize=True)
@given(st.lists(PLAIN, max_size=8) | st.dictionaries(PLAIN_TEXT, PLAIN, max_size=8), PIECES)
def test_plain_pieces_are_the_text_written_in_one_go(value: Any, piece: int) -> None:
    """Checksums are over these bytes; and the text read in slices is the value."""
    freezer = Freezer(piece)
    frozen = freezer.freeze(value)
    assert freezer.plain
    assert unchanged(value, frozen)
    data = b"".join(plain_pieces(frozen))
    assert data == plain_text(value)
    assert exactly(plain_value(data, piece)[0]) == exactly(value)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.lists(TYPED, max_size=8) | st.dictionaries(HASHABLE, TYPED, max_size=8), PIECES)
def test_typed_pieces_are_the_text_written_in_one_go(value: Any, piece: int) -> None:
    """For every kind of container, and however small the pieces are."""
    frozen = Freezer(piece).freeze(value)
    data = b"".join(typed_pieces(frozen))
    assert data == tagged_text(tag(value))
    assert exactly(typed_value(data, piece)[0]) == exactly(value)


MANY = {
    "every type": [EVERY_TYPE] * 400,
    "documents": [payload.saga(number)[4].context for number in range(60)],
    "a document beside a typed value": [payload.saga(1)[4].context] * 60 + [Decimal(1)],
    "not a number among numbers": [*range(40_000), float("nan")],
    "lone surrogate": ["a"] * 40_000 + ["\ud800"],
    "integer over 64 bits": [*range(40_000), 2**70],
    "set": {"set": set(range(60_000)), "frozen": frozenset(map(str, range(40_000)))},
    "tuple": (tuple(range(40_000)), (1, ("x" * 300_000,))),
    "odd keys": {number: [number] for number in range(40_000)} | {(1, "2"): {"~": list(range(40_000))}},
    "tilde keys": {f"~{number}": {"a": number} for number in range(20_000)},
    "heavy members": {f"k{number}": "x" * 200_000 for number in range(9)},
    "escapes": {'"\\' * 99 + str(number): ['\\"' * 50_000, {"a": "\\" * 99_999}] for number in range(5)},
    "deep": {"a": [[[[[[[["x" * 9, {"b": number}]]]]]]] for number in range(20_000)]},
    "bytes": [b"\0" * 200_000, bytearray(200_000)],
    "empty ones": [[], {}, (), set()] * 20_000,
    "only a string": "ż" * 400_000,
}


def in_one_go(value: Any) -> tuple[Encoding, bytes]:
    """What a value of any size is written as, whose plain writing is read back to see whether it is exact."""
    try:
        return Encoding.PLAIN, plain_text(value)
    except (NotExact, ValueError, TypeError):
        return Encoding.TYPED, tagged_text(tag(value))


@pytest.mark.parametrize("name", MANY)
def test_large_value_gives_the_bytes_of_the_writing_in_one_go(name: str) -> None:
    """With the thresholds as they are; and it comes back exactly, without ever being parsed in one go."""
    value = MANY[name]
    assert shape_of(value) is Shape.LARGE
    encoding, data = dumps(value)
    assert (encoding, data) == in_one_go(value)
    if type(value) is str:
        assert loads(encoding, data) == value
        return
    back, levels = plain_value(data) if encoding is Encoding.PLAIN else typed_value(data)
    assert levels <= MAX_DEPTH
    assert exactly(back) == exactly(value)


def test_large_value_of_json_types_takes_the_plain_encoding() -> None:
    """Nothing changes for readers of the JSON."""
    value = MANY["documents"]
    encoding, data = dumps(value)
    assert encoding is Encoding.PLAIN
    assert json.loads(data) == value


def test_value_that_is_not_exact_in_json_is_never_written_as_plain_pieces() -> None:
    """The proof by reading back is made for every piece."""
    with pytest.raises(NotExact):
        plain_pieces(Freezer(50).freeze([*range(99), float("nan"), *range(99)]))


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
    with pytest.raises(NotSerializable, match="nested deeper than"):
        dumps(wrap(value))
    with pytest.raises(TooDeep):
        Freezer().freeze(wrap(value))
    if encoding is Encoding.PLAIN:
        with pytest.raises(CorruptRecord, match="nested deeper than"):
            loads(encoding, b"[" + data + b"]")


def test_cycle_in_a_large_value_is_refused_where_it_closes() -> None:
    """However many branches it has."""
    value: dict[str, Any] = {"a": {"b": list(range(40_000))}}
    value["a"]["b"] += [value["a"], value["a"]]
    with pytest.raises(NotSerializable, match=r"^context\.a\.b\[40000\]: refers back to context\.a "):
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
def test_tags_and_keys_are_checked_over_all_slices(key: bytes) -> None:
    """A key twice, or a tag beside another key, is seen although the two are in different slices."""
    rows = b"[" + b"1," * 200_000 + b"1]"
    with pytest.raises(CorruptRecord):
        loads(Encoding.TYPED, b'{"a":' + rows + b',"b":' + rows + b',"' + key + b'":' + rows + b"}")


def test_damaged_text_read_in_slices_is_never_read_as_another_value() -> None:
    """Seeded random damage: what slices give is what the text as a whole gives."""
    random, read = Random(20260301), 0
    for text in (b"[,1]", b"[ ,1]", b"{,}", b'{ ,"a":1}', b"[[1], ]", b"[[1] 2]", b'{"a":[1],}', b"[1}", b"[]]", b"[1"):
        with pytest.raises((Unexpected, ValueError)):
            plain_value(text, 1)
        with pytest.raises((Unexpected, ValueError)):
            typed_value(text, 1)
    for value in (payload.saga(1)[0].context, EVERY_TYPE):
        encoding, text = dumps(value)
        in_slices = plain_value if encoding is Encoding.PLAIN else typed_value
        for _ in range(700):
            data = bytearray(text)
            for _ in range(random.randint(0, 2)):
                data[random.randrange(len(data))] = random.choice(b'"[]{}~,:0e\\\xffa- ')
            try:
                found, _ = in_slices(bytes(data), random.choice([1, 30, 200]))
            except (Unexpected, RecursionError, ValueError, TypeError, ArithmeticError):
                continue
            assert exactly(found) == exactly(loads(encoding, bytes(data)))
            read += 1
    assert read > 200


# Changes meanwhile


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(more=1),
        lambda value: value.pop("numbers"),
        lambda value: value["numbers"].append(1),
        lambda value: value["numbers"].__setitem__(77, "other"),
        lambda value: value["rows"][5]["a"].append(1),
        lambda value: value["rows"].__setitem__(3, None),
        lambda value: value["set"].add("x"),
        lambda value: value["bytes"].extend(b"x"),
        lambda value: value.update(rows={"a": 1}),
    ],
)
def test_change_of_any_part_is_seen(change: Callable[[Any], Any]) -> None:
    """The copy is compared with the value, however deep."""
    value: dict[str, Any] = {
        "numbers": list(range(200)),
        "rows": [{"a": [number]} for number in range(50)],
        "set": {1, 2},
        "bytes": bytearray(b"abc"),
    }
    for piece in (20, 100_000):
        frozen = Freezer(piece).freeze(value)
        assert unchanged(value, frozen)
    change(value)
    assert not unchanged(value, frozen)


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


async def _stall(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """The longest time, in seconds, that this process computed without the event loop having a turn.

    In processor time of the process, which other processes on the machine do not add to.
    """
    longest, working = 0.0, True

    async def tick() -> None:
        nonlocal longest
        while working:
            before = time.process_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.process_time() - before)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    result = await work()
    working = False
    await ticker
    return longest, result


async def _best_of_three(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    best, result = await _stall(work)
    for _ in range(2):
        if best < 0.05:
            break
        longest, result = await _stall(work)
        best = min(best, longest)
    return best, result


@pytest.fixture
def quiet_collector() -> Iterator[None]:
    """What other tests left to the collector is not collected in the middle of a measurement."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quiet_collector")
@pytest.mark.parametrize("kind", LARGE_KINDS)
async def test_large_snapshot_is_saved_and_read_without_stalling_the_loop(kind: str) -> None:
    """Ten megabytes each way, and the loop has its turn at least every 50 ms."""
    snapshot = samples.snapshot(0, context=large(kind))
    stall, (meta, value) = await _best_of_three(lambda: encode_value(snapshot, saved_us=SAVED_US, level=3))
    record = from_value(value)
    assert len(record.body) > 9_000_000
    assert record.meta == meta
    assert stall < 0.05
    stall, back = await _best_of_three(lambda: decode_value(value))
    assert back == snapshot
    assert stall < 0.05


async def test_long_key_is_compressed_off_the_loop_too() -> None:
    """What only the written body shows to be large is noticed then."""
    snapshot = samples.snapshot(0, context={"k" * 1_000_000: 1})
    meta, value = await encode_value(snapshot, saved_us=SAVED_US, level=3)
    assert len(value) < 10_000
    assert await decode_value(value) == snapshot
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


# The collector


def test_full_collections_are_back_after_a_large_value() -> None:
    """The process is left as it was, also after a refusal and with blocks inside blocks."""
    before = gc.get_threshold()
    with full_collections_later():
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > 10**6
        with full_collections_later():
            pass
        assert gc.get_threshold()[2] > 10**6
    assert gc.get_threshold() == before
    with pytest.raises(NotSerializable):
        dumps([*range(50_000), 1j])
    assert gc.get_threshold() == before


def test_thresholds_set_by_the_application_meanwhile_stay() -> None:
    """Only what was changed here is changed back."""
    before = gc.get_threshold()
    try:
        with full_collections_later():
            gc.set_threshold(500, 5, 5)
        assert gc.get_threshold() == (500, 5, 5)
    finally:
        gc.set_threshold(*before)


def test_full_collections_are_not_held_back_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """When one large value follows another without a pause, collections come in between."""
    before, now = gc.get_threshold(), [100.0]
    monkeypatch.setattr("sagaz_tiering.typed_json.collector.time.monotonic", lambda: now[0])
    with full_collections_later():
        now[0] += 60
        with full_collections_later():
            assert gc.get_threshold() == before
    assert gc.get_threshold() == before
