"""Sums over the catalog: for the planner, for people (with their hourly history), and packs page by page.

Memory and time grow with what is alike, not with how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from sagaz_tiering.catalog.packs import RULED, Pack
from sagaz_tiering.catalog.rows import Repository, columns, of_row
from sagaz_tiering.config.patterns import RUNNING, outcome_of
from sagaz_tiering.config.policy import Policy
from sagaz_tiering.costs.economics import bucket_of
from sagaz_tiering.costs.lines import Due, Expired, PackGroup
from sagaz_tiering.drivers.postgresql.queries import from_column, load
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import plain

_SQL = load(__package__, "surveys")
EXACT_PACKS = 20_000
"""So many packs are looked at one by one; more are put together by day, expiry bucket and size."""
EXACT_SNAPSHOTS = 200_000
"""So many snapshots of packs that have begun to expire are counted; of more, the share is estimated."""
MOST_NAMES = 50_000
"""Distinct (saga, step, status) of the durable copies that are looked at."""
_TOTALS = load(__package__, "totals")
KEPT = timedelta(days=731)
"""So long the history is kept."""
HOUR = timedelta(hours=1)
_PACK_LIST = load(__package__, "pack_list")
NEWEST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PackShare:
    """A snapshot's pack, and the share of its bytes (0 to 1) that is the snapshot's.

    `is_newest`: nothing was saved of it since, so it moves with the pack.
    """

    group: PackGroup
    object_key: str
    byte_offset: int
    byte_length: int
    share: float
    written_at: datetime
    is_newest: bool


class Surveys(Repository):
    """Aggregates over `packs` and `saga_snapshots`."""

    async def packs(self, policies: PolicySet, now: datetime, in_force: PolicySet) -> tuple[list[PackGroup], list[str]]:
        """Active packs, and what is estimated of them in words; `in_force`: the policies that packs are dated by."""
        [overview] = await self._db.fetch(_SQL["overview"], now)
        each, notes = overview["packs"] <= EXACT_PACKS, []
        others = policies.retention_revision != in_force.retention_revision
        counted: dict[int, dict[str, int]] | None = None
        by_rules = others and each and overview["live"] <= EXACT_SNAPSHOTS
        if by_rules:
            ruling = sorted({*policies.ruling_attributes, *in_force.ruling_attributes})
            names = await self._db.fetch(_SQL["archived_names"], MOST_NAMES, ruling)
            revisions = policies.retention_revision, in_force.retention_revision
            rules = _archived_rules(names, policies, in_force)
            counted = _by_pack(await self._db.fetch(_SQL["archived_by_rules"], now, *revisions, ruling, *rules))
        elif each and overview["expiring"] <= EXACT_SNAPSHOTS:
            counted = _by_pack(await self._db.fetch(_SQL["expired_in_packs"], now))
            if overview["changed"]:
                notes.append(
                    "what is archived of sagas that went on since is left out of what expires: it is decided anew first"
                )
        elif overview["expiring"]:
            notes.append(f"of {overview['expiring']:,} snapshots in expiring packs the expired share is estimated")
        if others and not by_rules:
            notes.append(
                f"of {overview['live']:,} archived snapshots the other policies are asked by pack, not by saga"
            )
        if not each:
            notes.append(f"{overview['packs']:,} packs are put together by day, expiry month and order of size")
        groups = []
        for row in await self._db.fetch(_SQL["packs"], "ACTIVE", each):
            of_pack = None if counted is None else counted.get(row["pack_id"], {})
            known = {} if of_pack is None else {"expired": sum(of_pack.values())}
            groups.append(of_row(PackGroup, row, outcomes=None if others and not by_rules else of_pack, **known))
        return groups, notes

    async def retiring(self) -> list[PackGroup]:
        """Packs that wait for their deletion; they are billed until then."""
        return [of_row(PackGroup, row) for row in await self._db.fetch(_SQL["packs"], "RETIRING", False)]

    async def durable(self, policies: PolicySet, now: datetime) -> tuple[list[Due], list[Expired], list[str]]:
        """Durable copies that are due or expired at `now` by these policies."""
        ruling = list(policies.ruling_attributes)
        names = await self._db.fetch(_SQL["durable_names"], MOST_NAMES, ruling)
        notes = []
        if len(names) == MOST_NAMES:
            notes.append(f"durable copies: only the {MOST_NAMES:,} most frequent names are looked at")
        due, expired = [], []
        for row in await self._db.fetch(_SQL["durable_due"], now, ruling, *_rules(names, policies)):
            if row["expired"]:
                expired.append(of_row(Expired, row, tier="durable"))
            else:
                due.append(of_row(Due, row, tier="durable"))
        return due, expired, notes

    async def packs_of_saga(self, saga_id: UUID) -> dict[UUID, PackGroup]:
        """The pack of each snapshot of a saga of which nothing was saved after it was packed."""
        found: dict[UUID, PackGroup] = {}
        for row in await self._db.fetch(_SQL["packs_of_saga"], saga_id):
            found |= dict.fromkeys(row["snapshot_ids"], of_row(PackGroup, row))
        return found

    async def share(self, snapshot_id: UUID) -> PackShare | None:
        """The pack of a snapshot, if it is in one."""
        row = await self._db.fetchrow(_SQL["share"], snapshot_id)
        if row is None:
            return None
        share = row["byte_length"] / max(row["in_frame"], 1) / max(row["bytes"], 1)
        return of_row(PackShare, row, group=of_row(PackGroup, row), share=share)


def group_of(pack: Pack) -> PackGroup:
    """One pack as the planner sees it."""
    return PackGroup(
        policy=pack.policy,
        storage_class=pack.storage_class,
        bucket=bucket_of(pack.object_key),
        retention_revision=pack.retention_revision,
        packs=1,
        bytes=pack.byte_size,
        snapshots=pack.live_count,
        packed=pack.snapshot_count,
        min_created_at=pack.min_created_at,
        max_clock_at=pack.max_clock_at,
        class_since=pack.class_since,
        next_expiry_at=pack.next_expiry_at,
    )


def _by_pack(rows: Sequence[Any]) -> dict[int, dict[str, int]]:
    """Snapshots by pack and outcome."""
    found: dict[int, dict[str, int]] = {}
    for row in rows:
        of_pack, outcome = found.setdefault(row["pack_id"], {}), outcome_of(from_column(row["end_status"]))
        of_pack[outcome] = of_pack.get(outcome, 0) + row["expired"]
    return found


def _ruled(row: Any, policies: PolicySet) -> tuple[Policy, str]:
    """The policy of snapshots with these names, and how their sagas end."""
    saga_name, step_name, status, end_status, attributes = (from_column(row[name]) for name in RULED)
    outcome = outcome_of(end_status)
    return policies.policy_for(saga_name, step_name, status, outcome, attributes), outcome


def _ageing(row: Any, policy: Policy, outcome: str) -> tuple[Any, ...]:
    """Names, outcome, seconds until the end by the policy, and from when they count."""
    retain = None if policy.lifetime is None else policy.lifetime.total_seconds()
    return (*(row[name] for name in RULED), outcome, retain, policy.clock)


def _archived_rules(names: Sequence[Any], policies: PolicySet, in_force: PolicySet) -> list[list[Any]]:
    rows = []
    for row in names:
        policy, outcome = _ruled(row, policies)
        before, _ = _ruled(row, in_force)
        same = (policy.retain, policy.retention, policy.clock) == (before.retain, before.retention, before.clock)
        rows.append((*_ageing(row, policy, outcome), same))
    return columns(9, rows)


def _rules(names: Sequence[Any], policies: PolicySet) -> list[list[Any]]:
    rows = []
    for row in names:
        policy, outcome = _ruled(row, policies)
        after = policy.move[0].after.total_seconds() if policy.move else None
        bounded = after is not None and outcome == RUNNING and policy.clock == "saga_end"
        running = max(policy.running_at_most.total_seconds(), after or 0) if bounded else None
        counts = policy.is_for_ever, policy.asks_snapshot, policy.retention == "longest"
        rows.append((*_ageing(row, policy, outcome), policy.name, after, running, *counts))
    return columns(14, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdTotal:
    """Packs of a class; `packed` counts what is dead in them too, `came` what came since the last row."""

    storage_class: StorageClass
    retiring: bool
    packs: int
    bytes: int
    snapshots: int
    packed: int
    undersized: int
    came: int
    newest_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWork:
    """So many of something wait, the oldest since then: quarantine (kind, state), restore (state), late_restore, hold,
    journal, erasure (packs), changed_saga, due (durable copies; not counted here), many_values (sagas that have more
    values of an attribute, the kind, than they are found by)."""

    what: str
    kind: str
    state: str
    number: int | None
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one tier has of one storage class. None: not known without counting one by one (snapshots in Redis), or not
    ours to price.

    `tier`: hot, durable, cold or retiring (packs that nothing needs any more, billed until they are deleted).
    """

    tier: str
    storage_class: str = ""
    snapshots: int | None = None
    packs: int | None = None
    bytes: int
    usd_per_month: float | None = None
    came: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """The row of an hour."""

    hour: datetime
    holdings: tuple[Holding, ...]


class CatalogTotals(Repository):
    """Aggregates over `packs` and what waits; the table `history`."""

    async def cold(self, undersized_below: int, hour: datetime) -> list[ColdTotal]:
        """Packs by class; `came` counts up to `hour`."""
        return [of_row(ColdTotal, row) for row in await self._db.fetch(_TOTALS["cold"], undersized_below, hour)]

    async def open_work(self, now: datetime) -> list[OpenWork]:
        """What waits for somebody."""
        return [OpenWork(**dict(row)) for row in await self._db.fetch(_TOTALS["open_work"], now)]

    async def note_hour(self, hour: datetime, holdings: Sequence[Holding]) -> bool:
        """Write the row of an hour; False where another process has."""
        document = orjson.dumps([asdict(each) for each in holdings]).decode()
        return await self._db.execute(_TOTALS["note_hour"], hour, document, hour - KEPT) == 1

    async def hours(self, since: datetime, step: timedelta) -> list[Hour]:
        """The last row of each `step` since then, the oldest first."""
        return [
            Hour(hour=row["hour"], holdings=tuple(Holding(**each) for each in orjson.loads(row["holdings"])))
            for row in await self._db.fetch(_TOTALS["hours"], since, step)
        ]

    async def came(self, since: datetime) -> dict[str, int]:
        """Snapshots that came into each storage class since then."""
        return {row["storage_class"]: row["came"] for row in await self._db.fetch(_TOTALS["came"], since)}


class PackList(Repository):
    """`packs` and `frames`, to look at."""

    async def page(
        self, limit: int, before: int = NEWEST, *, storage_class: str | None = None, state: str | None = None
    ) -> list[dict[str, Any]]:
        """The newest first, before an id."""
        rows = await self._db.fetch(_PACK_LIST["page"], before, limit, storage_class, state)
        return [plain({**dict(row), "object_key": from_column(row["object_key"])}) for row in rows]

    async def one(self, pack_id: int) -> dict[str, Any] | None:
        """A pack by its id."""
        found = await self.page(1, pack_id + 1)
        return found[0] if found and found[0]["pack_id"] == pack_id else None

    async def frames(self, pack_id: int, limit: int, after: int = -1) -> list[dict[str, Any]]:
        """Its frames in order, after one: of which saga, where (bytes), how many snapshots are read from it."""
        return [plain(dict(row)) for row in await self._db.fetch(_PACK_LIST["frames"], pack_id, after, limit)]
