"""What became of every acknowledged snapshot, compared with what the policies say.

The expectation is worked out here from the policies' text alone, not by the code that moves snapshots.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from sagaz_tiering.codec.typed_json import dumps
from sagaz_tiering.errors import SagazTieringError, SnapshotArchived
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.policy import Policy
from sagaz_tiering.snapshot import SagaSnapshot, Tier
from sagaz_tiering.terminal import document
from sagaz_tiering.tiered.storage import TieredStorage

AT_ONCE = 8
GONE = "gone"


class Recorder:
    """The storage that the engine is given: passes saves on, and remembers each one that was acknowledged.

    The engine logs a failed save and goes on; `refused` keeps what it swallowed.
    """

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.acknowledged: list[SagaSnapshot] = []
        self.refused: list[tuple[UUID, Exception]] = []

    async def save_snapshot(self, snapshot: Any) -> None:
        """Save; remembered once it is acknowledged."""
        copy = deepcopy(SagaSnapshot.of(snapshot))
        try:
            await self._storage.save_snapshot(snapshot)
        except SagazTieringError as exc:
            self.refused.append((copy.snapshot_id, exc))
            raise
        self.acknowledged.append(copy)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongFate:
    """A snapshot that is not where, or not what, it should be."""

    snapshot_id: UUID
    saga_id: UUID
    saga_name: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} ({self.saga_name}): should be {self.expected}, is {self.found}"


@dataclass(slots=True, kw_only=True)
class FateTally:
    """How many snapshots met which fate, and those that met the wrong one."""

    checked: int = 0
    fates: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[WrongFate] = field(default_factory=list)

    def add(self, snapshot: SagaSnapshot, expected: str, found: str) -> None:
        """One snapshot more."""
        self.checked += 1
        if found == expected:
            self.fates[snapshot.saga_name, expected] += 1
            return
        self.wrong.append(
            WrongFate(
                snapshot_id=snapshot.snapshot_id,
                saga_id=snapshot.saga_id,
                saga_name=snapshot.saga_name,
                expected=expected,
                found=found,
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        fates = [{"saga_name": n, "fate": f, "snapshots": c} for (n, f), c in sorted(self.fates.items())]
        return {**document(self), "fates": fates}


def expected_fate(snapshot: SagaSnapshot, ended_at: datetime, policies: Sequence[Policy], now: datetime) -> str:
    """`readable in hot`, `readable in CLASS`, `archived in CLASS` or `gone`, by the policies' text.

    Ages count from the newest snapshot of its saga, `ended_at`.
    """
    policy = next(p for p in policies if any(fnmatchcase(snapshot.saga_name, each) for each in p.match.saga_name))
    ends = [] if policy.lifetime is None else [ended_at + policy.lifetime]
    ends += [snapshot.retention_until] if snapshot.retention_until is not None and policy.asks_snapshot else []
    if ends and now >= max(ends):
        return GONE
    passed = [move.to for move in policy.move if ended_at + move.after <= now]
    if not passed:
        return "readable in hot"
    return f"{'archived' if passed[-1].is_archive else 'readable'} in {passed[-1]}"


async def check_fates(
    snapshots: Sequence[SagaSnapshot],
    storage: TieredStorage,
    objects: ObjectStore,
    policies: Sequence[Policy],
    now: datetime,
) -> FateTally:
    """Compare contents, place and number of all with the policies, saga by saga.

    Every saga is asked for its list, its timeline and one snapshot by id. Nothing that a storage answers stops
    the check; only errors that are not ours do.
    """
    tally = FateTally()
    sagas: dict[UUID, list[SagaSnapshot]] = {}
    for snapshot in snapshots:
        sagas.setdefault(snapshot.saga_id, []).append(snapshot)
    waiting = iter(sagas.values())

    async def worker() -> None:
        for members in waiting:
            found = await _found_fates(members, storage, objects)
            ended_at = max(snapshot.created_at for snapshot in members)
            for snapshot in members:
                tally.add(snapshot, expected_fate(snapshot, ended_at, policies, now), found[snapshot.snapshot_id])

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return tally


async def _found_fates(
    members: Sequence[SagaSnapshot], storage: TieredStorage, objects: ObjectStore
) -> dict[UUID, str]:
    """The fate of each snapshot of a saga in the words of `expected_fate`; anything else in words of its own."""
    saga_id, probe = members[0].saga_id, members[len(members) // 2]
    refs = await storage.timeline(saga_id)
    places = {ref.snapshot_id: str(ref.storage_class) if ref.tier is Tier.COLD else "hot" for ref in refs}
    counts = Counter(ref.snapshot_id for ref in refs)
    by_list = await _answer(storage.list_snapshots(saga_id, limit=len(members) + 1), objects)
    by_id = await _answer(storage.get_snapshot(probe.snapshot_id), objects)
    fates = {}
    for snapshot in members:
        wanted = snapshot.snapshot_id
        fate = _fate(snapshot, places.get(wanted), by_list)
        if counts[wanted] > 1:
            fate = f"{counts[wanted]} times in its saga's timeline"
        elif snapshot is probe and (other := _fate(snapshot, places.get(wanted), by_id)) != fate:
            fate = f"{fate} by list, but {other} by id"
        fates[wanted] = fate
    return fates


Answer = dict[UUID, SagaSnapshot] | str
"""What a read gave: snapshots by id, or in words why none."""


async def _answer(read: Awaitable[list[SagaSnapshot] | SagaSnapshot | None], objects: ObjectStore) -> Answer:
    try:
        read_back = await read
    except SnapshotArchived as exc:
        return await _archived_fate(exc, objects)
    except SagazTieringError as exc:
        return f"unreadable ({type(exc).__name__}: {exc})"
    found = read_back if isinstance(read_back, list) else [read_back]
    return {each.snapshot_id: each for each in found if each is not None}


def _fate(snapshot: SagaSnapshot, place: str | None, answer: Answer) -> str:
    """What `answer`, and the place in the timeline, say of one snapshot."""
    if isinstance(answer, str):
        archived_elsewhere = answer.startswith("archived in ") and answer != f"archived in {place}"
        return f"{answer}, but {place} in its saga's timeline" if archived_elsewhere else answer
    found = answer.get(snapshot.snapshot_id)
    if found is None:
        return GONE if place is None else f"not readable, but in its saga's timeline ({place})"
    if place is None:
        return "readable, but missing in its saga's timeline"
    return f"readable in {place}" if _same(found, snapshot) else "readable with other contents"


async def _archived_fate(archived: SnapshotArchived, objects: ObjectStore) -> str:
    """The archived answer is only as good as the objects that it speaks of."""
    try:
        classes = {(await objects.head(key)).storage_class.value for key in archived.object_keys}
    except SagazTieringError as exc:
        return f"lost: its pack cannot be found ({exc})"
    if classes != {archived.storage_class}:
        return f"said to be archived in {archived.storage_class}, but its pack is in {', '.join(classes) or 'none'}"
    return f"archived in {archived.storage_class}"


def _same(one: SagaSnapshot, other: SagaSnapshot) -> bool:
    """Equal, and with equal types all the way down (a Decimal is not a float)."""
    return one == other and dumps(one.context) == dumps(other.context)
