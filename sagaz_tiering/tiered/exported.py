"""What was read for an export, as lines of its timeline: where each came from, or why it is left out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sagaz_tiering.clock import from_micros
from sagaz_tiering.codec.value import Record
from sagaz_tiering.errors import ErasedData, SnapshotArchived, SnapshotLost, Unreadable
from sagaz_tiering.exports.manifest import LeftOut
from sagaz_tiering.exports.rows import Entry
from sagaz_tiering.snapshot import SnapshotRef, Tier
from sagaz_tiering.tiered.load import Loaded
from sagaz_tiering.tiered.merge import Copy


def exported(
    copies: Sequence[Copy], loaded: Mapping[UUID, Loaded], held: Collection[UUID], now: datetime
) -> list[tuple[Entry, Record | None]]:
    """What is exported of each, None where it is left out; `now` is when they were read."""
    entries: list[tuple[Entry, Record | None]] = []
    for copy in copies:
        ref = replace(copy.ref, held=copy.ref.snapshot_id in held)
        if ref.expires_at is not None and ref.expires_at <= now and not ref.held:
            why = "it expired while the export was made"
            entries.append((Entry(ref=ref, left_out=LeftOut.EXPIRED, why=why), None))
        else:
            entries.append(_entry(ref, loaded.get(ref.snapshot_id)))
    return entries


def end_of_portion(copies: Sequence[Copy], start: int, most: int) -> int:
    """Up to where to read from `start` on: no more than so many, and no saga or frame in parts, if it is not larger."""
    end = min(start + most, len(copies))
    whole = end
    while start < whole < len(copies) and _together(copies[whole - 1]) == _together(copies[whole]):
        whole -= 1
    return end if whole == start else whole


def _together(copy: Copy) -> tuple[object, ...]:
    return (copy.ref.saga_id, None if copy.located is None else copy.located.place)


def _entry(ref: SnapshotRef, loaded: Loaded | None) -> tuple[Entry, Record | None]:
    if loaded is None:
        return Entry(ref=ref, left_out=LeftOut.GONE, why="it was deleted while the export was made"), None
    if isinstance(loaded.record, Unreadable):
        reason, why = _reason(ref, loaded.record)
        return Entry(ref=ref, left_out=reason, why=why, **_place(loaded)), None
    meta, located = loaded.record.meta, loaded.located
    tier, storage_class = (Tier.HOT, None) if located is None else (located.ref.tier, located.ref.storage_class)
    read = SnapshotRef.of(meta, expires_us=None, tier=tier, storage_class=storage_class)
    entry = Entry(
        ref=replace(read, expires_at=ref.expires_at, held=ref.held),
        saved_at=from_micros(meta.saved_us),
        body_crc32=f"{meta.body_crc:08x}",
        **_place(loaded),
    )
    return entry, loaded.record


def _place(loaded: Loaded) -> dict[str, Any]:
    place = None if loaded.located is None else loaded.located.place
    if place is None:
        return {}
    return {
        "pack": place.object_key,
        "frame_offset": place.offset,
        "frame_length": place.length,
        "frame_digest": None if place.digest is None else place.digest.hex(),
    }


def _reason(ref: SnapshotRef, error: Unreadable) -> tuple[LeftOut, str]:
    if isinstance(error, SnapshotArchived):
        restore = f"sagaz-tiering restore --snapshot {ref.snapshot_id}"
        return LeftOut.ARCHIVED, f"in {error.storage_class}, and not restored; first: {restore}"
    if isinstance(error, ErasedData):
        return LeftOut.ERASED, str(error)
    return LeftOut.LOST if isinstance(error, SnapshotLost) else LeftOut.DAMAGED, str(error)
