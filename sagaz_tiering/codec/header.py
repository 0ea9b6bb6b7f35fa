"""The fixed fields, the names and the checksum of a stored value's header, of which `codec.value` has the layout.

Fields can be asked for at their place, without reading the header: for many values that need no more. The names:
saga name, step name, status: each u32 length + UTF-8 (surrogatepass), then, if the flag says so, a column of
attributes (see `attributes`) in UTF-8 (surrogatepass) + u16 its length.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final
from uuid import UUID

from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SnapshotMeta, uuid_of

try:
    from isal.isal_zlib import crc32  # ten times as fast (wheels exist for x86-64 and 64-bit ARM)
except ImportError:  # the same polynomial, the same results
    from zlib import crc32

BODY_RAW: Final = 0
BODY_ZSTD: Final = 1
BODY_ZSTD_DICTIONARY: Final = 2

FLAG_IN_PACK: Final = 1
FLAG_ATTRIBUTES: Final = 2

OFFSET_FORMAT: Final = 0
OFFSET_BODY_CODEC: Final = 1
OFFSET_ENCODING: Final = 2
OFFSET_FLAGS: Final = 3
OFFSET_HEADER_LENGTH: Final = 4
OFFSET_SAVED_US: Final = 8
OFFSET_CREATED_US: Final = 16
OFFSET_RETENTION_US: Final = 24
OFFSET_STEP_INDEX: Final = 32
OFFSET_RAW_LENGTH: Final = 36
OFFSET_BODY_CRC: Final = 40
OFFSET_DICTIONARY_ID: Final = 44
OFFSET_SNAPSHOT_ID: Final = 52
OFFSET_SAGA_ID: Final = 68
OFFSET_NAMES: Final = 84

_U32: Final = struct.Struct(">I")
_U16: Final = struct.Struct(">H")
_SHORT: Final = 512
_PIECE: Final = 5 * 1024
_ORDINARY: Final = 64 * 1024
_SIGN: Final = 0x80
"""Members hold steps so that they sort: the sign is the other way round."""
_WITH_DICTIONARY: Final = bytes([BODY_ZSTD_DICTIONARY])


def raw_length(value: bytes) -> int:
    """What a value says its body's length is, not compressed; 0 for one that is too short to tell."""
    return int.from_bytes(value[OFFSET_RAW_LENGTH : OFFSET_RAW_LENGTH + 4], "big")


def dictionary_id(value: bytes) -> bytes | None:
    """The dictionary that a value says it needs, if any."""
    if value[OFFSET_BODY_CODEC : OFFSET_BODY_CODEC + 1] != _WITH_DICTIONARY:
        return None
    return value[OFFSET_DICTIONARY_ID:OFFSET_SNAPSHOT_ID]


def is_in_pack(value: bytes) -> bool:
    """Whether a value says that a pack holds it too."""
    return len(value) > OFFSET_FLAGS and bool(value[OFFSET_FLAGS] & FLAG_IN_PACK)


def stands_for(value: bytes, saga: bytes, member: bytes) -> bool:
    """Whether a value says it is of this saga, and of the snapshot and step of this member of the saga's index."""
    return (
        value[OFFSET_SNAPSHOT_ID:OFFSET_NAMES] == member[4:] + saga
        and value[OFFSET_STEP_INDEX] ^ _SIGN == member[0]
        and value[OFFSET_STEP_INDEX + 1 : OFFSET_RAW_LENGTH] == member[1:4]
    )


def snapshot_id(value: bytes) -> UUID | None:
    """Which snapshot a value says it is of; None for one that is too short to tell."""
    raw = value[OFFSET_SNAPSHOT_ID:OFFSET_SAGA_ID]
    return uuid_of(raw) if len(raw) == 16 else None


def write_names(meta: SnapshotMeta) -> bytes:
    """The bytes; with attributes where the meta has some."""
    texts = meta.saga_name, meta.step_name, meta.status
    names = _known_bytes(*texts) if sum(map(len, texts)) <= _SHORT else _bytes(*texts)
    if not meta.attributes:
        return names
    attributes = meta.attributes.encode("utf-8", "surrogatepass")
    return b"".join((names, attributes, _U16.pack(len(attributes))))


def read_names(raw: bytes, *, with_attributes: bool) -> tuple[str, str, str, str]:
    """Saga name, step name, status and column of attributes. Raises CorruptRecord."""
    attributes = ""
    if with_attributes:
        try:
            size = _U16.unpack_from(raw, len(raw) - _U16.size)[0] + _U16.size
            attributes = raw[-size : -_U16.size].decode("utf-8", "surrogatepass")
        except (struct.error, UnicodeDecodeError) as exc:
            raise CorruptRecord("a stored value's attributes are damaged") from exc
        if not attributes or size > len(raw):
            raise CorruptRecord("a stored value's attributes are damaged")
        raw = raw[:-size]
    saga_name, step_name, status = _known(raw) if len(raw) <= _SHORT else _read(raw)
    return saga_name, step_name, status, attributes


def _bytes(*texts: str) -> bytes:
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join([_U32.pack(len(each)) + each for each in raw])


def _read(raw: bytes) -> tuple[str, str, str]:
    names, at = [], 0
    try:
        for _ in range(3):
            start = at + _U32.size
            at = start + _U32.unpack_from(raw, at)[0]
            names.append(raw[start:at].decode("utf-8", "surrogatepass"))
    except (struct.error, UnicodeDecodeError) as exc:
        raise CorruptRecord("a stored value's names are damaged") from exc
    if at != len(raw):
        raise CorruptRecord("a stored value's names do not end where its header does")
    return names[0], names[1], names[2]


_known: Final = lru_cache(maxsize=4096)(_read)
_known_bytes: Final = lru_cache(maxsize=4096)(_bytes)
"""Few names differ, and many values are written and read: the last ones are remembered, if they are short."""


def body_crc(body: bytes | memoryview) -> int:
    """CRC-32 of a body.

    Both libraries let other threads run for anything over 5 KiB, and then have to wait for them: of an ordinary body
    that takes longer than the sum, so it is given in pieces.
    """
    if not _PIECE < len(body) <= _ORDINARY:
        return crc32(body)
    view, crc = memoryview(body), 0
    for at in range(0, len(body), _PIECE):
        crc = crc32(view[at : at + _PIECE], crc)
    return crc
