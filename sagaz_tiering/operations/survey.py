"""Collect what the planner needs: sums over the catalog, what `compact` would do, and a bounded sample of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.costs.lines import Due, Expired, Inputs
from sagaz_tiering.costs.plan import Plan, plan
from sagaz_tiering.errors import CorruptRecord, HotTierUnavailable
from sagaz_tiering.hot.layout import IndexedHeader
from sagaz_tiering.jobs.age.frames import expiry_bucket
from sagaz_tiering.jobs.claims import SagaEnds, saga_ends
from sagaz_tiering.jobs.compact import job as compact
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.expire.mass_delete import may_shorten
from sagaz_tiering.jobs.ownership import with_accepted
from sagaz_tiering.policy import Decision, PolicySet
from sagaz_tiering.snapshot import SnapshotMeta

_PAGE = 500
_AT_ONCE = 64
MOST_CANDIDATES = 5_000
"""So many packs are looked at for compaction."""
SAMPLED_SAGAS = 512
"""So many of the sagas that are due some day in Redis are looked at, and the first page of each."""


_Decided = tuple[SnapshotMeta, Decision, int]


@dataclass(slots=True)
class _Sum:
    """Snapshots of the sample that belong together."""

    snapshots: int = 0
    bytes: int = 0
    since_us: int = 2**62
    youngest_us: int = -(2**62)

    def add(self, decision: Decision, length: int) -> None:
        self.snapshots += 1
        self.bytes += length
        self.since_us = min(self.since_us, decision.due_us or 0)
        self.youngest_us = max(self.youngest_us, decision.clock_us)

    def scale(self, factor: float) -> None:
        self.snapshots, self.bytes = round(self.snapshots * factor), round(self.bytes * factor)


async def planned(context: JobContext, policies: PolicySet, now: datetime) -> Plan:
    """What `policies` would have the jobs do at `now`, and what that costs."""
    inputs = await survey(context, policies, now)
    return plan(inputs, policies, context.prices, now, in_force=context.policies)


async def survey(context: JobContext, policies: PolicySet, now: datetime) -> Inputs:
    """What there is to plan with at `now`. Changes nothing; reads no object. Works without Redis, and says so."""
    surveys = context.catalog.surveys
    (packs, notes), durable, hot, rewriting = await asyncio.gather(
        surveys.packs(policies, now, context.policies),
        surveys.durable(policies, now),
        _hot(context, policies, now),
        compact.forecast(context, policies, now, most=MOST_CANDIDATES),
    )
    due, expired = [*durable[0], *hot[0]], [*durable[1], *hot[1]]
    notes += [*durable[2], *hot[2]]
    if sum(each.packs for each in rewriting) >= MOST_CANDIDATES:
        notes.append(f"compaction: only the first {MOST_CANDIDATES:,} packs that qualify are looked at")
    return Inputs(
        packs=tuple(packs),
        due=tuple(due),
        expired=tuple(expired),
        rewriting=tuple(rewriting),
        retiring=tuple(await surveys.retiring()),
        estimates=tuple(notes),
        pack_target=context.settings.tiers.cold.pack.target,
        budget_requests=context.settings.budget.requests_per_day,
        budget_usd=context.settings.budget.usd_per_day,
        in_directory=context.settings.tiers.cold.is_directory,
        shortens=await _shortens(context, policies),
    )


async def _shortens(context: JobContext, policies: PolicySet) -> bool:
    """Whether `expire` may have to ask, by policies that are not those it accepted last."""
    before = (await with_accepted(context.by(policies))).policies.before
    return before is not None and context.settings.jobs.expire_max_share < 1 and may_shorten(before, policies)


async def _hot(context: JobContext, policies: PolicySet, now: datetime) -> tuple[list[Due], list[Expired], list[str]]:
    """What only Redis holds, from a sample of the sagas in its two due indexes."""
    try:
        due, notes = await _sample(context, policies, now, expiring=False)
        expired, more = await _sample(context, policies, now, expiring=True)
    except HotTierUnavailable as exc:
        return [], [], [f"what only Redis holds is left out: {exc}"]
    hot_due = [
        Due(
            tier="hot",
            policy=policy,
            outcome=outcome,
            bucket=bucket,
            snapshots=total.snapshots,
            value_bytes=total.bytes,
            since=from_micros(total.since_us),
            youngest_clock_at=from_micros(total.youngest_us),
        )
        for (policy, outcome, bucket), total in due.items()
    ]
    hot_expired = [
        Expired(tier="hot", policy=policy, outcome=outcome, snapshots=total.snapshots, value_bytes=total.bytes)
        for (policy, outcome, _), total in expired.items()
    ]
    return hot_due, hot_expired, sorted({*notes, *more})


async def _sample(
    context: JobContext, policies: PolicySet, now: datetime, *, expiring: bool
) -> tuple[dict[tuple[str, str, str], _Sum], list[str]]:
    """Sums by policy, outcome and what they age into, of all of them by what a share of the sagas holds; and notes."""
    sagas, total = await context.hot.queue.sample(SAMPLED_SAGAS, expiring=expiring)
    broken = set(await context.hot.queue.broken_indexes(sagas))
    sagas = [saga for saga in sagas if saga not in broken]
    sums, now_us, cut = dict[tuple[str, str, str], _Sum](), to_micros(now), 0
    for start in range(0, len(sagas), _AT_ONCE):
        pages = await asyncio.gather(*(_first_page(context, saga) for saga in sagas[start : start + _AT_ONCE]))
        ends = await saga_ends(context, sagas[start : start + _AT_ONCE])
        found = [each for page in pages for each in _decided(page, policies, ends, now_us, expiring=expiring)]
        for _, decision, length in await _hot_only(context, found):
            key = (decision.policy, decision.outcome, "" if expiring else expiry_bucket(decision.expires_us))
            sums.setdefault(key, _Sum()).add(decision, length)
        cut += sum(len(page) >= _PAGE for page in pages)
    for each in sums.values():
        each.scale(total / max(len(sagas), 1))
    notes = []
    if len(sagas) < total:
        notes.append(f"what only Redis holds is estimated from {len(sagas):,} of {total:,} sagas")
    if cut:
        notes.append(f"{cut:,} sagas in Redis have more than {_PAGE} snapshots, of which only those count")
    return sums, notes


async def _first_page(context: JobContext, saga_id: UUID) -> list[IndexedHeader]:
    """A saga of many thousands must not make a plan slow."""
    async for headers in context.hot.headers(saga_id):
        return headers
    return []


def _decided(
    headers: Sequence[IndexedHeader], policies: PolicySet, ends: SagaEnds, now_us: int, *, expiring: bool
) -> list[_Decided]:
    found = []
    for header in headers:
        if header.head is None or not header.is_ours():
            continue
        try:
            meta = read_meta(header.head)
        except CorruptRecord:
            continue  # `age` reports it
        decision = policies.decide(meta, ends.of(meta), now_us)
        if decision.expired if expiring else decision.due and not decision.expired:
            found.append((meta, decision, header.length))
    return found


async def _hot_only(context: JobContext, found: Sequence[_Decided]) -> list[_Decided]:
    """Without what PostgreSQL knows too: it is counted there."""
    ids = [meta.snapshot_id for meta, _, _ in found]
    if not ids:
        return []
    known = await context.catalog.scrubbing.durable_of(ids) | set(await context.catalog.locations.packs_of(ids))
    return [each for each in found if each[0].snapshot_id not in known]
