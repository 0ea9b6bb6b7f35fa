"""A context as a tree that can be shown: typed values, bounded however large it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

MOST_NODES: Final = 2_000
MOST_CHILDREN: Final = 500
MOST_TEXT: Final = 4_000
MOST_DEPTH: Final = 60


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


def tree_of(value: Any, key: str = "context") -> Node:
    """The tree of a context, of at most MOST_NODES nodes, breadth first, so that what is near the top is there."""
    root = _node(key, value)
    waiting, made = [(root, value, 1)], 1
    for node, whole, depth in waiting:  # grows meanwhile
        if not isinstance(whole, dict | list | tuple | set | frozenset):
            continue
        size = len(whole)
        room = min(size, MOST_CHILDREN, MOST_NODES - made) if depth < MOST_DEPTH else 0
        for name, child in islice(_children(whole), room):
            made += 1
            node.children.append(_node(name, child))
            waiting.append((node.children[-1], child, depth + 1))
        node.left_out = size - room
    return root


def _children(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((str(name), child) for name, child in value.items())
    if isinstance(value, set | frozenset):
        return (("", child) for child in value)
    return ((str(index), child) for index, child in enumerate(value))


def _node(key: str, value: Any) -> Node:
    kind = "null" if value is None else type(value).__name__
    if isinstance(value, dict | list | tuple | set | frozenset):
        what = "key" if isinstance(value, dict) else "item"
        return Node(key=key, kind=kind, text=f"{len(value):,} {what}{'' if len(value) == 1 else 's'}")
    if isinstance(value, bytes | bytearray):
        return Node(key=key, kind=kind, text=value[:MOST_TEXT].hex(" "), left_out=max(0, len(value) - MOST_TEXT))
    if isinstance(value, int) and abs(value) >= 10**1000:
        return Node(key=key, kind=kind, text=f"a number of {value.bit_length():,} bits")
    text = value if isinstance(value, str) else "null" if value is None else str(value)
    return Node(key=key, kind=kind, text=text[:MOST_TEXT], left_out=max(0, len(text) - MOST_TEXT))
