"""Everything that explains a snapshot, collected: its policy, its saga, its pack, what it costs and what keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sagaz_tiering.catalog.surveys import PackShare
from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.costs import share_cost
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef, Tier
from sagaz_tiering.terminal import show_time
from sagaz_tiering.tiered.explanation import CopyPlace, Explanation, OneOfSaga, SagaExplanation, explain, explain_whole
from sagaz_tiering.tiered.merge import Copy, end_of, located_meta, ref_meta
from sagaz_tiering.tiered.read import Reader
from sagaz_tiering.tiers import Tiers


class Explainer:
    """Explains snapshots and sagas; reads no archived bytes."""

    def __init__(self, tiers: Tiers, reader: Reader) -> None:
        self._catalog = tiers.catalog
        self._prices = tiers.prices
        self._clock = tiers.clock
        self._reader = reader

    async def explain(self, wanted: UUID) -> Explanation:
        """A snapshot by its id; by a saga's id the saga, and its newest snapshot."""
        copies = await self._reader.copies(wanted)
        if copies:
            return await self._explained(copies, await self.explain_saga(copies[0].ref.saga_id))
        whole = await self.explain_saga(wanted)
        if whole is not None and (copies := await self._reader.copies(whole.newest_snapshot_id)):
            return replace(await self._explained(copies, whole), asked_saga=True)
        return Explanation(snapshot_id=wanted, found=False)

    async def explain_saga(self, saga_id: UUID) -> SagaExplanation | None:
        """What happens to all of a saga; None where nothing of it that can be read is there."""
        copies = await self._reader.timeline(saga_id, expired_too=True)
        policies, now = self._reader.rules, self._clock.now()
        ends = await self._catalog.sagas.ends([saga_id])
        saga = end_of(copies, ends.get(saga_id))
        readable = [copy for copy in copies if copy.meta or copy.located]
        if saga is None or not readable:
            return None
        packs = await self._catalog.surveys.packs_of_saga(saga_id)
        held = await self._catalog.holds.covering([copy.ref for copy in readable], ends={saga_id: saga})
        pins = await self._catalog.restores.pinned([copy.ref.snapshot_id for copy in readable], now)
        known = [
            OneOfSaga(
                ref=copy.ref,
                meta=_meta_of(copy, saga, policies),
                pack=packs.get(copy.ref.snapshot_id),
                held=copy.ref.snapshot_id in held,
                pinned=pins.get(copy.ref.snapshot_id),
            )
            for copy in readable
        ]
        return explain_whole(known, len(copies) - len(known), policies, self._prices, now, saga)

    async def _explained(self, copies: Sequence[Copy], whole: SagaExplanation | None) -> Explanation:
        """What is true of a snapshot, of which there is at least one copy; the one that is read first comes first."""
        first, catalog = copies[0].ref, self._catalog
        policies, prices, now = self._reader.rules, self._prices, self._clock.now()
        ends = await catalog.sagas.ends([first.saga_id])
        known = end_of([copy for copy in copies if copy.ref.saga_id == first.saga_id], ends.get(first.saga_id))
        saga = known or SagaEnd.of(_lost_meta(first))
        meta = _meta_of(copies[0], saga, policies)
        pack = await catalog.surveys.share(first.snapshot_id)
        holds = await catalog.holds.holding(first, saga)
        pins = await catalog.restores.pinned([first.snapshot_id], now)
        blockers = [f"legal hold since {h.placed_at.isoformat()} by {h.placed_by}: {h.reason}" for h in holds]
        blockers += [f"a restore keeps it in Redis until {until.isoformat()}" for until in pins.values()]
        in_pack = pack.group if pack is not None and pack.is_newest else None
        refs = tuple(copy.ref for copy in copies)
        found = explain(first.snapshot_id, meta, refs, policies, now, saga=saga, prices=prices, pack=in_pack)
        found = replace(found, saga=whole, places=tuple(_place(ref, pack) for ref in refs))
        if pack is None:
            return replace(found, blockers=(*_waiting(found, policies, now), *blockers))
        if await catalog.quarantine.left_alone("pack", [pack.object_key]):
            blockers.append(f"its pack is in quarantine and left alone by the jobs: {pack.object_key}")
        policy, group = policies.named(pack.group.policy), pack.group
        cost = share_cost(prices, policy, group, share=pack.share, written_at=pack.written_at, now=now)
        return replace(
            found,
            blockers=(*found.blockers, *blockers),
            usd_per_month=cost.usd_per_month,
            usd_to_date=cost.usd_to_date,
        )


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
    until = show_time(found.due_at + policy.linger)
    linger = f"`linger: {format_duration(policy.linger)}`"
    return [f"it is due and waits until {until} at the latest for its pack to fill up ({linger})"]


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
