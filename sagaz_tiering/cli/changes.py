"""Changes of values as text: a line for each, or what a step changed in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sagaz_tiering.terminal import MAX_CELL, safe, show_value

if TYPE_CHECKING:
    from rich.text import Text

    from sagaz_tiering.codec.changes import ValueChange

_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_BRIEF = 24


def change_lines(changes: Sequence[ValueChange]) -> Iterator[Text]:
    """A line for each, coloured on a terminal."""
    from rich.text import Text

    width = min(max((len(each.path) for each in changes), default=0), MAX_CELL // 2)
    for each in changes:
        sign, colour = _SIGNS[each.kind]
        values = " → ".join(map(show_value, _values(each)))
        yield Text(f"{sign} {safe(each.path):<{width}}  {values}", style=colour)


def changes_in_one_line(changes: Sequence[ValueChange], width: int) -> str:
    """`~order/total 10.00 → 12.50, +payment/id "P-1"`: values as far as there is room, and completed steps last."""
    ordered = sorted(changes, key=lambda each: each.path.startswith("/completed_steps"))
    short = [_SIGNS[each.kind][0] + safe(each.path.removeprefix("/context").removeprefix("/")) for each in ordered]
    if len(", ".join(short)) > width:
        kept = len(short)
        while kept > 1 and len(_cut(short, kept)) > width:
            kept -= 1
        return safe(_cut(short, kept), limit=width)
    pieces = list(short)
    for at, each in enumerate(ordered):
        pieces[at] += f" {' → '.join(map(_brief, _values(each)))}"
        if len(", ".join(pieces)) > width:
            pieces[at] = short[at]
    return ", ".join(pieces) or "nothing"


def _cut(pieces: Sequence[str], kept: int) -> str:
    return ", ".join(pieces[:kept]) + (f", and {len(pieces) - kept} more" if kept < len(pieces) else "")


def _values(change: ValueChange) -> list[Any]:
    """What a line shows of it."""
    return {"added": [change.new], "removed": [change.old], "changed": [change.old, change.new]}[change.kind]


def _brief(value: Any) -> str:
    """Without the type, where the text says enough."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(text := next(iter(value.values())), str):
        tagged = next(iter(value)).startswith("~")
        return safe(text if tagged else show_value(value, _BRIEF), limit=_BRIEF)
    return show_value(value, _BRIEF)
