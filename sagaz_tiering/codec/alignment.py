"""Which elements of two JSON lists belong together, in bounded time and memory. Pure.

Equal elements are anchors: of a short stretch the longest common subsequence, of a long one what occurs once on either
side. Between anchors, objects belong together that share the value of the field that tells most of them apart (an id),
and what is left by its position.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Final

import orjson

Pair = tuple[int, int]
_Stretch = tuple[int, int, int, int]

_MOST_CELLS: Final = 100_000
_CHARS_A_STEP: Final = 16

_encode: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, check_circular=False).encode


def canonical(value: Any) -> bytes:
    """A JSON value as text: the same for the same value, whatever the order of its keys, and for no other."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # lone surrogates, deep nesting
        return _encode(value).encode("utf-8", "surrogatepass")


def tag_of(value: Any) -> str | None:
    """`~decimal` of `{"~decimal": "1.50"}`; None of what has no tag."""
    if type(value) is dict and len(value) == 1 and (name := next(iter(value))).startswith("~"):
        return str(name)
    return None


class Effort:
    """How many steps may still be spent on finding small differences; without any the answer is right, but longer."""

    def __init__(self, steps: int = 8_000_000) -> None:
        self._left = steps

    def spend(self, steps: int) -> bool:
        """Whether there was enough left."""
        self._left -= steps
        return self._left >= 0


def align(before: Sequence[Any], after: Sequence[Any], effort: Effort, *, equal_only: bool = False) -> list[Pair]:
    """Indices that belong together, ascending on both sides; elements in no pair were removed, or added.

    `equal_only`: of a set, whose elements do not turn into each other.
    """
    numbers: dict[Hashable, int] = {}
    xs, ys = (_numbered(each, numbers, effort) for each in (before, after))
    if xs is None or ys is None:
        return [] if equal_only else [(at, at) for at in range(min(len(before), len(after)))]
    pairs = _equal(xs, ys, effort)
    if not equal_only:
        for step in (_alike, _in_place):
            gaps = list(_gaps(pairs, len(xs), len(ys)))
            pairs = sorted([*pairs, *(pair for gap in gaps for pair in step(before, after, gap))])
    return pairs


def _numbered(elements: Sequence[Any], numbers: dict[Hashable, int], effort: Effort) -> list[int] | None:
    """A number for each element, the same for equal ones; None where that would take too long."""
    found = []
    for each in elements:
        kind = type(each)
        if kind is int:
            key: Hashable = each
        else:
            text = each if kind is str else canonical(each)
            if not effort.spend(1 + len(text) // _CHARS_A_STEP):
                return None
            key = text
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def _gaps(pairs: Iterable[Pair], end_x: int, end_y: int) -> Iterator[_Stretch]:
    """Stretches between pairs that have elements on both sides."""
    x = y = 0
    for to_x, to_y in (*pairs, (end_x, end_y)):
        if x < to_x and y < to_y:
            yield x, to_x, y, to_y
        x, y = to_x + 1, to_y + 1


def _equal(xs: Sequence[int], ys: Sequence[int], effort: Effort) -> list[Pair]:
    """Pairs of equal elements: as many as can be, where lists are short or have little in common twice."""
    pairs: list[Pair] = []
    todo: list[_Stretch] = [(0, len(xs), 0, len(ys))]
    while todo:
        x, end_x, y, end_y = todo.pop()
        while x < end_x and y < end_y and xs[x] == ys[y]:
            pairs.append((x, y))
            x, y = x + 1, y + 1
        while x < end_x and y < end_y and xs[end_x - 1] == ys[end_y - 1]:
            end_x, end_y = end_x - 1, end_y - 1
            pairs.append((end_x, end_y))
        cells = (end_x - x) * (end_y - y)
        if not cells or not effort.spend(end_x - x + end_y - y):
            continue
        if cells <= _MOST_CELLS and effort.spend(cells):
            pairs += [(x + i, y + j) for i, j in _longest_common(xs[x:end_x], ys[y:end_y])]
        elif anchors := _anchors(dict(enumerate(xs[x:end_x], x)), dict(enumerate(ys[y:end_y], y))):
            pairs += anchors
            starts = [(x - 1, y - 1), *anchors]
            todo += [(i + 1, k, j + 1, m) for (i, j), (k, m) in zip(starts, [*anchors, (end_x, end_y)], strict=True)]
    return sorted(pairs)


def _longest_common(xs: Sequence[int], ys: Sequence[int]) -> Iterator[Pair]:
    """The longest common subsequence."""
    lengths = [[0] * (len(ys) + 1)]
    for x in reversed(xs):  # lengths[-1 - i][j]: of xs[i:] and ys[j:]
        below, row = lengths[-1], [0] * (len(ys) + 1)
        for j in range(len(ys) - 1, -1, -1):
            row[j] = below[j + 1] + 1 if x == ys[j] else max(below[j], row[j + 1])
        lengths.append(row)
    lengths.reverse()
    i = j = 0
    while i < len(xs) and j < len(ys):
        if xs[i] == ys[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1


def _anchors(xs: dict[int, Hashable], ys: dict[int, Hashable]) -> list[Pair]:
    """Of what occurs once on either side, the longest part that is in the same order on both."""
    often_x, often_y = Counter(xs.values()), Counter(ys.values())
    where = {each: j for j, each in ys.items() if often_y[each] == 1 == often_x[each]}
    common = [(i, where[each]) for i, each in xs.items() if each in where]
    ends: list[int] = []  # of the best run of each length, its last element of `ys`
    at: list[int] = []
    came_from: list[int] = []
    for position, (_, j) in enumerate(common):
        length = bisect_left(ends, j)
        came_from.append(at[length - 1] if length else -1)
        ends[length : length + 1] = [j]
        at[length : length + 1] = [position]
    run: list[Pair] = []
    position = at[-1] if at else -1
    while position >= 0:
        run.append(common[position])
        position = came_from[position]
    return run[::-1]


def _alike(before: Sequence[Any], after: Sequence[Any], gap: _Stretch) -> Iterable[Pair]:
    """By the field whose values are shared by most."""
    x, end_x, y, end_y = gap
    by_field: dict[Hashable, tuple[dict[int, Hashable], dict[int, Hashable]]] = {}
    for side, elements, numbers in ((0, before, range(x, end_x)), (1, after, range(y, end_y))):
        for at in numbers:
            for name, value in _plain_fields(elements[at]):
                by_field.setdefault(name, ({}, {}))[side][at] = value
    return max((_anchors(*sides) for sides in by_field.values()), key=len, default=[])


def _plain_fields(element: Any) -> Iterator[tuple[Hashable, Hashable]]:
    """Fields of an object, or places of a list, whose value is a text, an integer or tagged text (an id, a date)."""
    while (name := tag_of(element)) is not None:
        element = element[name][1] if name == "~object" else element[name]
    items = element.items() if type(element) is dict else enumerate(element) if type(element) is list else ()
    for place, value in items:
        if type(value) is str or type(value) is int:
            yield place, value
        elif (name := tag_of(value)) is not None and type(value[name]) is str:
            yield place, (name, value[name])


def _in_place(_before: Sequence[Any], _after: Sequence[Any], gap: _Stretch) -> Iterable[Pair]:
    """By position."""
    x, end_x, y, end_y = gap
    return zip(range(x, end_x), range(y, end_y))  # noqa: B905  # the longer side has no partners
