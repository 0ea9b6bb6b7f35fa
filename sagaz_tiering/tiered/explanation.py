"""Why a snapshot is where it is, and what happens to it next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.policy import Decision, PolicySet
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef
from sagaz_tiering.units import micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The policy's view of one snapshot and its copies (the one that is read first, first)."""

    snapshot_id: UUID
    found: bool
    copies: tuple[SnapshotRef, ...] = ()
    policy: str | None = None
    reason: str = "no tier knows this snapshot: it was never saved, or it expired or was deleted"
    clock_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    next_move: str | None = None
    blockers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        times = {"clock_at": self.clock_at, "due_at": self.due_at, "expires_at": self.expires_at}
        return {
            "snapshot_id": str(self.snapshot_id),
            "found": self.found,
            "copies": [copy.to_dict() for copy in self.copies],
            "policy": self.policy,
            "reason": self.reason,
            **{name: moment.isoformat() if moment else None for name, moment in times.items()},
            "next_move": self.next_move,
            "blockers": list(self.blockers),
        }


def explain(
    snapshot_id: UUID, meta: SnapshotMeta, copies: tuple[SnapshotRef, ...], policies: PolicySet, now: datetime
) -> Explanation:
    """What `policies` say of a snapshot at `now`. Pure."""
    decision = policies.decide(meta, to_micros(now))
    storage_class = copies[0].storage_class
    ahead = [
        move
        for move in decision.rule.move
        if storage_class is None or move.to.coldness > type(move.to)(storage_class).coldness
    ]
    next_move = None
    if ahead and not decision.expired:
        at = from_micros(decision.clock_us + micros(ahead[0].after))
        next_move = f"to {ahead[0].to} at {at.isoformat()}" + (" (due)" if at <= now else "")
    return Explanation(
        snapshot_id=snapshot_id,
        found=True,
        copies=copies,
        policy=decision.policy,
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
