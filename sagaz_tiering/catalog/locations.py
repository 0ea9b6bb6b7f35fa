"""Where PostgreSQL knows snapshots to be: durable rows and places in packs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sagaz_tiering.catalog.durable import lock_rows, naming
from sagaz_tiering.catalog.holds import Holds, Named
from sagaz_tiering.catalog.hot_saves import drop_hot_saves, wait_for_notes
from sagaz_tiering.catalog.journal import note
from sagaz_tiering.catalog.leases import share_archive
from sagaz_tiering.catalog.rows import Repository, columns, micros, of_row
from sagaz_tiering.catalog.saga_keys import wrapped_key
from sagaz_tiering.catalog.sagas import end_of
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.drivers.postgresql.pool import Connection, Database
from sagaz_tiering.drivers.postgresql.queries import load, to_column
from sagaz_tiering.keys.master import WrappedKey
from sagaz_tiering.packs.entries import PublishedPack
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta, SnapshotRef, Tier
from sagaz_tiering.storage_class import StorageClass

_SQL = load(__package__, "locations")
_ENDS = load(__package__, "sagas")["ends"]
_END = ("end_status", "end_attributes")

_NOTED_AT_ONCE = 10_000
"""Ids in one entry of the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLocation:
    """The byte range of an object that holds a frame.

    `key` opens an `encrypted` one; None there: it was destroyed, or lost. It comes with the place in one look, so
    that a key is of no use from the moment it is destroyed. `digest` vouches for the frame (None: packed before there
    were any). `most`: no more snapshots are in it, since there were no more in the whole pack.
    """

    pack_id: int
    object_key: str
    offset: int
    length: int
    storage_class: StorageClass
    object_size: int
    encrypted: bool = False
    key: WrappedKey | None = None
    digest: bytes | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotLocation:
    """A snapshot and its copy: a durable `value` (None if not asked for) or a `place` in a pack.

    The expiry in `ref` is the recorded one. Of a durable copy `retention_until` is the snapshot's own date; of one in a
    pack that is not known, but `dated_by`, the retention revision and the policy that its expiry is of, and the
    youngest clock time of the pack. `saga`: where its saga ends as far as PostgreSQL knows.
    """

    ref: SnapshotRef
    saved_us: int | None
    value: bytes | None
    place: FrameLocation | None
    saga: SagaEnd
    retention_until: datetime | None = None
    dated_by: tuple[str, str] | None = None
    max_clock_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed(PublishedPack):
    """A snapshot that is in a pack already."""

    snapshot_id: UUID
    pack_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """A snapshot to delete as far as it was saved `until` then."""

    snapshot: Named
    until: datetime


class SaveKey(NamedTuple):
    """A save of a snapshot of which no more is known."""

    snapshot_id: UUID
    saga_id: UUID
    saved_us: int


Saved = SnapshotMeta | SaveKey


class Locations(Repository):
    """Look-ups for the read path, and deletion of single snapshots."""

    async def find(self, snapshot_id: UUID) -> list[SnapshotLocation]:
        """The durable copy and the archived one, whichever exist, expired or not, in one consistent look."""
        return (await self._found(await self._db.fetch(_SQL["find"], snapshot_id)))[0]

    async def find_of_saga(
        self, saga_id: UUID, *, not_after: datetime | None, step_name: str | None, limit: int, with_values: bool
    ) -> tuple[list[SnapshotLocation], SagaEnd | None]:
        """Copies of a saga's snapshots, newest first, at most `limit` durable and `limit` archived ones; where it ends.

        Expired or not: what the policies in force say decides that, not only what was recorded.
        """
        step = None if step_name is None else to_column(step_name)
        query = _SQL["find_of_saga"]
        return await self._found(await self._db.fetch(query, saga_id, not_after, step, limit, with_values), saga_id)

    async def _found(
        self, rows: Sequence[Any], saga_id: UUID | None = None
    ) -> tuple[list[SnapshotLocation], SagaEnd | None]:
        """The locations that rows name, with where their sagas end; that of `saga_id` also without a row."""
        if rows and not rows[0]["filled"]:
            ids = {row["saga_id"] for row in rows} | {saga_id}
            ends = {row["saga_id"]: end_of(row) for row in await self._db.fetch(_ENDS, list(ids - {None}))}
        else:
            ended = [row for row in (rows if saga_id is None else rows[:1]) if row["ended_at"] is not None]
            ends = {saga_id or row["saga_id"]: end_of(row, *_END) for row in ended}
        found = [_located(row, ends.get(row["saga_id"])) for row in rows if row["snapshot_id"] is not None]
        return found, ends.get(saga_id)

    async def saga_ids(self, after: UUID | None, limit: int) -> list[UUID]:
        """The next sagas behind `after` that PostgreSQL knows a snapshot of, expired or not, ascending."""
        return [row["saga_id"] for row in await self._db.fetch(_SQL["saga_ids"], after, limit)]

    async def packs_of(self, snapshot_ids: Sequence[UUID]) -> dict[UUID, Packed]:
        """Which of these are in a pack already."""
        rows = await self._db.fetch(_SQL["packs_of"], list(snapshot_ids))
        return {row["snapshot_id"]: of_row(Packed, row) for row in rows}

    async def delete(self, doomed: Sequence[Doomed]) -> set[UUID]:
        """Remove durable rows and places, and make sure that no job publishes those saves again; which were known.

        The caller removes them from Redis next and says so (`gone_from_redis`). Where it does not come to that, the
        jobs do: they are `half_deleted` until then. Raises LegalHold; after any error nothing was removed.
        """
        async with self._db.transaction() as conn:
            await share_archive(conn)
            await Holds(self._db).refuse([one.snapshot for one in doomed], conn)
            saves = sorted((one.snapshot.snapshot_id, one.until) for one in doomed)
            durable, archived, hot = await remove(conn, saves)
            known = durable | archived.keys()
            told = known | hot
            for until in sorted({until for snapshot_id, until in saves if snapshot_id in told}):
                gone = [snapshot_id for snapshot_id, own in saves if snapshot_id in told and own == until]
                for start in range(0, len(gone), _NOTED_AT_ONCE):
                    await note(conn, "delete", {"snapshot_ids": gone[start : start + _NOTED_AT_ONCE]}, until)
        return known

    async def half_deleted(self, limit: int) -> list[tuple[UUID, datetime]]:
        """(id, saved until): deletions that Redis may not have followed."""
        return [(row["snapshot_id"], row["deleted_at"]) for row in await self._db.fetch(_SQL["half_deleted"], limit)]

    async def gone_from_redis(self, saves: Sequence[tuple[UUID, datetime]]) -> None:
        """Redis has followed these deletions."""
        await self._db.execute(_SQL["gone_from_redis"], *columns(2, saves))

    async def buried(self, saves: Sequence[Saved]) -> set[UUID]:
        """Of these saves, the ones that were deleted after they were saved, or forgotten with their saga."""
        return await buried(self._db, saves) if saves else set()

    async def moved(self, saves: Sequence[Saved]) -> set[UUID]:
        """Of these saves, the ones that a later durable save put under another saga."""
        if not saves:
            return set()
        return await self._ids(_SQL["moved"], *_columns(saves))

    async def tombstones(self, since: datetime | None, after: UUID, limit: int) -> list[UUID]:
        """Snapshots that were deleted since then (None: ever), by id, after an id."""
        return [row["snapshot_id"] for row in await self._db.fetch(_SQL["tombstones"], since, after, limit)]

    async def prune_tombstones(self, before: datetime) -> int:
        """Forget deletions that no job in flight can contradict any more."""
        return await self._db.execute(_SQL["prune_tombstones"], before)


async def remove(
    conn: Connection, saves: Sequence[tuple[UUID, datetime]], others: Collection[UUID] = ()
) -> tuple[set[UUID], dict[UUID, int], set[UUID]]:
    """Remove snapshots that were saved until an instant, each with its own; what was saved later stays.

    (durable ids, archived ids with their packs, ids noted as Redis' alone) that went. No job publishes such a save
    again. The caller holds ARCHIVE_LOCK, shared, so that what is in packs was saved before. `others`: of these it
    removes rows afterwards.
    """
    ids, until = columns(2, saves)
    await wait_for_notes(conn, ids)
    await lock_rows(conn, [*ids, *others])
    await conn.execute(_SQL["bury"], ids, until)
    hot = await drop_hot_saves(conn, ids, until)
    durable = await conn.fetch(_SQL["delete_durable"], ids, until)
    archived = await conn.fetch(_SQL["delete_archived"], ids)
    return {row["snapshot_id"] for row in durable}, {row["snapshot_id"]: row["pack_id"] for row in archived}, hot


async def buried(conn: Connection | Database, saves: Sequence[Saved]) -> set[UUID]:
    """Of these saves, the ones that were deleted after they were saved, or forgotten with their saga."""
    return {row["snapshot_id"] for row in await conn.fetch(_SQL["buried"], *_columns(saves))}


def _columns(saves: Sequence[Saved]) -> list[list[Any]]:
    return columns(3, ((save.snapshot_id, save.saga_id, from_micros(save.saved_us)) for save in saves))


def frame_location(row: Any) -> FrameLocation:
    """Of a row of a frame with its pack and its key. Of each row of a read: by `of_row` it takes twice as long."""
    return FrameLocation(
        pack_id=row["pack_id"],
        object_key=row["object_key"],
        offset=row["offset"],
        length=row["length"],
        storage_class=StorageClass(row["storage_class"]),
        object_size=row["object_size"],
        encrypted=row["encrypted"],
        key=wrapped_key(row),
        digest=row["digest"],
        most=row["most"],
    )


def _located(row: Any, saga: SagaEnd | None) -> SnapshotLocation:
    place = None if row["pack_id"] is None else frame_location(row)
    ref = SnapshotRef(
        **naming(row),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        tier=Tier.DURABLE if place is None else Tier.COLD,
        storage_class=None if place is None else place.storage_class.value,
    )
    saved = row["saved_at"]
    if saga is None:  # deleted under our eyes
        saga = SagaEnd(to_micros(ref.created_at), ref.step_index, ref.snapshot_id, ref.status)
    return SnapshotLocation(
        ref=ref,
        saga=saga,
        saved_us=micros(saved),
        value=row["value"],
        place=place,
        retention_until=row["retention_until"],
        dated_by=None if row["dated_by"] is None else (row["dated_by"], row["policy"]),
        max_clock_at=row["max_clock_at"],
    )
