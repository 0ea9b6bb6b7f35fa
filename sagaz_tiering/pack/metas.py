"""The block of snapshot metadata that frames and footers share.

Columns, not rows, and times as differences from `created_us`: on order sagas that takes a footer from 45 to 34
bytes a snapshot once compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from sagaz_tiering.codec import MAX_US, MIN_US, NO_EXPIRY_US
from sagaz_tiering.pack.wire import Cursor, StringTable, column
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.typed_json import Encoding

MAX_EXPIRY_US: Final = 2**62
"""Effective expiries lie between plus and minus this, so that the difference from any created_us is an i64."""

MIN_META_BYTES: Final = 16 + 3 * 8 + 4 * 4 + 1
"""What one snapshot takes in the block."""


def packed_metas(metas: Sequence[SnapshotMeta], encodings: Iterable[Encoding], strings: StringTable) -> bytes:
    """The block for `metas`, without the sagas that they belong to."""
    return b"".join(
        (
            b"".join(meta.snapshot_id.bytes for meta in metas),
            column("q", [meta.created_us for meta in metas]),
            packed_times(metas, [meta.saved_us for meta in metas]),
            packed_times(metas, [meta.retention_us for meta in metas]),
            column("i", [meta.step_index for meta in metas]),
            column("I", [strings.index(meta.step_name) for meta in metas]),
            column("I", [strings.index(meta.status) for meta in metas]),
            column("I", [meta.body_crc for meta in metas]),
            bytes(encodings),
        )
    )


def packed_times(metas: Sequence[SnapshotMeta], moments: Sequence[int | None]) -> bytes:
    """A column of times, each as its difference from its snapshot's created_us; 2^63-1 for None (never)."""
    pairs = zip(metas, moments, strict=True)
    return column("q", [NO_EXPIRY_US if at is None else at - meta.created_us for meta, at in pairs])


def read_metas(
    cursor: Cursor, sagas: Sequence[tuple[UUID, str]], strings: Sequence[str]
) -> tuple[list[SnapshotMeta], list[Encoding]]:
    """The rows of `packed_metas`; `sagas` is the saga of each row. Raises CorruptPack."""
    count = len(sagas)
    ids = cursor.uuids(count)
    created = cursor.numbers("q", count)
    _check_range(cursor, created, MIN_US, MAX_US)
    saved = [created_us + delta for created_us, delta in zip(created, cursor.numbers("q", count), strict=True)]
    _check_range(cursor, saved, MIN_US, MAX_US)
    retention = read_times(cursor, created, MIN_US, MAX_US)
    steps = cursor.numbers("i", count)
    step_names = cursor.picked(strings, count)
    statuses = cursor.picked(strings, count)
    crcs = cursor.numbers("I", count)
    metas = [
        SnapshotMeta(snapshot_id, saga_id, saga_name, step_name, step, status, created_us, saved_us, retention_us, crc)
        for snapshot_id, (saga_id, saga_name), step_name, step, status, created_us, saved_us, retention_us, crc in zip(
            ids, sagas, step_names, steps, statuses, created, saved, retention, crcs, strict=True
        )
    ]
    try:
        return metas, list(map(Encoding, cursor.take(count)))
    except ValueError as exc:
        raise cursor.corrupt("unknown encoding of a body") from exc


def read_times(cursor: Cursor, created: Sequence[int], low: int, high: int) -> list[int | None]:
    """The column of `packed_times`, for snapshots created at `created`; times must be in [low, high)."""
    deltas = cursor.numbers("q", len(created))
    times = [None if d == NO_EXPIRY_US else at + d for at, d in zip(created, deltas, strict=True)]
    _check_range(cursor, [at for at in times if at is not None], low, high)
    return times


def _check_range(cursor: Cursor, times: Sequence[int], low: int, high: int) -> None:
    if times and not (low <= min(times) and max(times) < high):
        raise cursor.corrupt("a time is out of range")
