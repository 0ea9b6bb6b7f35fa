"""How a value is to be written: found in one bounded walk, cheap enough for the event loop."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from sagaz_tiering.codec.typed_json.objects import fitting_object
from sagaz_tiering.codec.typed_json.write import MAX_DEPTH

LARGE: Final = 256 * 1024
"""Weight from which a value is written, and length from which a text is read, on a thread."""

ITEM_WEIGHT: Final = 16
"""What an element weighs, whatever it is: about its length in JSON and, for the time it takes, a little more."""

_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})
JSON_LEAVES: Final = frozenset({str, int, float, bool, type(None)})
INTEGERS_AND_NONE: Final = JSON_LEAVES - {str, float}


class Shape(Enum):
    """What a walk over a value tells about writing it."""

    PLAIN = "plain"  # exact JSON types and finite numbers only: what orjson writes of it comes back equal
    TYPED = "typed"  # something else is in it
    LARGE = "large"  # so heavy that the walk stopped


def shape_of(value: Any) -> Shape:
    """The shape of `value`; looks at no more elements than LARGE allows. Keys of dicts are taken for short."""
    others: list[type] = []
    try:
        room = _room_beside((value,), MAX_DEPTH, LARGE, others)
    except RecursionError:
        return Shape.TYPED
    if room < 0:
        return Shape.LARGE
    return Shape.TYPED if others else Shape.PLAIN


def _room_beside(items: Iterable[Any], levels: int, room: int, others: list[type]) -> int:
    """What `items` leave of `room`, below 0 if they do not fit. Types that are not JSON's are added to `others`."""
    for item in items:
        kind = type(item)
        if kind is str:
            room -= len(item)
        elif (kind is float and item - item == 0.0) or kind in INTEGERS_AND_NONE:  # JSON has no NaN and no infinity
            continue
        elif kind in _CONTAINERS:
            if levels == 0 or (kind is not dict and kind is not list):
                others.append(kind)
            room -= ITEM_WEIGHT * len(item) + ITEM_WEIGHT
            if room < 0:
                return room
            if levels:
                room = _room_beside(item.values() if kind is dict else item, levels - 1, room, others)
        else:
            others.append(kind)
            if kind is bytes or kind is bytearray:
                room -= len(item)
            elif levels and (fields := fitting_object(item)):
                room = _room_beside(fields.values(), levels - 1, room - ITEM_WEIGHT * len(fields), others)
    return room
