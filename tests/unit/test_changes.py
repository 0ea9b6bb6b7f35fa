"""What differs between two contexts: a patch that any JSON library applies, and paths that people read."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import jsonpatch
import pytest
from golden.samples import EVERY_TYPE
from hypothesis import given, settings
from hypothesis import strategies as st

from sagaz_tiering.cli.commands.diff import changes_in_one_line
from sagaz_tiering.codec import alignment
from sagaz_tiering.codec.changes import ValueChange, changes, patch
from sagaz_tiering.codec.typed_json import from_tagged, tag
from sagaz_tiering.terminal import show_value

KEYS = st.text(st.characters(exclude_categories=()), max_size=3) | st.sampled_from(["~", "~set", "a/b", "a~1b", ""])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3) | st.integers(),
    st.floats(),
    st.sampled_from(["", "a", "b", "\ud83d", "\ud83d\ude00"]) | st.text(max_size=3),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
    st.binary(max_size=3),
)
HASHABLE = st.one_of(st.integers(0, 5), st.sampled_from(["x", "y"]), st.tuples(st.integers(0, 2)), st.uuids())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(st.fixed_dictionaries({"id": st.integers(0, 6), "n": inner}), max_size=5),
        st.lists(inner, max_size=3).map(tuple),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
    ),
    max_leaves=20,
)


def text(value: Any) -> str:
    """JSON, in which 1, 1.0 and true are three things."""
    return json.dumps(value, sort_keys=True)


def mutated(value: Any, chance: Random, other: Any) -> Any:
    """`value` with something in it added, removed, moved or replaced."""
    if isinstance(value, dict) and value:
        items = list(value.items())
        at = chance.randrange(len(items))
        key, inner = items[at]
        match chance.randrange(3):
            case 0:
                return dict(items[:at] + items[at + 1 :])
            case 1:
                return {**value, "new": other}
            case _:
                return {**value, key: mutated(inner, chance, other)}
    if isinstance(value, list | tuple) and value:
        items, at = list(value), chance.randrange(len(value))
        match chance.randrange(4):
            case 0:
                items.pop(at)
            case 1:
                items.insert(at, other)
            case 2:
                items.append(items.pop(at))
            case _:
                items[at] = mutated(items[at], chance, other)
        return type(value)(items)
    return other


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two contexts, of which one mostly was the other."""
    before, other = draw(st.dictionaries(KEYS, VALUES, max_size=5)), draw(VALUES)
    after, chance = before, Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(0, 4))):
        after = mutated(after, chance, other)
    return before, after


def check(before: Any, after: Any) -> list[ValueChange]:
    """The patch of one JSON value to the other is right; its changes."""
    found = changes(before, after)
    written = json.loads(json.dumps(patch(found)))
    assert text(jsonpatch.apply_patch(json.loads(text(before)), written)) == text(after)
    return found


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(pairs())
def test_patch_makes_one_context_of_the_other(pair: tuple[Any, Any]) -> None:
    """Whatever both hold; equal ones have none."""
    before, after = map(tag, pair)
    found = check(before, after)
    assert not changes(before, before)
    assert bool(found) == (text(before) != text(after))


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(pairs())
def test_patch_is_right_where_effort_ends(pair: tuple[Any, Any]) -> None:
    """Less minimal, and still exact."""
    before, after = map(tag, pair)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(alignment.Effort, "spend", lambda _self, _steps: False)
        check(before, after)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(alignment, "_MOST_CELLS", 0)
        check(before, after)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sagaz_tiering.codec.changes._USUAL_PATH", 2)
        patched.setattr("sagaz_tiering.codec.changes._MOST_OF_PATHS", 20)
        check(before, after)


def told(before: Any, after: Any) -> list[str]:
    """Each change as `sign path`, with Python's values."""
    signs = {"added": "+", "removed": "-", "changed": "~"}
    shown = []
    for each in check(tag(before), tag(after)):
        values = {"added": [each.after], "removed": [each.before], "changed": [each.before, each.after]}[each.kind]
        shown.append(f"{signs[each.kind]}{each.path} {' '.join(map(repr, values))}")
    return shown


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, ["-/a 1", "~/b 2 3", "+/c 4"]),
        ({"n": 1}, {"n": True}, ["~/n 1 True"]),
        ({"n": 0.0}, {"n": -0.0}, ["~/n 0.0 -0.0"]),
        ({"n": float("nan")}, {"n": float("nan")}, []),
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, ["~/a~1b/~0 1 2"]),
        ([1, 2, 3, 4], [2, 3, 5, 4], ["-/0 1", "+/2 5"]),
        ([1, 1, 2], [1, 2], ["-/1 1"]),
        (
            [{"sku": "A", "n": 1}, {"sku": "B", "n": 1}, {"sku": "C", "n": 1}],
            [{"sku": "B", "n": 2}, {"sku": "D", "n": 7}, {"sku": "C", "n": 3}],
            ["-/0 {'sku': 'A', 'n': 1}", "~/0/n 1 2", "+/1 {'sku': 'D', 'n': 7}", "~/2/n 1 3"],
        ),
        ([["a", 1], ["b", 2]], [["b", 3]], ["-/0 ['a', 1]", "~/0/1 2 3"]),
        ({"t": (1, 2)}, {"t": (1, 3, 4)}, ["~/t/1 2 3", "+/t/2 4"]),
        ({"t": (1, 2)}, {"t": [1, 2]}, ["~/t (1, 2) [1, 2]"]),
        ({"s": {1, 2}}, {"s": {2, 3}}, ["-/s 1", "+/s 3"]),
        ({"d": {1: "a", 2: "b"}}, {"d": {1: "a", 2: "c", 3: "d"}}, ["~/d/2 'b' 'c'", "+/d/3 'd'"]),
        ({"x": Decimal("1.5")}, {"x": Decimal("1.50")}, ["~/x Decimal('1.5') Decimal('1.50')"]),
        ({"x": b"a"}, {"x": b"b"}, ["~/x b'a' b'b'"]),
        (
            {"x": date(2026, 1, 2), "y": UUID(int=1)},
            {"x": date(2026, 1, 3), "y": str(UUID(int=1))},
            ["~/x datetime.date(2026, 1, 2) datetime.date(2026, 1, 3)", f"~/y {UUID(int=1)!r} '{UUID(int=1)}'"],
        ),
    ],
)
def test_changes_are_told_by_path_and_type(before: Any, after: Any, expected: list[str]) -> None:
    """As few as a reader would tell, in the order of the document, with the values as Python has them."""
    assert told(before, after) == expected


def test_every_type_is_compared() -> None:
    """One change where a value of any type is another one, none where it is the same; and each can be shown."""
    for name, value in EVERY_TYPE.items():
        form = tag(value)
        assert not changes(form, tag(from_tagged(form)))
        assert [each.path for each in check({"v": form}, {"v": "gone"})] == ["/v"], name
        assert show_value(form)


def test_long_list_keeps_its_differences_small() -> None:
    """An element that came first shifts all others, whose noise changed: they are known by their id."""
    before = [{"id": f"o-{at}", "noise": at} for at in range(5_000)]
    after = [{"id": "new", "noise": 0}, *({"id": each["id"], "noise": -1} for each in before if each["id"] != "o-77")]
    found = check(before, after)
    assert sum(each.kind != "changed" for each in found) == 2
    assert all(each.path.endswith("/noise") for each in found if each.kind == "changed")


def test_large_contexts_are_compared_whatever_they_look_like() -> None:
    """What has nothing in common, twins without end, and lists in lists in lists."""
    chance = Random(1)
    nested: Any = [1]
    for _ in range(150):
        nested = [nested, "x" * 2_000]
    for before, after in (
        ([chance.choice("ab") for _ in range(30_000)], [chance.choice("ab") for _ in range(30_000)]),
        ([{"id": at} for at in range(10_000)], [{"id": -at} for at in range(10_000)]),
        (nested, [*nested, 2]),
    ):
        assert patch(changes(before, after))


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [
        ("a\nb", 20, '"a\\nb"'),
        ("x" * 50, 10, '"xxxxxxxx…'),
        (Decimal("1.50"), 20, "decimal 1.50"),
        (datetime(2026, 3, 1, tzinfo=UTC), 40, "datetime 2026-03-01T00:00:00+00:00"),
        (b"abc", 20, "bytes YWJj"),
        ((1, "a"), 20, '(1, "a")'),
        ({"b"}, 20, '{"b"}'),
        ({"k": [1, None, True]}, 40, '{"k": [1, null, true]}'),
        ({1: "a"}, 20, '{1: "a"}'),
        (list(range(10**4)), 12, "[0, 1, 2, 3…"),
    ],
)
def test_value_is_shown_with_its_type_in_one_line(value: Any, limit: int, expected: str) -> None:
    """Never longer than there is room, whatever its size."""
    assert show_value(tag(value), limit) == expected


def test_one_line_says_as_much_as_fits() -> None:
    """Values first to last while there is room, then names, then how many more."""
    before = {"status": "executing", "context": {"total": Decimal("10.00")}, "completed_steps": []}
    context = {"total": Decimal("12.50"), "payment": {"id": "P-1"}}
    after = {"status": "failed", "context": context, "completed_steps": ["reserve"]}
    found = changes(tag(before), tag(after))
    lines = [changes_in_one_line(found, width) for width in (200, 60, 40, 20)]
    assert lines == [
        '~status "executing" → "failed", ~total 10.00 → 12.50, +payment {"id": "P-1"}, +completed_steps/0 "reserve"',
        "~status, ~total 10.00 → 12.50, +payment, +completed_steps/0",
        "~status, ~total, +payment, and 1 more",
        "~status, and 3 more",
    ]
    assert changes_in_one_line([], 40) == "nothing"


@pytest.mark.parametrize("wrap", [list, tuple, set, dict.fromkeys, lambda some: {str(each): each for each in some}])
def test_long_keys_do_not_multiply(wrap: Callable[[Iterable[int]], Any]) -> None:
    """A key of fifty kilobytes over some thousand values is not written as often as there are values."""
    contexts = ({"k" * 50_000: wrap(range(start, start + 3_000))} for start in (0, 2_000))
    before, after = (tag(each) for each in contexts)
    tracemalloc.start()
    try:
        found = changes(before, after)
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(found), len(check(before, after))) == (1, 1)
    assert memory < 100 * 1024 * 1024
    assert changes(before, before) == []
