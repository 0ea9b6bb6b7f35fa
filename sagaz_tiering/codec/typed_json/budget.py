"""Whether a value is JSON already, and can fit into a limit at all: asked before anything is copied or written.

A value whose lists share their elements is small in memory and huge as JSON, so each visit counts; what was visited
before is not walked again. What is counted is never more than is written: a value that would fit is never refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sagaz_tiering.codec.typed_json.objects import fitting_object
from sagaz_tiering.codec.typed_json.shape import JSON_LEAVES
from sagaz_tiering.codec.typed_json.write import MAX_DEPTH, segment

_LEAVES: Final = JSON_LEAVES | {bytes, bytearray}
_NO_LIMIT: Final = 2**62
_SMALL: Final = 256
"""What needs less is walked again each time."""
_MOST_SHOWN: Final = 10
"""Segments of a path that are shown: the outermost."""


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
    except _TooDeep:  # which the writing tells
        return False
    return budget.exact


class _TooDeep(Exception):
    pass


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
            raise _TooDeep
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
