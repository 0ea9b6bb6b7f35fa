"""Tagged JSON objects -> Python values.

Whatever the writer cannot have written raises ValueError (or TypeError or ArithmeticError, from the constructors
of values), so that altered data is never read as something else.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sagaz_tiering.codec.typed_json.classes import enum_class, revived_object
from sagaz_tiering.codec.typed_json.write import AT_ONCE, FLOAT_NAMES, MOST_ALIKE, hashes_collide, refusal

_T = TypeVar("_T")
_M = TypeVar("_M", datetime, time)
_FLOATS: Final = {name: bits for bits, name in FLOAT_NAMES.items()}


def revive(pairs: list[tuple[str, Any]]) -> Any:
    """What one JSON object stands for; its members are revived already, since the parser works inside out."""
    if len(pairs) == 1 and pairs[0][0].startswith("~"):
        name, payload = pairs[0]
        reviver = _REVIVERS.get(name)
        if reviver is None:
            raise ValueError(f"unknown tag {name[:40]!r}")
        return reviver(payload)
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    if any(key.startswith("~") for key in value):
        raise ValueError("a tag is not alone in its object")
    return value


def from_tagged(value: Any) -> Any:
    """The value that tagged JSON stands for. Raises what `revive` raises."""
    if type(value) is dict:
        return revive([(key, from_tagged(item)) for key, item in value.items()])
    return [from_tagged(item) for item in value] if type(value) is list else value


def _typed(value: Any, kind: type[_T]) -> _T:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _row(value: Any, length: int) -> list[Any]:
    items = _typed(value, list)
    if len(items) != length:
        raise ValueError(f"{len(items)} parts where {length} belong")
    return items


def _read(payload: Any, parse: Callable[[str], _T], show: Callable[[_T], str]) -> _T:
    """`payload` parsed, if it is written the way `show` writes it: parsers accept more than that."""
    text = _typed(payload, str)
    value = parse(text)
    if show(value) != text:
        raise ValueError(f"{text[:60]!r} is not how this value is written")
    return value


def _moment(kind: type[_M], payload: Any) -> _M:
    if type(payload) is str:
        return _read(payload, kind.fromisoformat, kind.isoformat)
    text, fold, zone = _row(payload, 3)
    value = _read(text, kind.fromisoformat, kind.isoformat)
    if zone is None:
        return value.replace(fold=_typed(fold, int))
    if value.tzinfo is not None:
        raise ValueError("a time has two zones")
    return value.replace(tzinfo=_zone(zone), fold=_typed(fold, int))


def _zone(zone: Any) -> tzinfo:
    if type(zone) is str:
        try:
            return ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ValueError(f"time zone {zone[:60]!r} is not known here (is tzdata installed?)") from exc
    micros, name = _row(zone, 2)
    offset = timedelta(microseconds=_typed(micros, int))
    return timezone(offset) if name is None else timezone(offset, _typed(name, str))


def _timedelta(payload: Any) -> timedelta:
    days, seconds, micros = (_typed(part, int) for part in _row(payload, 3))
    value = timedelta(days, seconds, micros)
    if (value.days, value.seconds, value.microseconds) != (days, seconds, micros):
        raise ValueError("a timedelta is not normalised")
    return value


def _bytes(payload: Any) -> bytes:
    return _read(
        payload,
        lambda text: base64.b64decode(text, validate=True),
        lambda value: base64.b64encode(value).decode("ascii"),
    )


def _float(payload: Any) -> float:
    text = _typed(payload, str)
    bits = _FLOATS.get(text) or bytes.fromhex(text)
    if len(bits) != 8:
        raise ValueError("a float is not eight bytes")
    value: float = struct.unpack(">d", bits)[0]
    if math.isfinite(value):
        raise ValueError("a finite float is tagged")
    return value


def _set(payload: Any) -> set[Any]:
    items = _typed(payload, list)
    if hashes_collide(items):
        raise ValueError(refusal(items)[0])
    value = set(items[:AT_ONCE])
    for at in range(AT_ONCE, len(items), AT_ONCE):
        value.update(items[at : at + AT_ONCE])
    if len(value) != len(items):
        raise ValueError("a set holds the same element twice")
    return value


def _dict(payload: Any) -> dict[Any, Any]:
    pairs = [_row(pair, 2) for pair in _typed(payload, list)]
    if len(pairs) > MOST_ALIKE and hashes_collide([key for key, _ in pairs]):
        raise ValueError(refusal({})[0])
    value = {key: item for key, item in pairs}  # noqa: C416  # dict(pairs) would stop all other threads if it is large
    if len(value) != len(pairs):
        raise ValueError("a dict has the same key twice")
    return value


def _enum(payload: Any) -> Any:
    name, value = _row(payload, 2)
    cls = enum_class(_typed(name, str))
    if cls is None:
        return value
    try:
        return cls(value)
    except ValueError:
        return value  # a member that this version of the class does not have


def _object(payload: Any) -> Any:
    name, fields = _row(payload, 2)
    if not all(type(key) is str for key in _typed(fields, dict)):
        raise ValueError("an object's field has no name")
    return revived_object(_typed(name, str), fields)


_REVIVERS: Final[dict[str, Callable[[Any], Any]]] = {
    "~datetime": lambda payload: _moment(datetime, payload),
    "~time": lambda payload: _moment(time, payload),
    "~date": lambda payload: _read(payload, date.fromisoformat, date.isoformat),
    "~timedelta": _timedelta,
    "~uuid": lambda payload: _read(payload, UUID, str),
    "~decimal": lambda payload: _read(payload, Decimal, str),
    "~bytes": _bytes,
    "~bytearray": lambda payload: bytearray(_bytes(payload)),
    "~set": _set,
    "~frozenset": lambda payload: frozenset(_set(payload)),
    "~tuple": lambda payload: tuple(_typed(payload, list)),
    "~int": lambda payload: _read(payload, lambda text: int(text, 16), hex),
    "~float": _float,
    "~dict": _dict,
    "~enum": _enum,
    "~object": _object,
}
