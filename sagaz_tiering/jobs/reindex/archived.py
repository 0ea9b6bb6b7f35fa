"""Packs: each is read whole, and what its snapshots carry by now is put beside it, sealed where they are encrypted.

A pack is never written anew for that. The order for each, and what a crash after each step leaves:

1. `footers/<pack id>.attributes`: the pack's footer with the new attributes
                                       -> a rebuild takes it; the catalog has other attributes until the next run
2. one transaction: attributes of its frames, the digest of that object, and that the pack was looked into
                                       -> done
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sagaz_tiering.attributes import Attributes
from sagaz_tiering.catalog.compaction import LiveFrame
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.codec.value import decode
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.costs import Cost, PriceList
from sagaz_tiering.errors import CorruptPack, CorruptRecord
from sagaz_tiering.jobs.attributes import column_of, newest_footer, put_attributes, with_texts
from sagaz_tiering.jobs.budget import spend, spend_reads
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.ownership import still_owner
from sagaz_tiering.jobs.vouching import vouched, whole
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.packs.attributes import parted, united
from sagaz_tiering.packs.entries import Footer, FrameEntry
from sagaz_tiering.packs.format import check_frame
from sagaz_tiering.packs.frame import open_frame
from sagaz_tiering.packs.reader import PackReader, footer_part
from sagaz_tiering.storage_class import StorageClass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    """What frames are opened with, and what is looked for in them."""

    attributes: Attributes
    live: Mapping[int, LiveFrame]
    keys: Mapping[bytes, FrameKey]
    known: Mapping[bytes, Dictionary]


async def reindex_pack(context: JobContext, lease: Lease, pack: Pack, revision: str, tally: Tally) -> None:
    """Look into a readable pack. Raises CorruptPack, ObjectStoreError, MasterKeyUnavailable, BudgetSpent, LeaseLost."""
    thawed = pack.storage_class.is_archive
    pack = await vouched(context, lease, pack, "reindex")
    await spend_reads(context, "reindex", pack.storage_class, size=pack.byte_size, must=thawed)
    reader, data = PackReader(context.objects), await whole(context, pack)
    footer = await reader.vouched_footer(pack, footer_part(data))
    supplies = _Contents(
        attributes=context.in_force.attributes,
        live=await context.catalog.compaction.live(pack.pack_id),
        keys=await context.keys.by_id(frame.key_id for frame in footer.frames),
        known=await context.dictionaries.need(*{frame.dictionary_id for frame in footer.frames}),
    )
    texts = await asyncio.to_thread(_texts, data, footer, supplies)
    changed = {number: text for number, text in texts.items() if text != _as_known(supplies.live[number])}
    digest = None
    if changed:
        newest = await newest_footer(context, pack, thawed=thawed)
        await spend(context, "reindex", put_cost(context.prices))
        await still_owner(context)
        digest = await put_attributes(context, pack, with_texts(newest, texts, supplies.keys))
    if not await context.catalog.reindexed.set_pack(pack, revision, changed, digest, lease):
        tally.add("overtaken")  # written anew meanwhile: the new one is looked into
        return
    tally.add("packs")
    tally.add("packs_changed", bool(changed))
    tally.add("bytes_read", len(data))
    closed = sum(frame.key_id is not None and frame.key_id not in supplies.keys for frame in footer.frames)
    if closed:
        tally.add("frames_not_opened", closed)


def _as_known(live: LiveFrame) -> str:
    """What the catalog says of what lives of a frame, as it is said of that alone."""
    ids = sorted(live.expiries)
    return united(list(zip(ids, parted(live.attributes, ids), strict=True)))


def _texts(data: bytes, footer: Footer, supplies: _Contents) -> dict[int, str]:
    """What the live snapshots of each frame carry by the definitions of now; nothing of frames without their keys."""
    found: dict[int, str] = {}
    for number, live in supplies.live.items():
        if number >= len(footer.frames):
            raise CorruptPack(f"pack {footer.pack_id}: has {len(footer.frames)} frames, the catalog knows {number}")
        entry = footer.frames[number]
        if entry.key_id is None or entry.key_id in supplies.keys:
            found[number] = united(_carried(data, entry, live, supplies))
    return found


def _carried(data: bytes, entry: FrameEntry, live: LiveFrame, supplies: _Contents) -> list[tuple[UUID, str]]:
    payload = data[entry.offset : entry.offset + entry.length]
    check_frame(entry, payload, keys=supplies.keys, dictionaries=supplies.known)
    key = None if entry.key_id is None else supplies.keys[entry.key_id]
    records = open_frame(payload, key=key, dictionaries=supplies.known, most=len(entry.snapshots))
    try:
        return sorted(
            (record.meta.snapshot_id, column_of(supplies.attributes, decode(record)))
            for record in records
            if record.meta.snapshot_id in live.expiries
        )
    except CorruptRecord as exc:
        raise CorruptPack(f"frame: {exc}") from exc


def put_cost(prices: PriceList) -> Cost:
    """Of putting attributes beside a pack."""
    return Cost(requests=1, usd=prices.put_usd(StorageClass.STANDARD, 1))
