"""Python value -> tree of JSON values and tags (listed in the package), or a refusal with the exact path."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from heapq import merge
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sagaz_tiering.codec.typed_json.classes import StoredObject, Unfit, enum_name, stored_object

MAX_DEPTH: Final = 200
"""Levels of containers in a value. One level is at most three levels of tagged JSON, and 600 are still within
the recursion limit of the standard library's parser (the interpreter's, 1000)."""

FLOAT_NAMES: Final = {struct.pack(">d", float(name)): name for name in ("nan", "inf", "-inf")}

MOST_ALIKE: Final = 256
"""Elements of one set or dict that may have the same hash. By chance even two are rare.

Python takes quadratic time for each that were chosen to hash alike, so they are refused. Hashes of numbers, UUIDs and
tuples of them are the same in every process (texts are salted), and multiples of 2**61 - 1 all hash to 0.
"""

AT_ONCE: Final = 10_000
"""Elements that are worked on by one call: one for a million would stop all other threads for a second."""
_SALTED: Final = frozenset({str, bytes})
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = timedelta(minutes=1)
_REGISTER: Final = "decorate the class with sagaz_tiering.register_type"
_ZONE_HINT: Final = "use zoneinfo.ZoneInfo with a key, or value.astimezone(timezone.utc)"


class Refused(Exception):
    """A value that cannot be stored; each container around it adds its part of the path on the way out."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint
        self.trail: list[tuple[int, str]] = []  # innermost first: (id of the container, path segment in it)

    def explain(self, root: str) -> tuple[str, str]:
        """(path, reason). A container met twice on the way in is a cycle; the path ends where it closes."""
        seen: dict[int, str] = {}
        where = root
        for container, segment in reversed(self.trail):
            if container in seen:
                return where, f"refers back to {seen[container] or 'the top'} (a cycle)"
            seen[container] = where
            where = (where + segment) if where else segment.removeprefix(".")
        return where or "value", str(self)


def tag(value: Any, depth: int = 0) -> Any:
    """`value` as what the json module writes exactly; raises Refused."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return scalar(value)
    container = _CONTAINERS.get(kind)
    if container is not None:
        if depth >= MAX_DEPTH:
            raise _too_deep()
        return container(value, depth + 1)
    if isinstance(value, Enum):
        return _tag_enum(value, depth)
    stored = _stored(value)
    if stored is None:
        raise Refused(*_refusal(value))
    if depth >= MAX_DEPTH:
        raise _too_deep()
    return _tag_object(value, stored, depth + 1)


def _tag_all(container: Iterable[Any], depth: int, *, indexed: bool = True) -> list[Any]:
    out: list[Any] = []
    try:
        for item in container:
            out.append(tag(item, depth))
    except Refused as exc:
        exc.trail.append((id(container), f"[{len(out)}]" if indexed else "{…}"))
        raise
    return out


def _tag_tuple(value: tuple[Any, ...], depth: int) -> Any:
    return {"~tuple": _tag_all(value, depth)}


def _tag_set(value: set[Any] | frozenset[Any], depth: int) -> Any:
    refuse_colliding(value)
    items = _tag_all(value, depth, indexed=False)
    runs = [sorted(items[at : at + AT_ONCE], key=json.dumps) for at in range(0, len(items), AT_ONCE)]
    return {"~set" if type(value) is set else "~frozenset": list(merge(*runs, key=json.dumps))}


def _tag_dict(value: dict[Any, Any], depth: int) -> Any:
    plain = all(type(key) is str and not key.startswith("~") for key in value)
    if not plain:
        refuse_colliding(value)
    out: list[tuple[Any, Any]] = []
    key: Any = None
    try:
        for key, item in value.items():
            out.append((key if plain else tag(key, depth), tag(item, depth)))
    except Refused as exc:
        exc.trail.append((id(value), segment(key)))
        raise
    return dict(out) if plain else {"~dict": [list(pair) for pair in out]}


def hashes_collide(items: Collection[Any]) -> bool:
    """Whether more than MOST_ALIKE of these hash alike, found in linear time. Raises TypeError as `hash` does."""
    if len(items) <= MOST_ALIKE:
        return False
    counts: Counter[int] = Counter()
    some: list[Any] = []
    for item in items:
        if type(item) not in _SALTED:
            some.append(item)
            if len(some) == AT_ONCE:
                counts.update(map(hash, some))
                some.clear()
    counts.update(map(hash, some))
    return any(count > MOST_ALIKE for count in counts.values())


def refusal(items: Iterable[Any]) -> tuple[str, str]:
    """(reason, hint) where they do."""
    kind = "a dict" if isinstance(items, dict) else "a set"
    reason = f"{kind} with more than {MOST_ALIKE} elements that hash alike, which takes Python quadratic time"
    return reason, "store a list, or use texts as elements and keys"


def refuse_colliding(items: Collection[Any]) -> None:
    """Raise Refused for elements of a set, or keys of a dict, that could not be read back in reasonable time."""
    try:
        collide = hashes_collide(items)
    except TypeError:  # a hash of the application's own
        return
    if collide:
        raise Refused(*refusal(items))


def _stored(value: Any) -> StoredObject | None:
    try:
        return stored_object(value)
    except Unfit as exc:
        raise Refused(f"{_name(type(value))} {exc}", "make it a field of the class, or store a dict") from None


def _tag_object(value: Any, stored: StoredObject, depth: int) -> Any:
    try:
        return {"~object": [stored.type_name, _tag_dict(stored, depth)]}
    except Refused as exc:
        exc.trail[-1] = (id(value), exc.trail[-1][1])
        raise


def _too_deep() -> Refused:
    return Refused(f"nested deeper than {MAX_DEPTH} levels", "flatten it, or store an id where it refers back")


def segment(key: Any) -> str:
    """How a path shows a dict key. Only keys whose repr is ours to trust are shown by it."""
    if type(key) is str:
        return f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"
    if key is None or type(key) in (int, float, bool, UUID, date, datetime):
        return f"[{key!r}]"
    return f"[<{type(key).__name__} key>]"


def _tag_int(value: int) -> Any:
    return value if -(2**63) <= value < 2**63 else {"~int": hex(value)}


def _tag_float(value: float) -> Any:
    if math.isfinite(value):
        return value
    bits = struct.pack(">d", value)
    return {"~float": FLOAT_NAMES.get(bits, bits.hex())}


def _tag_moment(value: datetime | time) -> Any:
    zone, plain = _zone(value)
    text = (value if plain else value.replace(tzinfo=None)).isoformat()
    payload = text if plain and not value.fold else [text, value.fold, None if plain else zone]
    return {"~datetime" if isinstance(value, datetime) else "~time": payload}


def _zone(value: datetime | time) -> tuple[Any, bool]:
    """(the zone as a key or as offset and name, whether `isoformat` says all of it)."""
    zone = value.tzinfo
    if zone is None:
        return None, True
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        named = name != timezone(offset).tzname(None)
        # datetime.fromisoformat misreads offsets under a second, so only the usual ones are left to it.
        return [offset // _MICROSECOND, name if named else None], not named and not offset % _MINUTE
    if type(zone) is not ZoneInfo or not zone.key:
        raise Refused(f"a time zone of type {_name(type(zone))} would not come back equal", _ZONE_HINT)
    try:
        same = value.replace(tzinfo=ZoneInfo(zone.key)).utcoffset() == value.utcoffset()
    except (ZoneInfoNotFoundError, ValueError, OSError):
        same = False
    if not same:
        raise Refused(f"time zone {zone.key!r} is not the one known by that name", _ZONE_HINT)
    return zone.key, False


def _tag_enum(member: Enum, depth: int) -> Any:
    cls = type(member)
    name = enum_name(cls)
    if name is None:
        raise Refused(
            f"{_name(cls)} is an enum that is not registered",
            f"call sagaz_tiering.register_enum({cls.__name__}) in every process that reads it, or store member.value",
        )
    try:
        found = cls(member.value)
    except (ValueError, TypeError):
        found = None
    if found is not member:
        raise Refused(f"{_name(cls)}.{member.name} is not found again by its value", "store member.name")
    return {"~enum": [name, tag(member.value, depth)]}


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


_SCALARS: Final[dict[type, Callable[[Any], Any]]] = {
    int: _tag_int,
    float: _tag_float,
    datetime: _tag_moment,
    time: _tag_moment,
    date: lambda value: {"~date": value.isoformat()},
    timedelta: lambda value: {"~timedelta": [value.days, value.seconds, value.microseconds]},
    UUID: lambda value: {"~uuid": str(value)},
    Decimal: lambda value: {"~decimal": str(value)},
    bytes: lambda value: {"~bytes": _base64(value)},
    bytearray: lambda value: {"~bytearray": _base64(value)},
}
_CONTAINERS: Final[dict[type, Callable[[Any, int], Any]]] = {
    list: _tag_all,
    dict: _tag_dict,
    tuple: _tag_tuple,
    set: _tag_set,
    frozenset: _tag_set,
}


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _refusal(value: Any) -> tuple[str, str]:
    """(reason, hint) for a value of no known type."""
    cls = type(value)
    name = _name(cls)
    if isinstance(value, tuple) and hasattr(cls, "_asdict"):
        return f"{name} is a namedtuple and would come back as a tuple", "store value._asdict() or tuple(value)"
    for base in (*_SCALARS, *_CONTAINERS, str):  # datetime comes before date, its base
        if isinstance(value, base):
            return f"{name} would come back as a {base.__name__}", f"store a {base.__name__} made from it"
    if hasattr(cls, "__dataclass_fields__"):
        return f"{name} is a dataclass that is not registered", f"{_REGISTER}, or store dataclasses.asdict(value)"
    if hasattr(cls, "model_dump"):
        return f"{name} is a model object that is not registered", f"{_REGISTER}, or store value.model_dump()"
    if callable(value):
        return f"{name} is code, not data", "store a name that the step can look up"
    return f"{name} cannot be stored", "store JSON values, dates, UUID, Decimal, bytes, sets or tuples"
