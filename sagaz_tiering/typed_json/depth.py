"""How deep the containers of a value go, asked of its text first."""

from __future__ import annotations

from typing import Any

from sagaz_tiering.typed_json.tagging import MAX_DEPTH


def too_deep_for(data: bytes, value: Any) -> bool:
    """Whether `value`, whose JSON is `data`, has more than MAX_DEPTH levels of containers."""
    return _brackets(data) > MAX_DEPTH and too_deep(value)


def _brackets(data: bytes) -> int:
    """How many containers a text has at most; three times as fast as counting."""
    return 2 * len(data) - len(data.replace(b"[", b"")) - len(data.replace(b"{", b""))


def too_deep(value: Any) -> bool:
    """Whether `value` has more than MAX_DEPTH levels of containers."""
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
