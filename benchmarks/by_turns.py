"""Contenders that do the same work by turns in one process, compared by ratios: a busy machine harms all alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")
Turn = Callable[[], Awaitable[float]]

OURS = "ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`ours` must be at most `times` as long as `other`, or at least `times` as much a second."""

    other: str
    times: float

    def told(self, unit: str) -> str:
        """For the table."""
        return f"{'<=' if unit == 'ms' else '>='} {self.times:.3g}x {self.other}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is compared. A turn gives milliseconds (unit "ms", less is better) or a rate (unit "/s")."""

    name: str
    unit: str
    contenders: dict[str, Turn]
    targets: Sequence[Target]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The figures of one work, by contender and round."""

    work: Work
    figures: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, other: str) -> float:
        """Ours to another's, the median of the rounds' ratios."""
        pairs = zip(self.figures[OURS], self.figures[other], strict=True)
        return median(ours / theirs for ours, theirs in pairs)

    def reached(self, target: Target) -> bool:
        """Whether the ratio is what it must be."""
        ratio = self.ratio(target.other)
        return ratio <= target.times if self.work.unit == "ms" else ratio >= target.times

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "work": self.work.name,
            "unit": self.work.unit,
            "medians": {name: median(values) for name, values in self.figures.items()},
            "rounds": self.figures,
            "targets": [
                {"other": t.other, "must_be": t.told(self.work.unit), "is": self.ratio(t.other), "ok": self.reached(t)}
                for t in self.work.targets
            ],
        }


async def compare(works: Iterable[Work], rounds: int, tell: Callable[[str], None]) -> list[Outcome]:
    """Every work `rounds` times; in each round each contender has one turn, after a first one that does not count."""
    outcomes = []
    for work in works:
        outcome = Outcome(work=work, figures={name: [] for name in work.contenders})
        for turn in work.contenders.values():
            await turn()
        for number in range(rounds):
            order = list(work.contenders.items())
            for name, turn in order if number % 2 else reversed(order):
                outcome.figures[name].append(await turn())
        outcomes.append(outcome)
        tell(f"{work.name}: " + ", ".join(f"{n} {median(v):.4g} {work.unit}" for n, v in outcome.figures.items()))
    return outcomes


async def p50_ms(call: Callable[[T], Awaitable[object]], items: Iterable[T]) -> float:
    """The median time of one call, one after the other, in milliseconds."""
    times = []
    for item in items:
        began = time.perf_counter()
        await call(item)
        times.append(time.perf_counter() - began)
    return median(times) * 1000


async def per_second(call: Callable[[T], Awaitable[object]], items: Sequence[T], at_once: int) -> float:
    """How many calls a second, with so many callers."""
    left = iter(items)

    async def caller() -> None:
        for item in left:
            await call(item)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return len(items) / (time.perf_counter() - began)


def table(outcomes: Iterable[Outcome]) -> str:
    """As text: medians, ratios, what must be reached and the verdict."""
    rows = [("work", "figures (medians)", "ours is", "must reach", "verdict")]
    for outcome in outcomes:
        unit = outcome.work.unit
        figures = ", ".join(f"{name} {_number(median(values))}" for name, values in outcome.figures.items())
        first = (f"{outcome.work.name} [{unit}]", figures)
        for target in outcome.work.targets or [None]:
            if target is None:
                rows.append((*first, "", "", ""))
                continue
            ratio = f"{outcome.ratio(target.other):.2f}x {target.other}"
            rows.append((*first, ratio, target.told(unit), "ok" if outcome.reached(target) else "MISSED"))
            first = ("", "")
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
