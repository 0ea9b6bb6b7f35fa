"""Value <-> JSON bytes: ordinary JSON where that is exact, tagged JSON elsewhere."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any

import orjson

from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot, NotSerializable
from sagaz_tiering.typed_json.collector import full_collections_later
from sagaz_tiering.typed_json.depth import too_deep, too_deep_for
from sagaz_tiering.typed_json.freezing import Freezer, TooDeep, release, unchanged
from sagaz_tiering.typed_json.pieces import NATIVE_ONLY, NotExact, plain_pieces, tagged_text, typed_pieces
from sagaz_tiering.typed_json.plain import plain_json
from sagaz_tiering.typed_json.revival import revive
from sagaz_tiering.typed_json.shape import LARGE, Shape, shape_of
from sagaz_tiering.typed_json.slices import Unexpected, no_constant, plain_value, typed_value
from sagaz_tiering.typed_json.tagging import MAX_DEPTH, Refused, tag


class Encoding(IntEnum):
    """How a JSON text is to be read; stored beside it."""

    PLAIN = 0
    TYPED = 1


def dumps(
    value: Any, path: str = "context", shape: Shape | None = None, most: int | None = None
) -> tuple[Encoding, bytes]:
    """`value` as JSON bytes; `shape` is its `shape_of`, if that is known.

    Raises NotSerializable, whose path starts with `path` ("" for none), or InvalidSnapshot if another thread changes
    the value meanwhile. A large value is written in many short calls, so that other threads go on; with `most` it
    raises PastBudget, before much is copied, if it is certainly longer than that.
    """
    if shape is None:
        plain = plain_json(value)
        if plain is not None:
            return Encoding.PLAIN, plain
        shape = shape_of(value)
    try:
        if shape is Shape.LARGE:
            with full_collections_later():
                return _dumps_large(value, path, most)
        if shape is Shape.PLAIN:
            plain = _as_plain(value)
            if plain is not None:
                return Encoding.PLAIN, plain
        return Encoding.TYPED, tagged_text(_tagged(value, path))
    except RecursionError as exc:
        raise NotSerializable(path, "nested too deeply for the stack that is left") from exc
    except RuntimeError as exc:  # a dict or set changed its size during iteration
        raise _changed() from exc


def loads(encoding: Encoding, data: bytes) -> Any:
    """The value of `dumps`. Raises CorruptRecord for anything that `dumps` cannot have written.

    A large text is read in many short calls, so that other threads go on.
    """
    try:
        if len(data) >= LARGE:
            try:
                with full_collections_later():
                    return _loads_large(encoding, data)
            except (Unexpected, RecursionError, ValueError, TypeError, ArithmeticError):
                pass  # only the text as a whole tells what is wrong with it, if anything is
        if encoding is Encoding.PLAIN:
            value = orjson.loads(data)
        else:
            text = data.decode("utf-8", "surrogatepass")
            value = json.loads(text, object_pairs_hook=revive, parse_constant=no_constant)
    except RecursionError as exc:
        raise CorruptRecord("snapshot body is nested too deeply to be read") from exc
    except (ValueError, TypeError, ArithmeticError) as exc:
        raise CorruptRecord(f"snapshot body is not what was written: {exc}") from exc
    if too_deep_for(data, value):
        raise _deep()
    return value


def _as_plain(value: Any) -> bytes | None:
    """`value`, whose shape is PLAIN, as ordinary JSON, or None where orjson refuses it.

    orjson writes enum members, UUIDs, tuples and NaN as something else without a word, and 3.13 corrupts memory
    on some hundred nested tuples. It never sees any here. What else JSON cannot carry (integers over 64 bits, lone
    surrogates, keys that are no text) it refuses itself, so nothing has to be read back.
    """
    try:
        return orjson.dumps(value, option=NATIVE_ONLY)
    except (ValueError, TypeError, RecursionError):
        return None


def _tagged(value: Any, path: str) -> Any:
    try:
        return tag(value)
    except Refused as exc:
        where, reason = exc.explain(path)
        raise NotSerializable(where, reason, hint=exc.hint) from None


def _dumps_large(value: Any, path: str, most: int | None) -> tuple[Encoding, bytes]:
    freezer = Freezer(most=most)
    try:
        frozen = freezer.freeze(value)
    except (TooDeep, Refused):
        return Encoding.TYPED, tagged_text(_tagged(value, path))  # which says where
    try:
        if not unchanged(value, frozen):
            raise _changed()
        if freezer.plain:
            try:
                return Encoding.PLAIN, b"".join(plain_pieces(frozen))
            except (NotExact, ValueError, TypeError):
                pass
        return Encoding.TYPED, b"".join(typed_pieces(frozen))
    except Refused as exc:
        _tagged(value, path)  # says where
        raise _changed() from exc
    finally:
        release(frozen)


def _loads_large(encoding: Encoding, data: bytes) -> Any:
    value, levels = plain_value(data) if encoding is Encoding.PLAIN else typed_value(data)
    # Each level of the value is one level of brackets or more.
    if levels > MAX_DEPTH and too_deep(value):
        raise _deep()
    return value


def _deep() -> CorruptRecord:
    return CorruptRecord(f"snapshot body is nested deeper than {MAX_DEPTH} levels")


def _changed() -> InvalidSnapshot:
    return InvalidSnapshot(
        "the snapshot was changed while it was being saved",
        hint="save a copy of the context, or change it only after the save has returned",
    )
