"""Packs in the object store: put there and looked at, vouched for by the catalog, compared with what Redis has.

Packs that were published before the catalog kept digests get them once the whole object was compared with the sha256
that the catalog has of it: by `scrub`, and before a job writes anything that is made of them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from sagaz_tiering.catalog.catching_up import FrameRow
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.locations import Packed
from sagaz_tiering.catalog.packs import NewPack, Pack
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import ColdTierUnavailable, CorruptPack, ObjectExists, ObjectStoreError
from sagaz_tiering.jobs.context import JobContext, each_pack
from sagaz_tiering.jobs.dictionary_copies import keep
from sagaz_tiering.jobs.ownership import still_owner
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.entries import Footer, SealedPack
from sagaz_tiering.packs.frame import frame_digest
from sagaz_tiering.packs.reader import PackReader, footer_digest, footer_key, footer_part
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage_class import StorageClass

_log = Logger(__name__)
_PAGE = 20


def pack_key(now: datetime, bucket: str, pack_uuid: UUID) -> str:
    """Where a pack goes; a fresh uuid per attempt, so no key is ever used twice."""
    return f"packs/{now:%Y}/{now:%m}/{bucket}/{pack_uuid}.pack"


def new_pack(
    sealed: SealedPack,
    *,
    now: datetime,
    bucket: str,
    storage_class: StorageClass,
    policy: str,
    retention_revision: str,
    max_clock_us: int,
    attributes_revisions: set[str | None],
) -> NewPack:
    """The row of a sealed pack. `attributes_revisions`: by which definitions of attributes its parts are complete."""
    entries = [entry for frame in sealed.footer.frames for entry in frame.snapshots]
    expiries = [entry.expires_us for entry in entries if entry.expires_us is not None]
    created = [entry.meta.created_us for entry in entries]
    return NewPack(
        pack_uuid=sealed.footer.pack_id,
        object_key=pack_key(now, bucket, sealed.footer.pack_id),
        storage_class=storage_class,
        policy=policy,
        retention_revision=retention_revision,
        byte_size=len(sealed.data),
        snapshot_count=len(entries),
        sha256=sealed.sha256,
        footer_digest=footer_digest(footer_part(sealed.data)),
        min_created_us=min(created),
        max_created_us=max(created),
        max_clock_us=max_clock_us,
        next_expiry_us=min(expiries, default=None),
        attributes_revision=next(iter(attributes_revisions)) if len(attributes_revisions) == 1 else None,
    )


async def store(context: JobContext, lease: Lease, new: NewPack, sealed: SealedPack) -> int:
    """Have a row of the pack, then put it, look, read the footer back; the row's id.

    Of an archive class there is a readable copy of the footer too. What the frames are compressed with is in bucket and
    catalog before.
    """
    pack_id = await context.catalog.packs.start(new, lease, context.now)
    await keep(context, sealed.dictionaries)
    about = {"pack_id": str(new.pack_uuid), "storage_class": new.storage_class.value, "policy": new.policy}
    with traces.span("pack.upload", **about, bytes=new.byte_size, snapshots=new.snapshot_count):
        async with asyncio.timeout(context.settings.jobs.upload_deadline.total_seconds()):
            await still_owner(context)
            await context.objects.put(
                new.object_key, sealed.data, storage_class=new.storage_class, sha256=sealed.sha256
            )
            await _verify(context, new, sealed)
            if new.storage_class.is_archive:
                await keep_footer_readable(context, new.pack_uuid, footer_part(sealed.data))
    return pack_id


async def keep_footer_readable(context: JobContext, pack_uuid: UUID, data: bytes) -> None:
    """A copy of the footer in STANDARD, so that nobody has to thaw a pack to know what is in it (guarantee G7).

    `data` is vouched for; what is there instead, whoever put it there, goes.
    """
    key, digest = footer_key(pack_uuid), hashlib.sha256(data).digest()
    try:
        await context.objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=digest)
    except ObjectExists:
        with suppress(CorruptPack):  # it is longer
            if await context.objects.get(key, most=len(data)) == data:
                return
        _log.error("footer.replaced", object_key=key, error="another object was in the place of a footer's copy")
        for failure in await context.objects.delete([key]):
            raise ColdTierUnavailable(f"{key}: cannot be replaced: {failure.reason}") from None
        await context.objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=digest)


async def _verify(context: JobContext, new: NewPack, sealed: SealedPack) -> None:
    """The store has what we sent: size, class, checksum where it keeps one, and the footer's very bytes."""
    info = await context.objects.head(new.object_key)
    if info.size != new.byte_size or info.sha256 not in (None, new.sha256):
        raise ColdTierUnavailable(
            f"{new.object_key}: the store has {info.size} bytes of the {new.byte_size} that were sent, or other ones",
            hint="the pack is not published and its snapshots stay where they are; check the store",
        )
    if info.storage_class is not new.storage_class and new.storage_class is not StorageClass.STANDARD:
        raise ColdTierUnavailable(
            f"{new.object_key}: asked for {new.storage_class}, the store made it {info.storage_class}",
            hint="this store has no such storage class; change `to:` in the policy",
        )
    if not new.storage_class.is_archive:
        found = await PackReader(context.objects).unvouched_footer_bytes(new.object_key, new.byte_size)
        if found != footer_part(sealed.data):
            raise CorruptPack(f"{new.object_key}: the footer that was read back is not the one that was written")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rows of a pack's frames beside its footer: `wrong` ones as they should be, and `right`: all as they should be."""

    wrong: Sequence[FrameRow]
    right: Sequence[FrameRow]
    has_all_digests: bool


def compare_frames(pack: Pack, rows: Sequence[FrameRow], footer: Footer) -> Comparison:
    """Pure. Raises CorruptPack where the catalog knows a frame that the footer does not have."""
    wrong, right = [], []
    for row in rows:
        if row.frame_no >= len(footer.frames):
            raise CorruptPack(f"{pack.object_key}: has {len(footer.frames)} frames, the catalog knows {row.frame_no}")
        entry = footer.frames[row.frame_no]
        said = FrameRow(
            frame_no=row.frame_no,
            saga_id=entry.saga_id,
            byte_offset=entry.offset,
            byte_length=entry.length,
            key_id=None if entry.key_id is None else UUID(bytes=entry.key_id),
            digest=frame_digest(entry),
        )
        right.append(said)
        if row != (said if row.digest is not None else replace(said, digest=None)):
            wrong.append(said)
    return Comparison(wrong=wrong, right=right, has_all_digests=all(row.digest is not None for row in rows))


async def whole(context: JobContext, pack: Pack) -> bytes:
    """The object of a pack, as it was written. Raises CorruptPack, ObjectArchived, ObjectNotFound."""
    data = await context.objects.get(pack.object_key, most=pack.byte_size)
    if pack.sha256 and await asyncio.to_thread(lambda: hashlib.sha256(data).digest()) != pack.sha256:
        raise CorruptPack(f"{pack.object_key}: its bytes are not those that were written")
    return data


async def vouched(context: JobContext, lease: Lease, pack: Pack, job: str) -> Pack:
    """The same, with digests in the catalog; `job` pays for the look at the whole object that they may need.

    Raises CorruptPack where object and catalog do not fit: nothing must be made of it.
    """
    if pack.footer_digest is not None:
        return pack
    await context.spend_reads(job, pack.storage_class, size=pack.byte_size, must=True)
    data = footer_part(await whole(context, pack))
    footer = await PackReader(context.objects).vouched_footer(pack, data)
    compared = compare_frames(pack, await context.catalog.scrubbing.frames(pack.pack_id), footer)
    if compared.wrong:
        raise CorruptPack(
            f"{pack.object_key}: {len(compared.wrong)} frames are not where the catalog says",
            hint="run `sagaz-tiering job scrub`, which names what is wrong",
        )
    digest = footer_digest(data)
    await context.catalog.scrubbing.vouch(pack.pack_id, digest, compared.right, lease)
    return replace(pack, footer_digest=digest)


@dataclass(frozen=True, slots=True)
class InPacks:
    """Saves compared with what packs hold: in the same version or a newer one (`safe`), or in an older one (`older`, by
    the pack's id). Of the others in `places` it could not be told."""

    places: dict[UUID, Packed] = field(default_factory=dict)
    safe: set[UUID] = field(default_factory=set)
    older: dict[UUID, int] = field(default_factory=dict)


async def already_packed(context: JobContext, metas: Sequence[SnapshotMeta]) -> set[UUID]:
    """Of these saves, the ones that a pack holds in the same version or a newer one."""
    return (await compared_with_packs(context, metas)).safe


async def compared_with_packs(context: JobContext, metas: Sequence[SnapshotMeta]) -> InPacks:
    """Which of these saves packs hold, and how new."""
    if not metas:
        return InPacks()
    places = await context.catalog.locations.packs_of([meta.snapshot_id for meta in metas])
    found = InPacks(places)
    for pack in {place.pack_id: place for place in places.values()}.values():
        footer = await _footer(context, pack)
        if footer is None:
            continue
        packed = {s.meta.snapshot_id: s.meta.version for frame in footer.frames for s in frame.snapshots}
        for meta in metas:
            version = packed.get(meta.snapshot_id)
            place = places.get(meta.snapshot_id)
            if version is None or place is None or place.pack_id != pack.pack_id:
                continue
            if version == meta.version or version[0] > meta.saved_us:
                found.safe.add(meta.snapshot_id)
            else:
                found.older[meta.snapshot_id] = pack.pack_id
    return found


async def finish_evictions(context: JobContext) -> int:
    """Remove the hot copies of packs whose run was killed after it published them; how many went."""
    evicted = 0
    async for pack in each_pack(lambda last: context.catalog.packs.unevicted(last, _PAGE)):
        footer = await _footer(context, pack)
        if footer is not None:
            metas = [entry.meta for frame in footer.frames for entry in frame.snapshots]
            gone, _ended = await context.hot.queue.evict_claimed(metas, {})
            evicted += gone
            await context.catalog.packs.evicted(pack.pack_id, context.now)
    return evicted


async def _footer(context: JobContext, pack: Packed | Pack) -> Footer | None:
    """None where it cannot be read: then its snapshots are packed once more, which loses nothing."""
    try:
        return await PackReader(context.objects).footer(pack)
    except (ObjectStoreError, CorruptPack) as exc:
        _log.warning("footer.unreadable", object_key=pack.object_key, error=str(exc))
        return None
