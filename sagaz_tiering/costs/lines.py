"""The lines of a plan, and how many things of one kind become one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sagaz_tiering.terminal import counted, document, show_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one job would do for one policy between two places. Money in USD.

    `action`: age, transition, expire or compact; `state`: "planned", "refused" (costs more than it saves) or
    "waiting" (for its pack to fill). `source` and `to` are storage classes, "hot", "durable" or (expired) None.
    `now_usd` is billed for doing it; `costs_usd` also holds minimum durations beyond the stay, and `saves_usd` is what
    the monthly bills' difference adds up to over the data's life. `outcomes`: the snapshots by how their sagas end, as
    far as they were counted one by one.
    """

    action: str
    state: str
    policy: str
    source: str
    to: str | None
    snapshots: int = 0
    packs: int = 0
    bytes: int = 0
    requests: int = 0
    now_usd: float = 0.0
    costs_usd: float = 0.0
    saves_usd: float = 0.0
    month_before_usd: float = 0.0
    month_after_usd: float = 0.0
    why: str = ""
    outcomes: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str, str | None]:
        """What makes it the same line in another plan."""
        return (self.action, self.state, self.policy, self.source, self.to)

    @property
    def break_even_months(self) -> float | None:
        """After how long it has paid for itself; None where it never does, or where nothing is billed before."""
        monthly = self.month_before_usd - self.month_after_usd
        return self.costs_usd / monthly if monthly > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self, "break_even_months")


_SUMMED = (
    *("snapshots", "packs", "bytes", "requests", "now_usd", "costs_usd", "saves_usd"),
    *("month_before_usd", "month_after_usd"),
)


def merged(lines: Iterable[Line]) -> list[Line]:
    """One line per key, in the order of their first; numbers add up, the reason is of the largest."""
    found: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        found.setdefault(line.key, []).append(line)
    return [_sum(group) for group in found.values()]


def _sum(group: list[Line]) -> Line:
    if len(group) == 1:
        return group[0]
    first = group[0]
    total: dict[str, Any] = {name: sum(getattr(line, name) for line in group) for name in _SUMMED}
    total["outcomes"] = added(line.outcomes for line in group)
    reasons = {line.why for line in group}
    why = reasons.pop() if len(reasons) == 1 else figures(Line(**_names(first), **total))
    return Line(**_names(first), **total, why=why)


def added(outcomes: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Snapshots by outcome, of several together."""
    total: Counter[str] = Counter()
    for each in outcomes:
        total.update(each)
    return dict(total)


def _names(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in ("action", "state", "policy", "source", "to")}


def figures(line: Line) -> str:
    """What it saves and costs, in words."""
    each = line.bytes // max(line.packs, 1)
    return (
        f"{counted(line.packs, 'pack')} of {each:,} bytes on average: {show_usd(line.month_before_usd)} -> "
        f"{show_usd(line.month_after_usd)} a month saves {show_usd(line.saves_usd)}, costs {show_usd(line.costs_usd)}"
    )
