"""Copies from several tiers as one timeline. Pure.

Of one snapshot the newest save wins; of the same save the nearest tier (hot, durable, cold) is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sagaz_tiering.catalog.locations import SnapshotLocation
from sagaz_tiering.catalog.sagas import packed
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.errors import Unreadable
from sagaz_tiering.hot.layout import IndexedHeader, known_by_place, member_step
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef, Tier

_NAMES = ("snapshot_id", "saga_id", "saga_name", "step_name", "step_index", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Where to read a snapshot from: `value` at hand, or in Redis under its id (hot), or `located`.

    `meta`: of one in Redis. `error`: what is there cannot be read, so of `ref` only the ids and its place in the order
    are known.
    """

    ref: SnapshotRef
    saved_us: int | None
    value: bytes | None = None
    meta: SnapshotMeta | None = None
    located: SnapshotLocation | None = None
    error: Unreadable | None = None


def hot_copy(meta: SnapshotMeta, value: bytes | None = None) -> Copy:
    """A copy in Redis; when it expires `dated` says."""
    return Copy(
        ref=SnapshotRef.of(meta, expires_us=None, tier=Tier.HOT), saved_us=meta.saved_us, value=value, meta=meta
    )


def damaged_copy(saga_id: UUID, header: IndexedHeader, error: Unreadable) -> Copy:
    """What an index in Redis tells of a value that is lost or cannot be read."""
    ref = damaged_ref(header.snapshot_id, saga_id, header.created_us, member_step(header.member))
    return Copy(ref=replace(ref, unreadable=str(error)), saved_us=None, error=error)


def damaged_ref(snapshot_id: UUID, saga_id: UUID, created_us: int, step_index: int = 0) -> SnapshotRef:
    """All that is known of a snapshot in Redis that cannot be read: whose it is."""
    return SnapshotRef.of(known_by_place(snapshot_id, saga_id, created_us, step_index), expires_us=None, tier=Tier.HOT)


def located_copy(located: SnapshotLocation) -> Copy:
    """A copy that PostgreSQL told of; its date is the recorded one until it is `dated`."""
    return Copy(ref=located.ref, saved_us=located.saved_us, value=located.value, located=located)


def end_of(copies: Iterable[Copy], known: SagaEnd | None = None) -> SagaEnd | None:
    """Where a saga ends by these copies of its snapshots and what else is known."""
    for copy in copies:
        if copy.meta is not None:
            known = SagaEnd.of(copy.meta) if known is None else known.and_of(copy.meta)
        elif copy.located is not None:
            known = copy.located.saga if known is None else known.and_of(copy.located.saga)
    return known


def dated(copies: Iterable[Copy], policies: PolicySet, saga: SagaEnd | None) -> list[Copy]:
    """The same, each with the expiry that `policies` give it, of a saga that ends there (None: nothing is known)."""
    return [copy if saga is None else _dated(copy, policies, saga) for copy in copies]


def _dated(copy: Copy, policies: PolicySet, saga: SagaEnd) -> Copy:
    if copy.meta is not None:
        expires_us = policies.expires_us(copy.meta, saga)
    elif copy.located is not None:
        expires_us = _expires_us(copy.located, policies, saga)
    else:
        return copy
    return replace(copy, ref=replace(copy.ref, expires_at=None if expires_us is None else from_micros(expires_us)))


def located_meta(located: SnapshotLocation) -> SnapshotMeta:
    """The meta of what PostgreSQL told of; the own date of one in a pack is not known there."""
    ref, until = located.ref, located.retention_until
    clock_us = to_micros(located.max_clock_at or ref.created_at)
    if located.dated_by is None and located.saved_us is not None:
        clock_us = located.saved_us
    return ref_meta(ref, clock_us)._replace(retention_us=None if until is None else to_micros(until))


def ref_meta(ref: SnapshotRef, clock_us: int) -> SnapshotMeta:
    """What a ref tells of a snapshot, which was saved then at the latest."""
    return packed({name: getattr(ref, name) for name in _NAMES}, to_micros(ref.created_at), clock_us)


def _expires_us(located: SnapshotLocation, policies: PolicySet, saga: SagaEnd) -> int | None:
    """The later of what was recorded and what the policies say; of one in a pack its own date is not known here."""
    ref, meta = located.ref, located_meta(located)
    if located.dated_by is None:
        return policies.expires_us(meta, saga)
    recorded_us = None if ref.expires_at is None else to_micros(ref.expires_at)
    return policies.expires_at_least_us(meta, saga, recorded_us, located.dated_by)


def merge(hot: Iterable[Copy], located: Iterable[Copy]) -> list[Copy]:
    """One copy per snapshot, newest snapshot first, expired ones included."""
    best: dict[UUID, Copy] = {copy.ref.snapshot_id: copy for copy in hot}
    for copy in located:
        known = best.get(copy.ref.snapshot_id)
        if known is None or _newer(copy, known):
            best[copy.ref.snapshot_id] = copy
    return sorted(best.values(), key=lambda copy: copy.ref.order_key, reverse=True)


def complete_from(copies: Sequence[Copy], asked: int) -> tuple[datetime, int, int] | None:
    """Where the newest `asked` of durable rows or of packs end, if there may be more; older ones are not known."""
    ends = []
    for tier in (Tier.DURABLE, Tier.COLD):
        of_tier = [copy.ref.order_key for copy in copies if copy.ref.tier is tier]
        if len(of_tier) == asked:
            ends.append(of_tier[-1])
    return max(ends, default=None)


def alive(copies: Iterable[Copy], now: datetime) -> list[Copy]:
    """Those that have not expired by `now`."""
    return [copy for copy in copies if copy.ref.expires_at is None or now < copy.ref.expires_at]


def saved_until(copies: Iterable[Copy], now: datetime) -> int:
    """The instant (microseconds) of a delete of these: what is there was saved before, whatever clock that was by."""
    return max([to_micros(now), *(copy.saved_us or 0 for copy in copies)])


def matches(copy: Copy, not_after_us: int | None, step_name: str | None) -> bool:
    """Whether a copy answers a question for a time and a step; a damaged one may be of any step."""
    is_known = copy.error is None or copy.ref.step_name != ""
    if step_name is not None and is_known and copy.ref.step_name != step_name:
        return False
    return not_after_us is None or copy.ref.created_at <= from_micros(not_after_us)


def _newer(copy: Copy, known: Copy) -> bool:
    if known.ref.tier is Tier.COLD:
        return True
    return copy.saved_us is not None and known.saved_us is not None and copy.saved_us > known.saved_us
