"""A private copy of a value, which no other task or thread can change while it is written.

All containers are copied (leaves are immutable and shared), each by one call that nothing can interrupt. What the value
holds several times is copied once, so a copy takes no more room than the value, however long it is as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sagaz_tiering.codec.typed_json.budget import PastBudget, is_exact_json
from sagaz_tiering.codec.typed_json.objects import fitting_object
from sagaz_tiering.codec.typed_json.shape import JSON_LEAVES
from sagaz_tiering.codec.typed_json.write import MAX_DEPTH, Refused, refuse_colliding


class TooDeep(Exception):
    """The value is nested deeper than MAX_DEPTH levels, or refers back to itself."""


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
