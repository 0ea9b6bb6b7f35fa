"""Compact: packs with many dead bytes, packs that are too small, and packs with bytes of erased sagas, written anew.

The write order, and what a crash after each step leaves:

1. a row `UPLOADING`, the object under a fresh key, verified   -> `collect` gives it up; nothing else has changed
2. one transaction: places move to the new pack, it becomes `ACTIVE`, the old ones `RETIRING`
                                                               -> readers find the new one; those under way still
                                                                  read the old ones until their grace has passed
3. `expire` deletes the old objects after the grace

Only what saves more than it costs is written anew (requests, retrieval, and what the class bills for early
deletion), unless an erasure asks for it. Frames whose snapshots all live are copied byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import structlog

from sagaz_tiering.catalog.compaction import Candidate
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.clock import to_micros
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.engine.ownership import claim_prefix
from sagaz_tiering.engine.upload import new_pack, pack_key, placed_frames, upload
from sagaz_tiering.errors import CorruptPack, LeaseLost, ObjectStoreError
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.pack.entries import BuiltFrame, FrameEntry
from sagaz_tiering.pack.format import PackWriter
from sagaz_tiering.pack.frame import build_frame, open_frame
from sagaz_tiering.pack.reader import PackReader
from sagaz_tiering.prices import PriceList

_log = structlog.get_logger(__name__)
_PAGE = 500
_MAX_CANDIDATES = 20_000
_THAW_DAYS = 2
_FOR_EVER = timedelta(days=365)
"""So far ahead savings count for packs that never expire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Packs that become one, and what that saves and costs in USD."""

    packs: tuple[Pack, ...]
    erased: bool
    saves_usd: float
    costs_usd: float

    @property
    def pays(self) -> bool:
        """Whether to do it."""
        return self.erased or self.saves_usd > self.costs_usd

    @property
    def live_bytes(self) -> int:
        """About what the new pack will have."""
        return sum(_live_bytes(pack) for pack in self.packs)


def plan(candidates: Iterable[Candidate], *, target: int, prices: PriceList, now: datetime) -> list[Rewrite]:
    """Which packs to write anew together: same policy, class, expiry bucket and retention rules. Pure."""
    groups: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in candidates:
        pack = candidate.pack
        key = (pack.policy, pack.storage_class.value, bucket_of(pack.object_key), pack.retention_revision)
        groups.setdefault(key, []).append(candidate)
    found = []
    for group in groups.values():
        group.sort(key=lambda candidate: (not candidate.erased, candidate.pack.min_created_at))
        batch: list[Candidate] = []
        for candidate in group:
            if batch and sum(_live_bytes(c.pack) for c in (*batch, candidate)) > target:
                found.append(_rewrite(batch, target=target, prices=prices, now=now))
                batch = []
            batch.append(candidate)
        found.append(_rewrite(batch, target=target, prices=prices, now=now))
    return found


async def preview(context: JobContext, tally: Tally) -> None:
    """Count what a run would write anew, and say what would not pay."""
    for rewrite in await _planned(context):
        if rewrite.pays:
            tally.add("packs", len(rewrite.packs))
            tally.add("bytes", rewrite.live_bytes)
        else:
            tally.add("not_worth_it", len(rewrite.packs))
        tally.note(
            f"{len(rewrite.packs)} packs in {rewrite.packs[0].storage_class}: saves ${rewrite.saves_usd:.6f}, costs "
            f"${rewrite.costs_usd:.6f}{', needed by an erasure' if rewrite.erased else ''}"
        )


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Finish erasures that a crash left open, then write anew what pays."""
    await clear_hot(context, tally)
    for rewrite in await _planned(context):
        if context.stopping.is_set():
            return
        if not rewrite.pays:
            tally.add("not_worth_it", len(rewrite.packs))
            continue
        try:
            await _work(context, lease, rewrite.packs, tally)
        except LeaseLost:
            if not await context.catalog.leases.renew(lease, context.options.lease_ttl):
                raise
            tally.add("overtaken", len(rewrite.packs))  # an erasure or a save came between; the next run sees it
        except (ObjectStoreError, CorruptPack) as exc:
            tally.add("failed", len(rewrite.packs))
            tally.note(f"{', '.join(pack.object_key for pack in rewrite.packs)}: {exc}")
            _log.error("pack.not_compacted", object_keys=[p.object_key for p in rewrite.packs], error=str(exc))
            for pack in rewrite.packs if len(rewrite.packs) == 1 else ():
                await context.catalog.quarantine.record("pack", pack.object_key, str(exc), context.now)


async def clear_hot(context: JobContext, tally: Tally) -> None:
    """Erasures whose process ended before Redis was cleared."""
    for erasure_id, saga_id in await context.catalog.erasures.uncleared():
        async for headers in context.hot.headers(saga_id):
            for header in headers:
                tally.add("erased_hot", await context.hot.delete(header.snapshot_id))
        await context.catalog.erasures.cleared(erasure_id, context.now)


def bucket_of(key: str) -> str:
    """The expiry bucket in a pack's key: `never` or `yyyy-mm`."""
    return key.split("/")[-2]


async def _planned(context: JobContext) -> list[Rewrite]:
    options, found, after = context.options, list[Candidate](), 0
    small = int(options.pack_target * options.compact_small_share)
    while len(found) < _MAX_CANDIDATES:
        page = await context.catalog.compaction.candidates(options.compact_live_share, small, after, _PAGE)
        alone = await context.catalog.quarantine.left_alone("pack", [c.pack.object_key for c in page])
        found += [candidate for candidate in page if candidate.pack.object_key not in alone]
        if len(page) < _PAGE:
            break
        after = page[-1].pack.pack_id
    return plan(found, target=options.pack_target, prices=context.prices, now=context.now)


def _live_bytes(pack: Pack) -> int:
    return pack.byte_size * pack.live_count // max(pack.snapshot_count, 1)


def _rewrite(batch: Sequence[Candidate], *, target: int, prices: PriceList, now: datetime) -> Rewrite:
    packs = tuple(candidate.pack for candidate in batch)
    storage_class, size = packs[0].storage_class, sum(pack.byte_size for pack in packs)
    live = sum(_live_bytes(pack) for pack in packs)
    before = prices.monthly_usd(storage_class, object_count=len(packs), total_bytes=size)
    after = prices.monthly_usd(storage_class, object_count=max(1, live // target), total_bytes=live)
    months = _left(bucket_of(packs[0].object_key), now) / timedelta(days=30)
    costs = prices.put_usd(storage_class, 1) + prices.get_usd(storage_class, 2 * len(packs), total_bytes=live)
    costs += sum(prices.early_deletion_usd(storage_class, pack.byte_size, now - pack.class_since) for pack in packs)
    for option in prices.restore_options(storage_class, size // len(packs), len(packs), days=_THAW_DAYS)[-1:]:
        costs += option.cost_usd
    erased = any(candidate.erased for candidate in batch)
    return Rewrite(packs=packs, erased=erased, saves_usd=(before - after) * months, costs_usd=costs)


def _left(bucket: str, now: datetime) -> timedelta:
    """How long packs of an expiry bucket still cost."""
    if bucket == "never":
        return _FOR_EVER
    year, month = map(int, bucket.split("-"))
    end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return min(max(end - now, timedelta(0)), _FOR_EVER)


async def _work(context: JobContext, lease: Lease, packs: Sequence[Pack], tally: Tally) -> None:
    readable = [pack for pack in packs if await _is_readable(context, pack, tally)]
    if not readable:
        return
    began = context.now
    writer = PackWriter(uuid4(), await claim_prefix(context), context.now_us)
    async with asyncio.timeout(context.options.upload_deadline.total_seconds()):
        for pack in readable:
            async for frame in _live_frames(context, pack):
                writer.add(frame)
    first = readable[0]
    if writer.frame_count == 0:
        return  # everything in them went meanwhile; `expire` retires them
    sealed = await asyncio.to_thread(writer.seal)
    new = new_pack(
        sealed,
        key=pack_key(context.now, bucket_of(first.object_key), sealed.footer.pack_id),
        storage_class=first.storage_class,
        policy=first.policy,
        retention_revision=first.retention_revision,
        max_clock_us=max(to_micros(pack.max_clock_at) for pack in readable),
    )
    new_id = await context.catalog.packs.start(new, lease, context.now)
    await upload(context, new, sealed)
    moved = await context.catalog.compaction.replace(
        new_id,
        [pack.pack_id for pack in readable],
        placed_frames(sealed.footer),
        lease,
        began=began,
        now=context.now,
        delete_after=context.now + context.options.retire_grace,
    )
    tally.add("packs", len(readable))
    tally.add("snapshots", moved)
    tally.add("bytes_before", sum(pack.byte_size for pack in readable))
    tally.add("bytes_after", len(sealed.data))
    _log.info("pack.compacted", object_key=new.object_key, packs=len(readable), snapshots=moved)


async def _is_readable(context: JobContext, pack: Pack, tally: Tally) -> bool:
    """Archived bytes are asked for (Bulk costs least); a later run finds them readable."""
    if not pack.storage_class.is_archive:
        return True
    state = (await context.objects.head(pack.object_key)).restore
    if state is RestoreState.NONE:
        state = await context.objects.restore(pack.object_key, days=_THAW_DAYS, tier="Bulk")
        tally.add("thawing")
    return state is RestoreState.READABLE


async def _live_frames(context: JobContext, pack: Pack) -> AsyncIterator[BuiltFrame]:
    """The frames of a pack without its dead snapshots, as they are where all of a frame lives."""
    live = await context.catalog.compaction.live(pack.pack_id)
    footer = await PackReader(context.objects).footer(pack.object_key, pack.byte_size)
    for number, entry in enumerate(footer.frames):
        wanted = live.get(number)
        if wanted:
            payload = await context.objects.get_range(pack.object_key, entry.offset, entry.length)
            yield await asyncio.to_thread(_kept, entry, payload, wanted, context.options.level)


def _kept(entry: FrameEntry, payload: bytes, wanted: set[UUID], level: int) -> BuiltFrame:
    if {snapshot.meta.snapshot_id for snapshot in entry.snapshots} == wanted:
        return BuiltFrame(payload=payload, entry=replace(entry, offset=0))
    expiries = {snapshot.meta.snapshot_id: snapshot.expires_us for snapshot in entry.snapshots}
    records = [record for record in open_frame(payload) if record.meta.snapshot_id in wanted]
    return build_frame([(record, expiries[record.meta.snapshot_id]) for record in records], level=level)
