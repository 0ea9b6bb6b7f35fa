"""Value <-> JSON bytes: ordinary JSON where that is exact, tagged JSON elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final

import orjson

from sagaz_tiering.errors import CorruptRecord, NotSerializable
from sagaz_tiering.typed_json.revival import revive
from sagaz_tiering.typed_json.tagging import MAX_DEPTH, Refused, tag

_NATIVE_ONLY: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)
_LEAVES: Final = frozenset({str, int, float, bool, type(None)})


class Encoding(IntEnum):
    """How a JSON text is to be read; stored beside it."""

    PLAIN = 0
    TYPED = 1


def dumps(value: Any, path: str = "context") -> tuple[Encoding, bytes]:
    """`value` as JSON bytes. Raises NotSerializable, whose path starts with `path` ("" for none)."""
    plain = _as_plain(value)
    if plain is not None:
        return Encoding.PLAIN, plain
    try:
        # Every cycle is over MAX_DEPTH, so json need not look for them.
        text = json.dumps(tag(value), ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
    except Refused as exc:
        where, reason = exc.explain(path)
        raise NotSerializable(where, reason, hint=exc.hint) from None
    except RecursionError as exc:
        raise NotSerializable(path, "nested too deeply for the stack that is left") from exc
    # Lone surrogates as bytes: written as \ud83d\ude00 escapes, two of them would come back as one character.
    return Encoding.TYPED, text.encode("utf-8", "surrogatepass")


def loads(encoding: Encoding, data: bytes) -> Any:
    """The value of `dumps`. Raises CorruptRecord for anything that `dumps` cannot have written."""
    try:
        if encoding is Encoding.PLAIN:
            value = orjson.loads(data)
        else:
            text = data.decode("utf-8", "surrogatepass")
            value = json.loads(text, object_pairs_hook=revive, parse_constant=_no_constant)
    except RecursionError as exc:
        raise CorruptRecord("snapshot body is nested too deeply to be read") from exc
    except (ValueError, TypeError, ArithmeticError) as exc:
        raise CorruptRecord(f"snapshot body is not what was written: {exc}") from exc
    if _too_deep(value, data):
        raise CorruptRecord(f"snapshot body is nested deeper than {MAX_DEPTH} levels")
    return value


def _as_plain(value: Any) -> bytes | None:
    """`value` as ordinary JSON, or None unless that is proved exact.

    orjson writes enum members, UUIDs, tuples and NaN as something else without a word, and 3.13 corrupts memory
    on some hundred nested tuples. So it sees exact JSON types only, and what it wrote is read back.
    """
    try:
        if not _is_json((value,), MAX_DEPTH):
            return None
        data = orjson.dumps(value, option=_NATIVE_ONLY)
        return data if orjson.loads(data) == value else None
    except (ValueError, TypeError, RecursionError):
        return None


def _is_json(items: Iterable[Any], levels: int) -> bool:
    """Whether all of `items` are of exact JSON types, with at most `levels` levels of containers."""
    for item in items:
        kind = type(item)
        if kind in _LEAVES:
            continue
        if levels == 0 or (kind is not dict and kind is not list):
            return False
        if not _is_json(item.values() if kind is dict else item, levels - 1):
            return False
    return True


def _too_deep(value: Any, data: bytes) -> bool:
    """Whether `value`, written as `data`, has more than MAX_DEPTH levels of containers."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if type(item) is dict:
                inner += item.values()
            elif isinstance(item, (list, tuple, set, frozenset)):
                inner += item
        level = inner
    return any(isinstance(item, (dict, list, tuple, set, frozenset)) for item in level)


def _no_constant(name: str) -> Any:
    raise ValueError(f"a bare {name}")
