"""Compact: packs with many dead bytes, packs that are too small, and packs with bytes of erased sagas, written anew.

The write order, and what a crash after each step leaves:

1. a row `UPLOADING`, the object under a fresh key, verified   -> `collect` gives it up; nothing else has changed
2. one transaction: places move to the new pack, it becomes `ACTIVE`, the old ones `RETIRING`
                                                               -> readers find the new one; those under way still
                                                                  read the old ones until their grace has passed
3. `expire` deletes the old objects after the grace

Only what saves more than it costs is written anew (requests, retrieval, and what the class bills for early
deletion), unless an erasure asks for it. Frames of one saga become one where they fit and that is smaller.
The others are copied byte for byte where all of their snapshots live; encrypted ones keep the key of their saga. What
is built anew is compressed with the dictionary that is current by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID, uuid4

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.packs_anew import Candidate, LiveFrame
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import Record
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.costs.economics import Cost
from sagaz_tiering.costs.lines import Line
from sagaz_tiering.errors import CorruptPack, LeaseLost, MasterKeyUnavailable, ObjectArchived, ObjectStoreError
from sagaz_tiering.jobs.attributes import newest_footer
from sagaz_tiering.jobs.compact.plan import Merge, expiry_bucket, plan
from sagaz_tiering.jobs.context import JobContext, Tally, chunks, pages
from sagaz_tiering.jobs.mending import finish_deletions
from sagaz_tiering.jobs.ownership import claim_prefix
from sagaz_tiering.jobs.pack_objects import new_pack, store, vouched
from sagaz_tiering.jobs.times import with_sure_clock
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.packs.attributes import carrying
from sagaz_tiering.packs.entries import BuiltFrame, FrameEntry
from sagaz_tiering.packs.format import PackWriter
from sagaz_tiering.packs.frame import build_frame, open_frame
from sagaz_tiering.packs.reader import PackReader
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.terminal import counted, show_usd

_log = Logger(__name__)
_PAGE = 500
_MAX_CANDIDATES = 20_000
_NOT_WORTH_IT = "not worth it: "


async def preview(context: JobContext, tally: Tally) -> None:
    """Count what a run would write anew, or ask for first, and say what would not pay."""
    sure = await with_sure_clock(context, tally)
    for rewrite in () if sure is None else await _planned(sure, sure.policies, sure.now):
        if rewrite.pays:
            readable = [p for p in rewrite.packs if await _is_readable(context, rewrite, p, tally, ask=False)]
            _count(readable, tally)
            tally.add("bytes", rewrite.live_bytes if readable else 0)
        else:
            tally.add("not_worth_it", len(rewrite.packs))
        tally.note(f"{'' if rewrite.pays else _NOT_WORTH_IT}{_figures(rewrite)}")


def _figures(rewrite: Merge) -> str:
    why = ", needed by an erasure" if rewrite.erased else ""
    return (
        f"{counted(len(rewrite.packs), 'pack')} {rewrite.packs[0].storage_class} -> {rewrite.to}: saves "
        f"{show_usd(rewrite.saves_usd)}, costs {show_usd(rewrite.costs_usd)}{why}"
    )


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Finish erasures that a crash left open, then write anew what pays: nothing where the clock is not sure."""
    await finish_deletions(context, tally)
    sure = await with_sure_clock(context, tally)
    if sure is not None:
        await _rewrite_all(sure, lease, tally)


async def _rewrite_all(context: JobContext, lease: Lease, tally: Tally) -> None:
    for rewrite in await _planned(context, context.policies, context.now):
        if context.stopping.is_set():
            return
        if not rewrite.pays:
            tally.add("not_worth_it", len(rewrite.packs), note=f"{_NOT_WORTH_IT}{_figures(rewrite)}")
            continue
        try:
            await _work(context, lease, rewrite, tally)
        except LeaseLost:
            if not await context.catalog.leases.renew(lease, context.settings.jobs.lease_ttl):
                raise
            tally.add("overtaken", len(rewrite.packs))  # an erasure or a save came between; the next run sees it
        except MasterKeyUnavailable as exc:
            tally.add("waiting_for_key", len(rewrite.packs))
            tally.note(f"{', '.join(pack.object_key for pack in rewrite.packs)}: {exc}")
            _log.error("master_key.unavailable", error=str(exc), hint=exc.hint)
        except ObjectArchived as exc:  # `transition` was stopped between the object and its row, which it will set
            tally.add("overtaken", len(rewrite.packs))
            tally.note(f"left for the next run, the catalog does not know of it yet: {exc}")
        except (ObjectStoreError, CorruptPack) as exc:
            tally.add("failed", len(rewrite.packs))
            tally.note(f"{', '.join(pack.object_key for pack in rewrite.packs)}: {exc}")
            _log.error("pack.not_compacted", object_keys=[p.object_key for p in rewrite.packs], error=str(exc))
            for pack in rewrite.packs if len(rewrite.packs) == 1 else ():
                await context.catalog.quarantine.record("pack", pack.object_key, str(exc), context.now)


async def forecast(context: JobContext, policies: PolicySet, now: datetime, *, most: int) -> list[Line]:
    """What a run at `now` under these policies would do first: with about `most` of the packs that qualify."""
    found = await _planned(context, policies, now, most)
    return [rewrite.to_line() for rewrite in found if rewrite.pays or rewrite.changes_anything]


async def _planned(context: JobContext, policies: PolicySet, now: datetime, most: int = _MAX_CANDIDATES) -> list[Merge]:
    options, target = context.settings.jobs, context.settings.tiers.cold.pack.target
    found = list[Candidate]()
    small = int(target * options.compact_small_share)
    fetch = partial(context.catalog.compaction.candidates, options.compact_live_share, small, limit=_PAGE)
    async for page in pages(fetch, 0, lambda candidate: candidate.pack.pack_id):
        alone = await context.catalog.quarantine.left_alone("pack", [c.pack.object_key for c in page])
        found += [candidate for candidate in page if candidate.pack.object_key not in alone]
        if len(found) >= most:
            break
    return plan(found, target=target, prices=context.prices, policies=policies, now=now)


async def _work(context: JobContext, lease: Lease, rewrite: Merge, tally: Tally) -> None:
    readable = [pack for pack in rewrite.packs if await _is_readable(context, rewrite, pack, tally, ask=True)]
    if not readable:
        return
    await context.spend("compact", rewrite.cost + Cost(usd=rewrite.early_usd), must=rewrite.erased)
    writer = PackWriter(uuid4(), await claim_prefix(context), context.now_us)
    async with asyncio.timeout(context.settings.jobs.upload_deadline.total_seconds()):
        async for frame in live_frames(context, lease, readable):
            writer.add(frame)
    first = readable[0]
    if writer.frame_count == 0:
        return  # everything in them went meanwhile; `expire` retires them
    sealed = await asyncio.to_thread(writer.seal)
    new = new_pack(
        sealed,
        now=context.now,
        bucket=expiry_bucket(first),
        storage_class=rewrite.to,
        policy=first.policy,
        retention_revision=first.retention_revision,
        max_clock_us=max(to_micros(pack.max_clock_at) for pack in readable),
        attributes_revisions={pack.attributes_revision for pack in readable},
    )
    moved = await context.catalog.compaction.replace(
        await store(context, lease, new, sealed),
        readable,
        sealed.footer.frames,
        lease,
        now=context.now,
        until=context.now + context.settings.jobs.retire_grace,
    )
    _count(readable, tally)
    tally.add("bytes_after", len(sealed.data))
    _log.info("pack.compacted", object_key=new.object_key, packs=len(readable), snapshots=moved)


def _count(packs: Sequence[Pack], tally: Tally) -> None:
    tally.add("packs", len(packs))
    tally.add("snapshots", sum(pack.live_count for pack in packs))
    tally.add("bytes_before", sum(pack.byte_size for pack in packs))


async def _is_readable(context: JobContext, rewrite: Merge, pack: Pack, tally: Tally, *, ask: bool) -> bool:
    """Archived bytes are to be asked for (Bulk costs least), and are if `ask`; a later run finds them readable."""
    if not pack.storage_class.is_archive:
        return True
    state = (await context.objects.head(pack.object_key)).restore
    if state is RestoreState.NONE:
        if ask:
            state = await context.thaw_pack("compact", pack, must=rewrite.erased)
        tally.add("thawing")
    return state is RestoreState.READABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Supplies:
    """What frames are opened and written anew with; `current` are the keys that sagas are encrypted with by now."""

    keys: Mapping[bytes, FrameKey]
    current: Mapping[UUID, FrameKey]
    known: Mapping[bytes, Dictionary]
    dictionary: Dictionary | None
    level: int

    def key_of(self, entry: FrameEntry) -> FrameKey | None:
        """What opens a frame; None where it is not encrypted, or its key is gone."""
        return None if entry.key_id is None else self.keys.get(entry.key_id)

    def build(self, records: Sequence[tuple[Record, int | None]], key: FrameKey | None) -> BuiltFrame:
        """A new frame."""
        return build_frame(records, level=self.level, key=key, dictionary=self.dictionary)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OldFrame:
    """A frame of an old pack, and what lives of it with the expiry and the attributes that the catalog has by now."""

    object_key: str
    entry: FrameEntry
    live: LiveFrame

    def as_it_is(self, payload: bytes, supplies: _Supplies) -> BuiltFrame:
        """Byte for byte."""
        entry, dictionary_id = self.entry, self.entry.dictionary_id
        dated = [each._replace(expires_us=self.live.expiries[each.meta.snapshot_id]) for each in entry.snapshots]
        return BuiltFrame(
            payload=payload,
            entry=replace(entry, offset=0, snapshots=carrying(dated, self.live.attributes)),
            key=supplies.key_of(entry),
            dictionary=None if dictionary_id is None else supplies.known.get(dictionary_id),
        )

    def living(self, payload: bytes, supplies: _Supplies) -> list[tuple[Record, int | None]]:
        """Its records that live, each with its expiry and its attributes."""
        key, most, expiries = supplies.key_of(self.entry), len(self.entry.snapshots), self.live.expiries
        records = open_frame(payload, key=key, dictionaries=supplies.known, most=most)
        found = [(record, record.meta.snapshot_id) for record in carrying(records, self.live.attributes)]
        return [(record, expiries[snapshot_id]) for record, snapshot_id in found if snapshot_id in expiries]


async def live_frames(context: JobContext, lease: Lease, packs: Sequence[Pack]) -> AsyncIterator[BuiltFrame]:
    """The frames of these packs without their dead snapshots, in order, each saga where its first frame was.

    Frames of a saga that together are no larger than a frame may be become one, if that saves bytes; the others stay
    byte for byte where all of a frame lives. Only what the catalog vouches for: the new pack's digests would vouch for
    whatever is written into it.
    """
    sagas: dict[tuple[UUID, str], list[_OldFrame]] = {}
    for pack in packs:
        pack = await vouched(context, lease, pack, "compact")
        live = await context.catalog.compaction.live(pack.pack_id)
        footer = await newest_footer(context, pack, thawed=True)
        for number, entry in enumerate(footer.frames):
            if number in live:
                old = _OldFrame(object_key=pack.object_key, entry=entry, live=live[number])
                sagas.setdefault((entry.saga_id, entry.saga_name), []).append(old)
    most = context.settings.tiers.cold.pack.max_frame
    for frames in sagas.values():
        frames.sort(key=lambda old: old.entry.snapshots[0].meta.order_key, reverse=True)
    groups = [some for frames in sagas.values() for some in chunks(frames, lambda old: old.entry.raw_length, most)]
    keys = await context.keys.by_id(old.entry.key_id for some in groups for old in some)
    merged = {some[0].entry.saga_id for some in groups if len(some) > 1 and any(o.entry.key_id for o in some)}
    current = await context.keys.for_writing(merged, context.now) if merged else {}
    reader = PackReader(context.objects)
    for some in groups:
        payloads = [await reader.frame_bytes(old.object_key, old.entry) for old in some]
        supplies = _Supplies(
            keys=keys,
            current=current,
            known=await context.dictionaries.need(*{old.entry.dictionary_id for old in some}),
            dictionary=context.dictionaries.for_writing(some[0].entry.saga_name),
            level=context.settings.tiers.cold.pack.level,
        )
        for frame in await asyncio.to_thread(_kept, some, payloads, supplies):
            yield frame


def _kept(frames: Sequence[_OldFrame], payloads: Sequence[bytes], supplies: _Supplies) -> list[BuiltFrame]:
    """These frames of one saga in one, or each by itself where that is no larger."""
    pairs = list(zip(frames, payloads, strict=True))
    if len(frames) > 1 and all(old.entry.key_id is None or old.entry.key_id in supplies.keys for old in frames):
        records = [record for old, payload in pairs for record in old.living(payload, supplies)]
        together = supplies.build(records, supplies.current.get(frames[0].entry.saga_id))
        if len(together.payload) < sum(map(len, payloads)):
            return [together]
    return [
        old.as_it_is(payload, supplies)
        if len(old.live.expiries) == len(old.entry.snapshots)
        else supplies.build(old.living(payload, supplies), supplies.key_of(old.entry))
        for old, payload in pairs
    ]
