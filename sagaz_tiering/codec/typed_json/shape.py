"""Walks over a value before it is written: its shape, whether it fits into a limit, a private copy, its depth.

The shape is found in one bounded walk, cheap enough for the event loop. The copy is what no other task or thread can
change while it is written: all containers (leaves are immutable and shared), each by one call that nothing can
interrupt. What the value holds several times is copied once, so a copy takes no more room than the value, however long
it is as JSON. Such a value is small in memory and huge as JSON, so the limit counts each visit; what was visited before
is not walked again. What is counted is never more than is written: a value that would fit is never refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from sagaz_tiering.codec.typed_json.classes import fitting_object
from sagaz_tiering.codec.typed_json.write import MAX_DEPTH, Refused, refuse_colliding, segment

LARGE: Final = 256 * 1024
"""Weight from which a value is written, and length from which a text is read, on a thread."""

_ITEM_WEIGHT: Final = 16
"""What an element weighs, whatever it is: about its length in JSON and, for the time it takes, a little more."""

_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})
JSON_LEAVES: Final = frozenset({str, int, float, bool, type(None)})
_INTEGERS_AND_NONE: Final = JSON_LEAVES - {str, float}


_LEAVES: Final = JSON_LEAVES | {bytes, bytearray}
_NO_LIMIT: Final = 2**62
_SMALL: Final = 256
"""What needs less is walked again each time."""
_MOST_SHOWN: Final = 10
"""Segments of a path that are shown: the outermost."""


class Shape(Enum):
    """What a walk over a value tells about writing it."""

    PLAIN = "plain"  # exact JSON types and finite numbers only: what orjson writes of it comes back equal
    TYPED = "typed"  # something else is in it
    LARGE = "large"  # so heavy that the walk stopped


def shape_of(value: Any) -> Shape:
    """The shape of `value`; looks at no more elements than LARGE allows, and what is met twice counts twice.

    Keys of dicts are taken for short.
    """
    level: list[Any] = [value] if type(value) is dict or type(value) is list else [(value,)]
    room, is_json = LARGE, True
    others: list[Any] = []
    for _ in range(MAX_DEPTH):
        room -= _ITEM_WEIGHT * (sum(map(len, level)) + len(level))
        if room < 0:
            return Shape.LARGE
        deeper: list[Any] = []
        for container in level:
            for item in container.values() if type(container) is dict else container:
                kind = type(item)
                if kind is str:
                    room -= len(item)
                elif kind is dict or kind is list:
                    deeper.append(item)
                elif kind not in _INTEGERS_AND_NONE and (kind is not float or item - item != 0.0):
                    others.append(item)  # JSON has no NaN and no infinity
        if others:
            room, is_json, others = _room_beside(others, room, deeper), False, []
        level = deeper
        if not level:
            break
    return Shape.LARGE if room < 0 else Shape.PLAIN if is_json and not level else Shape.TYPED


def _room_beside(others: Iterable[Any], room: int, deeper: list[Any]) -> int:
    """What values that are not JSON's leave of `room`, below 0 if they do not fit; what is in them goes to `deeper`."""
    inside = 0
    for item in others:
        if type(item) is bytes or type(item) is bytearray:
            room -= len(item)
        elif type(item) in _CONTAINERS:
            deeper.append(item)
        elif fields := fitting_object(item):
            deeper.append(fields.values())
            inside += _ITEM_WEIGHT * len(fields)
        if room < inside:
            return -1
    return room


class TooDeep(Exception):
    """The value is nested deeper than MAX_DEPTH levels, or refers back to itself."""


class PastBudget(Exception):
    """The value is certainly longer than the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.trail: list[str] = []  # innermost first

    def where(self) -> str:
        """The path of what goes past the limit; its beginning, if it is long."""
        shown = "".join(self.trail[: -_MOST_SHOWN - 1 : -1]).removeprefix(".")
        return shown + ("…" if len(self.trail) > _MOST_SHOWN else "")


def is_exact_json(value: Any, most: int | None = None) -> bool:
    """Whether `value` is of exact JSON types and finite numbers only, within MAX_DEPTH levels. Copies nothing.

    Raises PastBudget if the JSON of `value` is certainly longer than `most` bytes.
    """
    budget = _Budget(_NO_LIMIT if most is None else most)
    try:
        budget.spend(value, MAX_DEPTH)
    except TooDeep:  # which the writing tells
        return False
    return budget.exact


class _Budget:
    def __init__(self, most: int) -> None:
        self._room = most
        self._known: dict[int, tuple[Any, int, int]] = {}  # (container, what it needs, its levels), by its id
        self.exact = True

    def spend(self, value: Any, levels: int) -> None:
        """Take off what `value` needs at least, which may have so many levels of containers."""
        kind = type(value)
        known = None if kind in _LEAVES else self._known.get(id(value))
        if known is not None and known[1] < self._room and known[2] <= levels:  # else it is walked, to tell where
            self._room -= known[1]
            return
        room = self._room
        self.exact = self.exact and (kind is list or kind is dict or kind in JSON_LEAVES)
        if kind is list or kind is tuple:
            self._items(value, enumerate(value), levels, "[{}]".format)
        elif kind is dict:
            self._dict(value, levels)
        elif kind is set or kind is frozenset:
            self._items(value, enumerate(value), levels, lambda _: "{…}")
        else:
            self._leaf(value, kind, levels)
        if self._room < 0:
            raise PastBudget
        if room - self._room > _SMALL and kind not in _LEAVES:
            self._known[id(value)] = (value, room - self._room, levels)

    def _leaf(self, value: Any, kind: type, levels: int) -> None:
        if kind is str or kind is bytes or kind is bytearray:
            self._room -= len(value) + 2
            return
        self._room -= 1
        fields = None if kind in JSON_LEAVES else fitting_object(value)
        if fields is not None:
            self._dict(fields, levels)

    def _dict(self, value: dict[Any, Any], levels: int) -> None:
        for key in value:
            if type(key) is str:
                self._room -= len(key) + 3
            else:
                self.exact = False
                self.spend(key, levels - 1)
        self._items(value, value.items(), levels, segment)

    def _items(self, value: Any, pairs: Iterable[tuple[Any, Any]], levels: int, show: Any) -> None:
        if levels <= 0:
            raise TooDeep
        room = self._room - len(value) - 1  # brackets and commas
        key: Any = None
        try:
            for key, item in pairs:  # noqa: B007  # the key of what goes past it
                kind = type(item)
                if kind is str:
                    room -= len(item) + 2
                elif kind in JSON_LEAVES:
                    room -= 1
                    if kind is float and item - item != 0.0:  # JSON has no NaN and no infinity
                        self.exact = False
                else:
                    self._room = room
                    self.spend(item, levels - 1)
                    room = self._room
                if room < 0:
                    raise PastBudget
        except PastBudget as exc:
            exc.trail.append(show(key))
            raise
        self._room = room


def private_copy(value: Any, most: int) -> Any:
    """A copy of all containers in `value`, in one go; `value` itself where the writing refuses it whatever comes.

    That is where it is nested too deeply, certainly longer than `most` bytes of JSON, or has colliding elements.
    """
    try:
        is_exact_json(value, most)
        return whole_copy(value)
    except (TooDeep, PastBudget, Refused):
        return value


def whole_copy(value: Any) -> Any:
    """A copy of all containers in `value`. Raises TooDeep, and Refused (without the path) for colliding elements."""
    return value if type(value) in JSON_LEAVES else _Copier().copy(value, MAX_DEPTH)


class _Copier:
    def __init__(self) -> None:
        self._copies: dict[int, Any] = {}
        self._copied: list[Any] = []  # so that no other container gets the id of one

    def copy(self, value: Any, levels: int) -> Any:
        """The copy of what is no leaf of JSON, which may have so many levels of containers."""
        if id(value) in self._copies:
            return self._copies[id(value)]
        kind = type(value)
        if kind is dict or kind is set or kind is frozenset:
            refuse_colliding(value)
        if kind is dict:
            copy = value.copy()
            self._copy_inside(copy, copy.items(), levels)
        elif kind is list or kind is tuple:
            copy = list(value)
            self._copy_inside(copy, enumerate(copy), levels)
            copy = tuple(copy) if kind is tuple else copy
        elif kind is set or kind is bytearray:
            copy = value.copy()  # elements of sets are immutable, or they could not be in it
        else:
            copy = fitting_object(value)
            if copy is None:
                return value
            self._copy_inside(copy, copy.items(), levels)
        self._copies[id(value)] = copy
        self._copied.append(value)
        return copy

    def _copy_inside(self, copy: Any, pairs: Iterable[tuple[Any, Any]], levels: int) -> None:
        if levels <= 0:
            raise TooDeep
        for key, item in pairs:
            if type(item) not in JSON_LEAVES:
                copy[key] = self.copy(item, levels - 1)  # the key is there, so the loop goes on undisturbed


def too_deep(value: Any, most: int = MAX_DEPTH) -> bool:
    """Whether `value` has more than `most` levels of containers."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(most):
        level = [
            inner
            for item in level
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) in _CONTAINERS
        ]
    return bool(level)
