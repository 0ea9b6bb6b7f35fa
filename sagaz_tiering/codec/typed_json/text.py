"""Value <-> JSON bytes: ordinary JSON where that is exact, tagged JSON elsewhere."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any, Final

import orjson

from sagaz_tiering.codec.typed_json.read import revive
from sagaz_tiering.codec.typed_json.shape import LARGE, Shape, TooDeep, is_exact_json, shape_of, too_deep, whole_copy
from sagaz_tiering.codec.typed_json.write import MAX_DEPTH, Refused, tag
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot, NotSerializable

# Every cycle is over MAX_DEPTH, so json need not look for them.
_encode_tagged: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


_NATIVE_ONLY: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)


class Encoding(IntEnum):
    """How a JSON text is to be read; stored beside it."""

    PLAIN = 0
    TYPED = 1


def dumps(
    value: Any, path: str = "context", shape: Shape | None = None, most: int | None = None
) -> tuple[Encoding, bytes]:
    """`value` as JSON bytes; `shape` is its `shape_of`, if that is known.

    Raises NotSerializable, whose path starts with `path` ("" for none), or InvalidSnapshot if another thread changes
    the value meanwhile: a large one may be written on a thread. With `most` it raises PastBudget, before anything is
    copied, if a large value is certainly longer than that.
    """
    try:
        shape = shape or shape_of(value)
        if shape is Shape.LARGE:
            return _dumps_large(value, path, most)
        if shape is Shape.PLAIN:
            plain = _as_plain(value)
            if plain is not None:
                return Encoding.PLAIN, plain
        return Encoding.TYPED, _tagged(value, path)
    except RecursionError as exc:
        raise NotSerializable(path, "nested too deeply for the stack that is left") from exc
    except RuntimeError as exc:  # a dict or set changed its size during iteration
        raise _changed() from exc


def loads(encoding: Encoding, data: bytes) -> Any:
    """The value of `dumps`. Raises CorruptRecord for anything that `dumps` cannot have written."""
    try:
        if encoding is Encoding.PLAIN:
            value = orjson.loads(data) if len(data) < LARGE else _read_with_pauses(data)
        else:
            text = data.decode("utf-8", "surrogatepass")
            value = json.loads(text, object_pairs_hook=revive, parse_constant=_no_constant)
    except RecursionError as exc:
        raise CorruptRecord("snapshot body is nested too deeply to be read") from exc
    except (ValueError, TypeError, ArithmeticError) as exc:
        raise CorruptRecord(f"snapshot body is not what was written: {exc}") from exc
    # So many containers it has at most: three times as fast as counting.
    brackets = 2 * len(data) - len(data.replace(b"[", b"")) - len(data.replace(b"{", b""))
    if brackets > MAX_DEPTH and too_deep(value):
        raise CorruptRecord(f"snapshot body is nested deeper than {MAX_DEPTH} levels")
    return value


def _as_plain(value: Any) -> bytes | None:
    """`value`, whose shape is PLAIN, as ordinary JSON, or None where orjson refuses it.

    orjson writes enum members, UUIDs, tuples and NaN as something else without a word, does not stop before its end,
    and 3.13 corrupts memory on some hundred nested tuples. It never sees any here. What else JSON cannot carry
    (integers over 64 bits, lone surrogates, keys that are no text) it refuses itself, so nothing has to be read back.
    """
    try:
        return orjson.dumps(value, option=_NATIVE_ONLY)
    except (ValueError, TypeError, RecursionError):
        return None


def _tagged(value: Any, path: str) -> bytes:
    try:
        tagged = tag(value)
    except Refused as exc:
        where, reason = exc.explain(path)
        raise NotSerializable(where, reason, hint=exc.hint) from None
    # Lone surrogates as bytes: written as \ud83d\ude00 escapes, two of them would come back as one character.
    return _encode_tagged(tagged).encode("utf-8", "surrogatepass")


def _dumps_large(value: Any, path: str, most: int | None) -> tuple[Encoding, bytes]:
    """Other threads run meanwhile, but not while orjson writes, while a container is copied, or while two are compared:
    what is the same before and after a look at all of it was the value throughout."""
    if is_exact_json(value, most):
        plain = _as_plain(value)
        if plain is not None and is_exact_json(value, most):
            if _as_plain(value) != plain:
                raise _changed()
            return Encoding.PLAIN, plain
    try:
        copy = whole_copy(value)
    except (TooDeep, Refused):
        _tagged(value, path)  # says where
        raise _changed() from None
    if value != copy:
        raise _changed()
    return Encoding.TYPED, _tagged(copy, path)


def _read_with_pauses(data: bytes) -> Any:
    """What orjson gives. It lets no other thread run before its end; the json module does after each object."""
    return json.loads(data.decode(), object_hook=lambda found: found, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"a bare {name}")


def _changed() -> InvalidSnapshot:
    return InvalidSnapshot(
        "the snapshot was changed while it was being saved",
        hint="save a copy of the context, or change it only after the save has returned",
    )
