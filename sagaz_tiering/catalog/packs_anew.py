"""Packs written anew by `compact`, and packs, rows and notes looked into anew by `reindex`.

What is worth it or left to do, and the transactions that do it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sagaz_tiering.catalog.durable import versions
from sagaz_tiering.catalog.erasures import settle_upload
from sagaz_tiering.catalog.frame_index import insert_frames
from sagaz_tiering.catalog.leases import Lease, fenced
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.rows import Repository, micros, of_row
from sagaz_tiering.drivers.postgresql.pool import Connection, affected
from sagaz_tiering.drivers.postgresql.queries import from_column, load, to_column
from sagaz_tiering.errors import LeaseLost
from sagaz_tiering.packs.entries import Frames
from sagaz_tiering.snapshot import SnapshotMeta

_SQL = load(__package__, "reindexing")
_COMPACTION = load(__package__, "compaction")
_PACKS = load(__package__, "packs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reindexing:
    """A run by the definitions of `revision`: what is saved after `began_at` has its attributes.

    `durable_after`: durable rows up to this id are done (None: all are); `hot_done`: so is Redis.
    """

    revision: str
    began_at: datetime
    durable_after: UUID | None
    hot_done: bool
    done_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """Packs that these definitions did not look into, and runs of `age` from before, that may publish others."""

    packs: int
    ageing: int

    def __bool__(self) -> bool:
        return bool(self.packs or self.ageing)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackWork:
    """A pack that some definitions did not look into, the names of its sagas, and whether it has attributes."""

    pack: Pack
    saga_names: Sequence[str]
    has_attributes: bool

    @property
    def pack_id(self) -> int:
        return self.pack.pack_id


class Reindexed(Repository):
    """The table `reindexing`, and what it is about."""

    async def run(self, revision: str) -> Reindexing | None:
        """How far it came by these definitions; None: it never began."""
        row = await self._db.fetchrow(_SQL["run"], revision)
        return None if row is None else Reindexing(**dict(row))

    async def begin(self, revision: str, now: datetime) -> Reindexing:
        """Begin by these definitions, or go on; what others came to is forgotten."""
        async with self._db.transaction() as conn:
            await conn.execute(_SQL["forget_others"], revision)
            await conn.execute(_SQL["begin"], revision, now)
        # After the commit: whoever ages under another lease than these knows of this run.
        await self._db.execute(_SQL["note_packing"], revision)
        [row] = await self._db.fetch(_SQL["run"], revision)
        return Reindexing(**dict(row))

    async def hot_done(self, revision: str) -> None:
        """Everything in Redis was gone through."""
        await self._db.execute(_SQL["hot_done"], revision)

    async def done(self, revision: str, now: datetime) -> Behind:
        """And every pack, where nothing is behind: what is.

        Whoever publishes a pack that these definitions did not look into from now on takes it back.
        """
        async with self._db.transaction() as conn:
            await conn.execute(_SQL["hold_run"], revision)
            [row] = await conn.fetch(_SQL["behind"], revision)
            behind = Behind(**dict(row))
            if not behind:
                await conn.execute(_SQL["done"], revision, now)
            return behind

    async def durable_values(self, ids: Sequence[UUID]) -> list[tuple[UUID, datetime, bytes]]:
        """(id, saved at, value) of those of these rows that are there."""
        rows = await self._db.fetch(_SQL["durable_values"], list(ids))
        return [(row["snapshot_id"], row["saved_at"], row["value"]) for row in rows]

    async def set_durable(self, changes: Sequence[tuple[SnapshotMeta, bytes]], lease: Lease) -> int:
        """These saves, if they are what the rows hold still, with other attributes and values; how many were."""
        metas = [meta for meta, _ in changes]
        async with fenced(self._db, lease) as conn:
            found = await conn.execute(_SQL["set_durable"], *_saves(metas), [value for _, value in changes])
            await _decide_anew(conn, metas)
            return affected(found)

    async def durable_done(self, revision: str, after: UUID | None) -> None:
        """Durable rows up to this id are done (None: all)."""
        await self._db.execute(_SQL["durable_done"], revision, after)

    async def set_hot(self, metas: Sequence[SnapshotMeta], lease: Lease) -> int:
        """What Redis alone has, and told of, has these attributes; how many had others."""
        async with fenced(self._db, lease) as conn:
            found = affected(await conn.execute(_SQL["set_hot"], *_saves(metas)))
            await _decide_anew(conn, metas)
            return found

    async def packs(self, revision: str, after: int, limit: int) -> list[PackWork]:
        """Active packs that were not looked into by these definitions, by id after an id."""
        found = []
        for row in await self._db.fetch(_SQL["packs"], revision, after, limit):
            names = list(map(from_column, row["saga_names"]))
            found.append(of_row(PackWork, row, pack=of_row(Pack, row), saga_names=names))
        return found

    async def set_pack(
        self, pack: Pack, revision: str, texts: Mapping[int, str], digest: bytes | None, lease: Lease
    ) -> bool:
        """What the snapshots of these frames carry, by frame number, and the digest of the object that tells it.

        False, and nothing done, where the pack is not as it was any more.
        """
        async with fenced(self._db, lease) as conn:
            stamped = await conn.execute(
                _SQL["set_pack"], pack.pack_id, pack.attributes_digest, revision, digest or pack.attributes_digest
            )
            if affected(stamped) != 1:
                return False
            columns = [to_column(text) or None for text in texts.values()]
            await conn.execute(_SQL["set_frames"], pack.pack_id, list(texts), columns)
            await conn.execute(_SQL["frames_changed"], pack.pack_id, list(texts))
            return True


async def _decide_anew(conn: Connection, metas: Sequence[SnapshotMeta]) -> None:
    """What parts of these sagas in packs were promised may follow from other rules now."""
    await conn.execute(_SQL["sagas_changed"], list({meta.saga_id for meta in metas}))


def _saves(metas: Sequence[SnapshotMeta]) -> tuple[list[UUID], list[datetime], list[str | None]]:
    return (*versions(metas), [to_column(meta.attributes) or None for meta in metas])


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pack to look at. `erased`: it holds bytes of an erased saga, so it must be written anew."""

    pack: Pack
    erased: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFrame:
    """Live snapshots of a frame, each with its recorded expiry (microseconds; None: never), and what they carry."""

    expiries: dict[UUID, int | None]
    attributes: str


class Compaction(Repository):
    """Candidates, their live snapshots, and the replacement."""

    async def candidates(self, live_share: float, small_bytes: int, after: int, limit: int) -> list[Candidate]:
        """Active packs of erased sagas, with too many dead bytes, or too small."""
        rows = await self._db.fetch(_COMPACTION["candidates"], live_share, small_bytes, after, limit)
        return [Candidate(pack=of_row(Pack, row), erased=row["erased"]) for row in rows]

    async def live(self, pack_id: int) -> dict[int, LiveFrame]:
        """What lives of a pack, by frame number."""
        attributes = {
            row["frame_no"]: row["attributes"] for row in await self._db.fetch(_COMPACTION["attributes"], pack_id)
        }
        found: dict[int, LiveFrame] = {}
        for row in await self._db.fetch(_COMPACTION["live"], pack_id):
            number, expires_at = row["frame_no"], row["expires_at"]
            if number not in found:
                found[number] = LiveFrame(expiries={}, attributes=from_column(attributes.get(number, "")))
            found[number].expiries[row["snapshot_id"]] = micros(expires_at)
        return found

    async def replace(
        self, new_id: int, old: Sequence[Pack], frames: Frames, lease: Lease, *, now: datetime, until: datetime
    ) -> int:
        """The new pack takes the places of the old ones, which retire, with their bytes until then; how many moved.

        Raises LeaseLost (nothing changed) where the lease is gone, a saga in it was erased meanwhile, or an old pack
        holds something that the new one lacks.
        """
        old_ids = [pack.pack_id for pack in old]
        async with fenced(self._db, lease, archive_lock=True) as conn:
            if await conn.fetchval(_COMPACTION["erased"], list(old_ids), [frame.saga_id for frame in frames]):
                raise LeaseLost("a saga was erased while its pack was written anew; the next run does it again")
            looked = [pack.attributes_revision for pack in old]
            if await conn.fetchval(_COMPACTION["reindexed"], old_ids, looked, [pack.attributes_digest for pack in old]):
                raise LeaseLost("a pack got other attributes while it was written anew; the next run does it again")
            await settle_upload(conn, new_id)
            await insert_frames(conn, new_id, frames)
            ids = [meta.snapshot_id for frame in frames for meta, _, _ in frame.snapshots]
            numbers = [number for number, frame in enumerate(frames) for _ in frame.snapshots]
            moved = affected(await conn.execute(_COMPACTION["move"], new_id, list(old_ids), ids, numbers))
            if moved < len(ids):
                await conn.execute(_COMPACTION["trim_frames"], new_id)
            if await conn.fetchval(_COMPACTION["left_behind"], list(old_ids)):
                raise LeaseLost("an old pack got a snapshot while it was written anew; the next run does it again")
            if affected(await conn.execute(_PACKS["activate"], new_id, moved, now)) != 1:
                raise LeaseLost(f"pack {new_id} was given up before its upload ended; nothing was changed")
            await conn.execute(_COMPACTION["next_expiry"], new_id)
            await conn.execute(_PACKS["evicted"], new_id, now)
            await conn.execute(_COMPACTION["retire_old"], list(old_ids), now, until)
        return moved
