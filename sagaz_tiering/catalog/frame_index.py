"""Places: which snapshot is in which frame of which pack, written a whole pack at a time.

Rows go in by binary COPY, packed here: on packs of sixty thousand snapshots that is a tenth of the time of rows that
the driver packs.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from functools import partial
from itertools import islice
from struct import Struct
from typing import Final
from uuid import UUID

import asyncpg

from sagaz_tiering.catalog.durable import lock_rows
from sagaz_tiering.catalog.erasures import note_late_pack
from sagaz_tiering.catalog.locations import buried
from sagaz_tiering.catalog.rows import columns
from sagaz_tiering.catalog.saga_keys import keys_there
from sagaz_tiering.clock import from_micros
from sagaz_tiering.drivers.postgresql.pool import Connection, Database
from sagaz_tiering.drivers.postgresql.queries import load, to_column
from sagaz_tiering.errors import LeaseLost, SagazTieringError
from sagaz_tiering.packs.attributes import united
from sagaz_tiering.packs.entries import FrameEntry, Frames
from sagaz_tiering.packs.frame import frame_digest
from sagaz_tiering.snapshot import SnapshotMeta

_SQL = load(__package__, "frame_index")

_EPOCH_US: Final = 946_684_800_000_000
"""PostgreSQL counts the microseconds of a timestamptz from the year 2000."""
_ROWS_AT_ONCE: Final = 2000
_COPY_BEGIN: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END: Final = b"\xff\xff"
# Each field after its length in bytes (-1: NULL), each row after its number of fields.
_PLACE: Final = Struct(">hiqiqiiiiiii16s")
_PLACE_FOR_EVER: Final = Struct(">hiqiiiiiiii16s")


class AlreadyPacked(SagazTieringError):
    """Snapshots of a pack that are in other packs already: whoever publishes it decides which copy counts."""

    def __init__(self, message: str, snapshot_ids: Collection[UUID]) -> None:
        super().__init__(message)
        self.snapshot_ids = frozenset(snapshot_ids)


_Step = tuple[str, str, int, str]
_Steps = Mapping[_Step, int]


def step_of(meta: SnapshotMeta) -> _Step:
    """What makes two snapshots share a row of `steps`."""
    return (meta.saga_name, meta.step_name, meta.step_index, meta.status)


def step_digest(step: _Step) -> bytes:
    """The name of that row."""
    parts = (step[0], step[1], str(step[2]), step[3])
    packed = b"".join(len(raw := part.encode("utf-8", "surrogatepass")).to_bytes(4, "big") + raw for part in parts)
    return hashlib.blake2b(packed, digest_size=16).digest()


async def steps_of(db: Database, frames: Frames) -> _Steps:
    """Ids in `steps`, the table of the distinct (saga name, step name, step index, status); made where missing.

    Asked anew each time: ids that were remembered would be wrong after the database was restored from a dump.
    """
    steps = {step_of(meta) for frame in frames for meta, _, _ in frame.snapshots}
    named = {step_digest(step): step for step in steps}
    rows = ((digest, *map(to_column, s[:2]), s[2], to_column(s[3])) for digest, s in named.items())
    await db.execute(_SQL["add_steps"], *columns(5, rows))
    return {named[row["digest"]]: row["step_id"] for row in await db.fetch(_SQL["step_ids"], list(named))}


async def dead_among(conn: Connection, frames: Frames, pack_id: int) -> set[UUID]:
    """Of the snapshots in a pack, those that were deleted since they were saved; erasures learn of their bytes."""
    if not await conn.fetchval(_SQL["any_tombstones"]):
        return set()
    dead = await buried(conn, [meta for frame in frames for meta, _, _ in frame.snapshots])
    if dead:
        await _note_late_frames(conn, frames, dead, pack_id)
    return dead


async def _note_late_frames(conn: Connection, frames: Frames, dead: set[UUID], pack_id: int) -> None:
    """Frames with bytes of what was deleted on the way; those whose key was destroyed with it hold nothing readable."""
    saved = ((frame, [m.saved_us for m, _, _ in frame.snapshots if m.snapshot_id in dead]) for frame in frames)
    late = [(frame, min(times)) for frame, times in saved if times]
    there = await keys_there(conn, {frame.key_uuid for frame, _ in late if frame.key_uuid is not None})
    oldest: dict[UUID, int] = {}
    for frame, saved_us in late:
        if frame.key_uuid is None or frame.key_uuid in there:
            oldest[frame.saga_id] = min(saved_us, oldest.get(frame.saga_id, saved_us))
    if oldest:
        await note_late_pack(conn, {saga_id: from_micros(us) for saga_id, us in oldest.items()}, pack_id)


async def check_keys(conn: Connection, frames: Frames, left_out: Collection[UUID]) -> None:
    """An erasure that came between took the key; what was saved after it must be encrypted with a new one."""
    needed = {
        frame.key_uuid
        for frame in frames
        if frame.key_uuid is not None and any(meta.snapshot_id not in left_out for meta, _, _ in frame.snapshots)
    }
    if needed and needed - await keys_there(conn, needed):
        raise LeaseLost("a saga was erased and saved again while it was packed; nothing was published, repeat the job")


async def insert_frames(conn: Connection, pack_id: int, frames: Frames, left_out: Collection[UUID] = ()) -> None:
    """Rows for the frames of a pack, numbered in order, with the attributes of the snapshots that are not left out."""
    names = ("saga_id", "pack_id", "frame_no", "byte_offset", "byte_length", "key_id", "digest", "attributes")
    rows = []
    for number, f in enumerate(frames):
        digest = UUID(bytes=frame_digest(f))
        rows.append((f.saga_id, pack_id, number, f.offset, f.length, f.key_uuid, digest, _attributes(f, left_out)))
    await conn.copy_records_to_table("frames", schema_name="sagaz_tiering", columns=names, records=rows)


def _attributes(frame: FrameEntry, left_out: Collection[UUID]) -> str | None:
    carried = [(m.snapshot_id, m.attributes) for m, _, _ in frame.snapshots if m.snapshot_id not in left_out]
    return to_column(united(carried)) or None


async def insert_places(
    conn: Connection, pack_id: int, frames: Frames, steps: _Steps, left_out: Collection[UUID], *, replace: bool
) -> int:
    """Rows for a pack's frames and snapshots; how many snapshots.

    Those that have a place in another pack: with `replace` it is given up, else AlreadyPacked is raised.
    """
    await insert_frames(conn, pack_id, frames, left_out)
    rows = partial(_packed_places, pack_id, frames, steps, left_out)
    try:
        async with conn.transaction():
            return await _copy_places(conn, rows())
    except asyncpg.UniqueViolationError as exc:
        ids = list({meta.snapshot_id for frame in frames for meta, _, _ in frame.snapshots}.difference(left_out))
        if not replace:
            taken = {row["snapshot_id"] for row in await conn.fetch(_SQL["taken"], ids)}
            raise AlreadyPacked(f"{len(taken)} snapshots of pack {pack_id} are in other packs", taken) from exc
        await lock_rows(conn, ids)  # of which the nearer ones are dropped later on
        await conn.execute(_SQL["drop_superseded"], ids)
        return await _copy_places(conn, rows())


async def _copy_places(conn: Connection, rows: Iterator[bytes]) -> int:
    count = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal count
        yield _COPY_BEGIN
        while piece := list(islice(rows, _ROWS_AT_ONCE)):
            count += len(piece)
            yield b"".join(piece)
        yield _COPY_END

    names = ("created_at", "expires_at", "pack_id", "frame_no", "step_id", "snapshot_id")
    await conn.copy_to_table("snapshots", schema_name="sagaz_tiering", columns=names, source=pieces(), format="binary")
    return count


def _packed_places(pack_id: int, frames: Frames, steps: _Steps, left_out: Collection[UUID]) -> Iterator[bytes]:
    for number, frame in enumerate(frames):
        for meta, expires, _ in frame.snapshots:
            if left_out and meta.snapshot_id in left_out:
                continue
            created, step, raw_id = meta.created_us - _EPOCH_US, steps[step_of(meta)], meta.snapshot_id.bytes
            if expires is None:
                yield _PLACE_FOR_EVER.pack(6, 8, created, -1, 4, pack_id, 4, number, 4, step, 16, raw_id)
            else:
                yield _PLACE.pack(6, 8, created, 8, expires - _EPOCH_US, 4, pack_id, 4, number, 4, step, 16, raw_id)
