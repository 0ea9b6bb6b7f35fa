"""Sets and dicts whose elements were chosen to hash alike: Python takes quadratic time for each, so they are refused.

Hashes of numbers, UUIDs and tuples of them are the same in every process (texts are salted), and multiples of 2**61 - 1
all hash to 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Final

MOST_ALIKE: Final = 256
"""Elements of one set or dict that may have the same hash. By chance even two are rare."""

_AT_ONCE: Final = 10_000
_SALTED: Final = frozenset({str, bytes})


def hashes_collide(items: Collection[Any]) -> bool:
    """Whether more than MOST_ALIKE of these hash alike, found in linear time. Raises TypeError as `hash` does."""
    if len(items) <= MOST_ALIKE:
        return False
    counts: Counter[int] = Counter()
    some: list[Any] = []
    for item in items:
        if type(item) not in _SALTED:
            some.append(item)
            if len(some) == _AT_ONCE:
                counts.update(map(hash, some))
                some.clear()
    counts.update(map(hash, some))
    return any(count > MOST_ALIKE for count in counts.values())


def refusal(items: Iterable[Any]) -> tuple[str, str]:
    """(reason, hint) where they do."""
    kind = "a dict" if isinstance(items, dict) else "a set"
    reason = f"{kind} with more than {MOST_ALIKE} elements that hash alike, which takes Python quadratic time"
    return reason, "store a list, or use texts as elements and keys"
