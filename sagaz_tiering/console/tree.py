"""A context as a tree that can be shown: typed values, bounded however large it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

MOST_NODES: Final = 2_000
MOST_CHILDREN: Final = 500
MOST_TEXT: Final = 4_000
MOST_ALL_TEXT: Final = 200_000
"""Characters of all texts together; once they are used up each text still shows a few."""
MOST_DEPTH: Final = 60
_MOST_KEY: Final = 200
_LEAST_TEXT: Final = 40


@dataclass(slots=True)
class Node:
    """One value: `key` names it in its parent, `kind` is its type, `text` what is shown of it.

    `left_out`: so many of its children (or characters of its text) are not shown.
    """

    key: str
    kind: str
    text: str = ""
    children: list[Node] = field(default_factory=list)
    left_out: int = 0


def tree_of(value: Any, key: str = "context", *, most: int = MOST_NODES) -> Node:
    """The tree of a value, of at most `most` nodes, breadth first, so that what is near the top is there."""
    root = _node(key, value, MOST_TEXT)
    waiting, made, room_for_text = [(root, value, 1)], 1, MOST_ALL_TEXT
    for node, whole, depth in waiting:  # grows meanwhile
        if not isinstance(whole, dict | list | tuple | set | frozenset):
            continue
        size = len(whole)
        room = min(size, MOST_CHILDREN, most - made) if depth < MOST_DEPTH else 0
        for name, child in islice(_children(whole), room):
            made += 1
            node.children.append(_node(name[:_MOST_KEY], child, min(MOST_TEXT, max(room_for_text, _LEAST_TEXT))))
            room_for_text -= len(node.children[-1].text)
            waiting.append((node.children[-1], child, depth + 1))
        node.left_out = size - room
    return root


def _children(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((str(name), child) for name, child in value.items())
    if isinstance(value, set | frozenset):
        return (("", child) for child in value)
    return ((str(index), child) for index, child in enumerate(value))


def _node(key: str, value: Any, most: int) -> Node:
    """`most`: so many characters of its text (or bytes)."""
    kind = "null" if value is None else type(value).__name__
    if isinstance(value, dict | list | tuple | set | frozenset):
        what = "key" if isinstance(value, dict) else "item"
        return Node(key=key, kind=kind, text=f"{len(value):,} {what}{'' if len(value) == 1 else 's'}")
    if isinstance(value, bytes | bytearray):
        return Node(key=key, kind=kind, text=value[: most // 3].hex(" "), left_out=max(0, len(value) - most // 3))
    if isinstance(value, int) and abs(value) >= 10**1000:
        return Node(key=key, kind=kind, text=f"a number of {value.bit_length():,} bits")
    text = value if isinstance(value, str) else "null" if value is None else str(value)
    return Node(key=key, kind=kind, text=text[:most], left_out=max(0, len(text) - most))
