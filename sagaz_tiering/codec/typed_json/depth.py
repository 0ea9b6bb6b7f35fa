"""How deep the containers of a value go, asked of its text first."""

from __future__ import annotations

from typing import Any, Final

from sagaz_tiering.codec.typed_json.write import MAX_DEPTH

_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})


def too_deep_for(data: bytes, value: Any) -> bool:
    """Whether `value`, whose JSON is `data`, has more than MAX_DEPTH levels of containers."""
    return _brackets(data) > MAX_DEPTH and too_deep(value)


def _brackets(data: bytes) -> int:
    """How many containers a text has at most; three times as fast as counting."""
    return 2 * len(data) - len(data.replace(b"[", b"")) - len(data.replace(b"{", b""))


def too_deep(value: Any, most: int = MAX_DEPTH) -> bool:
    """Whether `value` has more than `most` levels of containers."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(most):
        level = [
            inner
            for item in level
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) in _CONTAINERS
        ]
    return bool(level)
