"""Plots as SVG, written by hand: a few lines over logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 170, 50, 60
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f")
_LABEL_APART = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One value for each x."""

    name: str
    ys: Sequence[float]


def log_log(title: str, x_name: str, y_name: str, xs: Sequence[float], lines: Sequence[Line]) -> str:
    """An SVG document; every x and y must be above 0."""
    values = [y for line in lines for y in line.ys]
    across = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(
        10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values))), _HEIGHT - _BOTTOM, _TOP
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 28, title, size=16),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 16, x_name, anchor="middle"),
        _text(16, _TOP - 12, y_name),
    ]
    for power in up.powers():
        y = up.at(10.0**power)
        parts += [_rule(_LEFT, y, _WIDTH - _RIGHT, y), _text(_LEFT - 8, y + 4, f"{10.0**power:g}", anchor="end")]
    for x in xs:
        parts += [
            _rule(across.at(x), _TOP, across.at(x), _HEIGHT - _BOTTOM),
            _text(across.at(x), _HEIGHT - _BOTTOM + 18, f"{x:,.0f}", anchor="middle"),
        ]
    labels = _apart([up.at(line.ys[-1]) for line in lines])
    for number, (line, label) in enumerate(zip(lines, labels, strict=True)):
        colour, points = (
            _COLOURS[number % len(_COLOURS)],
            [(across.at(x), up.at(y)) for x, y in zip(xs, line.ys, strict=True)],
        )
        dashes = ' stroke-dasharray="5 3"' if number >= len(_COLOURS) else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(_text(_WIDTH - _RIGHT + 10, label + 4, f"{line.name} {line.ys[-1]:.3g}", colour=colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


_BAR, _BARS_LEFT, _MOST = 26, 330, 2.5


def bars(title: str, rows: Sequence[tuple[str, float]]) -> str:
    """An SVG document: a bar for each (name, share of what must be reached); up to 1 it is reached."""
    height, width = 70 + _BAR * len(rows), _WIDTH - _BARS_LEFT - 90
    line = _BARS_LEFT + width / _MOST
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(20, 28, title, size=16),
        _text(line, 48, "must reach", anchor="middle"),
    ]
    for number, (name, share) in enumerate(rows):
        top = 58 + _BAR * number
        colour, length = (_COLOURS[2] if share <= 1 else _COLOURS[1]), width * min(share, _MOST) / _MOST
        parts.append(_text(_BARS_LEFT - 8, top + 15, name, anchor="end"))
        parts.append(f'<rect x="{_BARS_LEFT}" y="{top + 3}" width="{length:.0f}" height="{_BAR - 8}" fill="{colour}"/>')
        parts.append(_text(_BARS_LEFT + length + 6, top + 15, f"{share:.2f}"))
    return "\n".join([*parts, _rule(line, 52, line, height - 8), "</svg>\n"])


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + share * (self.end - self.start)

    def powers(self) -> range:
        return range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)


def _apart(places: Sequence[float]) -> list[float]:
    """The same places, moved down where labels would lie over each other."""
    moved, last = list(places), -math.inf
    for number in sorted(range(len(places)), key=lambda n: places[n]):
        moved[number] = last = max(places[number], last + _LABEL_APART)
    return moved


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'
