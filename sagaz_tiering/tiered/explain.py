"""Everything that explains one snapshot, collected: its policy, its pack, what it costs and what keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.surveys import PackShare
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.costs import PriceList, judge_pack, share_cost
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef, Tier
from sagaz_tiering.tiered.explanation import CopyPlace, Explanation, explain
from sagaz_tiering.tiered.merge import Copy, end_of


async def explain_copies(
    catalog: Catalog, copies: Sequence[Copy], policies: PolicySet, prices: PriceList, now: datetime
) -> Explanation:
    """What is true of a snapshot, of which there is at least one copy; the one that is read first comes first."""
    first = copies[0].ref
    meta = _meta_of(copies[0], policies)
    ends = await catalog.sagas.ends([first.saga_id])
    saga = end_of(copies, ends.get(first.saga_id)) or SagaEnd.of(meta)
    pack = await catalog.surveys.share(first.snapshot_id)
    found = explain(
        first.snapshot_id,
        meta,
        tuple(copy.ref for copy in copies),
        policies,
        now,
        saga=saga,
        pack_clock_at=None if pack is None else pack.group.max_clock_at,
    )
    holds = await catalog.holds.holding(first, saga.status)
    pins = await catalog.restores.pinned([first.snapshot_id], now)
    blockers = [f"legal hold since {h.placed_at.isoformat()} by {h.placed_by}: {h.reason}" for h in holds]
    blockers += [f"a restore keeps it in Redis until {until.isoformat()}" for until in pins.values()]
    if pack is None:
        return replace(found, places=_places(copies, None), blockers=(*_waiting(found, policies, now), *blockers))
    if await catalog.quarantine.left_alone("pack", [pack.object_key]):
        blockers.append(f"its pack is in quarantine and left alone by the jobs: {pack.object_key}")
    cost = share_cost(
        prices,
        policies.named(pack.group.policy),
        pack.group,
        share=pack.share,
        written_at=pack.written_at,
        now=now,
    )
    return replace(
        found,
        places=_places(copies, pack),
        blockers=(*_losing(pack, policies, prices, now), *blockers),
        usd_per_month=cost.usd_per_month,
        usd_to_date=cost.usd_to_date,
    )


def _places(copies: Sequence[Copy], pack: PackShare | None) -> tuple[CopyPlace, ...]:
    return tuple(_place(copy.ref, pack) for copy in copies)


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


def _waiting(found: Explanation, policies: PolicySet, now: datetime) -> list[str]:
    """Due, but its pack may still fill up."""
    policy = policies.named(found.policy or "")
    if policy is None or found.due_at is None or not found.due_at <= now < found.due_at + policy.linger:
        return []
    return [f"it is due and may wait up to {format_duration(policy.linger)} for its pack to fill up"]


def _losing(pack: PackShare, policies: PolicySet, prices: PriceList, now: datetime) -> list[str]:
    """The due move of its pack that would cost more than it saves."""
    policy, group = policies.named(pack.group.policy), pack.group
    if policy is None or policy.even_if_costlier:
        return []
    for move in reversed(policy.move):
        if move.to.coldness > group.storage_class.coldness and group.max_clock_at + move.after <= now:
            verdict = judge_pack(prices, policy, move, group, now)
            if verdict.pays:
                return []
            return [f"moving its pack to {move.to} costs more than it saves: {verdict.why}"]
    return []


def _meta_of(copy: Copy, policies: PolicySet) -> SnapshotMeta:
    """The meta of a copy; of an archived one, as far as the catalog knows it: a recorded date that is by these policies
    and not their word is its own."""
    if copy.value is not None:
        return read_meta(copy.value)
    ref, created_us = copy.ref, to_micros(copy.ref.created_at)
    by_these = copy.located is not None and copy.located.dated_by == policies.retention_revision
    return SnapshotMeta(
        snapshot_id=ref.snapshot_id,
        saga_id=ref.saga_id,
        saga_name=ref.saga_name,
        step_name=ref.step_name,
        step_index=ref.step_index,
        status=ref.status,
        created_us=created_us,
        saved_us=created_us,
        retention_us=to_micros(ref.expires_at) if by_these and ref.expires_at is not None else None,
        body_crc=0,
    )
