"""The short way for what most contexts are: a few kilobytes of exact JSON types, which orjson writes as they are.

orjson alone cannot be trusted with it: it writes tuples, enum members, UUIDs and NaN as something else without a word,
and does not stop before its end, which may be far off. So every element is looked at first, in one loop that ends with
the first that is not JSON's, or when there are too many.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from sagaz_tiering.codec.typed_json.shape import INTEGERS_AND_NONE, ITEM_WEIGHT, LARGE
from sagaz_tiering.codec.typed_json.write import MAX_DEPTH

NATIVE_ONLY: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)


def plain_json(value: Any) -> bytes | None:
    """`value` as ordinary JSON that gives exactly the same back, or None where only the long way can tell.

    None for whatever may be heavy, is no dict or list, or holds more than exact JSON types and finite numbers.
    """
    if (type(value) is not dict and type(value) is not list) or not _is_light_and_exact(value):
        return None
    try:
        data = orjson.dumps(value, option=NATIVE_ONLY)  # which refuses keys that are no str, and what UTF-8 has not
    except (ValueError, TypeError, RecursionError):
        return None
    return None if len(data) >= LARGE else data


def _is_light_and_exact(value: Any) -> bool:
    """As `shape_of` would tell, without telling why not: what is met twice counts twice, so a cycle is too much."""
    room, level = LARGE, [value]
    for _ in range(MAX_DEPTH):
        room -= ITEM_WEIGHT * (sum(map(len, level)) + len(level))
        if room < 0:
            return False
        deeper: list[Any] = []
        for container in level:
            for item in container.values() if type(container) is dict else container:
                kind = type(item)
                if kind is str:
                    room -= len(item)
                elif kind is dict or kind is list:
                    deeper.append(item)
                elif kind not in INTEGERS_AND_NONE and (kind is not float or item - item != 0.0):
                    return False  # JSON has no NaN and no infinity
        if not deeper:
            return room >= 0
        level = deeper
    return False
