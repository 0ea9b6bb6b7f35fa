"""The target's side: an item is compared, saved where it differs, and read back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from typing import Any, Literal, cast
from uuid import UUID

from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.codec import typed_json
from sagaz_tiering.codec.threaded import LARGE_BYTES, encode_record
from sagaz_tiering.codec.value import MAX_BODY_BYTES, Record
from sagaz_tiering.errors import CorruptData, InvalidSnapshot, SagazTieringError, SnapshotArchived, Unreadable
from sagaz_tiering.snapshot import ReplayResult, ReplayStatus, SagaSnapshot, SnapshotRef, as_uuid, replay_record
from sagaz_tiering.storage.base import SnapshotStorage
from sagaz_tiering.transfer.report import Counts
from sagaz_tiering.transfer.retry import RetryBudget


class NotVerified(SagazTieringError):
    """The target does not give back what was saved there."""

    exit_code = 6


There = Literal["same", "archived", "absent", "other"]
"""What a target has under an id: the same, something in an archive class, nothing (or expired), another one."""

_NO_SAVE_TIME = 0


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes to one target for one transfer."""

    target: SnapshotStorage
    retry_budget: RetryBudget
    clock: Clock
    verify: bool
    dry_run: bool

    async def has_saga(self, saga_id: UUID) -> bool:
        """Whether the target may have something of this saga; asked once, it saves a question for each snapshot."""
        try:
            return await self.retry_budget.ask(partial(self.target.get_latest_snapshot, saga_id)) is not None
        except Unreadable:
            return True

    async def has_snapshot(self, snapshot_id: UUID) -> bool:
        """Whether the target has it, readable or archived."""
        try:
            return await self.retry_budget.ask(partial(self.target.get_snapshot, snapshot_id)) is not None
        except SnapshotArchived:
            return True
        except Unreadable:
            return False

    async def put(self, snapshot: SagaSnapshot, counts: Counts, *, compare: bool) -> bool:
        """Bring one snapshot to the target, and count it; whether it is there. `compare`: it may have been before.

        Raises InvalidSnapshot, NotVerified, TierUnavailable (after the retry budget) or what else the target says.
        """
        ours = await record_of(snapshot)
        there = await self._look(ours) if compare else "absent"
        if there in ("same", "archived"):
            counts.not_compared += there == "archived"
            counts.count("already_there", size=len(ours.body))
            return True
        if self._is_expired(snapshot):
            counts.count("expired")
            return False
        if self.dry_run:
            counts.count("copied", size=len(ours.body))
            return False
        await self.retry_budget.ask(partial(self.target.save_snapshot, snapshot))
        return await self._confirm(snapshot, ours, counts)

    async def put_replay(self, found: Mapping[str, Any], counts: Counts) -> None:
        """Bring one replay record to the target. Raises as `put`."""
        result = _result_of(found)
        record = replay_record(result)
        if await self._has_replay(record):
            counts.count("already_there")
            return
        if not self.dry_run:
            await self.retry_budget.ask(partial(self.target.save_replay_log, result))
            if self.verify and not await self._has_replay(record):
                raise NotVerified(f"replay record {result.replay_id}: the target does not give back what was saved")
            counts.verified += self.verify
        counts.count("copied")

    async def _has_replay(self, record: dict[str, Any]) -> bool:
        """Whether the target has this very record."""
        try:
            there = await self.retry_budget.ask(partial(self.target.get_replay_log, record["replay_id"]))
        except CorruptData:
            return False
        if there is None:
            return False
        (encoding, body), (ours, our_body) = (typed_json.dumps(each, path="") for each in (there, record))
        return encoding == ours and _are_same(body, our_body)

    async def _look(self, ours: Record) -> There:
        """What the target has under the id of this snapshot."""
        try:
            there = await self.retry_budget.ask(partial(self.target.get_snapshot, ours.meta.snapshot_id))
        except SnapshotArchived:
            indexed = await self._indexed(ours)
            return "archived" if indexed is None or indexed else "other"
        except Unreadable:
            return "other"  # saved anew, which heals it
        if there is None:
            return "absent"
        return "same" if await _is_same(await record_of(there), ours) else "other"

    async def _confirm(self, snapshot: SagaSnapshot, ours: Record, counts: Counts) -> bool:
        """Read back what was just saved, and count it; whether it is there."""
        there = await self._look(ours) if self.verify else None
        if there == "other" or (there == "absent" and not await self._has_expired(snapshot, ours, counts)):
            raise NotVerified(
                f"snapshot {snapshot.snapshot_id}: the target does not give back what was saved",
                hint="another process may have saved it at the same time; run the transfer again",
            )
        counts.verified += there == "same"
        counts.not_compared += there == "archived"
        if there == "absent":
            counts.count("expired")
            return False
        counts.count("copied", size=len(ours.body))
        return True

    async def _has_expired(self, snapshot: SagaSnapshot, ours: Record, counts: Counts) -> bool:
        """Whether what was just saved and is not there any more has expired meanwhile, or at once."""
        if self._is_expired(snapshot):
            return True
        refs = await self._indexed(ours) or []
        by_policy = any(ref.expires_at is not None and ref.expires_at <= self.clock.now() for ref in refs)
        if by_policy:
            counts.note("the target's own retention rules let some snapshots expire at once; see its policies")
        return by_policy

    async def _indexed(self, ours: Record) -> list[SnapshotRef] | None:
        """Copies of this very snapshot in the target's index, expired and archived ones too; None without an index."""
        locate = getattr(self.target, "locate", None)
        if locate is None:
            return None
        meta = ours.meta
        wanted = (meta.saga_id, meta.saga_name, meta.step_name, meta.step_index, meta.status, meta.created_us)
        refs = cast(list[SnapshotRef], await self.retry_budget.ask(partial(locate, meta.snapshot_id)))
        return [ref for ref in refs if _described(ref) == wanted]

    def _is_expired(self, snapshot: SagaSnapshot) -> bool:
        return snapshot.retention_until is not None and snapshot.retention_until <= self.clock.now()


async def record_of(snapshot: SagaSnapshot) -> Record:
    """The snapshot in the form that is compared. Raises NotSerializable, SnapshotTooLarge."""
    return await encode_record(snapshot, saved_us=_NO_SAVE_TIME, max_bytes=MAX_BODY_BYTES)


async def _is_same(one: Record, other: Record) -> bool:
    """Whether both are the same snapshot, to the type of every value, which `==` does not see (1 == 1.0 == True).

    The order of keys in a dict is free.
    """
    if one.meta._replace(body_crc=0) != other.meta._replace(body_crc=0) or one.encoding != other.encoding:
        return False
    if len(one.body) < LARGE_BYTES:
        return _are_same(one.body, other.body)
    return await asyncio.to_thread(_are_same, one.body, other.body)


def _are_same(one: bytes, other: bytes) -> bool:
    # The same values take the same room in any order.
    return one == other or (len(one) == len(other) and _in_any_order(one) == _in_any_order(other))


def _in_any_order(body: bytes) -> str:
    """JSON text with the keys of every object sorted; it tells 1, 1.0 and true apart, as `==` of values would not."""
    return json.dumps(json.loads(body.decode("utf-8", "surrogatepass")), sort_keys=True)


def _result_of(record: Mapping[str, Any]) -> ReplayResult:
    """The result whose `to_dict` is `record`. Raises InvalidSnapshot."""
    try:
        found = {field.name: record[field.name] for field in fields(ReplayResult)}
        for name in ("replay_id", "original_saga_id", "new_saga_id"):
            found[name] = as_uuid(found[name], name)
        found["replay_status"] = ReplayStatus(found["replay_status"])
        found["created_at"] = datetime.fromisoformat(found["created_at"])
        if found["completed_at"] is not None:
            found["completed_at"] = datetime.fromisoformat(found["completed_at"])
        return ReplayResult(**found)
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidSnapshot(f"a replay record of the source is not one: {exc!r}") from exc


def _described(ref: SnapshotRef) -> tuple[object, ...]:
    created_us = to_micros(ref.created_at)
    return (ref.saga_id, ref.saga_name, ref.step_name, ref.step_index, ref.status, created_us)
