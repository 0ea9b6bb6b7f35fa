"""The pack format, versions 1 and 2: bytes in, values out. Layout and rules: docs/pack-format.md.

    magic "SGZPACK" and version | frames, back to back | footer (zstd)
    | u32 footer length | 16-byte blake2b of the compressed footer | magic "SGZPEND" and version

Everything is big-endian. The versions differ in what the footer may end with; what version 1 can say is written so.
A pack is written by PackWriter, which parses back what it wrote before it counts; a
reader fetches the last TAIL_LENGTH bytes, then the footer, then single frames by range, or takes all at once.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import zip_longest
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from sagaz_tiering.codec.zstd import NO_DICTIONARIES, Dictionary, NotZstd, compress, declared_size, decompress
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.packs import footer as footers
from sagaz_tiering.packs.attributes import carrying, opened, sealed
from sagaz_tiering.packs.entries import BuiltFrame, Footer, FrameEntry, KeysById, Known, SealedPack
from sagaz_tiering.packs.footer import VERSION, VERSIONS
from sagaz_tiering.packs.frame import check_frame_content, frame_raw, read_frame_header, verified_payload
from sagaz_tiering.packs.wire import digest

_NAME: Final = b"SGZPACK"
_END_NAME: Final = b"SGZPEND"
MAGIC: Final = _NAME + bytes([VERSION])
"""Of version 1, as END_MAGIC; of others the last byte differs."""
END_MAGIC: Final = _END_NAME + bytes([VERSION])

_TAIL: Final = struct.Struct(">I16s8s")
TAIL_LENGTH: Final = _TAIL.size
"""Bytes at the end of a pack that say where its footer is."""

MAX_FOOTER_RAW_BYTES: Final = 256 * 1024 * 1024

_STEP_BYTES: Final = 4 * 2**20
"""Raw bytes that are read back in one step of sealing."""

_FOOTER_LEVEL: Final = 9  # ids and checksums do not compress; above, only the time grows

T = TypeVar("T")


class FooterLocation(NamedTuple):
    """Where the compressed footer is in its object (bytes), the checksum that it must have, and the pack's version."""

    offset: int
    length: int
    checksum: bytes
    version: int = VERSION


class PackWriter:
    """Collects frames in memory and seals them into one pack. Not for several threads at once."""

    def __init__(self, pack_id: UUID, catalog_id: UUID, created_us: int) -> None:
        self._pack_id = pack_id
        self._catalog_id = catalog_id
        self._created_us = created_us
        self._data = bytearray(MAGIC)
        self._frames: list[FrameEntry] = []
        self._ids: set[int] = set()
        self._keys: dict[bytes, FrameKey] = {}
        self._dictionaries: dict[bytes, Dictionary] = {}

    @property
    def size(self) -> int:
        """Bytes so far, without the footer."""
        return len(self._data)

    @property
    def frame_count(self) -> int:
        return len(self._frames)

    @property
    def snapshot_count(self) -> int:
        return len(self._ids)

    def has_any_of(self, frame: BuiltFrame) -> bool:
        """Whether a snapshot of the frame is in the pack already."""
        return not self._ids.isdisjoint(_ids(frame))

    def add(self, frame: BuiltFrame) -> None:
        """Append a frame. Raises ValueError (and changes nothing) if a snapshot is in the pack already."""
        ids = _ids(frame)
        twice = ids & self._ids
        if twice:
            raise ValueError(f"snapshot {UUID(int=min(twice))} is in the pack already")
        self._frames.append(replace(sealed(frame), offset=len(self._data)))
        self._ids |= ids
        self._data += frame.payload
        if frame.key is not None:
            self._keys[frame.key.key_id] = frame.key
        if frame.dictionary is not None:
            self._dictionaries[frame.dictionary.id] = frame.dictionary

    def seal(self) -> SealedPack:
        """The finished pack; the writer must not be used again.

        What was built is parsed back whole (encrypted frames that were added without their key: as far as their
        checksums tell); CorruptPack here means that nothing must be uploaded or deleted. Raises ValueError for a
        pack without frames.
        """
        return finished(self.seal_in_steps())

    def seal_in_steps(self) -> Generator[None, None, SealedPack]:
        """`seal`, which yields after every few hundredths of a second: whoever has others to serve does it then."""
        if not self._frames:
            raise ValueError("a pack has at least one frame")
        footer = Footer(
            pack_id=self._pack_id,
            catalog_id=self._catalog_id,
            created_us=self._created_us,
            dictionaries=tuple(sorted(dictionary.digest for dictionary in self._dictionaries.values())),
            frames=tuple(self._frames),
        )
        data, self._data = self._data, bytearray()  # tens of megabytes: not copied, and not kept
        data[: len(MAGIC)] = _NAME + bytes([footers.footer_version(footer)])
        data += footer_bytes(footer)
        yield from _read_back(data, footer, self._keys, self._dictionaries)
        used = tuple(self._dictionaries.values())
        return SealedPack(data=data, footer=footer, sha256=sha256(data).digest(), dictionaries=used)


def footer_bytes(footer: Footer) -> bytes:
    """A footer and its tail, as a pack ends with them."""
    compressed = compress(footers.footer_content(footer), _FOOTER_LEVEL)
    end_magic = _END_NAME + bytes([footers.footer_version(footer)])
    return compressed + _TAIL.pack(len(compressed), digest(compressed), end_magic)


def _ids(frame: BuiltFrame) -> set[int]:
    return {snapshot.meta.snapshot_id.int for snapshot in frame.entry.snapshots}


def finished(steps: Generator[None, None, T]) -> T:
    """What comes out of work in steps, done at one go."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def parse_pack(
    data: bytes | bytearray, *, keys: KeysById | None = None, dictionaries: Known = NO_DICTIONARIES
) -> Footer:
    """The footer of a whole pack, after every frame was opened and compared with it. Raises CorruptPack.

    Of encrypted frames whose key is not in `keys` (by key id) only header and checksum are compared, and their
    attributes stay sealed; the dictionaries of the others must be in `dictionaries` (by dictionary id).
    """
    head, frames = _open_pack(data)
    return footers.whole((head, _checked(data, frames, keys or {}, dictionaries)))


def _read_back(data: bytearray, footer: Footer, keys: KeysById, dictionaries: Known) -> Iterator[None]:
    """Raise CorruptPack unless `parse_pack` gives exactly this footer; one frame at a time, yields now and then."""
    head, frames = _open_pack(data)
    is_same, done = head == replace(footer, frames=()), 0
    for found, frame in zip_longest(_checked(data, frames, keys, dictionaries), footer.frames):
        if not is_same or found is None or frame is None or found != _as_read(frame, keys):
            raise CorruptPack(f"pack {footer.pack_id} does not read back as it was written")
        done += found.raw_length
        if done >= _STEP_BYTES:
            yield
            done = 0


def _as_read(frame: FrameEntry, keys: KeysById) -> FrameEntry:
    """A frame as a pack tells of it: attributes that are known from elsewhere are not in it without the key."""
    if frame.key_id is None or frame.key_id in keys:
        return frame
    return replace(frame, snapshots=carrying(frame.snapshots, ""))


def _open_pack(data: bytes | bytearray) -> footers.Opened:
    view = memoryview(data)
    version = _check_magic(bytes(view[: len(MAGIC)]), _NAME)
    location = locate_footer(bytes(view[-TAIL_LENGTH:]), len(data))
    if location.version != version:
        raise CorruptPack(f"pack: begins as one of version {version} and ends as one of version {location.version}")
    compressed = bytes(view[location.offset : location.offset + location.length])
    head, frames = _open_footer(compressed, location.checksum, version=version)
    return head, _in_place(frames, location.offset)


def _checked(
    data: bytes | bytearray, frames: Iterator[FrameEntry], keys: KeysById, dictionaries: Known
) -> Iterator[FrameEntry]:
    view = memoryview(data)
    for frame in frames:
        payload = bytes(view[frame.offset : frame.offset + frame.length])
        check_frame(frame, payload, keys=keys, dictionaries=dictionaries)
        yield frame if frame.key_id is None else opened(frame, keys.get(frame.key_id))


def locate_footer(tail: bytes, object_size: int) -> FooterLocation:
    """Where the footer is, from (at least) the last TAIL_LENGTH bytes of an object. Raises CorruptPack."""
    if len(tail) < TAIL_LENGTH or object_size < len(MAGIC) + TAIL_LENGTH or len(tail) > object_size:
        raise CorruptPack(f"pack: an object of {object_size} bytes is truncated, or not a pack")
    length, checksum, end_magic = _TAIL.unpack(tail[-TAIL_LENGTH:])
    version = _check_magic(end_magic, _END_NAME)
    offset = object_size - TAIL_LENGTH - length
    if length == 0 or offset < len(MAGIC):
        raise CorruptPack(f"pack: a footer of {length} bytes cannot be in an object of {object_size}")
    return FooterLocation(offset, length, checksum, version)


def parse_footer(
    data: bytes, checksum: bytes, *, version: int = VERSION, footer_at: int | None = None, most: int | None = None
) -> Footer:
    """The footer from its compressed bytes, and the checksum and version that `locate_footer` told. Raises CorruptPack.

    What is sealed stays so. With `footer_at`, where it is in its object, the frames must fill what is before it. With
    `most` it is of at most so many snapshots, and one that claims more is not unpacked any further.
    """
    head, frames = _open_footer(data, checksum, most, version=version)
    return footers.whole((head, _in_place(frames, footer_at)))


def _open_footer(data: bytes, checksum: bytes, most: int | None = None, *, version: int) -> footers.Opened:
    if digest(data) != checksum:
        raise CorruptPack("pack footer: does not match its checksum")
    try:
        raw_length = declared_size(data)
        if raw_length > MAX_FOOTER_RAW_BYTES or (most is not None and raw_length > footers.most_footer_bytes(most)):
            raise CorruptPack(f"pack footer: {raw_length} raw bytes are over the limit")
        raw = decompress(data, raw_length)
    except NotZstd as exc:
        raise CorruptPack(f"pack footer: {exc}") from exc
    return footers.open_footer_content(raw, most, version=version)


def check_frame(entry: FrameEntry, payload: bytes, *, keys: KeysById, dictionaries: Known = NO_DICTIONARIES) -> None:
    """Open a frame and compare it with its footer entry, as far as `keys` allow. Raises CorruptPack."""
    header = read_frame_header(payload)
    said = (header.codec, header.dictionary_id, header.key_id, header.raw_length, header.checksum)
    if said != (entry.codec, entry.dictionary_id, entry.key_id, entry.raw_length, entry.checksum):
        raise CorruptPack(f"pack: the frame at byte {entry.offset} is not the one that the footer describes")
    if header.key_id is not None and header.key_id not in keys:
        verified_payload(header, payload)
        return
    key = None if header.key_id is None else keys[header.key_id]
    raw = frame_raw(payload, key=key, dictionaries=dictionaries, most=len(entry.snapshots))
    if not check_frame_content(raw, entry.snapshots):
        raise CorruptPack(f"pack: the frame at byte {entry.offset} holds other snapshots than the footer says")


def _in_place(frames: Iterator[FrameEntry], footer_at: int | None) -> Iterator[FrameEntry]:
    """The same frames, which must follow each other without gap or overlap, up to the footer if that is known."""
    end = len(MAGIC)
    for frame in frames:
        if frame.offset != end:
            raise CorruptPack(f"pack: a frame at byte {frame.offset} where the last one ended at {end}")
        end += frame.length
        if footer_at is not None and end > footer_at:
            raise CorruptPack(f"pack: the frame at byte {frame.offset} does not end before the footer")
        yield frame
    if footer_at not in (None, end):
        raise CorruptPack("pack: there are bytes between the last frame and the footer")


def _check_magic(found: bytes, name: bytes) -> int:
    """The version that it names."""
    if found[: len(name)] != name or len(found) != len(name) + 1:
        raise CorruptPack("pack: not an object of sagaz-tiering, or a truncated one")
    if found[-1] not in VERSIONS:
        raise CorruptPack(
            f"pack: format version {found[-1]}, this version of sagaz-tiering reads {VERSIONS[0]} to {VERSIONS[-1]}",
            hint="it was written by a newer sagaz-tiering: upgrade this one",
        )
    return found[-1]
