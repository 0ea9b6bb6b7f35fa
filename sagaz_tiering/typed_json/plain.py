"""The short way for what most contexts are: a few kilobytes of exact JSON types, proved and written in C.

orjson alone cannot be trusted with it: it writes tuples, enum members, UUIDs and NaN as something else without a word.
ormsgpack refuses all of these but NaN, which shows in what it writes, and takes a third of the time that the same
question takes in Python (`shape.shape_of`).

Neither stops before its end, which may be far off: a list of millions below two wrappers, or a short one that others
share and share again. So what a value weighs is estimated first; rows of a list are taken to be alike.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
import ormsgpack

from sagaz_tiering.typed_json.depth import too_deep_for
from sagaz_tiering.typed_json.pieces import NATIVE_ONLY
from sagaz_tiering.typed_json.shape import ITEM_WEIGHT, LARGE
from sagaz_tiering.typed_json.tagging import MAX_DEPTH

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

_FEW: Final = 4
"""Elements of a list that are all looked at; of a longer one the last stands for all, since lists grow."""


def plain_json(value: Any) -> bytes | None:
    """`value` as ordinary JSON that gives exactly the same back, or None where only the long way can tell.

    None for whatever may be heavy, is no dict or list, or holds more than exact JSON types and finite numbers.
    """
    if (type(value) is not dict and type(value) is not list) or _weight(value, MAX_DEPTH) >= LARGE:
        return None
    try:
        packed = ormsgpack.packb(value, option=_EXACT_ONLY)
        if len(packed) >= LARGE or _find_not_finite(packed) is not None:
            return None
        data = orjson.dumps(value, option=NATIVE_ONLY)  # which refuses what JSON has not: bytes, ormsgpack.Ext
    except (ValueError, TypeError, RecursionError):
        return None
    return None if too_deep_for(data, value) else data


def _weight(value: Any, levels: int) -> int:
    """About what a dict or list is in JSON; LARGE or more where it is so deep that nobody can tell.

    Looks at no more elements than weigh LARGE together.
    """
    weight = ITEM_WEIGHT * len(value)
    if weight >= LARGE or levels == 0:
        return LARGE
    if type(value) is dict:
        items, times = value.values(), 1
    elif len(value) <= _FEW:
        items, times = value, 1
    else:
        items, times = value[-1:], len(value)
    for item in items:
        kind = type(item)
        if kind is str:
            weight += len(item) * times
        elif kind is dict or kind is list:
            weight += _weight(item, levels - 1) * times
            if weight >= LARGE:
                break
    return weight
