"""Equality that sees what `==` does not: types, order of dicts, the sign of zero, NaN, folds and zones."""

from __future__ import annotations

import struct
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo


def exactly(value: Any) -> Any:
    """A description of `value`; two values are the same if and only if their descriptions are equal."""
    kind = type(value)
    if kind in (list, tuple):
        return (kind.__name__, [exactly(item) for item in value])
    if kind in (set, frozenset):
        return (kind.__name__, sorted(repr(exactly(item)) for item in value))
    if kind is dict:
        return ("dict", [(exactly(key), exactly(item)) for key, item in value.items()])
    if kind is float:
        return ("float", struct.pack(">d", value))
    if kind is Decimal:
        return ("Decimal", value.as_tuple())
    if kind in (datetime, time):
        zone = value.tzinfo
        name = zone.key if isinstance(zone, ZoneInfo) else repr(zone)
        return (kind.__name__, value.replace(tzinfo=None).isoformat(), value.fold, type(zone).__name__, name)
    if isinstance(value, Enum):
        return (kind, value.name)
    return (kind.__qualname__, repr(value))
