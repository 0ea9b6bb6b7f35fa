"""The footer: everything that a catalog holds about a pack, so that the bucket alone can rebuild it.

Before compression: pack id, catalog id, i64 created_us, string table, u32 count and sha256 of dictionaries, u32
count of frames, their columns (saga id, saga name index, u64 offset, u32 length, u32 raw length, 16-byte checksum,
u8 codec, u8 flags, u32 snapshots, then the dictionary ids and key ids of those frames whose flags say so), the
metadata block of all snapshots, and the column of their effective expiries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final
from uuid import UUID

from sagaz_tiering.codec import MAX_US, MIN_US
from sagaz_tiering.pack.entries import Footer, FrameEntry, PackedSnapshot
from sagaz_tiering.pack.frame import (
    CODEC_ZSTD,
    FLAG_DICTIONARY,
    FLAG_KEY,
    KEY_ID_BYTES,
    MAX_FRAME_RAW_BYTES,
    MIN_FRAME_BYTES,
)
from sagaz_tiering.pack.metas import MAX_EXPIRY_US, MIN_META_BYTES, packed_metas, packed_times, read_metas, read_times
from sagaz_tiering.pack.wire import Cursor, StringTable, column
from sagaz_tiering.zstd import DICTIONARY_ID_BYTES

_FRAME_BYTES: Final = 16 + 4 + 8 + 4 + 4 + 16 + 1 + 1 + 4


def footer_content(footer: Footer) -> bytes:
    """The footer before compression."""
    frames = footer.frames
    snapshots = [snapshot for frame in frames for snapshot in frame.snapshots]
    metas = [snapshot.meta for snapshot in snapshots]
    strings = StringTable()
    names = column("I", [strings.index(frame.saga_name) for frame in frames])
    block = packed_metas(metas, (snapshot.encoding for snapshot in snapshots), strings)
    return b"".join(
        (
            footer.pack_id.bytes,
            footer.catalog_id.bytes,
            column("q", [footer.created_us]),
            strings.packed(),
            column("I", [len(footer.dictionaries)]),
            *footer.dictionaries,
            column("I", [len(frames)]),
            *(frame.saga_id.bytes for frame in frames),
            names,
            column("Q", [frame.offset for frame in frames]),
            column("I", [frame.length for frame in frames]),
            column("I", [frame.raw_length for frame in frames]),
            *(frame.checksum for frame in frames),
            bytes(frame.codec for frame in frames),
            bytes(map(_flags, frames)),
            column("I", [len(frame.snapshots) for frame in frames]),
            *(frame.dictionary_id or b"" for frame in frames),
            *(frame.key_id or b"" for frame in frames),
            block,
            packed_times(metas, [snapshot.expires_us for snapshot in snapshots]),
        )
    )


def _flags(frame: FrameEntry) -> int:
    return (FLAG_DICTIONARY if frame.dictionary_id is not None else 0) | (FLAG_KEY if frame.key_id is not None else 0)


@dataclass(frozen=True, slots=True)
class _FrameColumns:
    sagas: list[tuple[UUID, str]]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    raw_lengths: tuple[int, ...]
    checksums: list[bytes]
    codecs: bytes
    counts: tuple[int, ...]
    dictionary_ids: list[bytes | None]
    key_ids: list[bytes | None]


def read_footer_content(raw: bytes) -> Footer:
    """The footer of `footer_content`. Raises CorruptPack."""
    cursor = Cursor(raw, "pack footer")
    pack_id, catalog_id = cursor.uuids(2)
    created_us = cursor.number("q")
    if not MIN_US <= created_us < MAX_US:
        raise cursor.corrupt("the time of creation is out of range")
    strings = cursor.strings()
    dictionaries = tuple(cursor.blobs(32, cursor.count(32, "dictionaries")))
    columns = _read_frame_columns(cursor, strings)
    snapshots = _read_snapshots(cursor, columns, strings)
    cursor.end()
    known = {digest[:DICTIONARY_ID_BYTES] for digest in dictionaries}
    if any(used is not None and used not in known for used in columns.dictionary_ids):
        raise cursor.corrupt("a frame uses a dictionary that is not listed")
    frames = tuple(
        FrameEntry(
            saga_id=saga_id,
            saga_name=saga_name,
            offset=columns.offsets[i],
            length=columns.lengths[i],
            raw_length=columns.raw_lengths[i],
            checksum=columns.checksums[i],
            codec=columns.codecs[i],
            dictionary_id=columns.dictionary_ids[i],
            key_id=columns.key_ids[i],
            snapshots=tuple(islice(snapshots, columns.counts[i])),
        )
        for i, (saga_id, saga_name) in enumerate(columns.sagas)
    )
    return Footer(
        pack_id=pack_id,
        catalog_id=catalog_id,
        created_us=created_us,
        dictionaries=dictionaries,
        frames=frames,
    )


def _read_frame_columns(cursor: Cursor, strings: list[str]) -> _FrameColumns:
    n = cursor.count(_FRAME_BYTES, "frames")
    if n == 0:
        raise cursor.corrupt("no frames")
    saga_ids = cursor.uuids(n)
    saga_names = cursor.picked(strings, cursor.numbers("I", n))
    offsets = cursor.numbers("Q", n)
    lengths = cursor.numbers("I", n)
    raw_lengths = cursor.numbers("I", n)
    checksums = cursor.blobs(16, n)
    codecs = cursor.take(n)
    flags = cursor.take(n)
    counts = cursor.numbers("I", n)
    if min(lengths) < MIN_FRAME_BYTES or min(raw_lengths) == 0 or max(raw_lengths) > MAX_FRAME_RAW_BYTES:
        raise cursor.corrupt("a frame has an impossible length")
    if set(codecs) != {CODEC_ZSTD} or max(flags) > FLAG_DICTIONARY | FLAG_KEY:
        raise cursor.corrupt("a frame has a codec or flags that this version does not know")
    if min(counts) == 0:
        raise cursor.corrupt("a frame has no snapshots")
    return _FrameColumns(
        sagas=list(zip(saga_ids, saga_names, strict=True)),
        offsets=offsets,
        lengths=lengths,
        raw_lengths=raw_lengths,
        checksums=checksums,
        codecs=codecs,
        counts=counts,
        dictionary_ids=_flagged(cursor, flags, FLAG_DICTIONARY, DICTIONARY_ID_BYTES),
        key_ids=_flagged(cursor, flags, FLAG_KEY, KEY_ID_BYTES),
    )


def _flagged(cursor: Cursor, flags: bytes, flag: int, width: int) -> list[bytes | None]:
    if not any(value & flag for value in flags):
        return [None] * len(flags)
    return [cursor.take(width) if value & flag else None for value in flags]


def _read_snapshots(cursor: Cursor, columns: _FrameColumns, strings: list[str]) -> Iterator[PackedSnapshot]:
    total = sum(columns.counts)
    if total * (MIN_META_BYTES + 8) > cursor.remaining:
        raise cursor.corrupt(f"{total} snapshots cannot be in {cursor.remaining} bytes")
    sagas = [saga for saga, count in zip(columns.sagas, columns.counts, strict=True) for _ in range(count)]
    metas, encodings = read_metas(cursor, sagas, strings)
    if len({meta.snapshot_id.int for meta in metas}) != total:
        raise cursor.corrupt("a snapshot is listed twice")
    created = [meta.created_us for meta in metas]
    expiries = read_times(cursor, created, -MAX_EXPIRY_US + 1, MAX_EXPIRY_US)
    return map(PackedSnapshot, metas, expiries, encodings)
