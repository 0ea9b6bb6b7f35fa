"""Packs: from the first row (`UPLOADING`) over `ACTIVE` and `RETIRING` to the tombstone (`DELETED`).

Every change runs in one transaction that checks the job's lease and the pack's state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from sagaz_tiering.catalog.durable import versions
from sagaz_tiering.catalog.erasures import settle_upload
from sagaz_tiering.catalog.frame_index import check_keys, dead_among, insert_places, steps_of
from sagaz_tiering.catalog.holds import Holds, hold_still
from sagaz_tiering.catalog.hot_saves import drop_hot_saves
from sagaz_tiering.catalog.leases import Lease, fenced
from sagaz_tiering.catalog.rows import Repository, micros, moment, of_row
from sagaz_tiering.catalog.sagas import note_archived, promise_anew
from sagaz_tiering.config.patterns import outcome_of
from sagaz_tiering.drivers.postgresql.pool import Connection, affected
from sagaz_tiering.drivers.postgresql.queries import from_column, load
from sagaz_tiering.errors import LeaseLost
from sagaz_tiering.packs.entries import AttributedPack, Frames, PublishedPack
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage_class import StorageClass

_SQL = load(__package__, "packs")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPack(PublishedPack):
    """What is known of a pack before its bytes are uploaded, in the order of the query `start`."""

    policy: str
    retention_revision: str
    sha256: bytes
    min_created_us: int
    max_created_us: int
    max_clock_us: int
    next_expiry_us: int | None
    attributes_revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack(AttributedPack):
    """What is looked at of a row of the table `packs`."""

    pack_id: int
    state: str
    policy: str
    retention_revision: str
    live_count: int
    sha256: bytes
    attributes_revision: str | None
    min_created_at: datetime
    max_clock_at: datetime
    next_expiry_at: datetime | None
    created_at: datetime
    class_since: datetime


RULED = ("saga_name", "step_name", "status", "end_status", "end_attributes")
"""What policies look at, as columns."""
_Classes = Collection[StorageClass]
_Dates = Mapping[UUID, int | None]


class PackLife(Enum):
    """How a pack stands after a batch of its snapshots has expired."""

    EXPIRING = "there may be more to expire"
    SETTLED = "what is left lives"
    RETIRED = "nothing is left"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTotals:
    """Packs of one storage class in one state."""

    storage_class: StorageClass
    state: str
    packs: int
    bytes: int
    snapshots: int
    packed: int


class Packs(Repository):
    """The tables `packs`, `frames`, `snapshots` (for writing) and `strays`."""

    async def start(self, pack: NewPack, lease: Lease, now: datetime) -> int:
        """Announce an upload; the pack's id."""
        async with fenced(self._db, lease) as conn:
            return int(await conn.fetchval(_SQL["start"], *_row_of(pack), lease.name, lease.epoch, now))

    async def activate(
        self, pack_id: int, frames: Frames, lease: Lease, now: datetime, *, elsewhere: Collection[UUID] | None = None
    ) -> int:
        """Publish an uploaded pack: its snapshots are there from this commit on, and their durable rows go.

        Saves that were deleted meanwhile are not published, nor those that are `elsewhere`: in another pack in the same
        version or a newer one. Places of the others in older packs are replaced. Returns the number of snapshots
        published. Raises AlreadyPacked (nothing written) where `elsewhere` is not given and some have a place already;
        LeaseLost (nothing written) if the lease is gone, the pack was given up, or it holds a save that is only
        readable with a key that was destroyed meanwhile, or that would replace one that is held since.
        """
        steps = await steps_of(self._db, frames)
        async with fenced(self._db, lease, archive_lock=True) as conn:
            await settle_upload(conn, pack_id)
            dead = await dead_among(conn, frames, pack_id)
            left_out = dead | set(elsewhere or ())
            await check_keys(conn, frames, left_out)
            if elsewhere is not None:
                await self._check_replaced(conn, frames, left_out)
            published = await insert_places(conn, pack_id, frames, steps, left_out, replace=elsewhere is not None)
            if affected(await conn.execute(_SQL["activate"], pack_id, published, now)) != 1:
                raise LeaseLost(f"pack {pack_id} was given up before its upload ended; nothing was published")
            await _drop_nearer(conn, frames)
            await note_archived(conn, _published(frames, left_out))  # last, since saves lock sagas after snapshots
        return published

    async def _check_replaced(self, conn: Connection, frames: Frames, left_out: set[UUID]) -> None:
        await hold_still(conn)
        ids = [meta.snapshot_id for frame in frames for meta, _, _ in frame.snapshots]
        if await Holds(self._db).frozen_in_packs([one for one in ids if one not in left_out], conn):
            raise LeaseLost(
                "what a pack has is held since it was to be replaced; nothing was published, repeat the job"
            )

    async def unevicted(self, after: int, limit: int) -> list[Pack]:
        """Active packs whose hot copies may still be there: their `age` run was killed before it removed them."""
        return await self._packs("unevicted", after, limit)

    async def known(self, pack_uuids: Sequence[UUID]) -> set[UUID]:
        """Of these packs, the ones that have a row."""
        return {row["pack_uuid"] for row in await self._db.fetch(_SQL["known"], list(pack_uuids))}

    async def enter(self, pack: NewPack, frames: Frames, lease: Lease, now: datetime) -> int:
        """A pack that is in the bucket already becomes `ACTIVE` with these snapshots; how many. One transaction.

        Durable rows that are not newer go. What the catalog knows of an upload of it is forgotten.
        """
        steps = await steps_of(self._db, frames)
        async with fenced(self._db, lease, archive_lock=True) as conn:
            await conn.execute(_SQL["start_over"], pack.pack_uuid)
            pack_id = int(await conn.fetchval(_SQL["start"], *_row_of(pack), lease.name, lease.epoch, now))
            dead = await dead_among(conn, frames, pack_id)
            published = await insert_places(conn, pack_id, frames, steps, dead, replace=True)
            await conn.execute(_SQL["activate"], pack_id, published, now)
            await _drop_nearer(conn, frames)
            await note_archived(conn, _published(frames, dead))
            await conn.execute(_SQL["evicted"], pack_id, now)
        return published

    async def abandon(self, pack_id: int, lease: Lease) -> bool:
        """Give up an upload; its bytes, if any ever appear, are collected. False if it is not uploading."""
        return await self._change(lease, _SQL["abandon"], pack_id) == 1

    async def abandoned_gone(self, begun_before: datetime, lease: Lease, now: datetime) -> None:
        """Every object has been looked at: of uploads that were given up, those that left none are gone."""
        await self._change(lease, _SQL["abandoned_gone"], now, begun_before)

    async def evicted(self, pack_id: int, now: datetime) -> None:
        """Note that the hot copies are gone."""
        await self._db.execute(_SQL["evicted"], pack_id, now)

    async def any_evicted_since(self, moment: datetime | None) -> bool:
        """Whether snapshots of any pack left Redis since then (None: ever), or are about to."""
        return bool(await self._db.fetchval(_SQL["any_evicted_since"], moment))

    async def movable(
        self, names: list[str], others: bool, before: datetime, settled: _Classes, after: int, limit: int
    ) -> list[Pack]:
        """Active packs of these policies (or none of them), all older than that, in none of the `settled` classes."""
        return await self._packs("movable", names, others, before, [c.value for c in settled], after, limit)

    async def names(self, pack_id: int, ruling: Sequence[str]) -> set[tuple[str, str, str, str, str]]:
        """What policies look at of all that lives in a pack: names of sagas and steps, statuses, outcomes, attributes.

        Of attributes only the `ruling` ones.
        """
        found = set()
        for row in await self._db.fetch(_SQL["names"], pack_id, list(ruling)):
            saga_name, step_name, status, end, attributes = (from_column(row[name]) for name in RULED)
            found.add((saga_name, step_name, status, outcome_of(end), attributes))
        return found

    async def moved(self, pack_id: int, storage_class: StorageClass, lease: Lease, now: datetime) -> bool:
        """The object is in its new class now."""
        return await self._change(lease, _SQL["moved"], pack_id, storage_class.value, now) == 1

    async def expiring(self, now: datetime, retention_revision: str, after: int, limit: int) -> list[Pack]:
        """Active packs with something expired or nothing alive."""
        return await self._packs("expiring", now, retention_revision, after, limit)

    async def live_of_policies(self) -> dict[str, int]:
        """Live snapshots by the policy that packed them."""
        return {row["policy"]: row["snapshots"] for row in await self._db.fetch(_SQL["live_of_policies"])}

    async def expiries(self, pack_id: int) -> dict[UUID, int | None]:
        """When each live snapshot of a pack expires, as recorded; None: never."""
        return {
            row["snapshot_id"]: micros(row["expires_at"]) for row in await self._db.fetch(_SQL["expiries"], pack_id)
        }

    async def count_expired(self, pack_id: int, now: datetime, besides: Collection[UUID] = ()) -> int:
        """How many snapshots of a pack `expire` would remove by `now`, of other sagas than those `besides`."""
        return int(await self._db.fetchval(_SQL["count_expired"], pack_id, now, list(besides)))

    async def active(self, pack_ids: Collection[int]) -> list[Pack]:
        """Of these packs, the active ones."""
        return await self._packs("active", list(pack_ids))

    async def expire(
        self, pack_id: int, lease: Lease, now: datetime, *, limit: int, delete_after: datetime
    ) -> tuple[int, PackLife]:
        """Unpublish up to `limit` expired snapshots of a pack that no legal hold covers; how many went.

        The last batch notes the next expiry, and retires the pack if nothing in it lives any more.
        """
        async with fenced(self._db, lease) as conn:
            await hold_still(conn, expiring=True)
            gone = int(await conn.fetchval(_SQL["expire_batch"], pack_id, now, limit))
            if gone == limit:
                return gone, PackLife.EXPIRING
            await conn.execute(_SQL["settle_expiry"], pack_id)
            retired = affected(await conn.execute(_SQL["retire"], pack_id, now, delete_after)) == 1
            return gone, PackLife.RETIRED if retired else PackLife.SETTLED

    async def deletable(self, now: datetime, after: int, limit: int) -> list[Pack]:
        """Retired packs whose grace has passed."""
        return await self._packs("deletable", now, after, limit)

    async def deleted(self, pack_ids: Sequence[int], lease: Lease, now: datetime) -> set[int]:
        """The bytes of these are gone; the rows stay as tombstones. Which of them were not noted before."""
        async with fenced(self._db, lease) as conn:
            return {row["pack_id"] for row in await conn.fetch(_SQL["deleted"], list(pack_ids), now)}

    async def outdated(self, retention_revision: str, after: int, limit: int) -> list[Pack]:
        """Active packs whose expiry dates were computed by other policy texts."""
        return await self._packs("outdated", retention_revision, after, limit)

    async def recompute_expiry(
        self, pack_id: int, expiries: _Dates, retention_revision: str, lease: Lease, *, kept_us: _Dates
    ) -> None:
        """Set new expiry dates for a pack's snapshots, and until when their sagas are kept by that.

        Sagas of which other packs have something are decided anew, so that all of each agrees.
        """
        async with fenced(self._db, lease) as conn:
            await conn.execute(_SQL["recompute_expiry"], pack_id, list(expiries), list(map(moment, expiries.values())))
            await conn.execute(_SQL["recomputed"], pack_id, retention_revision)
            await promise_anew(conn, pack_id, kept_us)

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
        return [of_row(ClassTotals, row) for row in await self._db.fetch(_SQL["totals"])]

    async def _packs(self, query: str, *args: Any) -> list[Pack]:
        return [of_row(Pack, row) for row in await self._db.fetch(_SQL[query], *args)]


def _row_of(pack: NewPack) -> list[Any]:
    """In the order of its fields. Times become dates here: PostgreSQL counts microseconds as doubles."""
    values = ((field.name, getattr(pack, field.name)) for field in fields(pack))
    return [moment(value) if name.endswith("_us") else value for name, value in values]


def _published(frames: Frames, left_out: Collection[UUID]) -> Iterator[tuple[SnapshotMeta, int | None]]:
    snapshots = ((meta, expires_us) for frame in frames for meta, expires_us, _ in frame.snapshots)
    return ((meta, expires_us) for meta, expires_us in snapshots if meta.snapshot_id not in left_out)


async def _drop_nearer(conn: Connection, frames: Frames) -> None:
    """Durable rows, and notes of hot saves, of what is in a pack now, in that version or an older one."""
    metas = [meta for frame in frames for meta, _, _ in frame.snapshots]
    ids, saved = versions(metas)
    await drop_hot_saves(conn, ids, saved)
    if await conn.fetchval(_SQL["any_durable"]):
        await conn.execute(_SQL["drop_durable"], ids, saved, [meta.body_crc for meta in metas])
