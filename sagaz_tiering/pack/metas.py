"""The block of snapshot metadata that frames and footers share.

Columns, not rows, and times as differences from `created_us`: on order sagas that takes a footer from 45 to 34
bytes a snapshot once compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from operator import add, sub
from struct import Struct
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

_ENCODINGS: Final = {int(encoding): encoding for encoding in Encoding}


@lru_cache(maxsize=256)
def _numbers(count: int) -> Struct:
    """All that is not an id: created, saved, retention, step index, step name, status, crc, encoding; by column."""
    return Struct(f">{3 * count}q{count}i{3 * count}I{count}B")


def packed_metas(metas: Sequence[SnapshotMeta], encodings: Iterable[Encoding], strings: StringTable) -> bytes:
    """The block for `metas`, without the sagas that they belong to. Raises ValueError for what does not fit."""
    if not metas:
        return b""
    ids, _, _, step_names, steps, statuses, created, saved, retention, crcs = zip(*metas, strict=True)
    return b"".join([snapshot_id.bytes for snapshot_id in ids]) + column(
        _numbers(len(metas)),
        (
            *created,
            *map(sub, saved, created),
            *[NO_EXPIRY_US if until is None else until - at for until, at in zip(retention, created, strict=True)],
            *steps,
            *map(strings.index, step_names),
            *map(strings.index, statuses),
            *crcs,
            *encodings,
        ),
    )


def packed_times(metas: Sequence[SnapshotMeta], moments: Sequence[int | None]) -> bytes:
    """A column of times, each as its difference from its snapshot's created_us; 2^63-1 for None (never)."""
    pairs = zip(metas, moments, strict=True)
    return column("q", [NO_EXPIRY_US if at is None else at - meta.created_us for meta, at in pairs])


def read_metas(
    cursor: Cursor, sagas: Sequence[tuple[UUID, str]], strings: Sequence[str]
) -> tuple[list[SnapshotMeta], list[Encoding]]:
    """The rows of `packed_metas`; `sagas` is the saga of each row. Raises CorruptPack."""
    n = len(sagas)
    ids = cursor.uuids(n)
    layout = _numbers(n)
    numbers = layout.unpack(cursor.take(layout.size))
    created, steps, names, crcs = numbers[:n], numbers[3 * n : 4 * n], numbers[4 * n : 6 * n], numbers[6 * n : 7 * n]
    _check_range(cursor, created, MIN_US, MAX_US)
    saved = tuple(map(add, created, numbers[n : 2 * n]))
    _check_range(cursor, saved, MIN_US, MAX_US)
    retention = _times(cursor, created, numbers[2 * n : 3 * n], MIN_US, MAX_US)
    texts = cursor.picked(strings, names)
    try:
        encodings = [_ENCODINGS[number] for number in numbers[7 * n :]]
    except KeyError as exc:
        raise cursor.corrupt("unknown encoding of a body") from exc
    saga_ids, saga_names = zip(*sagas, strict=True) if n else ((), ())
    rows = map(SnapshotMeta, ids, saga_ids, saga_names, texts[:n], steps, texts[n:], created, saved, retention, crcs)
    return list(rows), encodings


def read_times(cursor: Cursor, created: Sequence[int], low: int, high: int) -> list[int | None]:
    """The column of `packed_times`, for snapshots created at `created`; times must be in [low, high)."""
    return _times(cursor, created, cursor.numbers("q", len(created)), low, high)


def _times(cursor: Cursor, created: Sequence[int], deltas: Sequence[int], low: int, high: int) -> list[int | None]:
    if deltas.count(NO_EXPIRY_US) == len(deltas):
        return list(repeat(None, len(deltas)))
    times = [None if d == NO_EXPIRY_US else at + d for at, d in zip(created, deltas, strict=True)]
    _check_range(cursor, [at for at in times if at is not None], low, high)
    return times


def _check_range(cursor: Cursor, times: Sequence[int], low: int, high: int) -> None:
    if times and not (low <= min(times) and max(times) < high):
        raise cursor.corrupt("a time is out of range")
