"""The footer: everything that a catalog holds about a pack, so that the bucket alone can rebuild it.

Before compression: pack id, catalog id, i64 created_us, string table, u32 count and sha256 of dictionaries, u32
count of frames, their columns (saga id, saga name index, u64 offset, u32 length, u32 raw length, 16-byte checksum,
u8 codec, u8 flags, u32 snapshots, then the dictionary ids and key ids of those frames whose flags say so), the
metadata block of all snapshots, and the column of their effective expiries. In version 2 sections follow, each a u16
kind, a u32 length and so many bytes; unknown kinds are skipped. Kind 1, attributes: the u32 length of each frame's,
then their texts (see `attributes`), that of a frame with a key sealed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final
from uuid import UUID

from sagaz_tiering.codec.value import MAX_NAME_BYTES, MAX_US, MIN_US, text_bytes
from sagaz_tiering.codec.zstd import DICTIONARY_ID_BYTES
from sagaz_tiering.keys.frame_key import ADDED_BYTES
from sagaz_tiering.packs import wire
from sagaz_tiering.packs.attributes import MOST_BYTES, read_text, text_of
from sagaz_tiering.packs.entries import Footer, FrameEntry, PackedSnapshot
from sagaz_tiering.packs.frame import MAX_FRAME_RAW_BYTES, MIN_FRAME_BYTES

VERSION: Final = 1
VERSION_WITH_SECTIONS: Final = 2
VERSIONS: Final = (VERSION, VERSION_WITH_SECTIONS)

_ATTRIBUTES: Final = 1
"""The kind of the section with the attributes of each frame."""
_SECTION: Final = struct.Struct(">HI")

_FRAME_BYTES: Final = 16 + 4 + 8 + 4 + 4 + 16 + 1 + 1 + 4
_ROWS: Final = 1024
_MOST_OF_ONE: Final = (
    (_FRAME_BYTES + DICTIONARY_ID_BYTES + wire.KEY_ID_BYTES + wire.MIN_META_BYTES + 8)
    + 3 * (4 + MAX_NAME_BYTES)
    + (4 + MOST_BYTES + ADDED_BYTES)
)
_MOST_BESIDE: Final = 2**20
"""Ids, counts and the digests of dictionaries."""


def footer_content(footer: Footer) -> bytes:
    """The footer before compression."""
    frames = footer.frames
    snapshots = [snapshot for frame in frames for snapshot in frame.snapshots]
    metas = [snapshot.meta for snapshot in snapshots]
    strings = wire.StringTable()
    names = wire.column("I", [strings.index(frame.saga_name) for frame in frames])
    block = wire.packed_metas(metas, (snapshot.encoding for snapshot in snapshots), strings)
    return b"".join(
        (
            footer.pack_id.bytes,
            footer.catalog_id.bytes,
            wire.column("q", [footer.created_us]),
            strings.packed(),
            wire.column("I", [len(footer.dictionaries)]),
            *footer.dictionaries,
            wire.column("I", [len(frames)]),
            *(frame.saga_id.bytes for frame in frames),
            names,
            wire.column("Q", [frame.offset for frame in frames]),
            wire.column("I", [frame.length for frame in frames]),
            wire.column("I", [frame.raw_length for frame in frames]),
            *(frame.checksum for frame in frames),
            bytes(frame.codec for frame in frames),
            bytes(wire.flags(frame.dictionary_id, frame.key_id) for frame in frames),
            wire.column("I", [len(frame.snapshots) for frame in frames]),
            *(frame.dictionary_id or b"" for frame in frames),
            *(frame.key_id or b"" for frame in frames),
            block,
            wire.packed_times(metas, [snapshot.expires_us for snapshot in snapshots]),
            _sections(frames),
        )
    )


def footer_version(footer: Footer) -> int:
    """The version that says all of it: packs without attributes are those of version 1."""
    return VERSION_WITH_SECTIONS if any(map(_has_attributes, footer.frames)) else VERSION


def _has_attributes(frame: FrameEntry) -> bool:
    if frame.key_id is None:
        return any(snapshot.meta.attributes for snapshot in frame.snapshots)
    return frame.sealed_attributes is not None


def _sections(frames: Sequence[FrameEntry]) -> bytes:
    if not any(map(_has_attributes, frames)):
        return b""
    texts = list(map(_attributes, frames))
    data = wire.column("I", list(map(len, texts))) + b"".join(texts)
    return _SECTION.pack(_ATTRIBUTES, len(data)) + data


def _attributes(frame: FrameEntry) -> bytes:
    """As the footer has them: sealed where the frame is encrypted."""
    if frame.key_id is None:
        return text_bytes(text_of(frame.snapshots))
    return frame.sealed_attributes or b""


Opened = tuple[Footer, Iterator[FrameEntry]]
"""A footer, and its frames, which are read one after the other: all at once they take ten times its bytes."""


def whole(opened: Opened) -> Footer:
    """With all its frames. Raises CorruptPack."""
    return replace(opened[0], frames=tuple(opened[1]))


def open_footer_content(raw: bytes, most: int | None = None, *, version: int = VERSION) -> Opened:
    """The footer of `footer_content`, of a version that this code knows and of at most so many snapshots.

    Raises CorruptPack, as its frames may when they are read.
    """
    cursor = wire.Cursor(raw, "pack footer")
    pack_id, catalog_id = cursor.uuids(2)
    created_us = cursor.number("q")
    if not MIN_US <= created_us < MAX_US:
        raise cursor.corrupt("the time of creation is out of range")
    strings = cursor.strings()
    dictionaries = tuple(cursor.blobs(32, cursor.count(32, "dictionaries")))
    bare, counts = _read_frames(cursor, strings, most)
    block, expiries = _read_snapshots(cursor, sum(counts), most)
    attributes = [b""] * len(bare)
    if version == VERSION_WITH_SECTIONS:
        attributes = _read_sections(cursor, len(bare))
    cursor.end()
    frames = _frames(bare, counts, strings, block, expiries, attributes)
    known = {None, *(digest[:DICTIONARY_ID_BYTES] for digest in dictionaries)}
    if any(dictionary_id not in known for *_, dictionary_id, _ in bare):
        raise cursor.corrupt("a frame uses a dictionary that is not listed")
    head = Footer(pack_id=pack_id, catalog_id=catalog_id, created_us=created_us, dictionaries=dictionaries, frames=())
    return head, frames


def most_footer_bytes(snapshots: int) -> int:
    """How long a footer of so many snapshots can be before compression."""
    return _MOST_BESIDE + snapshots * _MOST_OF_ONE


def _check_most(cursor: wire.Cursor, count: int, what: str, most: int | None) -> None:
    if most is not None and count > most:
        raise cursor.corrupt(f"{count} {what}, where the catalog knows of {most} snapshots")


_Bare = tuple[UUID, str, int, int, int, bytes, int, bytes | None, bytes | None]
"""A frame without its snapshots: saga's id and name, offset, length, raw length, checksum, codec, dictionary, key."""


def _read_frames(cursor: wire.Cursor, strings: list[str], most: int | None) -> tuple[list[_Bare], tuple[int, ...]]:
    """The frames, without their snapshots, and how many each has."""
    n = cursor.count(_FRAME_BYTES, "frames")
    _check_most(cursor, n, "frames", most)
    if n == 0:
        raise cursor.corrupt("no frames")
    saga_ids = cursor.uuids(n)
    saga_names = cursor.picked(strings, cursor.numbers("I", n))
    offsets = cursor.numbers("Q", n)
    lengths, raw_lengths = cursor.numbers("I", n), cursor.numbers("I", n)
    checksums = cursor.blobs(16, n)
    codecs, flags = cursor.take(n), cursor.take(n)
    counts = cursor.numbers("I", n)
    if min(lengths) < MIN_FRAME_BYTES or min(raw_lengths) == 0 or max(raw_lengths) > MAX_FRAME_RAW_BYTES:
        raise cursor.corrupt("a frame has an impossible length")
    if any(count * wire.MIN_META_BYTES > raw_length for count, raw_length in zip(counts, raw_lengths, strict=True)):
        raise cursor.corrupt("a frame is too short for its snapshots")
    if set(codecs) != {wire.CODEC_ZSTD} or max(flags) > wire.FLAG_DICTIONARY | wire.FLAG_KEY:
        raise cursor.corrupt("a frame has a codec or flags that this version does not know")
    if min(counts) == 0:
        raise cursor.corrupt("a frame has no snapshots")
    widths = ((wire.FLAG_DICTIONARY, DICTIONARY_ID_BYTES), (wire.FLAG_KEY, wire.KEY_ID_BYTES))
    dictionary_ids, key_ids = (_flagged(cursor, flags, flag, width) for flag, width in widths)
    columns = (saga_ids, saga_names, offsets, lengths, raw_lengths, checksums, codecs, dictionary_ids, key_ids)
    return list(zip(*columns, strict=True)), counts


def _flagged(cursor: wire.Cursor, flags: bytes, flag: int, width: int) -> list[bytes | None]:
    if not any(value & flag for value in flags):
        return [None] * len(flags)
    return [cursor.take(width) if value & flag else None for value in flags]


def _read_snapshots(cursor: wire.Cursor, total: int, most: int | None) -> tuple[wire.MetaBlock, bytes]:
    """Their metadata, and the column of their expiries."""
    _check_most(cursor, total, "snapshots", most)
    if total * (wire.MIN_META_BYTES + 8) > cursor.remaining:
        raise cursor.corrupt(f"{total} snapshots cannot be in {cursor.remaining} bytes")
    block = wire.MetaBlock(cursor, total)
    if block.has_one_twice():
        raise cursor.corrupt("a snapshot is listed twice")
    return block, cursor.take(8 * total)


def _read_sections(cursor: wire.Cursor, frames: int) -> list[bytes]:
    """The attributes of each frame, as they are stored; other sections are for later versions."""
    found: dict[int, bytes] = {}
    while cursor.remaining or not found:
        kind, length = cursor.numbers("H", 1)[0], cursor.number("I")
        if kind in found:
            raise cursor.corrupt(f"two sections of kind {kind}")
        found[kind] = cursor.take(length)
    if _ATTRIBUTES not in found:
        return [b""] * frames
    inside = wire.Cursor(found[_ATTRIBUTES], "pack footer, attributes")
    texts = [inside.take(length) for length in inside.numbers("I", frames)]
    inside.end()
    return texts


def _frames(
    bare: Sequence[_Bare],
    counts: Sequence[int],
    strings: list[str],
    block: wire.MetaBlock,
    expiries: bytes,
    texts: list[bytes],
) -> Iterator[FrameEntry]:
    """Each with its snapshots, of which a thousand or more are read at a time."""
    first = row = 0
    while first < len(bare):
        end, count = first, 0
        while end < len(bare) and count < _ROWS:
            count += counts[end]
            end += 1
        sagas = [bare[i][:2] for i in range(first, end) for _ in range(counts[i])]
        metas, encodings = block.rows(row, sagas, strings)
        created = [meta.created_us for meta in metas]
        deltas = struct.unpack_from(f">{count}q", expiries, 8 * row)
        times = wire.read_times(block.cursor, created, deltas, -wire.MAX_EXPIRY_US + 1, wire.MAX_EXPIRY_US)
        snapshots = map(PackedSnapshot, metas, times, encodings)
        for i in range(first, end):
            yield _frame(bare[i], tuple(islice(snapshots, counts[i])), texts[i])
        first, row = end, row + count


def _frame(bare: _Bare, snapshots: tuple[PackedSnapshot, ...], text: bytes) -> FrameEntry:
    saga_id, saga_name, offset, length, raw_length, checksum, codec, dictionary_id, key_id = bare
    if text and key_id is None:
        snapshots = read_text(text, snapshots)
    return FrameEntry(
        saga_id=saga_id,
        saga_name=saga_name,
        offset=offset,
        length=length,
        raw_length=raw_length,
        checksum=checksum,
        codec=codec,
        dictionary_id=dictionary_id,
        key_id=key_id,
        snapshots=snapshots,
        sealed_attributes=text if text and key_id is not None else None,
    )
