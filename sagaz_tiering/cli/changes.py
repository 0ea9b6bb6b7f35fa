"""Changes of values as text: a line for each, or what a step changed in one line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from sagaz_tiering.terminal import safe

if TYPE_CHECKING:
    from rich.text import Text

    from sagaz_tiering.codec.changes import ValueChange

_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_BRACKETS = {"~tuple": "()", "~set": "{}", "~frozenset": "{}"}
_MOST = 120
_BRIEF = 24


def show_value(value: Any, limit: int = _MOST) -> str:
    """Tagged JSON as one line of at most `limit` characters: `"text"`, `Decimal 1.50`, `(1, 2)`, `{"a", "b"}`."""
    shown, length = [], 0
    for part in _parts(value, limit):
        shown.append(part)
        length += len(part)
        if length > limit:
            break
    return safe("".join(shown), limit=limit)


def _parts(value: Any, limit: int) -> Iterator[str]:
    """Never more of a long text, and never more of a list than is asked for."""
    if isinstance(value, str):
        yield json.dumps(value[:limit], ensure_ascii=False)
    elif isinstance(value, list):
        yield from _listed(value, "[]", limit)
    elif not isinstance(value, dict):
        yield json.dumps(value)
    elif len(value) == 1 and (tag := next(iter(value))).startswith("~"):
        yield from _tagged(tag, value[tag], limit)
    else:
        yield from _mapping(value.items(), limit)


def _tagged(tag: str, payload: Any, limit: int) -> Iterator[str]:
    if tag in _BRACKETS:
        yield from _listed(payload, _BRACKETS[tag], limit)
    elif tag == "~dict":
        yield from _mapping(payload, limit)
    elif tag == "~object":
        yield str(payload[0]).rpartition(".")[2]
        yield from _mapping(payload[1].items(), limit)
    elif tag == "~enum":
        yield f"{str(payload[0]).rpartition('.')[2]} "
        yield from _parts(payload[1], limit)
    else:
        yield f"{tag[1:]} {payload[:limit] if isinstance(payload, str) else json.dumps(payload)}"


def _listed(items: Iterable[Any], brackets: str, limit: int) -> Iterator[str]:
    yield brackets[0]
    for at, item in enumerate(items):
        yield ", " if at else ""
        yield from _parts(item, limit)
    yield brackets[1]


def _mapping(items: Iterable[Sequence[Any]], limit: int) -> Iterator[str]:
    yield "{"
    for at, (key, value) in enumerate(items):
        yield ", " if at else ""
        yield from chain(_parts(key, limit), (": ",), _parts(value, limit))
    yield "}"


def change_lines(changes: Sequence[ValueChange]) -> Iterator[Text]:
    """A line for each, coloured on a terminal."""
    from rich.text import Text

    width = min(max((len(each.path) for each in changes), default=0), _MOST // 2)
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
