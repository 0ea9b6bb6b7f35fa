"""What the planner is given (sums over the catalog and the hot tier) and the lines that it makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from sagaz_tiering.config.patterns import RUNNING
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import counted, document, show_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class PackGroup:
    """Packs that are alike: one pack, or many as an average. Times of a group are means, `next_expiry_at` the first.

    `snapshots` are live ones, `packed` those that were ever in; `expired`: live ones past their retention, counted
    (None: not counted, to be estimated), and, where each was asked for by the policies of the plan, by `outcomes`.
    """

    policy: str
    storage_class: StorageClass
    bucket: str
    retention_revision: str
    packs: int
    bytes: int
    snapshots: int
    packed: int
    min_created_at: datetime
    max_clock_at: datetime
    class_since: datetime
    next_expiry_at: datetime | None
    expired: int | None = None
    outcomes: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Snapshots to pack, of one policy, outcome of their sagas and expiry bucket; `tier`: counted as durable or hot.

    `value_bytes`: their encoded size, each compressed alone. `since`: when the first of them became due.
    """

    tier: str
    policy: str
    bucket: str
    snapshots: int
    value_bytes: int
    since: datetime
    youngest_clock_at: datetime
    outcome: str = RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """Snapshots past their retention that are not in a pack; `tier` is durable or hot."""

    tier: str
    policy: str
    snapshots: int
    value_bytes: int
    outcome: str = RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that a plan is made of. `estimates` says in words which figures are not counted, and why.

    `rewriting`: what `compact` would do. `in_directory`: the cold tier is one, which bills nothing. `shortens`: some
    snapshots may end earlier by these policies than by those that `expire` accepted last.
    """

    packs: tuple[PackGroup, ...] = ()
    due: tuple[Due, ...] = ()
    expired: tuple[Expired, ...] = ()
    rewriting: tuple[Line, ...] = ()
    retiring: tuple[PackGroup, ...] = ()
    estimates: tuple[str, ...] = ()
    pack_target: int = 32 * 2**20
    budget_requests: int | None = None
    budget_usd: float | None = None
    in_directory: bool = False
    shortens: bool = False


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


_NAMES: Final = ("action", "state", "policy", "source", "to")
BILLED: Final = ("requests", "now_usd", "costs_usd", "saves_usd", "month_before_usd", "month_after_usd")
_SUMMED: Final = ("snapshots", "packs", "bytes", *BILLED)


def merged(lines: Iterable[Line]) -> list[Line]:
    """One line per key, in the order of their first; numbers add up, the reason is of the largest."""
    found: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        found.setdefault(line.key, []).append(line)
    return [_sum(group) for group in found.values()]


def _sum(group: list[Line]) -> Line:
    total: dict[str, Any] = {name: sum(getattr(line, name) for line in group) for name in _SUMMED}
    found = replace(group[0], **total, outcomes=added(line.outcomes for line in group))
    reasons = {line.why for line in group}
    return found if len(reasons) == 1 else replace(found, why=figures(found))


def added(outcomes: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Snapshots by outcome, of several together."""
    total: Counter[str] = Counter()
    for each in outcomes:
        total.update(each)
    return dict(total)


def figures(line: Line) -> str:
    """What it saves and costs, in words."""
    each = line.bytes // max(line.packs, 1)
    return (
        f"{counted(line.packs, 'pack')} of {each:,} bytes on average: {show_usd(line.month_before_usd)} -> "
        f"{show_usd(line.month_after_usd)} a month saves {show_usd(line.saves_usd)}, costs {show_usd(line.costs_usd)}"
    )


_COMPARED: Final = ("snapshots", "packs", "bytes", "requests", "now_usd", "month_before_usd", "month_after_usd")
_SAME_USD: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A line that only one of two plans has, or that both have with other figures."""

    before: Line | None
    after: Line | None

    @property
    def line(self) -> Line:
        """Whichever is there, for its names."""
        found = self.after or self.before
        assert found is not None  # a change has at least one
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        names = zip(_NAMES, self.line.key, strict=True)
        return {**dict(names), "before": _figures(self.before), "after": _figures(self.after)}


def difference(before: Iterable[Line], after: Iterable[Line]) -> tuple[Change, ...]:
    """What other policies would do differently: each line that differs, in the order of `after`, then of `before`."""
    old, new = ({line.key: line for line in lines} for lines in (before, after))
    changes = [Change(before=old.get(key), after=new.get(key)) for key in new | old]
    return tuple(change for change in changes if not _same(change))


def _same(change: Change) -> bool:
    if change.before is None or change.after is None:
        return False
    pairs = [(getattr(change.before, name), getattr(change.after, name)) for name in _COMPARED]
    return all(abs(old - new) <= _SAME_USD for old, new in pairs)


def _figures(line: Line | None) -> dict[str, Any] | None:
    return None if line is None else {name: getattr(line, name) for name in _COMPARED}
