"""The short way for what most contexts are: a few kilobytes of exact JSON types, proved and written in C.

orjson alone cannot be trusted with it: it writes tuples, enum members, UUIDs and NaN as something else without a word.
ormsgpack refuses all of these but NaN, which shows in what it writes, and takes a third of the time that the same
question takes in Python (`shape.shape_of`).
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
import ormsgpack

from sagaz_tiering.typed_json.depth import too_deep_for
from sagaz_tiering.typed_json.pieces import NATIVE_ONLY
from sagaz_tiering.typed_json.shape import ITEM_WEIGHT, LARGE

_EXACT_ONLY: Final = (
    ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
)
_find_not_finite: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
"""A float64 that is infinite or not a number; other bytes may look like one, which costs the long way and no more."""

_LEVELS: Final = 5
_FEW: Final = 4


def plain_json(value: Any) -> bytes | None:
    """`value` as ordinary JSON that gives exactly the same back, or None where only the long way can tell.

    None for whatever may be heavy, is no dict or list, or holds more than exact JSON types and finite numbers.
    """
    if (type(value) is not dict and type(value) is not list) or _weight(value, _LEVELS, LARGE) >= LARGE:
        return None
    try:
        packed = ormsgpack.packb(value, option=_EXACT_ONLY)
        if len(packed) >= LARGE or _find_not_finite(packed) is not None:
            return None
        data = orjson.dumps(value, option=NATIVE_ONLY)  # which refuses what JSON has not: bytes, ormsgpack.Ext
    except (ValueError, TypeError, RecursionError):
        return None
    return None if too_deep_for(data, value) else data


def _weight(value: Any, levels: int, most: int) -> int:
    """What is in the upper levels, or `most`: nobody wants to wait while the event loop writes ten megabytes.

    Only the first level and wrappers with a few elements are gone into; what else is heavy shows once it is written.
    """
    weight = ITEM_WEIGHT * len(value)
    if weight >= most:
        return most
    for item in value.values() if type(value) is dict else value:
        kind = type(item)
        if kind is str:
            weight += len(item)
        elif kind is dict or kind is list:
            goes_in = levels > 1 and (levels >= _LEVELS or len(item) <= _FEW)
            weight += _weight(item, levels - 1, most - weight) if goes_in else ITEM_WEIGHT * len(item)
        if weight >= most:
            return most
    return weight
