"""What someone can do who may write to the bucket, and to nothing else: replace objects by others that fit together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import encode
from sagaz_tiering.codec.zstd import compress
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.packs.entries import BuiltFrame, Footer, FrameEntry
from sagaz_tiering.packs.footer import footer_content
from sagaz_tiering.packs.format import END_MAGIC, PackWriter, locate_footer, parse_footer
from sagaz_tiering.packs.frame import build_frame
from sagaz_tiering.packs.reader import footer_part
from sagaz_tiering.packs.wire import digest
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass
from support.tiers import Product


async def overwrite(shop: Product, key: str, data: bytes, storage_class: StorageClass | None = None) -> None:
    """Put other bytes under a key, in the class that it was in, with a checksum that fits."""
    was = (await shop.runtime.objects.head(key)).storage_class if storage_class is None else storage_class
    assert not await shop.runtime.objects.delete([key])
    await shop.runtime.objects.put(key, data, storage_class=was, sha256=hashlib.sha256(data).digest())


def footer_in(data: bytes) -> Footer:
    """The footer of a pack or of a copy of it."""
    stored = data if not data.startswith(b"SGZPACK") else footer_part(data)
    place = locate_footer(stored[-28:], 2**40)
    return parse_footer(stored[:-28], place.checksum)


def footer_like(footer: Footer) -> bytes:
    """Footer and tail as a writer would have made them."""
    content = compress(footer_content(footer), 9)
    return content + len(content).to_bytes(4, "big") + digest(content) + END_MAGIC


def with_footer(data: bytes, change: Callable[[Footer], Footer]) -> bytes:
    """A pack with another footer: of the same size, if it can be."""
    old = footer_part(data)
    return data[: -len(old)] + footer_like(change(footer_in(data)))


def given_to(victim: UUID, thief: UUID) -> Callable[[Footer], Footer]:
    """The victim's frames become the thief's."""
    return lambda footer: replace(
        footer, frames=tuple(replace(f, saga_id=thief) if f.saga_id == victim else f for f in footer.frames)
    )


def forged_frame(entry: FrameEntry, snapshots: Sequence[SagaSnapshot], *, key: FrameKey | None = None) -> bytes:
    """A frame of exactly the length of another, with these snapshots; padded by a field of the first one's context."""

    def build(pad: int) -> bytes:
        first = replace(snapshots[0], context={**snapshots[0].context, "_": os.urandom(pad).hex()})
        records = [(encode(s, saved_us=to_micros(s.created_at)), None) for s in (first, *snapshots[1:])]
        return build_frame(records, key=key).payload

    low, high = 0, entry.length
    while low < high:  # about one byte more for each byte of noise
        middle = (low + high) // 2
        low, high = (middle + 1, high) if len(build(middle)) < entry.length else (low, middle)
    for attempt in range(4000):
        found = build(max(0, low - attempt % 12))
        if len(found) == entry.length:
            return found
    raise AssertionError("no frame of that length was found")


def with_frame(data: bytes, entry: FrameEntry, payload: bytes) -> bytes:
    """A pack in which one frame is another, of the same length; the footer is the old one."""
    assert len(payload) == entry.length
    return data[: entry.offset] + payload + data[entry.offset + entry.length :]


def pack_like(footer: Footer, pack_id: UUID, frames: Sequence[BuiltFrame]) -> bytes:
    """A whole pack of the same catalog, as a writer would have made it."""
    writer = PackWriter(pack_id, footer.catalog_id, footer.created_us)
    for frame in frames:
        writer.add(frame)
    return bytes(writer.seal().data)
