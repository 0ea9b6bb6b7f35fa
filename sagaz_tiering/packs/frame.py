"""A frame: snapshots of one saga, compressed together, readable on its own from one range of a pack.

Header: magic `SF`, u8 codec (1 zstd), u8 flags (1 dictionary id follows, 2 key id follows), u32 raw length,
16-byte blake2b of the stored payload, [8-byte dictionary id], [16-byte key id]; then the payload, which is,
before compression and encryption: 16-byte saga id, saga name, string table, u32 count, metadata block, u32 body
lengths, bodies.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sagaz_tiering.codec import zstd
from sagaz_tiering.codec.header import body_crc
from sagaz_tiering.codec.typed_json import Encoding
from sagaz_tiering.codec.value import MAX_BODY_BYTES, Record
from sagaz_tiering.codec.zstd import NO_DICTIONARIES, Dictionary
from sagaz_tiering.errors import CorruptPack, ErasedData
from sagaz_tiering.keys.frame_key import FrameKey, decrypt, encrypt
from sagaz_tiering.packs import wire
from sagaz_tiering.packs.entries import BuiltFrame, FrameEntry, Known, PackedSnapshot
from sagaz_tiering.snapshot import SnapshotMeta

Dated = tuple[Record, int | None]
"""A record, and when it expires (microseconds; None: never)."""

_Keyed = tuple[Sequence[Dated], FrameKey | None]
FRAME_MAGIC: Final = b"SF"

MAX_FRAME_RAW_BYTES: Final = 1024**3
"""Raw payload that no frame exceeds: larger sagas span several frames."""

LOOKED_AT_FIRST: Final = 16 * 1024 * 1024
"""Raw bytes from which a frame is looked into before memory is taken for it: four times what frames are cut at."""

LEVEL: Final = 9
"""Measured on 10 KB order snapshots: level 9 saves 3 % of the bytes over level 3 for 21 µs a snapshot; 6 saves 2 %
for 16 µs, and 12 saves no more than 9 for 31 µs on top."""

_HEADER: Final = struct.Struct(">2sBBI16s")
MIN_FRAME_BYTES: Final = _HEADER.size + 1
_NO_CHECKSUM: Final = bytes(16)
"""As the checksum in the header that is authenticated: the checksum itself is made of what is encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """What a frame says about its own payload, which starts at `length`."""

    codec: int
    dictionary_id: bytes | None
    key_id: bytes | None
    raw_length: int
    checksum: bytes
    length: int


def build_frame(
    records: Sequence[Dated], *, level: int = LEVEL, key: FrameKey | None = None, dictionary: Dictionary | None = None
) -> BuiltFrame:
    """The frame of `(record, expires_us)` pairs, which need not be sorted. CPU heavy; safe on any thread.

    With `dictionary` it is compressed with that, with `key` it is encrypted. Raises ValueError for pairs of more than
    one saga (id and name), for none, for a snapshot given twice and for more than MAX_FRAME_RAW_BYTES.
    """
    [frame] = build_frames([(records, key)], level=level, dictionary=dictionary)
    return frame


def build_frames(
    groups: Sequence[_Keyed], *, level: int = LEVEL, dictionary: Dictionary | None = None
) -> list[BuiltFrame]:
    """`build_frame` of each (records, key), compressed in one call: what they hold together must fit into memory."""
    ordered = [sorted(records, key=lambda pair: pair[0].meta.order_key, reverse=True) for records, _key in groups]
    for pairs in ordered:
        _check_input(pairs)
    raws = [frame_content([record for record, _ in pairs]) for pairs in ordered]
    if any(len(raw) > MAX_FRAME_RAW_BYTES for raw in raws):
        raise ValueError(f"{max(map(len, raws))} bytes are too many for one frame (limit {MAX_FRAME_RAW_BYTES})")
    compressed = zstd.compress_many(raws, level, dictionary)
    return [
        _built(pairs, len(raw), stored, key, dictionary)
        for pairs, raw, stored, (_records, key) in zip(ordered, raws, compressed, groups, strict=True)
    ]


def _built(
    ordered: Sequence[Dated], raw_length: int, stored: bytes, key: FrameKey | None, dictionary: Dictionary | None
) -> BuiltFrame:
    ids = {
        "dictionary_id": None if dictionary is None else dictionary.id,
        "key_id": None if key is None else key.key_id,
    }
    if key is not None:
        stored = encrypt(key, packed_header(raw_length, _NO_CHECKSUM, **ids), stored)
    checksum, meta = wire.digest(stored), ordered[0][0].meta
    payload = packed_header(raw_length, checksum, **ids) + stored
    entry = FrameEntry(
        saga_id=meta.saga_id,
        saga_name=meta.saga_name,
        offset=0,
        length=len(payload),
        raw_length=raw_length,
        checksum=checksum,
        codec=wire.CODEC_ZSTD,
        snapshots=tuple([PackedSnapshot(record.meta, expires_us, record.encoding) for record, expires_us in ordered]),
        **ids,
    )
    return BuiltFrame(payload=payload, entry=entry, key=key, dictionary=dictionary)


def packed_header(
    raw_length: int, checksum: bytes, *, dictionary_id: bytes | None = None, key_id: bytes | None = None
) -> bytes:
    """The header of a frame: what `read_frame_header` reads."""
    fixed = _HEADER.pack(FRAME_MAGIC, wire.CODEC_ZSTD, wire.flags(dictionary_id, key_id), raw_length, checksum)
    return fixed + (dictionary_id or b"") + (key_id or b"")


DISPUTED: Final = "see `sagaz-tiering quarantine list`; remove the forged object, then rebuild into an empty catalog"
DISPUTED_FRAME: Final = bytes(16)
"""As a frame's digest in the catalog: packs contradict each other about it, and none is believed."""


def frame_digest(entry: FrameEntry) -> bytes:
    """16 bytes that vouch for a whole frame: blake2b of its header, which holds the checksum of the rest."""
    header = packed_header(entry.raw_length, entry.checksum, dictionary_id=entry.dictionary_id, key_id=entry.key_id)
    return wire.digest(header)


def check_vouched(payload: bytes, *, vouched: bytes | None, key_id: bytes | None) -> FrameHeader:
    """The header of the frame that was meant: with this `frame_digest` (None: not known) and encrypted with this key.

    Raises CorruptPack for another one; the payload itself is compared when it is opened.
    """
    if vouched == DISPUTED_FRAME:
        raise CorruptPack("frame: packs contradict each other about what is in it, and none is believed", hint=DISPUTED)
    header = read_frame_header(payload)
    if header.key_id != key_id:
        found = "is not encrypted" if header.key_id is None else f"is encrypted with key {header.key_id.hex()}"
        meant = "none" if key_id is None else key_id.hex()
        raise CorruptPack(f"frame: {found}, where the catalog says {meant}: it was put in the place of another")
    if vouched is not None and wire.digest(payload[: header.length]) != vouched:
        raise CorruptPack("frame: not the one that the catalog vouches for: it was put in the place of another")
    return header


def frame_content(records: Sequence[Record]) -> bytes:
    """The payload of a frame before compression; `records` of one saga, newest first."""
    metas = [record.meta for record in records]
    strings = wire.StringTable()
    block = wire.packed_metas(metas, (record.encoding for record in records), strings)
    return b"".join(
        (
            metas[0].saga_id.bytes,
            wire.packed_text(metas[0].saga_name),
            strings.packed(),
            wire.column("I", [len(records)]),
            block,
            wire.column("I", [len(record.body) for record in records]),
            *(record.body for record in records),
        )
    )


def open_frame(
    payload: bytes, *, key: FrameKey | None = None, dictionaries: Known = NO_DICTIONARIES, most: int | None = None
) -> list[Record]:
    """The records of one frame (as `build_frame` made it), newest first; `key` opens an encrypted one.

    `dictionaries`, by id, must have the one that the header names. With `most`, a frame of more snapshots is refused,
    before memory is taken where it is large. Raises CorruptPack, or its subclass ErasedData for an encrypted frame
    without its key.
    """
    records = read_frame_content(frame_raw(payload, key=key, dictionaries=dictionaries, most=most))
    if most is not None and len(records) > most:
        raise CorruptPack(f"frame: {len(records)} snapshots, where the catalog knows of {most}")
    return records


def frame_raw(
    payload: bytes, *, key: FrameKey | None = None, dictionaries: Known = NO_DICTIONARIES, most: int | None = None
) -> bytes:
    """The payload of a frame before compression and encryption, its checksum looked at. Raises as `open_frame`."""
    header = read_frame_header(payload)
    dictionary = None if header.dictionary_id is None else dictionaries.get(header.dictionary_id)
    if header.dictionary_id is not None and dictionary is None:
        raise CorruptPack(f"frame: its dictionary {header.dictionary_id.hex()} is not known here")
    stored = verified_payload(header, payload)
    if header.key_id is not None:
        if key is None or key.key_id != header.key_id:
            raise ErasedData(f"frame: encrypted, and its key {header.key_id.hex()} is not there")
        ids = {"dictionary_id": header.dictionary_id, "key_id": header.key_id}
        stored = decrypt(key, packed_header(header.raw_length, _NO_CHECKSUM, **ids), stored)
    try:
        if header.raw_length > LOOKED_AT_FIRST:
            _look_first(stored, header.raw_length, dictionary, most)
        return zstd.decompress(stored, header.raw_length, dictionary)
    except zstd.NotZstd as exc:
        raise CorruptPack(f"frame: {exc}") from exc


def _look_first(stored: bytes, raw_length: int, dictionary: Dictionary | None, most: int | None) -> None:
    """Raise CorruptPack unless the table of a large frame accounts for its length. Takes the table's memory.

    32 KB of zstd can be a gigabyte, and whoever writes to the bucket can declare that.
    """
    size = LOOKED_AT_FIRST // 16
    while True:
        try:
            _check_head(zstd.decompress_head(stored, size, dictionary), raw_length, most)
        except _Longer as exc:
            size = max(2 * size, exc.length)
        else:
            return


def _check_head(head: bytes, raw_length: int, most: int | None) -> None:
    cursor = _Head(head, raw_length)
    _metas, _encodings, lengths = _read_table(cursor, most)
    if max(lengths) > MAX_BODY_BYTES or sum(lengths) != cursor.remaining:
        raise cursor.corrupt(f"its bodies do not make up its {raw_length} raw bytes")


class _Longer(Exception):
    """More of a frame is needed."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length


class _Head(wire.Cursor):
    """The beginning of what is `length` bytes long; raises _Longer for what is behind it."""

    def __init__(self, data: bytes, length: int) -> None:
        super().__init__(data, "frame")
        self._behind = length - len(data)

    @property
    def remaining(self) -> int:
        return super().remaining + self._behind

    def skip(self, length: int) -> int:
        if super().remaining < length <= self.remaining:
            raise _Longer(self._at + length)
        return super().skip(length)


def verified_payload(header: FrameHeader, payload: bytes) -> bytes:
    """What follows the header of a frame, if it has the checksum that the header says. Raises CorruptPack."""
    stored = payload[header.length :]
    if wire.digest(stored) != header.checksum:
        raise CorruptPack("frame: the payload does not match its checksum")
    return stored


def read_frame_header(payload: bytes) -> FrameHeader:
    """The header of a frame, whose payload need not be there. Raises CorruptPack."""
    cursor = wire.Cursor(payload, "frame")
    magic, codec, flags, raw_length, checksum = _HEADER.unpack(cursor.take(_HEADER.size))
    if magic != FRAME_MAGIC:
        raise cursor.corrupt("no frame begins here")
    if codec != wire.CODEC_ZSTD or flags & ~(wire.FLAG_DICTIONARY | wire.FLAG_KEY):
        raise CorruptPack(f"frame: codec {codec} with flags {flags:#04x} is not known", hint="upgrade sagaz-tiering")
    if not 0 < raw_length <= MAX_FRAME_RAW_BYTES:
        raise cursor.corrupt(f"{raw_length} raw bytes")
    dictionary_id = cursor.take(zstd.DICTIONARY_ID_BYTES) if flags & wire.FLAG_DICTIONARY else None
    key_id = cursor.take(wire.KEY_ID_BYTES) if flags & wire.FLAG_KEY else None
    return FrameHeader(
        codec=codec,
        dictionary_id=dictionary_id,
        key_id=key_id,
        raw_length=raw_length,
        checksum=checksum,
        length=len(payload) - cursor.remaining,
    )


def read_frame_content(raw: bytes) -> list[Record]:
    """The records of `frame_content`; checks every body's crc. Raises CorruptPack."""
    metas, encodings, lengths, at = _read_frame_table(raw)
    records = []
    for meta, encoding, length in zip(metas, encodings, lengths, strict=True):
        body = raw[at : at + length]
        at += length
        if body_crc(body) != meta.body_crc:
            raise _damaged_body(meta)
        records.append(Record(meta, encoding, body))
    return records


def check_frame_content(raw: bytes, snapshots: Sequence[PackedSnapshot]) -> bool:
    """Whether `read_frame_content` would give exactly these (which may carry attributes), newest first.

    Raises CorruptPack for what it refuses.
    """
    metas, encodings, lengths, at = _read_frame_table(raw)
    view = memoryview(raw)
    for meta, length in zip(metas, lengths, strict=True):
        if body_crc(view[at : at + length]) != meta.body_crc:
            raise _damaged_body(meta)
        at += length
    held = zip(metas, encodings, strict=True)
    return len(metas) == len(snapshots) and all(
        meta == _as_in_a_frame(snapshot.meta) and encoding == snapshot.encoding
        for (meta, encoding), snapshot in zip(held, snapshots, strict=True)
    )


def _as_in_a_frame(meta: SnapshotMeta) -> SnapshotMeta:
    return meta._replace(attributes="") if meta.attributes else meta


def _read_frame_table(raw: bytes) -> tuple[list[SnapshotMeta], list[Encoding], tuple[int, ...], int]:
    """Metas, encodings and body lengths of a frame's content, and where the first body begins."""
    cursor = wire.Cursor(raw, "frame")
    metas, encodings, lengths = _read_table(cursor, None)
    bodies_at = len(raw) - cursor.remaining
    cursor.skip(sum(lengths))
    cursor.end()
    return metas, encodings, lengths, bodies_at


def _read_table(cursor: wire.Cursor, most: int | None) -> tuple[list[SnapshotMeta], list[Encoding], tuple[int, ...]]:
    saga_id = cursor.uuids(1)[0]
    saga_name = cursor.text()
    strings = cursor.strings()
    count = cursor.count(wire.MIN_META_BYTES, "snapshots")
    if most is not None and count > most:
        raise cursor.corrupt(f"{count} snapshots, where the catalog knows of {most}")
    metas, encodings = wire.read_metas(cursor, [(saga_id, saga_name)] * count, strings)
    lengths = cursor.numbers("I", count)
    keys = [meta.order_key for meta in metas]
    if not keys or any(newer <= older for newer, older in pairwise(keys)):
        raise cursor.corrupt("snapshots are missing or out of order")
    if len({meta.snapshot_id.int for meta in metas}) != count:
        raise cursor.corrupt("a snapshot is there twice")
    return metas, encodings, lengths


def _damaged_body(meta: SnapshotMeta) -> CorruptPack:
    return CorruptPack(f"frame: the body of snapshot {meta.snapshot_id} does not match its checksum")


def _check_input(pairs: Sequence[Dated]) -> None:
    if len({(record.meta.saga_id.int, record.meta.saga_name) for record, _ in pairs}) != 1:
        raise ValueError("a frame holds the snapshots of exactly one saga (id and name)")
    if len({record.meta.snapshot_id.int for record, _ in pairs}) != len(pairs):
        raise ValueError("a frame holds a snapshot once")
    if any(expires is not None and abs(expires) >= wire.MAX_EXPIRY_US for _, expires in pairs):
        raise ValueError("expires_us is out of range")
