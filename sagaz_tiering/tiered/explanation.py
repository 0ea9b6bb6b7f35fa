"""Why a snapshot is where it is, and what happens to it next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.policy import Decision, PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlace:
    """Where a copy is: `where` is a server or an object key, `offset` and `length` of its frame there in bytes."""

    tier: str
    storage_class: str | None
    where: str
    offset: int | None = None
    length: int | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The policy's view of one snapshot and its copies (the one that is read first, first).

    `clock` says from when its ages count. The USD are its share of its pack's bill, by bytes: a month, and since the
    pack was written; None where it is in no pack.
    """

    snapshot_id: UUID
    found: bool
    copies: tuple[SnapshotRef, ...] = ()
    places: tuple[CopyPlace, ...] = ()
    policy: str | None = None
    policy_revision: str | None = None
    clock: str | None = None
    reason: str = "no tier knows this snapshot: it was never saved, or it expired or was deleted"
    clock_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    next_move: str | None = None
    blockers: tuple[str, ...] = ()
    usd_per_month: float | None = None
    usd_to_date: float | None = None


def explain(
    snapshot_id: UUID,
    meta: SnapshotMeta,
    copies: tuple[SnapshotRef, ...],
    policies: PolicySet,
    now: datetime,
    *,
    saga: SagaEnd,
    pack_clock_at: datetime | None = None,
) -> Explanation:
    """What `policies` say of a snapshot at `now`. Pure. A pack moves when its youngest, `pack_clock_at`, may."""
    decision = policies.decide(meta, saga, to_micros(now)).recorded_as(copies[0].expires_at, to_micros(now))
    storage_class = copies[0].storage_class
    ahead = [
        move
        for move in decision.rule.move
        if storage_class is None or move.to.coldness > type(move.to)(storage_class).coldness
    ]
    next_move = None
    if ahead and not decision.expired:
        at = max(from_micros(decision.clock_us), pack_clock_at or from_micros(0)) + ahead[0].after
        next_move = f"to {ahead[0].to} at {at.isoformat()}" + (" (due)" if at <= now else "")
    return Explanation(
        snapshot_id=snapshot_id,
        found=True,
        copies=copies,
        policy=decision.policy,
        policy_revision=policies.revision,
        clock=decision.rule.clock.value,
        reason=_reason(decision, storage_class, next_move),
        clock_at=from_micros(decision.clock_us),
        due_at=None if decision.due_us is None else from_micros(decision.due_us),
        expires_at=None if decision.expires_us is None else from_micros(decision.expires_us),
        next_move=next_move,
    )


def _reason(decision: Decision, storage_class: str | None, next_move: str | None) -> str:
    if storage_class is None or decision.expired:
        return decision.reason
    move = f"next it moves {next_move}" if next_move else "it moves no further"
    return f"policy {decision.policy!r} matches: it is in a pack in {storage_class}, {move}, and {decision.end}."
