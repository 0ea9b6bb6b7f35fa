"""A context that is small in memory and huge as JSON is refused before much is copied, and told where."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from golden.samples import EVERY_TYPE, SAVED_US
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import make

from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.typed_json import dumps, private_copy
from sagaz_tiering.codec.typed_json.shape import PastBudget, is_exact_json
from sagaz_tiering.codec.unsupported import Replacing, Texts
from sagaz_tiering.codec.value import encode
from sagaz_tiering.errors import NotSerializable, SnapshotTooLarge

LIMIT = 512 * 1024
DOUBLINGS = 18


def doubled(inner: Any, pair: Callable[[Any, Any], Any]) -> Any:
    for _ in range(DOUBLINGS):
        inner = pair(inner, inner)
    return inner


def added() -> Any:
    """Frozensets in which each holds the two before it."""
    one, other = frozenset[Any](), frozenset[Any]([1])
    for _ in range(24):
        one, other = other, frozenset([one, other])
    return other


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (doubled(["x" * 10], lambda one, other: [one, other]), r"\[[01]\]\[[01]\]"),
        (doubled("x", lambda one, other: (one, other)), r"\[[01]\]\[[01]\]"),
        (doubled({"k": "x"}, lambda one, other: {"l": one, "r": other}), r"\.[lr]\.[lr]"),
        ([["x" * 100_000]] * 10_000, r"\[5\]\[0\] "),
        ([b"x" * 100_000] * 10_000, r"\[5\] "),
        ([{"k" * 10_000: 1}] * 10_000, r"\[5\d\]"),
        ({added(): [0] * 20_000}, r"\{…\}"),
        ([added()], r"\[0\]\{…\}"),
    ],
    ids=["lists", "tuples", "dicts", "texts", "bytes", "keys", "frozensets as keys", "frozensets"],
)
@pytest.mark.guarantee("G4")
def test_shared_values_are_refused_before_they_are_copied(value: Any, where: str) -> None:
    """What would be a gigabyte of JSON is refused with its place, at the cost of what may be stored at most."""
    snapshot = make(1, context={"a": value})
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotTooLarge, match=rf"longer than the limit of {LIMIT} bytes: context\.a({where})"):
            encode(snapshot, saved_us=SAVED_US, max_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.frozensets(st.integers() | st.text(max_size=1), max_size=4),
            st.dictionaries(st.text(max_size=2) | st.integers() | st.tuples(st.integers()), inner, max_size=4),
        ),
        max_leaves=20,
    )
)
def test_a_value_that_fits_is_within_its_budget(value: Any) -> None:
    """To the byte: what is counted is never more than what is written."""
    is_exact_json(value, len(dumps(value)[1]))


def test_every_type_is_within_its_budget() -> None:
    """As the strategy above, for dates, enums and all the others."""
    is_exact_json(EVERY_TYPE, len(dumps(EVERY_TYPE)[1]))


def test_a_cycle_is_told_as_a_cycle() -> None:
    """Not as too large, however often it refers back to itself."""
    cycle: list[Any] = []
    cycle += [cycle, cycle]
    with pytest.raises(NotSerializable, match="cycle"):
        encode(make(1, context={"a": cycle}), saved_us=SAVED_US, max_bytes=LIMIT)


def test_a_cycle_is_left_as_it_is_where_texts_are_allowed() -> None:
    """It was replaced level by level, twice as often at each."""
    cycle: list[Any] = []
    cycle += [cycle, cycle]
    value = {"a": cycle, "b": object()}
    assert Replacing().replace(value) is value


class Row(list[Any]):
    """A list of the application's own class."""


@pytest.mark.parametrize("pair", [lambda one, other: [one, other], lambda one, other: {"l": one, "r": other}])
def test_shared_values_are_not_copied_for_another_loop(pair: Callable[[Any, Any], Any]) -> None:
    """What another loop's twin refuses as too large is handed over as it is: no copy grows without bound."""
    value = {"a": doubled(["x" * 10], pair)}
    tracemalloc.start()
    try:
        assert private_copy(value, LIMIT) is value
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


def test_a_budget_is_counted_once_for_what_is_shared() -> None:
    """Lists of lists that would be 2**180 elements as JSON take a walk of 180, not of the whole limit."""
    value: Any = []
    for _ in range(180):
        value = [value, value]
    with pytest.raises(PastBudget):
        is_exact_json(value, 2**40)


async def test_shared_lists_of_an_own_class_are_refused_where_texts_are_allowed() -> None:
    """Each is replaced once, however often it is referred to, and the result is refused as too large."""
    value: Any = Row()
    for _ in range(150):
        value = Row([value, value])
    with pytest.raises(SnapshotTooLarge, match=r"context\.a\[0\]"):
        await encode_record(make(1, context={"a": value}), saved_us=SAVED_US, texts=Texts("memory"))
