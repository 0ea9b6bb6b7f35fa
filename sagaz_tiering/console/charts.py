"""Small pictures as SVG, made here, so that they are there without a script. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from markupsafe import Markup

from sagaz_tiering.terminal import show_time

WIDTH: Final = 720
HEIGHT: Final = 120
_MARGIN: Final = 14


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


def timeline_axis(refs: Sequence[dict[str, Any]], chosen: int, link: str) -> Markup:
    """A saga's snapshots (oldest first) on an axis of time, each a link to `link` with its number behind it."""
    times = [datetime.fromisoformat(ref["created_at"]).timestamp() for ref in refs]
    first, span = times[0], (times[-1] - times[0]) or 1.0
    width = WIDTH - 2 * _MARGIN
    places = [_MARGIN + (at - first) / span * width if len(times) > 1 else WIDTH / 2 for at in times]
    marks = Markup("").join(
        Markup(
            '<a href="{}{}"><circle class="tier-{}{}" cx="{:.1f}" cy="26" r="{}"><title>{} · {} · {} · {}</title>'
            "</circle></a>"
        ).format(
            *(link, number, ref["tier"], " chosen" if number == chosen else "", x, 9 if number == chosen else 6),
            *(ref["step_name"], ref["status"], _place(ref), show_time(datetime.fromisoformat(ref["created_at"]))),
        )
        for number, (ref, x) in enumerate(zip(refs, places, strict=True))
    )
    return Markup(
        '<svg class="axis" viewBox="0 0 {} 52" role="img" aria-label="{} snapshots on an axis of time">'
        '<line x1="{}" y1="26" x2="{}" y2="26"/>{}</svg>'
    ).format(WIDTH, len(refs), _MARGIN, WIDTH - _MARGIN, marks)


def _place(ref: dict[str, Any]) -> str:
    return " ".join(filter(None, (ref["tier"], ref["storage_class"])))
