"""Why a snapshot is where it is, what happens to it next, and to all of its saga. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.config.patterns import RUNNING
from sagaz_tiering.costs import PackGroup, PriceList
from sagaz_tiering.policy import Decision, PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef
from sagaz_tiering.terminal import show_time
from sagaz_tiering.tiered.next_move import next_move

NO_END = "no end was recorded, so it counts as running"


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
class SagaShare:
    """Snapshots of a saga that one policy rules and that go the same way: `to` where (None: nowhere), and when.

    `expires_last` is None where some of them never expire; both are where none does. `blocked`: why the move is not
    made though it is due. So many are `held`, by legal holds, and a restore keeps copies in Redis until then, the last.
    """

    policy: str
    snapshots: int
    to: str | None
    moves_first: datetime | None
    moves_last: datetime | None
    expires_first: datetime | None
    expires_last: datetime | None
    blocked: str | None = None
    held: int = 0
    in_redis_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaExplanation:
    """How a saga stands: its outcome, its end, and what happens to all of it.

    `ended_at`: when its newest snapshot was made, which is `newest_snapshot_id`; None where that is no end. `tiers`:
    how many of its snapshots are read from where. `unreadable`: known by their place alone. `promise`: why it is
    kept longer than the policies say, or None.
    """

    saga_id: UUID
    saga_name: str
    outcome: str
    ended_at: datetime | None
    newest_at: datetime
    newest_snapshot_id: UUID
    snapshots: int
    unreadable: int
    tiers: dict[str, int]
    shares: tuple[SagaShare, ...]
    promise: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The policy's view of one snapshot and its copies (the one that is read first, first).

    `clock` says from when its ages count, `matched` what the policy's match asks for; `outcome`, `saga_ended_at` (None:
    no end was recorded) and `saga` tell of its saga. `asked_saga`: the id was a saga's, of which this is the newest.
    The USD are its share of its pack's bill, by bytes: a month, and since the pack was written; None where it is in no
    pack.
    """

    snapshot_id: UUID
    found: bool
    copies: tuple[SnapshotRef, ...] = ()
    places: tuple[CopyPlace, ...] = ()
    policy: str | None = None
    policy_revision: str | None = None
    matched: str | None = None
    clock: str | None = None
    reason: str = "no tier knows this snapshot: it was never saved, or it expired or was deleted"
    clock_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    next_move: str | None = None
    outcome: str | None = None
    saga_ended_at: datetime | None = None
    saga: SagaExplanation | None = None
    asked_saga: bool = False
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
    prices: PriceList,
    pack: PackGroup | None,
) -> Explanation:
    """What `policies` say of a snapshot at `now`, which is in `pack` (None: in none, or it was saved anew since)."""
    decision = policies.decide(meta, saga, to_micros(now)).recorded_as(copies[0].expires_at, to_micros(now))
    move = next_move(decision, pack, policies, prices, now)
    told = None if move is None else move.told(now)
    return Explanation(
        snapshot_id=snapshot_id,
        found=True,
        copies=copies,
        policy=decision.policy,
        policy_revision=policies.revision,
        matched=decision.rule.match.text,
        clock=decision.rule.clock.value,
        reason=_reason(decision, None if pack is None else pack.storage_class, told),
        clock_at=from_micros(decision.clock_us),
        due_at=None if decision.due_us is None else from_micros(decision.due_us),
        expires_at=None if decision.expires_us is None else from_micros(decision.expires_us),
        next_move=told,
        blockers=(f"moving its pack to {move.to} {move.blocked}: {move.figures}",) if move and move.blocked else (),
        outcome=saga.outcome,
        saga_ended_at=_ended_at(saga),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOfSaga:
    """A snapshot of a saga, as far as is known; in which `pack` (see `explain`), `held`, `pinned` until when."""

    ref: SnapshotRef
    meta: SnapshotMeta
    pack: PackGroup | None
    held: bool
    pinned: datetime | None


def explain_whole(
    found: Sequence[OneOfSaga],
    unreadable: int,
    policies: PolicySet,
    prices: PriceList,
    now: datetime,
    saga: SagaEnd,
) -> SagaExplanation:
    """What `policies` say of all snapshots of a saga (at least one) at `now`."""
    now_us, promise = to_micros(now), None
    shares: dict[tuple[str, str | None, str | None], list[tuple[OneOfSaga, datetime | None, datetime | None]]] = {}
    for one in found:
        decision = policies.decide(one.meta, saga, now_us).recorded_as(one.ref.expires_at, now_us)
        move = next_move(decision, one.pack, policies, prices, now)
        key = (decision.policy, *((None, None) if move is None else (move.to, move.blocked)))
        expires_at = None if decision.expires_us is None else from_micros(decision.expires_us)
        shares.setdefault(key, []).append((one, None if move is None else move.at, expires_at))
        if decision.is_promised:
            promise = decision.end
    newest = max(found, key=lambda one: one.ref.order_key)
    return SagaExplanation(
        saga_id=newest.ref.saga_id,
        saga_name=newest.ref.saga_name,
        outcome=saga.outcome,
        ended_at=_ended_at(saga),
        newest_at=from_micros(saga.created_us),
        newest_snapshot_id=saga.snapshot_id,
        snapshots=len(found) + unreadable,
        unreadable=unreadable,
        tiers=dict(Counter(" ".join(filter(None, (one.ref.tier.value, one.ref.storage_class))) for one in found)),
        shares=tuple(_share(*key, of_share) for key, of_share in shares.items()),
        promise=promise,
        why=_how_it_stands(saga, policies),
    )


def _how_it_stands(saga: SagaEnd, policies: PolicySet) -> str:
    newest = f"its newest snapshot, of {show_time(from_micros(saga.created_us))}, says {saga.status}"
    if saga.outcome != RUNNING:
        return newest
    return f"{NO_END}: {newest}" if policies.has_outcomes else f"{newest}, which is no end"


def _ended_at(saga: SagaEnd) -> datetime | None:
    return None if saga.outcome == RUNNING else from_micros(saga.created_us)


def _share(
    policy: str,
    to: str | None,
    blocked: str | None,
    found: Sequence[tuple[OneOfSaga, datetime | None, datetime | None]],
) -> SagaShare:
    moves = [at for _, at, _ in found if at is not None]
    expiries = [at for _, _, at in found if at is not None]
    return SagaShare(
        policy=policy,
        snapshots=len(found),
        to=to,
        moves_first=min(moves, default=None),
        moves_last=max(moves, default=None),
        expires_first=min(expiries, default=None),
        expires_last=max(expiries) if len(expiries) == len(found) else None,
        blocked=blocked,
        held=sum(one.held for one, _, _ in found),
        in_redis_until=max((one.pinned for one, _, _ in found if one.pinned is not None), default=None),
    )


def _reason(decision: Decision, storage_class: str | None, told: str | None) -> str:
    if storage_class is None or decision.expired:
        return decision.reason
    move = f"next it moves {told}" if told else "it moves no further"
    return f"{decision.who}: it is in a pack in {storage_class}, {move}, and {decision.end}."
