"""What the planner is given: sums over the catalog and the hot tier, and what `compact` would write anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sagaz_tiering.config.patterns import RUNNING
from sagaz_tiering.costs.lines import Line
from sagaz_tiering.storage_class import StorageClass


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
