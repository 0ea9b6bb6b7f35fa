"""The target's side: an item is compared, saved where it differs, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, cast
from uuid import UUID

from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.codec.value import Record
from sagaz_tiering.errors import CorruptData, InvalidSnapshot, SagazTieringError, SnapshotArchived, Unreadable
from sagaz_tiering.snapshot import ReplayResult, ReplayStatus, SagaSnapshot, SnapshotRef, as_uuid, replay_record
from sagaz_tiering.storage.base import SnapshotStorage
from sagaz_tiering.transfer.equality import is_same, is_same_replay, record_of
from sagaz_tiering.transfer.report import Counts, Outcome
from sagaz_tiering.transfer.retry import RetryBudget


class NotVerified(SagazTieringError):
    """The target does not give back what was saved there."""

    exit_code = 6


class There(Enum):
    """What a target has under an id: the same, something in an archive class, nothing (or expired), another one."""

    SAME = "same"
    ARCHIVED = "archived"
    ABSENT = "absent"
    OTHER = "other"


class Writer:
    """Writes to one target for one transfer."""

    def __init__(
        self, target: SnapshotStorage, retry_budget: RetryBudget, clock: Clock, *, verify: bool, dry_run: bool
    ) -> None:
        self._target = target
        self._retry_budget = retry_budget
        self._clock = clock
        self._verify = verify
        self._dry_run = dry_run

    async def has_saga(self, saga_id: UUID) -> bool:
        """Whether the target may have something of this saga; asked once, it saves a question for each snapshot."""
        try:
            return await self._retry_budget.ask(partial(self._target.get_latest_snapshot, saga_id)) is not None
        except Unreadable:
            return True

    async def has_snapshot(self, snapshot_id: UUID) -> bool:
        """Whether the target has it, readable or archived."""
        try:
            return await self._retry_budget.ask(partial(self._target.get_snapshot, snapshot_id)) is not None
        except SnapshotArchived:
            return True
        except Unreadable:
            return False

    async def put(self, snapshot: SagaSnapshot, counts: Counts, *, compare: bool) -> bool:
        """Bring one snapshot to the target, and count it; whether it is there. `compare`: it may have been before.

        Raises InvalidSnapshot, NotVerified, TierUnavailable (after the retry budget) or what else the target says.
        """
        ours = await record_of(snapshot)
        there = await self._look(ours) if compare else There.ABSENT
        if there in (There.SAME, There.ARCHIVED):
            counts.not_compared += there is There.ARCHIVED
            counts.count(Outcome.ALREADY_THERE, size=len(ours.body))
            return True
        if self._is_expired(snapshot):
            counts.count(Outcome.EXPIRED)
            return False
        if self._dry_run:
            counts.count(Outcome.COPIED, size=len(ours.body))
            return False
        await self._retry_budget.ask(partial(self._target.save_snapshot, snapshot))
        return await self._confirm(snapshot, ours, counts)

    async def put_replay(self, found: Mapping[str, Any], counts: Counts) -> None:
        """Bring one replay record to the target. Raises as `put`."""
        result = replay_result(found)
        record = replay_record(result)
        if await self._has_replay(record):
            counts.count(Outcome.ALREADY_THERE)
            return
        if not self._dry_run:
            await self._retry_budget.ask(partial(self._target.save_replay_log, result))
            if self._verify and not await self._has_replay(record):
                raise NotVerified(f"replay record {result.replay_id}: the target does not give back what was saved")
            counts.verified += self._verify
        counts.count(Outcome.COPIED)

    async def _has_replay(self, record: dict[str, Any]) -> bool:
        """Whether the target has this very record."""
        try:
            there = await self._retry_budget.ask(partial(self._target.get_replay_log, record["replay_id"]))
        except CorruptData:
            return False
        return there is not None and is_same_replay(there, record)

    async def _look(self, ours: Record) -> There:
        """What the target has under the id of this snapshot."""
        try:
            there = await self._retry_budget.ask(partial(self._target.get_snapshot, ours.meta.snapshot_id))
        except SnapshotArchived:
            indexed = await self._indexed(ours)
            return There.ARCHIVED if indexed is None or indexed else There.OTHER
        except Unreadable:
            return There.OTHER  # saved anew, which heals it
        if there is None:
            return There.ABSENT
        return There.SAME if await is_same(await record_of(there), ours) else There.OTHER

    async def _confirm(self, snapshot: SagaSnapshot, ours: Record, counts: Counts) -> bool:
        """Read back what was just saved, and count it; whether it is there."""
        there = await self._look(ours) if self._verify else None
        if there is There.OTHER or (there is There.ABSENT and not await self._has_expired(snapshot, ours, counts)):
            raise NotVerified(
                f"snapshot {snapshot.snapshot_id}: the target does not give back what was saved",
                hint="another process may have saved it at the same time; run the transfer again",
            )
        counts.verified += there is There.SAME
        counts.not_compared += there is There.ARCHIVED
        if there is There.ABSENT:
            counts.count(Outcome.EXPIRED)
            return False
        counts.count(Outcome.COPIED, size=len(ours.body))
        return True

    async def _has_expired(self, snapshot: SagaSnapshot, ours: Record, counts: Counts) -> bool:
        """Whether what was just saved and is not there any more has expired meanwhile, or at once."""
        if self._is_expired(snapshot):
            return True
        refs = await self._indexed(ours) or []
        by_policy = any(ref.expires_at is not None and ref.expires_at <= self._clock.now() for ref in refs)
        if by_policy:
            counts.note("the target's own retention rules let some snapshots expire at once; see its policies")
        return by_policy

    async def _indexed(self, ours: Record) -> list[SnapshotRef] | None:
        """Copies of this very snapshot in the target's index, expired and archived ones too; None without an index."""
        locate = getattr(self._target, "locate", None)
        if locate is None:
            return None
        meta = ours.meta
        wanted = (meta.saga_id, meta.saga_name, meta.step_name, meta.step_index, meta.status, meta.created_us)
        refs = cast(list[SnapshotRef], await self._retry_budget.ask(partial(locate, meta.snapshot_id)))
        return [ref for ref in refs if _described(ref) == wanted]

    def _is_expired(self, snapshot: SagaSnapshot) -> bool:
        return snapshot.retention_until is not None and snapshot.retention_until <= self._clock.now()


def replay_result(record: Mapping[str, Any]) -> ReplayResult:
    """The result whose `to_dict` is `record`. Raises InvalidSnapshot."""
    try:
        completed = record["completed_at"]
        return ReplayResult(
            replay_id=as_uuid(record["replay_id"], "replay_id"),
            original_saga_id=as_uuid(record["original_saga_id"], "original_saga_id"),
            new_saga_id=as_uuid(record["new_saga_id"], "new_saga_id"),
            checkpoint_step=record["checkpoint_step"],
            replay_status=ReplayStatus(record["replay_status"]),
            initiated_by=record["initiated_by"],
            context_override=record["context_override"],
            error_message=record["error_message"],
            created_at=datetime.fromisoformat(record["created_at"]),
            completed_at=None if completed is None else datetime.fromisoformat(completed),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidSnapshot(f"a replay record of the source is not one: {exc!r}") from exc


def _described(ref: SnapshotRef) -> tuple[object, ...]:
    created_us = to_micros(ref.created_at)
    return (ref.saga_id, ref.saga_name, ref.step_name, ref.step_index, ref.status, created_us)
