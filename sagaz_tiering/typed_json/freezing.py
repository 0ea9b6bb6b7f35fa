"""A private copy of a large value, in pieces, that other tasks cannot change any more.

A thread that encodes for a tenth of a second shares the value with the event loop, whose tasks may change it. So
all containers are copied first (leaves are immutable and shared), each by one call that nothing can interrupt,
and then compared with the value. If all are equal, the copy is the value as it was between the two passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

from sagaz_tiering.typed_json.budget import PastBudget, check_budget
from sagaz_tiering.typed_json.objects import StoredObject, Unfit, stored_object
from sagaz_tiering.typed_json.shape import ITEM_WEIGHT, JSON_LEAVES
from sagaz_tiering.typed_json.tagging import MAX_DEPTH, Refused, refuse_colliding

PIECE: Final = 128 * 1024
"""Weight of what is given to one call of a C function, which no other thread can interrupt: about a millisecond."""

_FEW: Final = 64
_UNASKED: Final = 4
"""A value may be copied up to this part of the limit, by weight, before it is asked whether it can be within it."""
_NEVER_CUT: Final = 2**62
_MISSING: Final = object()
_NESTING: Final = (tuple, frozenset)


class TooDeep(Exception):
    """The value is nested deeper than MAX_DEPTH levels, or refers back to itself."""


class Large:
    """The copy of a container that weighs PIECE or more: `parts` in order, each copied and each below that weight.

    Of a list or tuple, a part is a list of elements or one Large; of a dict, a dict or (key, Large); of a set, a list.
    An object of a registered class is a dict of its fields with a `type_name`.
    """

    __slots__ = ("kind", "parts", "type_name")

    def __init__(self, kind: type, parts: list[Any], type_name: str = "") -> None:
        self.kind = kind
        self.parts = parts
        self.type_name = type_name


class Freezer:
    """Copies one value; `plain` tells afterwards whether all of it is of exact JSON types.

    With `most` no value whose JSON is certainly longer than so many bytes is copied, but for the beginning.
    """

    def __init__(self, piece: int = PIECE, most: int | None = None) -> None:
        self.plain = True
        self._piece = piece
        self._weight = 0  # of what was copied last; keys of dicts are taken for short
        self._value: Any = None
        self._most = most
        self._room = _NEVER_CUT if most is None else most // _UNASKED

    def freeze(self, value: Any) -> Any:
        """The copy of `value`: a Large, or an ordinary value if it is not that heavy.

        Raises TooDeep, PastBudget, and Refused (without the path) for colliding elements.
        """
        self._value = value
        kind = type(value)
        return value if kind in JSON_LEAVES else self._copy(value, kind, MAX_DEPTH)

    def _copy(self, item: Any, kind: type, levels: int) -> Any:
        """The copy of `item`, which may have so many levels of containers; its weight is left in `_weight`."""
        if kind is dict or kind is list or kind is tuple:
            self.plain = self.plain and kind is not tuple
            if levels == 0:
                raise TooDeep
            self._take(ITEM_WEIGHT * len(item) + ITEM_WEIGHT)
            copy: Any = item.copy() if kind is dict else list(item)
            if kind is dict:
                self._look_at_keys(copy)
            pairs = copy.items() if kind is dict else enumerate(copy)
            cuts = (self._copy_few if len(copy) <= _FEW else self._copy_many)(copy, pairs, levels - 1)
            if cuts:
                return Large(kind, _dict_parts(copy, cuts) if kind is dict else _row_parts(copy, cuts))
            return tuple(copy) if kind is tuple else copy
        self.plain = False
        if kind is set or kind is frozenset:
            return self._copy_set(item, kind)
        stored = _stored(item)
        if stored is not None:
            return self._copy_object(stored, levels)
        self._weight = len(item) if kind is bytes or kind is bytearray else ITEM_WEIGHT
        self._take(self._weight)
        return bytearray(item) if kind is bytearray else item

    def _take(self, weight: int) -> None:
        """Note that so much was copied; from some amount on the whole value is looked at, once."""
        self._room -= weight
        if self._room < 0:
            self._ask()

    def _ask(self) -> None:
        self._room = _NEVER_CUT
        if self._most is not None:
            most, self._most = self._most, None
            check_budget(self._value, most)

    def _look_at_keys(self, copy: dict[Any, Any]) -> None:
        try:
            self._take(len("".join(copy)))
        except TypeError:  # no text; containers as keys are immutable, so not copied, but written each time
            refuse_colliding(copy)
            if any(type(key) in _NESTING for key in copy):
                self._ask()

    def _copy_object(self, copy: StoredObject, levels: int) -> Any:
        if levels == 0:
            raise TooDeep
        self._take(ITEM_WEIGHT * len(copy) + ITEM_WEIGHT)
        cuts = (self._copy_few if len(copy) <= _FEW else self._copy_many)(copy, copy.items(), levels - 1)
        return Large(dict, _dict_parts(copy, cuts), copy.type_name) if cuts else copy

    def _copy_few(self, copy: Any, pairs: Iterable[tuple[Any, Any]], levels: int) -> Sequence[int]:
        """Copy what is in `copy`; the positions where to cut it into parts: each one, or none."""
        text, weight = 0, ITEM_WEIGHT * len(copy)
        for key, item in pairs:
            kind = type(item)
            if kind is str:
                text += len(item)
            elif kind not in JSON_LEAVES:
                copy[key] = self._copy(item, kind, levels)  # the key is there, so the loop goes on undisturbed
                weight += self._weight
        self._take(text)
        self._weight = weight = weight + text
        return range(len(copy) + 1) if weight >= self._piece else ()

    def _copy_many(self, copy: Any, pairs: Iterable[tuple[Any, Any]], levels: int) -> Sequence[int]:
        """The same, with several elements to a part."""
        cuts, weight, text = [0], 0, 0
        for position, (key, item) in enumerate(pairs):
            more = ITEM_WEIGHT
            kind = type(item)
            if kind is str:
                more += len(item)
                text += len(item)
            elif kind not in JSON_LEAVES:
                copy[key] = self._copy(item, kind, levels)
                more += self._weight
            weight += more
            if weight >= self._piece and weight > more:
                cuts.append(position)
                weight = more
        self._take(text)
        self._weight = weight
        if weight < self._piece and len(cuts) == 1:
            return ()
        self._weight = self._piece  # so that it becomes a part of its own
        return [*cuts, len(copy)]

    def _copy_set(self, value: Any, kind: type) -> Any:
        copy = list(value)  # its elements are immutable, or they could not be in it
        refuse_colliding(copy)
        self._weight = sum(4 * ITEM_WEIGHT + (len(item) if type(item) in (str, bytes) else 0) for item in copy)
        self._take(self._weight + ITEM_WEIGHT)
        if any(type(item) in _NESTING for item in copy):
            self._ask()
        if self._weight < self._piece:
            return kind(copy)
        count = max(1, len(copy) * self._piece // self._weight)
        return Large(kind, [copy[at : at + count] for at in range(0, len(copy), count)])


def _stored(item: Any) -> StoredObject | None:
    try:
        return stored_object(item)
    except Unfit:  # which the writing tells
        return None


def _row_parts(copy: list[Any], cuts: Sequence[int]) -> list[Any]:
    parts = [copy[start:end] for start, end in pairwise(cuts)]
    return [part[0] if len(part) == 1 and type(part[0]) is Large else part for part in parts]


def _dict_parts(copy: dict[Any, Any], cuts: Sequence[int]) -> list[Any]:
    pairs = list(copy.items())
    parts = [pairs[start:end] for start, end in pairwise(cuts)]
    return [part[0] if len(part) == 1 and type(part[0][1]) is Large else dict(part) for part in parts]


def private_copy(value: Any, most: int) -> Any:
    """A copy of all containers in `value`, in one go; `value` itself where the writing refuses it whatever comes.

    That is where it is nested too deeply, certainly longer than `most` bytes of JSON, or has colliding elements.
    """
    try:
        return Freezer(_NEVER_CUT, most).freeze(value)
    except (TooDeep, PastBudget, Refused):
        return value


def unchanged(value: Any, frozen: Any) -> bool:
    """Whether `value` is still what was copied; in pieces too."""
    if type(frozen) is not Large:
        return bool(value == frozen)
    if frozen.type_name:
        stored = _stored(value)
        if stored is None or stored.type_name != frozen.type_name:
            return False
        return _dict_unchanged(stored, frozen.parts)
    return type(value) is frozen.kind and _contents_unchanged(value, frozen)


def _contents_unchanged(value: Any, frozen: Large) -> bool:
    if frozen.kind is dict:
        return _dict_unchanged(value, frozen.parts)
    if frozen.kind is set or frozen.kind is frozenset:
        return len(value) == sum(map(len, frozen.parts)) and all(map(value.issuperset, frozen.parts))
    at = 0
    for part in frozen.parts:
        if type(part) is Large:
            if at >= len(value) or not unchanged(value[at], part):
                return False
            at += 1
        else:
            if list(value[at : at + len(part)]) != part:
                return False
            at += len(part)
    return at == len(value)


def _dict_unchanged(value: dict[Any, Any], parts: list[Any]) -> bool:
    count = 0
    for part in parts:
        if type(part) is tuple:
            count += 1
            if not unchanged(value.get(part[0], _MISSING), part[1]):
                return False
        else:
            count += len(part)
            if {key: value.get(key, _MISSING) for key in part} != part:
                return False
    return count == len(value)


def release(frozen: Any) -> None:
    """Let go of a copy part by part: to free hundreds of thousands of containers in one go takes long as well."""
    if type(frozen) is Large:
        while frozen.parts:
            part = frozen.parts.pop()
            release(part[1] if type(part) is tuple else part)
