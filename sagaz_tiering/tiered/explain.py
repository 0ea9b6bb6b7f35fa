"""Why a snapshot is where it is, what happens to it next, and to all of its saga; reads no archived bytes.

Where it goes next and when, and what blocks that (`next_move`): `timeline`, `find` and the console ask here too. What
is in a pack moves with it, also while a restore keeps a copy in Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering.catalog.surveys import PackShare
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.config.patterns import RUNNING
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.costs.economics import judge_pack, share_cost
from sagaz_tiering.costs.lines import PackGroup
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.policy import Decision, Policy, PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef, Tier
from sagaz_tiering.terminal import show_time
from sagaz_tiering.tiered.merge import Copy, end_of, located_meta, ref_meta
from sagaz_tiering.tiered.read import Reader

NO_END = "no end was recorded, so it counts as running"
TOO_COSTLY = "costs more than it saves"


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


class NextMove(NamedTuple):
    """To which class, when at the earliest. `blocked`: why it is not made though it is due, `figures`: of what."""

    to: str
    at: datetime
    blocked: str | None = None
    figures: str | None = None

    def told(self, now: datetime) -> str:
        """For people and programs alike."""
        why = f" (blocked: {self.blocked})" if self.blocked else " (due)" if self.at <= now else ""
        return f"to {self.to} at {self.at.isoformat()}{why}"


def next_move(
    decision: Decision, pack: PackGroup | None, policies: PolicySet, prices: PriceList, now: datetime
) -> NextMove | None:
    """Unless it goes before or is there; `pack` holds it (None: none does)."""
    if decision.expired:
        return None
    if pack is None:
        moves = decision.rule.move
        at_us = decision.due_us
        return NextMove(moves[0].to.value, from_micros(at_us)) if moves and at_us is not None else None
    rule = policies.named(pack.policy) or decision.rule
    begun = max(from_micros(decision.clock_us), pack.max_clock_at)
    ahead = [move for move in rule.move if move.to.coldness > pack.storage_class.coldness]
    refused = None
    for move in reversed([move for move in ahead if to_micros(begun + move.after) <= to_micros(now)]):
        verdict = judge_pack(prices, rule, move, pack, now)
        if verdict.pays or rule.even_if_costlier:
            return NextMove(move.to.value, begun + move.after)
        refused = refused or NextMove(move.to.value, begun + move.after, TOO_COSTLY, verdict.why)
    if refused is not None or not ahead:
        return refused
    return NextMove(ahead[0].to.value, begun + ahead[0].after)


async def explain(reader: Reader, wanted: UUID) -> Explanation:
    """A snapshot by its id; by a saga's id the saga, and its newest snapshot."""
    copies = await reader.copies(wanted)
    if copies:
        return await _explained(reader, copies, await explain_saga(reader, copies[0].ref.saga_id))
    whole = await explain_saga(reader, wanted)
    if whole is not None and (copies := await reader.copies(whole.newest_snapshot_id)):
        return replace(await _explained(reader, copies, whole), asked_saga=True)
    return Explanation(snapshot_id=wanted, found=False)


async def _explained(reader: Reader, copies: Sequence[Copy], whole: SagaExplanation | None) -> Explanation:
    """What is true of a snapshot, of which there is at least one copy; the one that is read first comes first."""
    ref, tiers, policies = copies[0].ref, reader.tiers, reader.rules
    catalog, now = tiers.catalog, tiers.clock.now()
    ends = await catalog.sagas.ends([ref.saga_id])
    known = end_of([copy for copy in copies if copy.ref.saga_id == ref.saga_id], ends.get(ref.saga_id))
    saga = known or SagaEnd.of(_lost_meta(ref))
    decision = _decided(copies[0], saga, policies, now)
    pack = await catalog.surveys.share(ref.snapshot_id)
    in_pack = pack.group if pack is not None and pack.is_newest else None
    move = next_move(decision, in_pack, policies, tiers.prices, now)
    told = None if move is None else move.told(now)
    blockers = [] if pack is not None else _waiting(decision, policies.named(decision.policy), now)
    blockers += [f"moving its pack to {move.to} {move.blocked}: {move.figures}"] if move and move.blocked else []
    for hold in await catalog.holds.holding(ref, saga):
        blockers.append(f"legal hold since {hold.placed_at.isoformat()} by {hold.placed_by}: {hold.reason}")
    for until in (await catalog.restores.pinned([ref.snapshot_id], now)).values():
        blockers.append(f"a restore keeps it in Redis until {until.isoformat()}")
    found = Explanation(
        snapshot_id=ref.snapshot_id,
        found=True,
        copies=tuple(copy.ref for copy in copies),
        places=tuple(_place(copy.ref, pack) for copy in copies),
        policy=decision.policy,
        policy_revision=policies.revision,
        matched=decision.rule.match.text,
        clock=decision.rule.clock,
        reason=_reason(decision, None if in_pack is None else in_pack.storage_class, told),
        clock_at=from_micros(decision.clock_us),
        due_at=_at(decision.due_us),
        expires_at=_at(decision.expires_us),
        next_move=told,
        outcome=saga.outcome,
        saga_ended_at=_ended_at(saga),
        saga=whole,
        blockers=tuple(blockers),
    )
    if pack is None:
        return found
    if await catalog.quarantine.left_alone("pack", [pack.object_key]):
        blockers.append(f"its pack is in quarantine and left alone by the jobs: {pack.object_key}")
    rule = policies.named(pack.group.policy)
    cost = share_cost(tiers.prices, rule, pack.group, share=pack.share, written_at=pack.written_at, now=now)
    found = replace(found, blockers=tuple(blockers))
    return replace(found, usd_per_month=cost.usd_per_month, usd_to_date=cost.usd_to_date)


async def explain_saga(reader: Reader, saga_id: UUID) -> SagaExplanation | None:
    """What happens to all of a saga; None where nothing of it that can be read is there."""
    copies = await reader.timeline(saga_id, expired_too=True)
    tiers, policies, now = reader.tiers, reader.rules, reader.tiers.clock.now()
    ends = await tiers.catalog.sagas.ends([saga_id])
    saga = end_of(copies, ends.get(saga_id))
    readable = [copy for copy in copies if copy.meta or copy.located]
    if saga is None or not readable:
        return None
    refs = [copy.ref for copy in readable]
    packs = await tiers.catalog.surveys.packs_of_saga(saga_id)
    held = await tiers.catalog.holds.covering(refs, ends={saga_id: saga})
    pins = await tiers.catalog.restores.pinned([ref.snapshot_id for ref in refs], now)
    promise, shares = None, dict[tuple[str, str | None, str | None], list[_Fate]]()
    for copy in readable:
        snapshot_id = copy.ref.snapshot_id
        decision = _decided(copy, saga, policies, now)
        move = next_move(decision, packs.get(snapshot_id), policies, tiers.prices, now)
        key = (decision.policy, *((None, None) if move is None else (move.to, move.blocked)))
        moves_at, expires_at = None if move is None else move.at, _at(decision.expires_us)
        shares.setdefault(key, []).append(_Fate(moves_at, expires_at, snapshot_id in held, pins.get(snapshot_id)))
        promise = decision.end if decision.is_promised else promise
    newest = max(refs, key=lambda ref: ref.order_key)
    return SagaExplanation(
        saga_id=newest.saga_id,
        saga_name=newest.saga_name,
        outcome=saga.outcome,
        ended_at=_ended_at(saga),
        newest_at=from_micros(saga.created_us),
        newest_snapshot_id=saga.snapshot_id,
        snapshots=len(copies),
        unreadable=len(copies) - len(readable),
        tiers=dict(Counter(" ".join(filter(None, (ref.tier.value, ref.storage_class))) for ref in refs)),
        shares=tuple(_share(*key, of_share) for key, of_share in shares.items()),
        promise=promise,
        why=_how_it_stands(saga, policies),
    )


class _Fate(NamedTuple):
    """What happens to a snapshot of a saga, and until when a restore keeps it in Redis."""

    moves_at: datetime | None
    expires_at: datetime | None
    held: bool
    pinned: datetime | None


def _share(policy: str, to: str | None, blocked: str | None, found: Sequence[_Fate]) -> SagaShare:
    moves = [each.moves_at for each in found if each.moves_at is not None]
    expiries = [each.expires_at for each in found if each.expires_at is not None]
    return SagaShare(
        policy=policy,
        snapshots=len(found),
        to=to,
        moves_first=min(moves, default=None),
        moves_last=max(moves, default=None),
        expires_first=min(expiries, default=None),
        expires_last=max(expiries) if len(expiries) == len(found) else None,
        blocked=blocked,
        held=sum(each.held for each in found),
        in_redis_until=max((each.pinned for each in found if each.pinned is not None), default=None),
    )


def _how_it_stands(saga: SagaEnd, policies: PolicySet) -> str:
    newest = f"its newest snapshot, of {show_time(from_micros(saga.created_us))}, says {saga.status}"
    if saga.outcome != RUNNING:
        return newest
    return f"{NO_END}: {newest}" if policies.has_outcomes else f"{newest}, which is no end"


def _ended_at(saga: SagaEnd) -> datetime | None:
    return None if saga.outcome == RUNNING else from_micros(saga.created_us)


def _at(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _reason(decision: Decision, storage_class: str | None, told: str | None) -> str:
    if storage_class is None or decision.expired:
        return decision.reason
    move = f"next it moves {told}" if told else "it moves no further"
    return f"{decision.who}: it is in a pack in {storage_class}, {move}, and {decision.end}."


def _place(ref: SnapshotRef, pack: PackShare | None) -> CopyPlace:
    if ref.tier is not Tier.COLD or pack is None:
        where = {Tier.HOT: "Redis", Tier.DURABLE: "PostgreSQL"}.get(ref.tier, "object store")
        return CopyPlace(tier=ref.tier.value, storage_class=ref.storage_class, where=where)
    return CopyPlace(
        tier=ref.tier.value,
        storage_class=ref.storage_class,
        where=pack.object_key,
        offset=pack.byte_offset,
        length=pack.byte_length,
        since=pack.group.class_since,
    )


def _waiting(decision: Decision, policy: Policy | None, now: datetime) -> list[str]:
    """Due, but its pack may still fill up."""
    due_at = _at(decision.due_us)
    if policy is None or due_at is None or not due_at <= now < due_at + policy.linger:
        return []
    until, linger = show_time(due_at + policy.linger), f"`linger: {format_duration(policy.linger)}`"
    return [f"it is due and waits until {until} at the latest for its pack to fill up ({linger})"]


def _decided(copy: Copy, saga: SagaEnd, policies: PolicySet, now: datetime) -> Decision:
    """What the policies say of a copy, and what is recorded of it."""
    now_us = to_micros(now)
    return policies.decide(_meta_of(copy, saga, policies), saga, now_us).recorded_as(copy.ref.expires_at, now_us)


def _meta_of(copy: Copy, saga: SagaEnd, policies: PolicySet) -> SnapshotMeta:
    """The meta of a copy; of an archived one, as far as the catalog knows it.

    A recorded date that is by these policies, but neither their word nor what the saga was promised, is its own.
    """
    if copy.meta is not None:
        return copy.meta
    if copy.located is None:
        return _lost_meta(copy.ref)
    meta, located = located_meta(copy.located), copy.located
    recorded_at = located.ref.expires_at
    revision, _ = located.dated_by or ("", "")
    if revision != policies.retention_revision or recorded_at is None or to_micros(recorded_at) == saga.kept_us:
        return meta
    return meta._replace(retention_us=to_micros(recorded_at))


def _lost_meta(ref: SnapshotRef) -> SnapshotMeta:
    """Of one that Redis has lost: what was noted of it."""
    return ref_meta(ref, to_micros(ref.created_at))
