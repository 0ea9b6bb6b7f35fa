"""Sums over the catalog for the planner: memory and time grow with what is alike, not with how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.config.patterns import outcome_of
from sagaz_tiering.costs.buckets import NEVER, bucket_of
from sagaz_tiering.costs.inputs import Due, Expired, PackGroup
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.postgresql.text import from_column
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.storage_class import StorageClass

_SQL = load(__package__, "surveys")
_NAMES = ("saga_name", "step_name", "status", "end_status")
EXACT_PACKS = 20_000
"""So many packs are looked at one by one; more are put together by day, expiry bucket and size."""
EXACT_SNAPSHOTS = 200_000
"""So many snapshots of packs that have begun to expire are counted; of more, the share is estimated."""
MOST_NAMES = 50_000
"""Distinct (saga, step, status) of the durable copies that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackShare:
    """A snapshot's pack, and the share of its bytes (0 to 1) that is the snapshot's."""

    group: PackGroup
    object_key: str
    byte_offset: int
    byte_length: int
    share: float
    written_at: datetime


class Surveys:
    """Aggregates over `packs` and `saga_snapshots`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def packs(self, now: datetime) -> tuple[list[PackGroup], list[str]]:
        """Active packs, and what is estimated of them in words."""
        overview = await self._db.fetchrow(_SQL["overview"], now)
        assert overview is not None  # an aggregate always has a row
        each, notes = overview["packs"] <= EXACT_PACKS, []
        counted: dict[int, int] | None = None
        if each and overview["expiring"] <= EXACT_SNAPSHOTS:
            counted = {row["pack_id"]: row["expired"] for row in await self._db.fetch(_SQL["expired_in_packs"], now)}
        elif overview["expiring"]:
            notes.append(f"of {overview['expiring']:,} snapshots in expiring packs the expired share is estimated")
        if not each:
            notes.append(f"{overview['packs']:,} packs are put together by day, expiry month and order of size")
        groups = []
        for row in await self._db.fetch(_SQL["packs"], "ACTIVE", each):
            group = _group(row)
            groups.append(group if counted is None else replace(group, expired=counted.get(row["pack_id"], 0)))
        return groups, notes

    async def retiring(self) -> list[PackGroup]:
        """Packs that wait for their deletion; they are billed until then."""
        return [_group(row) for row in await self._db.fetch(_SQL["packs"], "RETIRING", False)]

    async def durable(self, policies: PolicySet, now: datetime) -> tuple[list[Due], list[Expired], list[str]]:
        """Durable copies that are due or expired at `now` by these policies."""
        names = await self._db.fetch(_SQL["durable_names"], MOST_NAMES)
        notes = []
        if len(names) == MOST_NAMES:
            notes.append(f"durable copies: only the {MOST_NAMES:,} most frequent names are looked at")
        due, expired = [], []
        for row in await self._db.fetch(_SQL["durable_due"], *_rules(names, policies), now):
            if row["expired"]:
                expired.append(
                    Expired(tier="durable", policy=row["policy"], snapshots=row["snapshots"], value_bytes=row["bytes"])
                )
            else:
                due.append(
                    Due(
                        tier="durable",
                        policy=row["policy"],
                        bucket=NEVER if row["month"] is None else f"{row['month']:%Y-%m}",
                        snapshots=row["snapshots"],
                        value_bytes=row["bytes"],
                        since=row["since"],
                        youngest_clock_at=row["youngest"],
                    )
                )
        return due, expired, notes

    async def share(self, snapshot_id: UUID) -> PackShare | None:
        """The pack of a snapshot, if it is in one."""
        row = await self._db.fetchrow(_SQL["share"], snapshot_id)
        if row is None:
            return None
        group = PackGroup(
            policy=row["policy"],
            storage_class=StorageClass(row["storage_class"]),
            bucket=bucket_of(row["object_key"]),
            retention_revision=row["retention_revision"],
            packs=1,
            bytes=row["byte_size"],
            snapshots=row["live_count"],
            packed=row["snapshot_count"],
            min_created_at=row["min_created_at"],
            max_clock_at=row["max_clock_at"],
            class_since=row["class_since"],
            next_expiry_at=row["next_expiry_at"],
        )
        return PackShare(
            group=group,
            object_key=row["object_key"],
            byte_offset=row["byte_offset"],
            byte_length=row["byte_length"],
            share=row["byte_length"] / max(row["in_frame"], 1) / max(row["byte_size"], 1),
            written_at=row["created_at"],
        )


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


def _group(row: Any) -> PackGroup:
    names = [name for name in PackGroup.__dataclass_fields__ if name != "expired"]
    return PackGroup(**{**{n: row[n] for n in names}, "storage_class": StorageClass(row["storage_class"])})


def _rules(names: Sequence[Any], policies: PolicySet) -> tuple[list[Any], ...]:
    """Columns: saga and step names, statuses, those of sagas' ends, policies, seconds to move and to expire, clocks."""
    rows = []
    for row in names:
        saga_name, step_name, status, end_status = (from_column(row[name]) for name in _NAMES)
        policy = policies.policy_for(saga_name, step_name, status, outcome_of(end_status))
        after = policy.move[0].after.total_seconds() if policy.move else None
        retain = None if policy.lifetime is None else policy.lifetime.total_seconds()
        rows.append((*(row[name] for name in _NAMES), policy.name, after, retain, policy.clock.value))
    columns = list(zip(*rows, strict=True)) or [()] * 8
    return tuple(list(column) for column in columns)
