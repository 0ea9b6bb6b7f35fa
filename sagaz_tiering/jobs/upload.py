"""Put a sealed pack into the object store and make sure that it is there: shared by `age` and `compact`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sagaz_tiering.catalog.frame_index import IndexedFrame
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import NewPack
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import ColdTierUnavailable, CorruptPack, ObjectExists
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.dictionary_copies import keep
from sagaz_tiering.jobs.ownership import still_owner
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo
from sagaz_tiering.packs.entries import Footer, SealedPack
from sagaz_tiering.packs.frame import frame_digest
from sagaz_tiering.packs.reader import PackReader, footer_digest, footer_key, footer_part
from sagaz_tiering.storage_class import StorageClass

_log = Logger(__name__)


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
    attributes_revision: str | None,
) -> NewPack:
    """The row of a sealed pack."""
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
        attributes_revision=attributes_revision,
    )


def common(revisions: Collection[str | None]) -> str | None:
    """By which definitions of attributes all parts of a pack are complete; None where that differs, or is not known."""
    return next(iter(revisions)) if len(set(revisions)) == 1 else None


def placed_frames(footer: Footer) -> list[IndexedFrame]:
    """The frames of a pack as the catalog notes them."""
    return [
        IndexedFrame(
            saga_id=frame.saga_id,
            offset=frame.offset,
            length=frame.length,
            snapshots=frame.snapshots,
            key_id=None if frame.key_id is None else UUID(bytes=frame.key_id),
            digest=frame_digest(frame),
        )
        for frame in footer.frames
    ]


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
        if await _holds(context, key, data):
            return
        _log.error("footer.replaced", object_key=key, error="another object was in the place of a footer's copy")
        for failure in await context.objects.delete([key]):
            raise ColdTierUnavailable(f"{key}: cannot be replaced: {failure.reason}") from None
        await context.objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=digest)


async def _holds(context: JobContext, key: str, data: bytes) -> bool:
    try:
        return await context.objects.get(key, most=len(data)) == data
    except CorruptPack:  # it is longer
        return False


async def _verify(context: JobContext, new: NewPack, sealed: SealedPack) -> None:
    """The store has what we sent: size, class, checksum where it keeps one, and the footer's very bytes."""
    _compare(await context.objects.head(new.object_key), new)
    if not new.storage_class.is_archive:
        found = await PackReader(context.objects).unvouched_footer_bytes(new.object_key, new.byte_size)
        if found != footer_part(sealed.data):
            raise CorruptPack(f"{new.object_key}: the footer that was read back is not the one that was written")


def _compare(info: ObjectInfo, new: NewPack) -> None:
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
