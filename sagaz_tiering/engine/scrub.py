"""Scrub: the catalog compared with the bucket, and packs looked into, within a budget of requests and bytes.

Each run compares every key, size and class (one LIST), then looks into the packs that were looked into longest ago:
footer against catalog, checksum of the whole object or frames of it, until the budget is spent; over
`scrub.cycle` every pack has its turn. What is wrong is named in the quarantine (`sagaz-tiering quarantine`). What can
be repaired is: a class that was changed behind our back is noted, places that differ from the footer are corrected,
and snapshots of a lost pack that Redis or PostgreSQL still has are packed anew. Nothing is deleted here.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.scrubbing import FrameRow
from sagaz_tiering.engine.budget import spend
from sagaz_tiering.engine.collect import pack_of
from sagaz_tiering.engine.dictionary_places import look_into_dictionaries, reconcile
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.errors import CorruptPack, MasterKeyUnavailable, ObjectArchived, ObjectNotFound
from sagaz_tiering.objects.base import ObjectInfo
from sagaz_tiering.pack.encryption import FrameKey
from sagaz_tiering.pack.entries import Footer, FrameEntry
from sagaz_tiering.pack.format import check_frame, parse_pack
from sagaz_tiering.pack.reader import PackReader, read_footer, read_whole_footer
from sagaz_tiering.planning import Cost
from sagaz_tiering.storage_class import StorageClass
from sagaz_tiering.zstd import Dictionary

_log = structlog.get_logger(__name__)
_PAGE = 500
_SAMPLE = 8
"""Frames that are read of a pack that the byte budget does not cover whole."""


@dataclass(slots=True)
class Budget:
    """What a run may still spend."""

    requests: int
    bytes: int

    def take(self, requests: int, size: int) -> bool:
        """Whether there was so much left; it is gone now."""
        if self.requests < requests or self.bytes < size:
            return False
        self.requests -= requests
        self.bytes -= size
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be: `what` is missing, truncated, altered, foreign, unknown or class."""

    what: str
    key: str
    detail: str


async def preview(context: JobContext, tally: Tally) -> None:
    """Compare keys, sizes and classes; say how many packs wait to be looked into."""
    async for pack, info in side_by_side(context):
        finding = compare(pack, info)
        if finding is not None:
            tally.add(finding.what)
            tally.note(f"{finding.what}: {finding.key}: {finding.detail}")
        tally.add("objects")
    before = context.now - context.options.scrub_cycle
    tally.add("packs_to_look_into", len(await context.catalog.scrubbing.oldest(before, 10_000)))


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Compare everything, then look into as many packs as the budget allows."""
    async for pack, info in side_by_side(context):
        tally.add("objects")
        finding = compare(pack, info)
        if finding is not None:
            await _report(context, lease, pack, info, finding, tally)
        if context.stopping.is_set():
            return
    await reconcile(context, tally)
    await look_into_dictionaries(context, tally)
    budget = Budget(context.options.scrub_requests, context.options.scrub_bytes)
    before = context.now - context.options.scrub_cycle
    while page := await context.catalog.scrubbing.oldest(before, 50):
        for pack in page:
            if context.stopping.is_set() or not budget.take(3, 0):
                return
            await look_into(context, lease, pack, budget, tally)


async def look_into(context: JobContext, lease: Lease, pack: Pack, budget: Budget, tally: Tally) -> bool:
    """One pack: True if it is sound (an archived one: as far as its footer copy tells)."""
    try:
        info = await context.objects.head(pack.object_key)
        found = compare(pack, info)
        if found is not None:
            await _report(context, lease, pack, info, found, tally)
            await context.catalog.scrubbing.scrubbed(pack.pack_id, context.now)
            return False
        footer = await _check_bytes(context, pack, info, budget, tally)
        await _check_rows(context, lease, pack, footer, tally)
    except ObjectNotFound as exc:
        found = Finding(what="missing", key=pack.object_key, detail=str(exc))
    except CorruptPack as exc:
        found = Finding(what="altered", key=pack.object_key, detail=str(exc))
    else:
        await context.catalog.quarantine.resolve("pack", pack.object_key)
        await context.catalog.scrubbing.scrubbed(pack.pack_id, context.now)
        tally.add("packs_sound")
        return True
    await _report(context, lease, pack, None, found, tally)
    await context.catalog.scrubbing.scrubbed(pack.pack_id, context.now)
    return False


def compare(pack: Pack | None, info: ObjectInfo | None) -> Finding | None:
    """What is wrong with a row and an object of the same key, either of which may lack. Pure."""
    if pack is None:
        assert info is not None  # one of the two is there
        if pack_of(info.key) is None:
            return Finding(what="foreign", key=info.key, detail=f"{info.size} bytes that are not named like ours")
        return None
    if info is None:
        if pack.state == "RETIRING":
            return None
        return Finding(what="missing", key=pack.object_key, detail=f"{pack.live_count} snapshots were in it")
    if info.size != pack.byte_size:
        detail = f"{info.size} bytes instead of {pack.byte_size}"
        return Finding(what="truncated" if info.size < pack.byte_size else "altered", key=info.key, detail=detail)
    if info.storage_class is not pack.storage_class:
        detail = f"the catalog says {pack.storage_class}, the bucket {info.storage_class}"
        return Finding(what="class", key=info.key, detail=detail)
    return None


async def side_by_side(context: JobContext) -> AsyncIterator[tuple[Pack | None, ObjectInfo | None]]:
    """Rows and objects of the same key together, in key order; holds one page of each."""
    rows = _rows(context)
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


async def _rows(context: JobContext) -> AsyncIterator[Pack]:
    after = ""
    while page := await context.catalog.scrubbing.pages(after, _PAGE):
        for pack in page:
            yield pack
        after = page[-1].object_key


async def _report(
    context: JobContext, lease: Lease, pack: Pack | None, info: ObjectInfo | None, found: Finding, tally: Tally
) -> None:
    tally.add(found.what)
    tally.note(f"{found.what}: {found.key}: {found.detail}")
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
    kind = "object" if pack is None else "pack"
    await context.catalog.quarantine.record(kind, found.key, f"{found.what}: {detail}", context.now, budget=1)


async def _save_what_is_near(context: JobContext, lease: Lease, pack: Pack) -> tuple[int, int]:
    """(snapshots that Redis or PostgreSQL has, the rest): the places of the former are forgotten."""
    scrubbing, saved, rest = context.catalog.scrubbing, 0, 0
    ids = await scrubbing.snapshot_ids(pack.pack_id)
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        near = set(await context.hot.owners(page)) | await scrubbing.durable_of(page)
        if near:
            await scrubbing.let_go(pack.pack_id, sorted(near), lease)
        saved, rest = saved + len(near), rest + len(page) - len(near)
    return saved, rest


async def _check_bytes(context: JobContext, pack: Pack, info: ObjectInfo, budget: Budget, tally: Tally) -> Footer:
    """The footer, after the whole object or a sample of its frames was read and found right."""
    reader = PackReader(context.objects)
    if info.sha256 is not None and pack.sha256 and info.sha256 != pack.sha256:
        raise CorruptPack(f"{pack.object_key}: the store's checksum is not that of what was written")
    if pack.storage_class.is_archive:
        await _spend(context, StorageClass.STANDARD, 2, 0)
        tally.add("footers_read")
        return await reader.footer_copy(pack.pack_uuid, pack.byte_size)
    try:
        if budget.take(1, pack.byte_size):
            await _spend(context, pack.storage_class, 2, pack.byte_size)
            data = await context.objects.get(pack.object_key)
            tally.add("bytes_read", len(data))
            if pack.sha256 and hashlib.sha256(data).digest() != pack.sha256:
                raise CorruptPack(f"{pack.object_key}: its bytes are not those that were written")
            listed = read_whole_footer(data).frames
            keys = await _keys(context, pack, listed, tally)
            known = await _dictionaries(context, listed)
            return await asyncio.to_thread(functools.partial(parse_pack, data, keys=keys, dictionaries=known))
        footer = await reader.footer(pack.object_key, pack.byte_size)
        sample = random.Random(pack.pack_id).sample(footer.frames, min(_SAMPLE, len(footer.frames)))
        keys, known = await _keys(context, pack, sample, tally), await _dictionaries(context, sample)
        for frame in sample:
            if budget.take(1, 0):
                await _spend(context, pack.storage_class, 1, frame.length)
                payload = await context.objects.get_range(pack.object_key, frame.offset, frame.length)
                await asyncio.to_thread(functools.partial(check_frame, frame, payload, keys=keys, dictionaries=known))
                tally.add("bytes_read", frame.length)
        return footer
    except ObjectArchived:
        # Moved behind our back since the listing; the next run notes the class.
        return read_footer(await context.objects.get(f"footers/{pack.pack_uuid}.footer"), pack.byte_size)


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


async def _dictionaries(context: JobContext, frames: Sequence[FrameEntry]) -> Mapping[bytes, Dictionary]:
    return await context.dictionaries.need(*{frame.dictionary_id for frame in frames})


async def _spend(context: JobContext, storage_class: StorageClass, requests: int, size: int) -> None:
    usd = context.prices.get_usd(storage_class, requests, total_bytes=size)
    await spend(context, "scrub", Cost(requests=requests, usd=usd))


async def _check_rows(context: JobContext, lease: Lease, pack: Pack, footer: Footer, tally: Tally) -> None:
    """The catalog's places agree with the footer; rows that do not are corrected."""
    if footer.pack_id != pack.pack_uuid:
        raise CorruptPack(f"{pack.object_key}: holds pack {footer.pack_id}: two objects were swapped, or one copied")
    wrong = []
    for row in await context.catalog.scrubbing.frames(pack.pack_id):
        if row.frame_no >= len(footer.frames):
            raise CorruptPack(f"{pack.object_key}: has {len(footer.frames)} frames, the catalog knows {row.frame_no}")
        entry = footer.frames[row.frame_no]
        if (row.saga_id, row.byte_offset, row.byte_length) != (entry.saga_id, entry.offset, entry.length):
            right = FrameRow(
                frame_no=row.frame_no, saga_id=entry.saga_id, byte_offset=entry.offset, byte_length=entry.length
            )
            wrong.append(right)
    listed = {entry.meta.snapshot_id for frame in footer.frames for entry in frame.snapshots}
    strange = set(await context.catalog.scrubbing.snapshot_ids(pack.pack_id)) - listed
    if strange:
        raise CorruptPack(f"{pack.object_key}: the catalog places {len(strange)} snapshots in it that it does not hold")
    if wrong:
        await context.catalog.scrubbing.fix_frames(pack.pack_id, wrong, lease)
        tally.add("repaired", len(wrong))
        tally.note(f"{pack.object_key}: {len(wrong)} places corrected from its footer")
