"""Reads frames and footers of packs out of an object store, and compares them with what the catalog vouches for.

Whoever can write to the bucket can put anything there; the catalog's digests say what belongs there. There is no other
way to read a frame or the footer of a published pack.
"""

from __future__ import annotations

import asyncio
import functools
from hashlib import sha256
from typing import Final
from uuid import UUID

from sagaz_tiering.codec.typed_json import LARGE
from sagaz_tiering.codec.value import Record
from sagaz_tiering.dictionaries.cache import Dictionaries
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.packs.entries import AttributedPack, Footer, FrameEntry, PublishedPack
from sagaz_tiering.packs.format import MAGIC, TAIL_LENGTH, locate_footer, parse_footer
from sagaz_tiering.packs.frame import DISPUTED, check_vouched, frame_digest, open_frame

_BELIEVED: Final = 65_536
"""Snapshots that the footer of even the smallest pack may list where no catalog knows how many there are."""
DISPUTED_FOOTER: Final = bytes(32)
"""As a pack's footer digest in the catalog: another pack contradicts it, and neither is believed."""


def footer_key(pack_uuid: UUID) -> str:
    """Where the readable copy of an archived pack's footer is."""
    return f"footers/{pack_uuid}.footer"


def attributes_key(pack_uuid: UUID) -> str:
    """Where a pack's footer is once more, with the attributes that were found since it was written."""
    return f"footers/{pack_uuid}.attributes"


def footer_digest(data: bytes) -> bytes:
    """What the catalog keeps of footer and tail."""
    return sha256(data).digest()


class PackReader:
    """Frames and footers, verified. Raises CorruptPack, ObjectArchived, ObjectNotFound, ColdTierUnavailable.

    Who reads frames gives it the dictionaries; footers need none.
    """

    def __init__(self, objects: ObjectStore, dictionaries: Dictionaries | None = None) -> None:
        self._objects = objects
        self._dictionaries = Dictionaries() if dictionaries is None else dictionaries

    async def frame(
        self,
        key: str,
        offset: int,
        length: int,
        *,
        vouched: bytes | None,
        most: int | None = None,
        frame_key: FrameKey | None = None,
        payload: bytes | None = None,
    ) -> list[Record]:
        """The records of one frame, which must have the digest `vouched` and be encrypted with `frame_key` (or not).

        At most so many snapshots (None: not known) are in it. `payload`: its bytes, if they came with its neighbours'.
        A large one is opened on a thread.
        """
        key_id = None if frame_key is None else frame_key.key_id
        if payload is None:
            payload = await self._objects.get_range(key, offset, length)
        header = check_vouched(payload, vouched=vouched, key_id=key_id)
        known = await self._dictionaries.need(header.dictionary_id)
        work = functools.partial(open_frame, payload, key=frame_key, dictionaries=known, most=most)
        return work() if header.raw_length < LARGE else await asyncio.to_thread(work)

    async def neighbours(self, key: str, offset: int, length: int) -> bytes:
        """The bytes of frames that lie beside each other, in one request; `frame` looks at each of them."""
        return await self._objects.get_range(key, offset, length)

    async def frame_bytes(self, key: str, entry: FrameEntry) -> bytes:
        """A frame as it is stored; its header is that of the entry, the rest is compared when it is opened."""
        payload = await self._objects.get_range(key, entry.offset, entry.length)
        check_vouched(payload, vouched=frame_digest(entry), key_id=entry.key_id)
        return payload

    async def footer(self, pack: PublishedPack, *, thawed: bool = False) -> Footer:
        """The footer of a published pack; of an archived one (unless it is `thawed`) from its readable copy."""
        return await self.vouched_footer(pack, await self.footer_bytes(pack, thawed=thawed))

    async def footer_bytes(self, pack: PublishedPack, *, thawed: bool = False) -> bytes:
        """The same with its tail, as it is stored; it has the digest that the catalog knows, if that does."""
        if pack.storage_class.is_archive and not thawed:
            data = await self._objects.get(footer_key(pack.pack_uuid), most=pack.byte_size)
        else:
            data = await self.unvouched_footer_bytes(pack.object_key, pack.byte_size)
        self._check_digest(pack, data)
        return data

    async def vouched_footer(self, pack: PublishedPack, data: bytes) -> Footer:
        """What `footer_bytes` gave, or what a copy of it should be."""
        self._check_digest(pack, data)
        footer = await asyncio.to_thread(read_footer, data, pack.byte_size, most=pack.snapshot_count)
        if footer.pack_id != pack.pack_uuid:
            raise CorruptPack(
                f"{pack.object_key}: holds pack {footer.pack_id}: two objects were swapped, or one copied"
            )
        return footer

    async def newest_footer(self, pack: AttributedPack, *, thawed: bool = False) -> Footer:
        """The footer with the newest attributes. Where those cannot be read, that is CorruptPack or ObjectNotFound."""
        if pack.attributes_digest is None:
            return await self.footer(pack, thawed=thawed)
        key = attributes_key(pack.pack_uuid)
        data = await self._objects.get(key, most=most_attributes(pack.byte_size))
        if footer_digest(data) != pack.attributes_digest:
            raise CorruptPack(f"{key}: not what the catalog vouches for: it was altered or replaced")
        return await asyncio.to_thread(read_attributes, data, pack.pack_uuid, most=pack.snapshot_count)

    async def unvouched_footer_bytes(self, key: str, size: int) -> bytes:
        """Footer and tail of an object of `size` bytes that no catalog knows (yet)."""
        tail = await self._objects.get_range(key, size - TAIL_LENGTH, TAIL_LENGTH)
        place = locate_footer(tail, size)
        return await self._objects.get_range(key, place.offset, place.length) + tail

    def _check_digest(self, pack: PublishedPack, data: bytes) -> None:
        if pack.footer_digest == DISPUTED_FOOTER:
            raise CorruptPack(f"{pack.object_key}: another pack contradicts it, and neither is believed", hint=DISPUTED)
        if pack.footer_digest is not None and footer_digest(data) != pack.footer_digest:
            name = footer_key(pack.pack_uuid) if pack.storage_class.is_archive else pack.object_key
            raise CorruptPack(f"{name}: not the footer that the catalog vouches for: it was altered or replaced")


def read_footer(data: bytes, size: int, *, most: int | None = None) -> Footer:
    """The footer in the last bytes of a pack of `size` bytes and at most so many snapshots.

    Where that is not known, no more are believed than the pack has bytes, for which memory is taken.
    """
    if most is None:
        most = max(_BELIEVED, size)
    place = locate_footer(data[-TAIL_LENGTH:], size)
    return parse_footer(data[:-TAIL_LENGTH], place.checksum, version=place.version, footer_at=place.offset, most=most)


def read_attributes(data: bytes, pack_uuid: UUID, *, most: int) -> Footer:
    """The footer in an object of attributes of a pack of so many snapshots. Raises CorruptPack."""
    place = locate_footer(data[-TAIL_LENGTH:], len(MAGIC) + len(data))
    footer = parse_footer(data[:-TAIL_LENGTH], place.checksum, version=place.version, most=most)
    if footer.pack_id != pack_uuid:
        raise CorruptPack(f"{attributes_key(pack_uuid)}: is of pack {footer.pack_id}")
    return footer


def most_attributes(pack_bytes: int) -> int:
    """No longer than the pack, where that is of some size: attributes are parts of what is in it."""
    return max(pack_bytes, _BELIEVED)


def footer_part(data: bytes | bytearray) -> bytes:
    """Footer and tail of a pack that is here whole."""
    return bytes(data[locate_footer(bytes(data[-TAIL_LENGTH:]), len(data)).offset :])
