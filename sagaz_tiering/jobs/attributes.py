"""What footers say of attributes: opened as far as the keys are there, and put into the catalog."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sagaz_tiering.attributes import Attributes
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import CorruptPack, LeaseLost, MasterKeyUnavailable, ObjectExists, ObjectNotFound
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.attributes import carrying, opened, parted, sealed, united
from sagaz_tiering.packs.entries import BuiltFrame, Footer, FrameEntry
from sagaz_tiering.packs.format import footer_bytes
from sagaz_tiering.packs.reader import PackReader, attributes_key, footer_digest, most_attributes, read_attributes
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass

_log = Logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A footer whose snapshots carry their attributes, but for the frames of these numbers: theirs stay `sealed`."""

    footer: Footer
    sealed: Collection[int] = ()


def column_of(attributes: Attributes, snapshot: SagaSnapshot) -> str:
    """What a save of this snapshot would keep."""
    return attributes.of(snapshot.saga_name, snapshot.context).column


def definitions_revision(settings: TieringConfig) -> str:
    """A digest of all that says which attributes a snapshot has."""
    key = settings.attribute_hash_key
    told = [each.model_dump(mode="json") for each in sorted(settings.attributes, key=lambda each: each.name)]
    secret = b"" if key is None else key.get_secret_value().encode()
    digest = hashlib.sha256(b"sagaz-tiering attributes" + hashlib.sha256(secret).digest())
    digest.update(json.dumps(told, sort_keys=True).encode())
    return digest.hexdigest()[:32]


async def with_attributes(
    context: JobContext, footer: Footer, tally: Tally, numbers: Collection[int] | None = None
) -> Opened:
    """The footer with what is sealed in it opened, as far as the keys are there; what does not open is told.

    `numbers`: only in these frames.
    """
    if numbers is None:
        numbers = {number for number, frame in enumerate(footer.frames) if frame.sealed_attributes is not None}
    if not numbers:
        return Opened(footer=footer)
    why = "their keys are not there"
    try:
        keys = await context.keys.by_id(footer.frames[number].key_id for number in numbers)
    except MasterKeyUnavailable as exc:
        keys, why = {}, str(exc)
    frames, closed = await asyncio.to_thread(_open, footer, numbers, keys)
    if closed:
        tally.add("attributes_sealed", len(closed))
        tally.note(f"pack {footer.pack_id}: attributes of {len(closed)} encrypted frames stay sealed: {why}")
    return Opened(footer=replace(footer, frames=frames), sealed=closed)


def _open(
    footer: Footer, numbers: Collection[int], keys: Mapping[bytes, FrameKey]
) -> tuple[tuple[FrameEntry, ...], set[int]]:
    frames, closed = list(footer.frames), set(numbers)
    for number in numbers:
        entry = frames[number]
        key = None if entry.key_id is None else keys.get(entry.key_id)
        if key is None:
            continue
        try:
            frames[number] = opened(entry, key)
        except CorruptPack as exc:
            _log.error("attributes.not_opened", pack=str(footer.pack_id), frame=number, error=str(exc))
        else:
            closed.remove(number)
    return tuple(frames), closed


async def newest_footer(context: JobContext, pack: Pack, *, thawed: bool = False) -> Footer:
    """The footer of a pack with the attributes that were found last, or, where those cannot be read, its own."""
    reader = PackReader(context.objects)
    try:
        return await reader.newest_footer(pack, thawed=thawed)
    except (CorruptPack, ObjectNotFound) as exc:
        if pack.attributes_digest is None:
            raise
        _log.error("attributes.unreadable", object_key=attributes_key(pack.pack_uuid), error=str(exc))
        return await reader.footer(pack, thawed=thawed)


async def mend(context: JobContext, lease: Lease, pack: Pack, footer: Footer, tally: Tally, *, sealed_too: bool) -> int:
    """Have in the catalog what the vouched footer of a pack says of what lives in it; how many frames were not so.

    What is sealed is looked at where the catalog has nothing, and else only if it is to be `sealed_too`.
    """
    live = await context.catalog.compaction.live(pack.pack_id)
    there = {number: footer.frames[number] for number in live if number < len(footer.frames)}
    closed = {number for number, entry in there.items() if entry.sealed_attributes is not None}
    numbers = {number for number in closed if sealed_too or not live[number].attributes}
    told = await with_attributes(context, footer, tally, numbers)
    right: dict[int, str] = {}
    for number in there.keys() - {*told.sealed, *(closed - numbers)}:
        carried = {each.meta.snapshot_id: each.meta.attributes for each in told.footer.frames[number].snapshots}
        said = [(one, carried.get(one, "")) for one in live[number].expiries]
        if parted(live[number].attributes, [one for one, _ in said]) != [column for _, column in said]:
            right[number] = united(said)
    if right:
        await context.catalog.scrubbing.set_attributes(pack.pack_id, right, lease)
    return len(right)


def with_texts(footer: Footer, texts: Mapping[int, str], keys: Mapping[bytes, FrameKey]) -> Footer:
    """The footer in which the snapshots carry these; what was deleted carries nothing."""
    frames = []
    for number, entry in enumerate(footer.frames):
        key = None if entry.key_id is None else keys.get(entry.key_id)
        if entry.key_id is None or key is not None:
            carried = replace(entry, snapshots=carrying(entry.snapshots, texts.get(number, "")))
            entry = sealed(BuiltFrame(payload=b"", entry=carried, key=key))
        frames.append(entry)
    return replace(footer, frames=tuple(frames))


async def put_attributes(context: JobContext, pack: Pack, footer: Footer) -> bytes:
    """Put a footer in the place of a pack's attributes; its digest. Raises what the object store raises."""
    data, key = await asyncio.to_thread(footer_bytes, footer), attributes_key(pack.pack_uuid)
    if read_attributes(data, pack.pack_uuid, most=pack.snapshot_count).frames != _as_stored(footer).frames:
        raise CorruptPack(f"{key}: does not read back as it was written")
    try:
        await context.objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=hashlib.sha256(data).digest())
    except ObjectExists:
        there, tag = await context.objects.get_tagged(key, most=most_attributes(pack.byte_size))
        if there != data and not await context.objects.swap(key, data, tag):
            raise LeaseLost(f"{key} was replaced by another process; nothing was noted") from None
    return footer_digest(data)


def _as_stored(footer: Footer) -> Footer:
    """As it is read by who has no keys."""
    frames = [
        frame if frame.key_id is None else replace(frame, snapshots=carrying(frame.snapshots, ""))
        for frame in footer.frames
    ]
    return replace(footer, frames=tuple(frames))


async def write_anew(context: JobContext, lease: Lease, pack: Pack, footer: Footer) -> None:
    """Put what the catalog says beside a pack, whose own footer this is, in the place of what was lost or altered."""
    live = await context.catalog.compaction.live(pack.pack_id)
    keys = await context.keys.by_id(frame.key_id for frame in footer.frames)
    newest = with_texts(footer, {number: frame.attributes for number, frame in live.items()}, keys)
    digest = await put_attributes(context, pack, newest)
    await context.catalog.scrubbing.set_attributes_digest(pack.pack_id, digest, lease)
