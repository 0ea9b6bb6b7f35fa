"""Scrub: the catalog compared with the bucket, and packs looked into, within a budget of requests and bytes.

Each run compares every key, size and class (one LIST), then looks into the packs that were looked into longest ago:
footer against catalog, checksum of the whole object or frames of it, until the budget is spent; over
`jobs.scrub_cycle` every pack has its turn. What is wrong is named in the quarantine (`sagaz-tiering quarantine`). What
can be repaired is: a class that was changed behind our back is noted, places that differ from the footer are corrected
where the catalog's digests vouch for that footer (nothing changes by the word of an object that anyone could have
written), and snapshots of a lost pack that Redis or PostgreSQL still has are packed anew. Packs that were published
before there were digests get theirs. Nothing is deleted here, but for a copy of a footer that is another's.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.codec.header import snapshot_id
from sagaz_tiering.codec.zstd import DICTIONARY_ID_BYTES
from sagaz_tiering.dictionaries.cache import dictionary_key
from sagaz_tiering.errors import CorruptPack, MasterKeyUnavailable, ObjectArchived, ObjectNotFound
from sagaz_tiering.jobs.attributes import mend, write_anew
from sagaz_tiering.jobs.collect import pack_of
from sagaz_tiering.jobs.context import JobContext, Tally, batched, pages
from sagaz_tiering.jobs.dictionary_copies import keep, look_into_dictionaries, preview_dictionaries, put_back_lost
from sagaz_tiering.jobs.pack_objects import compare_frames, keep_footer_readable, whole
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo, RestoreState
from sagaz_tiering.packs.entries import Footer, FrameEntry
from sagaz_tiering.packs.format import check_frame, parse_pack
from sagaz_tiering.packs.reader import PackReader, attributes_key, footer_digest, footer_key, footer_part
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.terminal import counted

_log = Logger(__name__)
_PAGE = 500
_SAMPLE = 8
"""Frames that are read of a pack that the byte budget does not cover whole."""


@dataclass(slots=True)
class Budget:
    """What a run may still spend: without a word as much as it wants."""

    requests: int = sys.maxsize
    bytes: int = sys.maxsize

    def take(self, requests: int, size: int) -> bool:
        """Whether there was so much left; it is gone now."""
        if self.requests < requests or self.bytes < size:
            return False
        self.requests -= requests
        self.bytes -= size
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """Something that is not as it should be.

    `what` is missing, truncated, altered, foreign, unknown, class, footer_missing or footer_altered.
    """

    what: str
    key: str
    detail: str


async def preview(context: JobContext, tally: Tally) -> None:
    """Compare keys, sizes and classes; say what a run would put back, and how many packs it would look into."""
    async for pack, info in side_by_side(context):
        finding = compare(pack, info)
        if finding is not None:
            tally.add(finding.what, note=f"{finding.what}: {finding.key}: {finding.detail}")
        tally.add("objects")
    await preview_dictionaries(context, tally)
    before, budget, due = await what_is_due(context, tally)
    if context.all_packs:
        tally.add("packs_to_look_into", due)
        return
    for pack in await context.catalog.scrubbing.oldest(before, 10_000):
        if not _is_next(context, pack, budget):
            tell_left(context, tally, due)
            return
        if not pack.storage_class.is_archive and not budget.take(1, pack.byte_size):
            budget.take(min(_SAMPLE, len(await context.catalog.scrubbing.frames(pack.pack_id))), 0)
        tally.add("packs_to_look_into")


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Compare everything, then look into as many packs as the budget allows."""
    async for pack, info in side_by_side(context):
        tally.add("objects")
        finding = compare(pack, info)
        if finding is not None:
            await _report(context, lease, pack, info, finding, tally)
        if context.stopping.is_set():
            return
    await put_back_lost(context, tally)
    await look_into_dictionaries(context, tally)
    before, budget, due = await what_is_due(context, tally)
    while page := await context.catalog.scrubbing.oldest(before, 50):
        for pack in page:
            if context.stopping.is_set() or not _is_next(context, pack, budget):
                tell_left(context, tally, due)
                return
            tally.add("packs_to_look_into")
            await look_into(context, lease, pack, tally, budget=budget)


def _is_next(context: JobContext, pack: Pack, budget: Budget) -> bool:
    """Whether the budget, of which the first requests are taken, allows a look into this pack.

    Without digests only the whole object tells, for which another run may have the budget.
    """
    whole_only = pack.footer_digest is None and not pack.storage_class.is_archive
    waits = whole_only and budget.bytes < pack.byte_size <= context.settings.jobs.scrub_bytes
    return not waits and budget.take(3, 0)


async def look_into(
    context: JobContext, lease: Lease, pack: Pack, tally: Tally, *, budget: Budget | None = None
) -> bool:
    """One pack: True if it is sound (an archived one: as far as its footer copy tells); whole, if the budget allows."""
    info: ObjectInfo | None = None
    try:
        info = await context.objects.head(pack.object_key)
        found = compare(pack, info)
        if found is None and pack.sha256 and info.sha256 not in (None, pack.sha256):
            raise CorruptPack(f"{pack.object_key}: the store's checksum is not that of what was written")
        if found is None and pack.storage_class.is_archive:
            found = await _check_copy(context, lease, pack, info, tally)
        elif found is None:
            await _check_rows(context, lease, pack, await _check_bytes(context, pack, budget or Budget(), tally), tally)
    except ObjectNotFound as exc:
        found = Defect(what="missing", key=pack.object_key, detail=str(exc))
    except CorruptPack as exc:
        found = Defect(what="altered", key=pack.object_key, detail=str(exc))
    except ObjectArchived:  # moved behind our back since the listing; the next run notes the class
        await context.catalog.scrubbing.scrubbed(pack.pack_id, context.now)
        return False
    if found is None:
        await context.catalog.quarantine.resolve("pack", pack.object_key)
        tally.add("packs_sound")
    else:
        await _report(context, lease, pack, info, found, tally)
    await context.catalog.scrubbing.scrubbed(pack.pack_id, context.now)
    return found is None


def compare(pack: Pack | None, info: ObjectInfo | None) -> Defect | None:
    """What is wrong with a row and an object of the same key, either of which may lack. Pure."""
    if pack is None:
        assert info is not None  # one of the two is there
        if pack_of(info.key) is None:
            return Defect(what="foreign", key=info.key, detail=f"{info.size} bytes that are not named like ours")
        return None
    if info is None:
        if pack.state == "RETIRING":
            return None
        return Defect(what="missing", key=pack.object_key, detail=f"{pack.live_count} snapshots were in it")
    if info.size != pack.byte_size:
        detail = f"{info.size} bytes instead of {pack.byte_size}"
        return Defect(what="truncated" if info.size < pack.byte_size else "altered", key=info.key, detail=detail)
    if info.storage_class is not pack.storage_class:
        detail = f"the catalog says {pack.storage_class}, the bucket {info.storage_class}"
        return Defect(what="class", key=info.key, detail=detail)
    return None


async def side_by_side(context: JobContext) -> AsyncIterator[tuple[Pack | None, ObjectInfo | None]]:
    """Rows and objects of the same key together, in key order; holds one page of each."""
    fetch = partial(context.catalog.scrubbing.pages, limit=_PAGE)
    rows = (pack async for page in pages(fetch, "", lambda pack: pack.object_key) for pack in page)
    row = await anext(rows, None)
    async for info in context.objects.list("packs/"):
        while row is not None and row.object_key < info.key:
            yield row, None
            row = await anext(rows, None)
        if row is not None and row.object_key == info.key:
            yield row, info
            row = await anext(rows, None)
        else:
            yield None, info
    while row is not None:
        yield row, None
        row = await anext(rows, None)


async def _report(
    context: JobContext, lease: Lease, pack: Pack | None, info: ObjectInfo | None, found: Defect, tally: Tally
) -> None:
    tally.add(found.what, note=f"{found.what}: {found.key}: {found.detail}")
    _log.error("scrub.found", what=found.what, object_key=found.key, detail=found.detail)
    if found.what == "class" and pack is not None and info is not None:
        await context.catalog.scrubbing.set_class(pack.pack_id, info.storage_class, context.now)
        tally.add("repaired")
        return
    detail = found.detail
    if pack is not None and found.what in ("missing", "truncated", "altered"):
        current = await context.catalog.scrubbing.by_key(pack.object_key)
        if current is None or current.state != "ACTIVE":
            return  # it went while we looked
        saved, lost = await _save_what_is_near(context, lease, pack)
        tally.add("to_be_packed_anew", saved)
        detail += f"; {saved} of its snapshots are in a nearer tier and will be packed anew, {lost} are in it alone"
    kind = "object" if pack is None or found.key != pack.object_key else "pack"
    await context.catalog.quarantine.record(kind, found.key, f"{found.what}: {detail}", context.now, budget=1)


async def _save_what_is_near(context: JobContext, lease: Lease, pack: Pack) -> tuple[int, int]:
    """(snapshots that Redis or PostgreSQL has, the rest): the places of the former are forgotten."""
    scrubbing, saved, rest = context.catalog.scrubbing, 0, 0
    ids = await scrubbing.snapshot_ids(pack.pack_id)
    for page in batched(ids, _PAGE):
        near = await _in_redis(context, page) | await scrubbing.durable_of(page)
        if near:
            await scrubbing.let_go(pack.pack_id, sorted(near), lease)
        saved, rest = saved + len(near), rest + len(page) - len(near)
    return saved, rest


async def _in_redis(context: JobContext, snapshot_ids: Sequence[UUID]) -> set[UUID]:
    """Of these, those that Redis has the value of: the name of one that is gone, or another's bytes, save nothing."""
    near: set[UUID] = set()
    for named in await context.hot.owners(snapshot_ids):
        value = await context.hot.get(named)
        if isinstance(value, bytes) and snapshot_id(value) == named:
            near.add(named)
    return near


_Seen = tuple[bytes, Footer, bool]
"""A footer as it is stored, what it says, and whether the whole object was looked at."""


async def _check_bytes(context: JobContext, pack: Pack, budget: Budget, tally: Tally) -> _Seen:
    """The footer, after the whole object or a sample of its frames was read and found right."""
    reader = PackReader(context.objects)
    if budget.take(1, pack.byte_size):
        await context.spend_reads("scrub", pack.storage_class, requests=2, size=pack.byte_size)
        data = await whole(context, pack)
        tally.add("bytes_read", len(data))
        stored = footer_part(data)
        footer = await reader.vouched_footer(pack, stored)
        keys = await _keys(context, pack, footer.frames, tally)
        known = await context.dictionaries.need(*{frame.dictionary_id for frame in footer.frames})
        await asyncio.to_thread(parse_pack, data, keys=keys, dictionaries=known)
        return stored, footer, True
    stored = await reader.footer_bytes(pack)
    footer = await reader.vouched_footer(pack, stored)
    sample = random.Random(pack.pack_id).sample(footer.frames, min(_SAMPLE, len(footer.frames)))
    keys = await _keys(context, pack, sample, tally)
    known = await context.dictionaries.need(*{frame.dictionary_id for frame in sample})
    for frame in sample:
        if budget.take(1, 0):
            await context.spend_reads("scrub", pack.storage_class, size=frame.length)
            payload = await reader.frame_bytes(pack.object_key, frame)
            await asyncio.to_thread(check_frame, frame, payload, keys=keys, dictionaries=known)
            tally.add("bytes_read", frame.length)
    return stored, footer, False


async def _check_copy(context: JobContext, lease: Lease, pack: Pack, info: ObjectInfo, tally: Tally) -> Defect | None:
    """What is wrong with the readable copy of an archived pack's footer, which tells nothing of the pack itself."""
    reader, key = PackReader(context.objects), footer_key(pack.pack_uuid)
    await context.spend_reads("scrub", StorageClass.STANDARD, requests=2)
    tally.add("footers_read")
    if info.restore is RestoreState.READABLE and pack.footer_digest is not None:
        await keep_footer_readable(context, pack.pack_uuid, await reader.footer_bytes(pack, thawed=True))
    try:
        stored = await reader.footer_bytes(pack)
        await _check_rows(context, lease, pack, (stored, await reader.vouched_footer(pack, stored), False), tally)
    except ObjectNotFound as exc:
        return Defect(what="footer_missing", key=key, detail=str(exc))
    except CorruptPack as exc:
        return Defect(what="footer_altered", key=key, detail=f"{exc}; nothing was changed by what it says")
    if pack.footer_digest is None:
        tally.add("footers_not_vouched_for")
        tally.note(f"{pack.object_key}: archived before the catalog kept digests: restore it, and `compact` adds them")
    await context.catalog.quarantine.resolve("object", key)
    return None


async def _keys(context: JobContext, pack: Pack, frames: Sequence[FrameEntry], tally: Tally) -> dict[bytes, FrameKey]:
    """Keys of these frames. Without theirs, encrypted frames are compared by checksum only, and that is said."""
    encrypted = [frame.key_id for frame in frames if frame.key_id is not None]
    try:
        keys, why = await context.keys.by_id(encrypted), "their keys were destroyed or lost"
    except MasterKeyUnavailable as exc:
        keys, why = {}, str(exc)
    closed = sum(key_id not in keys for key_id in encrypted)
    if closed:
        tally.add("frames_not_opened", closed)
        tally.note(f"{pack.object_key}: {closed} encrypted frames were compared by checksum only: {why}")
    return keys


async def _keep_dictionaries(context: JobContext, pack: Pack, footer: Footer, tally: Tally) -> None:
    """What its frames need is in bucket and catalog, too; a pack may have been made with what only Redis had."""
    lacking = set(footer.dictionaries) - await context.catalog.dictionaries.digests()
    if not lacking:
        return  # `put_back_lost` has compared those with the bucket
    found = await context.dictionaries.need(*{digest[:DICTIONARY_ID_BYTES] for digest in lacking})
    right = [dictionary for dictionary in found.values() if dictionary.digest in lacking]
    tally.add("put_back", await keep(context, right))
    for digest in lacking - {dictionary.digest for dictionary in right}:
        tally.add("dictionaries_missing")
        tally.note(f"{pack.object_key}: {dictionary_key(digest)}, which it needs, is nowhere")


async def _check_rows(context: JobContext, lease: Lease, pack: Pack, seen: _Seen, tally: Tally) -> None:
    """The catalog's places agree with the footer; rows that do not are corrected if the catalog vouches for it."""
    scrubbing, (stored, footer, looked_at_all) = context.catalog.scrubbing, seen
    is_vouched = pack.footer_digest is not None or (looked_at_all and bool(pack.sha256))
    compared = compare_frames(pack, await scrubbing.frames(pack.pack_id), footer)
    listed = {entry.meta.snapshot_id for frame in footer.frames for entry in frame.snapshots}
    strange = set(await scrubbing.snapshot_ids(pack.pack_id)) - listed
    if strange:
        raise CorruptPack(f"{pack.object_key}: the catalog places {len(strange)} snapshots in it that it does not hold")
    if compared.wrong and not is_vouched:
        raise CorruptPack(
            f"{pack.object_key}: its footer puts {len(compared.wrong)} frames elsewhere than the catalog, which cannot "
            "vouch for it"
        )
    await _keep_dictionaries(context, pack, footer, tally)
    if compared.wrong:
        tally.add("repaired", len(compared.wrong))
        tally.note(f"{pack.object_key}: {len(compared.wrong)} places corrected from its footer")
    if is_vouched:
        await _check_attributes(context, lease, pack, footer, tally, sealed_too=looked_at_all)
    is_new = pack.footer_digest is None and looked_at_all
    if compared.wrong or is_new or (is_vouched and not compared.has_all_digests):
        await scrubbing.vouch(pack.pack_id, footer_digest(stored), compared.right, lease)
        tally.add("packs_vouched_for", is_new)


async def _check_attributes(
    context: JobContext, lease: Lease, pack: Pack, footer: Footer, tally: Tally, *, sealed_too: bool
) -> None:
    """The catalog says of attributes what the newest footer does; an object of them that is not right is made anew."""
    if pack.attributes_digest is not None:
        try:
            footer = await PackReader(context.objects).newest_footer(pack)
        except (CorruptPack, ObjectNotFound) as exc:
            tally.note(f"{attributes_key(pack.pack_uuid)}: to be written anew from the catalog: {exc}")
            try:
                await write_anew(context, lease, pack, footer)
                tally.add("repaired")
            except MasterKeyUnavailable as unavailable:
                tally.failed(attributes_key(pack.pack_uuid), unavailable)
            return
    tally.add("attributes_repaired", await mend(context, lease, pack, footer, tally, sealed_too=sealed_too))


async def what_is_due(context: JobContext, tally: Tally) -> tuple[datetime, Budget, int]:
    """Which packs are looked into: those that were not since then, by this budget; how many that are."""
    jobs = context.settings.jobs
    if context.all_packs:
        before, budget = context.now - timedelta(microseconds=1), Budget()
    else:
        before, budget = context.now - jobs.scrub_cycle, Budget(jobs.scrub_requests, jobs.scrub_bytes)
    due, done = await context.catalog.scrubbing.due(before)
    if done and not context.all_packs:
        tally.add("packs_looked_into_before", done)
        tally.note(
            f"{counted(done, 'pack was', 'packs were')} looked into within jobs.scrub_cycle already; damage since then "
            "is not seen; all of them at once: sagaz-tiering job scrub --once --all"
        )
    return before, budget, due


def tell_left(context: JobContext, tally: Tally, due: int) -> None:
    """How many of those that are due it did not come to, and why."""
    left = due - tally.counts["packs_to_look_into"]
    if left > 0:
        why = "it was stopped" if context.stopping.is_set() else "jobs.scrub_requests or jobs.scrub_bytes is spent"
        tally.add("packs_left", left, note=f"{counted(left, 'pack is', 'packs are')} left to later runs: {why}")
