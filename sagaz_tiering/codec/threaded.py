"""Snapshots to stored values and back, large ones on a thread so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from sagaz_tiering.codec import value as codec
from sagaz_tiering.codec.header import raw_length
from sagaz_tiering.codec.typed_json import LARGE, Shape
from sagaz_tiering.codec.unsupported import Texts
from sagaz_tiering.codec.value import (
    MAX_SNAPSHOT_BYTES,
    Header,
    Record,
    body_shape,
    decode,
    encode,
    from_value,
    to_value,
)
from sagaz_tiering.codec.zstd import NO_DICTIONARIES, Dictionary
from sagaz_tiering.errors import NotSerializable
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta

LARGE_BYTES = LARGE
"""A value or body from this size on is worked on by a thread."""


async def encode_value(
    snapshot: SagaSnapshot,
    *,
    saved_us: int,
    level: int | None,
    dictionary: Dictionary | None = None,
    max_bytes: int = MAX_SNAPSHOT_BYTES,
    texts: Texts | None = None,
    attributes: str = "",
) -> tuple[SnapshotMeta, bytes]:
    """The meta and the value (`codec.value.to_value`) of a snapshot, saved at `saved_us`; `level` None: not compressed.

    `attributes`: its column of them, kept with both.
    `texts` keeps text in place of what cannot be stored, else that raises NotSerializable. Raises SnapshotTooLarge, or
    InvalidSnapshot if the snapshot is changed meanwhile.
    """
    record = await encode_record(snapshot, saved_us=saved_us, max_bytes=max_bytes, texts=texts, attributes=attributes)
    if len(record.body) >= LARGE_BYTES:
        return record.meta, await asyncio.to_thread(to_value, record, level=level, dictionary=dictionary)
    return record.meta, to_value(record, level=level, dictionary=dictionary)


async def encode_record(
    snapshot: SagaSnapshot,
    *,
    saved_us: int,
    max_bytes: int = MAX_SNAPSHOT_BYTES,
    texts: Texts | None = None,
    attributes: str = "",
) -> Record:
    """The record of a snapshot. Raises what `encode_value` raises."""
    shape = body_shape(snapshot)
    try:
        if shape is Shape.LARGE:
            work = partial(encode, saved_us=saved_us, max_bytes=max_bytes, shape=shape, attributes=attributes)
            return await asyncio.to_thread(work, snapshot)
        return encode(snapshot, saved_us=saved_us, max_bytes=max_bytes, shape=shape, attributes=attributes)
    except NotSerializable:
        if texts is None:
            raise
    changed = await texts.instead(snapshot, max_bytes)
    return await encode_record(changed, saved_us=saved_us, max_bytes=max_bytes, attributes=attributes)


async def decode_value(
    value: bytes, header: Header | None = None, dictionaries: Mapping[bytes, Dictionary] = NO_DICTIONARIES
) -> SagaSnapshot:
    """The snapshot in a value; `header` is its `codec.value.read_header`, if that is known.

    `dictionaries`, by id, must have the one that the header names. Raises CorruptRecord.
    """
    if _is_small(value):
        return codec.decode_value(value, header, dictionaries)
    return await asyncio.to_thread(codec.decode_value, value, header, dictionaries)


async def record_in(value: bytes, header: Header, dictionaries: Mapping[bytes, Dictionary]) -> Record:
    """The record in a value; arguments and errors as of `decode_value`."""
    if _is_small(value):
        return from_value(value, header, dictionaries)
    return await asyncio.to_thread(from_value, value, header, dictionaries)


async def decode_record(record: Record) -> SagaSnapshot:
    """The snapshot of a record. Raises CorruptRecord."""
    return decode(record) if len(record.body) < LARGE_BYTES else await asyncio.to_thread(decode, record)


def is_large(snapshot: SagaSnapshot) -> bool:
    """Whether encoding may take long; looks at a bounded number of values."""
    return body_shape(snapshot) is Shape.LARGE


def _is_small(value: bytes) -> bool:
    """Also when decompressed, as its header says, if there is one."""
    return len(value) < LARGE_BYTES and raw_length(value) < LARGE_BYTES
