"""What a stored value tells at a fixed place, without reading its header: for many values that need no more."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sagaz_tiering.codec.value import (
    BODY_ZSTD_DICTIONARY,
    FLAG_IN_PACK,
    OFFSET_BODY_CODEC,
    OFFSET_DICTIONARY_ID,
    OFFSET_FLAGS,
    OFFSET_NAMES,
    OFFSET_RAW_LENGTH,
    OFFSET_SAGA_ID,
    OFFSET_SNAPSHOT_ID,
    OFFSET_STEP_INDEX,
)
from sagaz_tiering.snapshot import uuid_of

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
