"""Values as JSONB can hold them, to be queried by SQL. What is not JSON becomes the text that people look for."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.codec.typed_json import Encoding, dumps, loads, stored_object

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_LARGEST_DECIMAL: Final = 2**4096
"""Integers from here on are written in hexadecimal, which takes no time that grows with their square."""

_CONTEXT: Final = b'{"context":'
_STEPS: Final = b',"completed_steps":'
_REFS: Final = b',"external_refs":'


def queryable(encoding: Encoding, body: bytes) -> tuple[bytes, bytes, bytes]:
    """JSON of context, completed steps and external references of a snapshot, from its body as the codec wrote it.

    Exact up to what JSONB loses (the order of keys, 1.0 and 1.00 being one number) for JSON values, except: NUL and
    lone surrogates are written as `\\u0000`, NaN, infinities and integers over 64 bits as text. Times are ISO 8601,
    durations seconds, decimals and UUIDs text, bytes base64; sets and tuples are arrays, enum members their values,
    registered objects those of their fields, keys texts.
    """
    body = _as_jsonb_holds(encoding, body)
    # No text in JSON holds a bare quote, and what follows the context are texts only: the last ones are the keys.
    steps = body.rindex(_STEPS + b"[")
    refs = body.rindex(_REFS + b"{")
    return body[len(_CONTEXT) : steps], body[steps + len(_STEPS) : refs], body[refs + len(_REFS) : -1]


def queryable_value(value: Any) -> bytes:
    """JSON of any value that can be stored, in the same way."""
    return _as_jsonb_holds(*dumps(value, path=""))


def _as_jsonb_holds(encoding: Encoding, text: bytes) -> bytes:
    if encoding is Encoding.PLAIN and b"\\u0000" not in text:
        return text
    return dumps(_plain(loads(encoding, text)), path="")[1]


def _plain(value: Any) -> Any:
    """`value`, which nobody else has, as JSON has it; dicts and lists are changed in place.

    A copy of a large one would be so many new objects that the garbage collector stops all threads to look at them.
    """
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool:
        return value
    if kind is dict:
        return _dict(value)
    if kind is list:
        for index, item in enumerate(value):
            value[index] = _plain(item)
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    fields = stored_object(value)
    return _OTHERS[kind](value) if fields is None else _dict(dict(fields))


def _dict(value: dict[Any, Any]) -> dict[str, Any]:
    if not all(type(key) is str and _text(key) == key for key in value):
        value = {_key(key): item for key, item in value.items()}
    for key, item in value.items():
        value[key] = _plain(item)  # the key is there, so the loop goes on undisturbed
    return value


def _key(key: Any) -> str:
    plain = _plain(key)
    return plain if type(plain) is str else json.dumps(plain)


def _text(text: str) -> str:
    return _UNSTORABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _int(value: int) -> int | str:
    if -(2**63) <= value < 2**63:
        return value
    return str(value) if -_LARGEST_DECIMAL < value < _LARGEST_DECIMAL else hex(value)


def _float(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _array(items: Any) -> list[Any]:
    return [_plain(item) for item in items]


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


_OTHERS: Final[dict[type, Callable[[Any], Any]]] = {
    int: _int,
    float: _float,
    tuple: _array,
    set: _array,
    frozenset: _array,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: timedelta.total_seconds,
    Decimal: str,
    UUID: str,
    bytes: _base64,
    bytearray: _base64,
}
