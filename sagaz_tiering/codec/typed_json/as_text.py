"""What sagaz makes of a value that JSON does not know: its text. Only for storages that were told to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

from sagaz_tiering.codec.typed_json.hashing import hashes_collide
from sagaz_tiering.codec.typed_json.objects import StoredObject, Unfit, stored_object
from sagaz_tiering.codec.typed_json.write import MAX_DEPTH, Refused, tag

_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes),
)
_CONTAINERS: Final = (dict, list, tuple, set, frozenset)


class _TextTooDeep(Exception):
    pass


class Replacing:
    """Replaces in copies what cannot be stored: subclasses by what they are made of, all else by `str(value)`.

    `types` tells afterwards how many values of which type were replaced. What even that does not help (a cycle, keys or
    elements of a set that would become one, a `str` that raises) is left as it is, for the encoder to refuse.
    """

    def __init__(self) -> None:
        self.types: dict[str, int] = {}
        self._done: dict[int, tuple[Any, Any]] = {}  # (container, its copy) by id: shared ones stay shared

    def replace(self, value: Any) -> Any:
        """A copy of `value` that can be stored, as far as that goes; `value` itself if it is nested too deeply."""
        try:
            return self._replaced(value, MAX_DEPTH)
        except _TextTooDeep:  # a cycle may have as many copies as there are ways through it
            self.types.clear()
            return value
        finally:
            self._done.clear()

    def _replaced(self, value: Any, levels: int) -> Any:
        done = self._done.get(id(value))
        if done is not None:
            return done[1]
        if isinstance(value, Enum):
            return self._leaf(value)
        kind = next((base for base in _CONTAINERS if isinstance(value, base)), None)
        try:
            stored = stored_object(value)
        except Unfit:
            return self._text(value)
        if kind is None and stored is None:
            return self._leaf(value)
        if levels == 0:
            raise _TextTooDeep
        found = self._copy(value, kind, levels - 1) if stored is None else self._fields(stored, levels - 1)
        self._done[id(value)] = (value, found)
        return found

    def _fields(self, stored: StoredObject, levels: int) -> StoredObject:
        return StoredObject(stored.type_name, {name: self._replaced(item, levels) for name, item in stored.items()})

    def _copy(self, value: Any, kind: Any, levels: int) -> Any:
        if kind not in (list, tuple) and hashes_collide(value):
            return value
        if type(value) is not kind:
            self._count(value)
        if kind is dict:
            found = {self._replaced(key, levels): self._replaced(item, levels) for key, item in value.items()}
            return found if len(found) == len(value) else value
        return self._items(value, kind, levels)

    def _items(self, value: Iterable[Any], kind: Callable[[Iterable[Any]], Any], levels: int) -> Any:
        items = [self._replaced(item, levels) for item in value]
        found = kind(items)
        return found if len(found) == len(items) else value

    def _leaf(self, value: Any) -> Any:
        try:
            tag(value)
        except Refused:
            for base, made in _BASES:
                if isinstance(value, base):
                    self._count(value)
                    return made(value)
            return self._text(value)
        return value

    def _text(self, value: Any) -> Any:
        try:
            text = str.__str__(str(value))
        except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError):
            return value
        self._count(value)
        return text

    def _count(self, value: Any) -> None:
        name = type(value).__name__
        self.types[name] = self.types.get(name, 0) + 1
