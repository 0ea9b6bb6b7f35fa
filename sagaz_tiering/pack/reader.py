"""Reads frames and footers of packs out of an object store: one range GET a frame."""

from __future__ import annotations

from uuid import UUID

from sagaz_tiering.codec import Record
from sagaz_tiering.dictionaries.shelf import Dictionaries
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.pack.encryption import FrameKey
from sagaz_tiering.pack.entries import Footer
from sagaz_tiering.pack.format import TAIL_LENGTH, locate_footer, parse_footer
from sagaz_tiering.pack.frame import open_frame, read_frame_header


def footer_key(pack_uuid: UUID) -> str:
    """Where the readable copy of an archived pack's footer is."""
    return f"footers/{pack_uuid}.footer"


class PackReader:
    """Frames and footers, verified. Raises CorruptPack, ObjectArchived, ObjectNotFound, ColdTierUnavailable.

    Who reads frames gives it the dictionaries; footers need none.
    """

    def __init__(self, objects: ObjectStore, dictionaries: Dictionaries | None = None) -> None:
        self._objects = objects
        self._dictionaries = Dictionaries() if dictionaries is None else dictionaries

    async def frame(self, key: str, offset: int, length: int, *, frame_key: FrameKey | None = None) -> list[Record]:
        """The records of one frame. Raises ErasedData for an encrypted one without its key."""
        payload = await self._objects.get_range(key, offset, length)
        known = await self._dictionaries.need(read_frame_header(payload).dictionary_id)
        return open_frame(payload, key=frame_key, dictionaries=known)

    async def footer_bytes(self, key: str, size: int) -> bytes:
        """Footer and tail of a pack of `size` bytes, as they are in the object: what a footer copy holds."""
        tail = await self._objects.get_range(key, size - TAIL_LENGTH, TAIL_LENGTH)
        place = locate_footer(tail, size)
        return await self._objects.get_range(key, place.offset, place.length) + tail

    async def footer(self, key: str, size: int) -> Footer:
        """The footer of a pack of `size` bytes."""
        return read_footer(await self.footer_bytes(key, size), size)

    async def footer_copy(self, pack_uuid: UUID, size: int) -> Footer:
        """The footer of an archived pack, from its readable copy."""
        return read_footer(await self._objects.get(footer_key(pack_uuid)), size)


def read_footer(data: bytes, size: int) -> Footer:
    """The footer in the last bytes of a pack of `size` bytes."""
    place = locate_footer(data[-TAIL_LENGTH:], size)
    return parse_footer(data[:-TAIL_LENGTH], place.checksum)


def read_whole_footer(data: bytes) -> Footer:
    """The footer of a pack that is here whole; frames are not looked at."""
    place = locate_footer(data[-TAIL_LENGTH:], len(data))
    return parse_footer(data[place.offset : place.offset + place.length], place.checksum)
