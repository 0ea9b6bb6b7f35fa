"""Snapshots to stored values and back, large ones on a thread so that the event loop goes on."""

from __future__ import annotations

import asyncio

from sagaz_tiering.codec import MAX_SNAPSHOT_BYTES, Record, decode, encode, from_value, to_value
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta

LARGE_BYTES = 256 * 1024
"""A value or body from this size on is worked on by a thread."""

_MANY_ITEMS = 20_000


async def encode_value(
    snapshot: SagaSnapshot, *, saved_us: int, level: int | None, max_bytes: int = MAX_SNAPSHOT_BYTES
) -> tuple[SnapshotMeta, bytes]:
    """The meta and the value (`codec.to_value`) of a snapshot, saved at `saved_us`; `level` None: not compressed.

    Raises NotSerializable, SnapshotTooLarge.
    """

    def work() -> tuple[SnapshotMeta, bytes]:
        record = encode(snapshot, saved_us=saved_us, max_bytes=max_bytes)
        return record.meta, to_value(record, level=level)

    return await asyncio.to_thread(work) if is_large(snapshot) else work()


async def encode_record(snapshot: SagaSnapshot, *, saved_us: int, max_bytes: int = MAX_SNAPSHOT_BYTES) -> Record:
    """The record of a snapshot. Raises NotSerializable, SnapshotTooLarge."""
    if is_large(snapshot):
        return await asyncio.to_thread(encode, snapshot, saved_us=saved_us, max_bytes=max_bytes)
    return encode(snapshot, saved_us=saved_us, max_bytes=max_bytes)


async def decode_value(value: bytes) -> SagaSnapshot:
    """The snapshot in a value. Raises CorruptRecord."""
    if len(value) < LARGE_BYTES // 8:
        return decode(from_value(value))
    return await asyncio.to_thread(lambda: decode(from_value(value)))


def is_large(snapshot: SagaSnapshot) -> bool:
    """Whether encoding may take long; looks at a bounded number of values."""
    items, size = 0, 0
    todo: list[object] = [snapshot.context, snapshot.completed_steps, snapshot.external_refs]
    while todo:
        item = todo.pop()
        kind = type(item)
        if kind is dict:
            todo += item.values()  # type: ignore[attr-defined]  # exactly a dict
            items += len(item)  # type: ignore[arg-type]
        elif kind in (list, tuple, set, frozenset):
            todo += item  # type: ignore[arg-type]  # one of these
            items += len(item)  # type: ignore[arg-type]
        elif kind in (str, bytes, bytearray):
            size += len(item)  # type: ignore[arg-type]
        if items > _MANY_ITEMS or size > LARGE_BYTES:
            return True
    return False
