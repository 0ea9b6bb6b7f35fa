"""What a storage does with values that would not come back equal: refuse them, or keep their text and tell so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from sagaz_tiering import metrics
from sagaz_tiering.codec.typed_json import MAX_DEPTH, Shape, StoredObject, private_copy, shape_of, stored_object, tag
from sagaz_tiering.codec.typed_json.classes import Unfit
from sagaz_tiering.codec.typed_json.write import Refused, hashes_collide
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.logs import Logger, Repeated
from sagaz_tiering.snapshot import SagaSnapshot

_log = Logger(__name__)
_MOST_SHOWN = 5

_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes),
)
_CONTAINERS: Final = (dict, list, tuple, set, frozenset)

OnUnsupported: TypeAlias = Literal["refuse", "text"]


class Texts:
    """Texts in place of values, for one storage. Each replaced value is counted, each type told once in a while."""

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._told = Repeated()

    async def instead(self, snapshot: SagaSnapshot, max_bytes: int) -> SagaSnapshot:
        """The snapshot with texts where its context could not be stored; a large one is worked on by a thread.

        What is certainly longer than `max_bytes` is left for the encoder to refuse.
        """
        context, work = snapshot.context, Replacing()
        if shape_of(context) is Shape.LARGE:
            found = await asyncio.to_thread(work.replace, private_copy(context, max_bytes))
        else:
            found = work.replace(context)
        if not work.types or type(found) is not dict:
            return snapshot
        metrics.STORED_AS_TEXT.labels(storage=self._storage).inc(sum(work.types.values()))
        shown = dict(sorted(work.types.items())[:_MOST_SHOWN])
        times = self._told.due(tuple(shown))
        if times is not None:
            _log.warning(
                "snapshot.stored_as_text",
                storage=self._storage,
                types=shown,
                snapshot_id=str(snapshot.snapshot_id),
                saga_id=str(snapshot.saga_id),
                hint="these values come back as text; see 'What a context may hold' in the documentation",
                **times,
            )
        return replace(snapshot, context=found)


def texts_for(on_unsupported: str, storage: str) -> Texts | None:
    """What the option means; None: refuse. Raises ConfigError."""
    if on_unsupported not in ("refuse", "text"):
        raise ConfigError(f"on_unsupported must be 'refuse' or 'text', not {on_unsupported!r:.80}")
    return Texts(storage) if on_unsupported == "text" else None


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
