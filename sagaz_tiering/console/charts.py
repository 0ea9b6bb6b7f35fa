"""Small pictures as SVG, made here, so that they are there without a script. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from markupsafe import Markup

from sagaz_tiering.clock import to_micros
from sagaz_tiering.terminal import show_time

WIDTH: Final = 720
HEIGHT: Final = 120


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
