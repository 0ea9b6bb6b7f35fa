"""Packs: from the first row (`UPLOADING`) over `ACTIVE` and `RETIRING` to the tombstone (`DELETED`).

Every change runs in one transaction that checks the job's lease and the pack's state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from sagaz_tiering.catalog.durable import moment
from sagaz_tiering.catalog.erasures import note_late_pack
from sagaz_tiering.catalog.holds import hold_still
from sagaz_tiering.catalog.leases import Lease, fence
from sagaz_tiering.catalog.locations import ARCHIVE_LOCK, buried
from sagaz_tiering.catalog.saga_keys import keys_there
from sagaz_tiering.clock import from_micros
from sagaz_tiering.db.database import Connection, Database, affected
from sagaz_tiering.db.queries import load
from sagaz_tiering.db.text import to_column
from sagaz_tiering.errors import LeaseLost
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage_class import StorageClass

_SQL = load("packs")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPack:
    """What is known of a pack before its bytes are uploaded."""

    pack_uuid: UUID
    object_key: str
    storage_class: StorageClass
    policy: str
    retention_revision: str
    byte_size: int
    snapshot_count: int
    sha256: bytes
    min_created_us: int
    max_created_us: int
    max_clock_us: int
    next_expiry_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFrame:
    """A frame of a pack and the snapshots in it, each with its effective expiry (microseconds, None: never).

    `key_id` is the data key that it is encrypted with (None: it is not).
    """

    saga_id: UUID
    offset: int
    length: int
    snapshots: tuple[tuple[SnapshotMeta, int | None], ...]
    key_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A row of the table `packs`."""

    pack_id: int
    pack_uuid: UUID
    object_key: str
    state: str
    storage_class: StorageClass
    policy: str
    retention_revision: str
    byte_size: int
    snapshot_count: int
    live_count: int
    sha256: bytes
    min_created_at: datetime
    max_created_at: datetime
    max_clock_at: datetime
    next_expiry_at: datetime | None
    created_at: datetime
    class_since: datetime
    evicted_at: datetime | None
    retired_at: datetime | None
    delete_after: datetime | None
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTotals:
    """Packs of one storage class in one state."""

    storage_class: StorageClass
    state: str
    packs: int
    bytes: int
    snapshots: int
    packed: int


class Packs:
    """The tables `packs`, `frames`, `snapshots` (for writing) and `strays`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def start(self, pack: NewPack, lease: Lease, now: datetime) -> int:
        """Announce an upload; the pack's id."""
        async with self._db.transaction() as conn:
            await fence(conn, lease)
            return int(await conn.fetchval(_SQL["start"], *_columns(pack), lease.name, lease.epoch, now))

    async def activate(self, pack_id: int, frames: Sequence[PlacedFrame], lease: Lease, now: datetime) -> int:
        """Publish an uploaded pack: its snapshots are there from this commit on, and their durable rows go.

        Saves that were deleted meanwhile are not published. Places in older packs are replaced. Returns the
        number of snapshots published. Raises LeaseLost (nothing written) if the lease is gone, the pack was given
        up, or it holds a save that is only readable with a key that was destroyed meanwhile.
        """
        steps = await self._steps([meta for frame in frames for meta, _ in frame.snapshots])
        async with self._db.transaction() as conn:
            await fence(conn, lease)
            await conn.execute("SELECT pg_advisory_xact_lock($1)", ARCHIVE_LOCK)
            rows = await _live_rows(conn, frames, steps, pack_id)
            await _check_keys(conn, frames, rows)
            await _insert_places(conn, pack_id, frames, rows)
            if affected(await conn.execute(_SQL["activate"], pack_id, len(rows), now)) != 1:
                raise LeaseLost(f"pack {pack_id} was given up before its upload ended; nothing was published")
            metas = [meta for frame in frames for meta, _ in frame.snapshots]
            await conn.execute(
                _SQL["drop_durable"],
                [meta.snapshot_id for meta in metas],
                [from_micros(meta.saved_us) for meta in metas],
                [meta.body_crc for meta in metas],
            )
        return len(rows)

    async def known(self, pack_uuids: Sequence[UUID]) -> set[UUID]:
        """Of these packs, the ones that have a row."""
        return {row["pack_uuid"] for row in await self._db.fetch(_SQL["known"], list(pack_uuids))}

    async def adopt(self, pack: NewPack, frames: Sequence[PlacedFrame], lease: Lease, now: datetime) -> int:
        """A pack that is in the bucket already becomes `ACTIVE` with these snapshots; how many. One transaction."""
        steps = await self._steps([meta for frame in frames for meta, _ in frame.snapshots])
        async with self._db.transaction() as conn:
            await fence(conn, lease)
            await conn.execute("SELECT pg_advisory_xact_lock($1)", ARCHIVE_LOCK)
            pack_id = int(await conn.fetchval(_SQL["start"], *_columns(pack), lease.name, lease.epoch, now))
            rows = await _live_rows(conn, frames, steps, pack_id)
            await _insert_places(conn, pack_id, frames, rows)
            await conn.execute(_SQL["activate"], pack_id, len(rows), now)
            await conn.execute(_SQL["evicted"], pack_id, now)
        return len(rows)

    async def _steps(self, metas: Sequence[SnapshotMeta]) -> dict[bytes, int]:
        """Ids of the distinct (saga name, step name, step index, status) combinations, made where missing.

        Asked anew each time: ids that were remembered would be wrong after the database was restored from a dump.
        """
        distinct = {step_digest(meta): meta for meta in metas}
        await self._db.execute(
            _SQL["add_steps"],
            list(distinct),
            [to_column(meta.saga_name) for meta in distinct.values()],
            [to_column(meta.step_name) for meta in distinct.values()],
            [meta.step_index for meta in distinct.values()],
            [to_column(meta.status) for meta in distinct.values()],
        )
        return {row["digest"]: row["step_id"] for row in await self._db.fetch(_SQL["step_ids"], list(distinct))}

    async def abandon(self, pack_id: int, lease: Lease, now: datetime) -> bool:
        """Give up an upload; its bytes, if any ever appear, are collected. False if it is not uploading."""
        return await self._change(_SQL["abandon"], lease, pack_id, now)

    async def evicted(self, pack_id: int, now: datetime) -> None:
        """Note that the hot copies are gone."""
        await self._db.execute(_SQL["evicted"], pack_id, now)

    async def movable(
        self, policy: str, youngest_before: datetime, settled: Sequence[StorageClass], after: int, limit: int
    ) -> list[Pack]:
        """Active packs of a policy, all of it older than that, and not in one of the `settled` classes."""
        classes = [c.value for c in settled]
        return await self._packs("movable", policy, youngest_before, classes, after, limit)

    async def moved(self, pack_id: int, storage_class: StorageClass, lease: Lease, now: datetime) -> bool:
        """The object is in its new class now."""
        return await self._change(_SQL["moved"], lease, pack_id, storage_class.value, now)

    async def expiring(self, now: datetime, retention_revision: str, after: int, limit: int) -> list[Pack]:
        """Active packs with something expired or nothing alive."""
        return await self._packs("expiring", now, retention_revision, after, limit)

    async def count_expired(self, pack_id: int, now: datetime) -> int:
        """How many snapshots of a pack have stopped existing by `now`."""
        return int(await self._db.fetchval(_SQL["count_expired"], pack_id, now))

    async def expire_batch(self, pack_id: int, lease: Lease, now: datetime, limit: int) -> int:
        """Unpublish up to `limit` expired snapshots of a pack that no legal hold covers; how many went."""
        async with self._db.transaction() as conn:
            await fence(conn, lease)
            await hold_still(conn)
            return int(await conn.fetchval(_SQL["expire_batch"], pack_id, now, limit))

    async def settle_expiry(self, pack_id: int, lease: Lease, now: datetime, delete_after: datetime) -> bool:
        """After the last batch: note the next expiry, and retire the pack if nothing in it lives. True if retired."""
        async with self._db.transaction() as conn:
            await fence(conn, lease)
            await conn.execute(_SQL["settle_expiry"], pack_id)
            return affected(await conn.execute(_SQL["retire"], pack_id, now, delete_after)) == 1

    async def deletable(self, now: datetime, after: int, limit: int) -> list[Pack]:
        """Retired packs whose grace has passed."""
        return await self._packs("deletable", now, after, limit)

    async def deleted(self, pack_id: int, lease: Lease, now: datetime) -> bool:
        """The bytes are gone; the row stays as a tombstone."""
        return await self._change(_SQL["deleted"], lease, pack_id, now)

    async def outdated(self, retention_revision: str, after: int, limit: int) -> list[Pack]:
        """Active packs whose expiry dates were computed by other policy texts."""
        return await self._packs("outdated", retention_revision, after, limit)

    async def redate(
        self, pack_id: int, expiries: Sequence[tuple[UUID, int | None]], retention_revision: str, lease: Lease
    ) -> None:
        """Set new expiry dates for a pack's snapshots."""
        async with self._db.transaction() as conn:
            await fence(conn, lease)
            ids = [snapshot_id for snapshot_id, _ in expiries]
            await conn.execute(_SQL["redate"], pack_id, ids, [moment(us) for _, us in expiries])
            await conn.execute(_SQL["redated"], pack_id, retention_revision)

    async def unfinished(self, begun_before: datetime, after: int, limit: int) -> list[Pack]:
        """Uploads begun before a deadline and never finished."""
        return await self._packs("unfinished", begun_before, after, limit)

    async def live_keys(self, pack_uuids: Sequence[UUID]) -> set[UUID]:
        """Of these packs, the ones whose objects must stay."""
        return {row["pack_uuid"] for row in await self._db.fetch(_SQL["live_keys"], list(pack_uuids))}

    async def see_stray(self, key: str, byte_size: int, now: datetime) -> datetime:
        """Note an object that no live pack names; when it was first seen so."""
        first: datetime = await self._db.fetchval(_SQL["see_stray"], key, byte_size, now)
        return first

    async def stray_since(self, key: str) -> datetime | None:
        """When an object was first seen without a live pack; None if it was not."""
        first: datetime | None = await self._db.fetchval(_SQL["peek_stray"], key)
        return first

    async def forget_strays(self, keys: Sequence[str]) -> None:
        """These are gone."""
        await self._db.execute(_SQL["forget_strays"], list(keys))

    async def totals(self) -> list[ClassTotals]:
        """Packs, bytes and snapshots per storage class and state, tombstones left out."""
        return [
            ClassTotals(**{**dict(row), "storage_class": StorageClass(row["storage_class"])})
            for row in await self._db.fetch(_SQL["totals"])
        ]

    async def _change(self, query: str, lease: Lease, *args: Any) -> bool:
        async with self._db.transaction() as conn:
            await fence(conn, lease)
            return affected(await conn.execute(query, *args)) == 1

    async def _packs(self, query: str, *args: Any) -> list[Pack]:
        return [pack_of_row(row) for row in await self._db.fetch(_SQL[query], *args)]


def step_digest(meta: SnapshotMeta) -> bytes:
    """What makes two snapshots share a row of `steps`."""
    parts = (meta.saga_name, meta.step_name, str(meta.step_index), meta.status)
    packed = b"".join(len(raw := part.encode("utf-8", "surrogatepass")).to_bytes(4, "big") + raw for part in parts)
    return hashlib.blake2b(packed, digest_size=16).digest()


def _columns(pack: NewPack) -> tuple[Any, ...]:
    return (
        pack.pack_uuid,
        pack.object_key,
        pack.storage_class.value,
        pack.policy,
        pack.retention_revision,
        pack.byte_size,
        pack.snapshot_count,
        pack.sha256,
        from_micros(pack.min_created_us),
        from_micros(pack.max_created_us),
        from_micros(pack.max_clock_us),
        moment(pack.next_expiry_us),
    )


_Row = tuple[datetime, datetime | None, int, int, int, UUID]


async def _live_rows(
    conn: Connection, frames: Sequence[PlacedFrame], steps: dict[bytes, int], pack_id: int
) -> list[_Row]:
    """Rows of `snapshots` for everything in the pack that was not deleted since it was saved."""
    dead: set[UUID] = set()
    if await conn.fetchval(_SQL["any_tombstones"]):
        metas = [meta for frame in frames for meta, _ in frame.snapshots]
        dead = await buried(conn, [m.snapshot_id for m in metas], [from_micros(m.saved_us) for m in metas])
        if dead:
            await _note_late_frames(conn, frames, dead, pack_id)
    return [
        (
            from_micros(meta.created_us),
            moment(expires),
            pack_id,
            number,
            steps[step_digest(meta)],
            meta.snapshot_id,
        )
        for number, frame in enumerate(frames)
        for meta, expires in frame.snapshots
        if meta.snapshot_id not in dead
    ]


async def _note_late_frames(conn: Connection, frames: Sequence[PlacedFrame], dead: set[UUID], pack_id: int) -> None:
    """Frames with bytes of what was deleted on the way; those whose key was destroyed with it hold nothing readable."""
    late = [frame for frame in frames if any(meta.snapshot_id in dead for meta, _ in frame.snapshots)]
    there = await keys_there(conn, {frame.key_id for frame in late if frame.key_id is not None})
    sagas = [frame.saga_id for frame in late if frame.key_id is None or frame.key_id in there]
    if sagas:
        await note_late_pack(conn, sagas, pack_id)


async def _check_keys(conn: Connection, frames: Sequence[PlacedFrame], rows: Sequence[_Row]) -> None:
    """An erasure that came between took the key; what was saved after it must be encrypted with a new one."""
    numbers = {row[3] for row in rows}
    needed = {f.key_id for n, f in enumerate(frames) if n in numbers and f.key_id is not None}
    if needed - await keys_there(conn, needed):
        raise LeaseLost("a saga was erased and saved again while it was packed; nothing was published, repeat the job")


async def insert_frames(conn: Connection, pack_id: int, frames: Sequence[PlacedFrame]) -> None:
    """Rows for the frames of a pack, numbered in order."""
    await conn.copy_records_to_table(
        "frames",
        schema_name="sagaz_tiering",
        columns=("saga_id", "pack_id", "frame_no", "byte_offset", "byte_length", "key_id"),
        records=[(f.saga_id, pack_id, number, f.offset, f.length, f.key_id) for number, f in enumerate(frames)],
    )


async def _insert_places(conn: Connection, pack_id: int, frames: Sequence[PlacedFrame], rows: Sequence[_Row]) -> None:
    await insert_frames(conn, pack_id, frames)
    columns = ("created_at", "expires_at", "pack_id", "frame_no", "step_id", "snapshot_id")
    try:
        async with conn.transaction():
            await conn.copy_records_to_table("snapshots", schema_name="sagaz_tiering", columns=columns, records=rows)
    except asyncpg.UniqueViolationError:
        await conn.execute(_SQL["drop_superseded"], [row[-1] for row in rows])
        await conn.copy_records_to_table("snapshots", schema_name="sagaz_tiering", columns=columns, records=rows)


def pack_of_row(row: Any) -> Pack:
    values = {name: row[name] for name in Pack.__dataclass_fields__}
    values["storage_class"] = StorageClass(values["storage_class"])
    return Pack(**values)
