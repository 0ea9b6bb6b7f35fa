"""Templates, small pictures as SVG, contexts as trees, all made here, so that they are there without a script.

What comes from a store is escaped, cannot turn the direction of text, and is cut where it is long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.sections import ConsoleSettings
from sagaz_tiering.terminal import need_millis, safe, show_bytes, show_counts, show_distance, show_time, show_usd

_MOST_TEXT: Final = 5_000
WIDTH: Final = 720
HEIGHT: Final = 120
MOST_NODES: Final = 2_000
MOST_CHILDREN: Final = 500
MOST_TEXT: Final = 4_000
MOST_ALL_TEXT: Final = 200_000
"""Characters of all texts together; once they are used up each text still shows a few."""
MOST_DEPTH: Final = 60
_MOST_KEY: Final = 200
_LEAST_TEXT: Final = 40
STATIC: Final[Mapping[str, tuple[str, bytes]]] = {
    name: (kind, (files("sagaz_tiering.console") / "static" / name).read_bytes())
    for name, kind in (
        ("console.css", "text/css"),
        ("console.js", "text/javascript"),
        ("htmx.min.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    )
}


def _shown(value: Any) -> Any:
    """Every value on its way into a page."""
    if isinstance(value, Markup) or value is None:
        return value if value is not None else ""
    return safe(value, limit=_MOST_TEXT)


def _moment(value: str | datetime | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def time_tag(value: str | datetime | None, nothing: str = "—", *, millis: bool = False) -> Markup:
    """A time in UTC; the script adds the local one, to be seen on hover."""
    moment = _moment(value)
    if moment is None:
        return escape(nothing)
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(), show_time(moment, millis=millis))


def _need_millis(values: Iterable[str]) -> bool:
    return need_millis(map(datetime.fromisoformat, values))


def when_tag(value: str | datetime | None, now: datetime, nothing: str = "—") -> Markup:
    """How far a time is away, the time itself on hover."""
    moment = _moment(value)
    if moment is None:
        return escape(nothing)
    distance = show_distance(moment, now)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), show_time(moment), distance)


def count(value: int | None) -> str:
    """`12,345`; of what is unknown a word."""
    return "unknown" if value is None else f"{value:,}"


def with_query(query: Mapping[str, str], **changes: str) -> str:
    """The question of a page with other values, for a link."""
    return urlencode({**query, **changes}, errors="surrogatepass")


def _about_usd(amount: float) -> str:
    """To the cent: where amounts stand side by side."""
    return "< $0.01" if 0 < amount < 0.01 else show_usd(amount)


def _optional(show: Any) -> Any:
    return lambda value: "—" if value is None else show(value)


def area(values: Sequence[float], label: str, shown: Sequence[str]) -> Markup:
    """How a figure grew, from nothing to its largest; `shown` tells each value in words, `label` the whole."""
    if not values:
        return Markup("")
    most, step = max(values) or 1.0, WIDTH / max(len(values) - 1, 1)
    points = [(i * step, HEIGHT - value / most * (HEIGHT - 6)) for i, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = Markup("").join(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="7"><title>{}</title></circle>').format(x, y, text)
        for (x, y), text in zip(points, shown, strict=True)
    )
    return Markup(
        '<svg class="area" viewBox="-4 -4 {} {}" role="img" aria-label="{}" preserveAspectRatio="none">'
        '<polygon points="0,{} {} {},{}"/><polyline points="{}"/>{}</svg>'
    ).format(WIDTH + 8, HEIGHT + 8, label, HEIGHT, Markup(line), WIDTH, HEIGHT, Markup(line), marks)


def timeline_axis(refs: Sequence[dict[str, Any]], chosen: int, link: str, first_number: int = 0) -> Markup:
    """A saga's snapshots (oldest first) on an axis of time, each a link to `link` with its number behind it.

    In percents of its width, so that a slider below it can have the same scale; not stops of the Tab key, which the
    slider and the table are.
    """
    times = [instant_ms(ref["created_at"]) for ref in refs]
    first, span = times[0], (times[-1] - times[0]) or 1
    marks = Markup("").join(
        Markup(
            '<a href="{}{}" tabindex="-1" aria-label="{}"><circle class="tier-{}{}" cx="{:.2f}%" cy="20" r="7">'
            "<title>{}</title></circle></a>"
        ).format(
            *(link, number, text, ref["tier"], " chosen" if number == chosen else ""),
            *((at - first) / span * 100 if len(times) > 1 else 50.0, text),
        )
        for number, (ref, at, text) in enumerate(zip(refs, times, map(_told, refs), strict=True), first_number)
    )
    return Markup(
        '<svg class="axis" role="group" aria-label="{} snapshots on an axis of time">'
        '<line x1="0" y1="20" x2="100%" y2="20"/>{}</svg>'
    ).format(len(refs), marks)


def instant_ms(moment: str) -> int:
    """The first whole millisecond since 1970 at which that instant has come."""
    return -(-to_micros(datetime.fromisoformat(moment)) // 1000)


def _told(ref: dict[str, Any]) -> str:
    place = " ".join(filter(None, (ref["tier"], ref["storage_class"])))
    at = show_time(datetime.fromisoformat(ref["created_at"]))
    return " · ".join(filter(None, (ref["step_name"], ref["status"], place, at)))


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


def pages(settings: ConsoleSettings) -> Environment:
    """The templates, compiled once."""
    found = Environment(
        loader=PackageLoader("sagaz_tiering.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        time=time_tag,
        need_millis=_need_millis,
        when=when_tag,
        count=count,
        bytes=_optional(show_bytes),
        done=show_counts,
        usd=_optional(show_usd),
        ms=instant_ms,
        about_usd=_optional(_about_usd),
    )
    found.globals.update(area=area, axis=timeline_axis, with_query=with_query, is_open=settings.is_open)
    return found
