"""Which packs are worth writing anew, and the one transaction that puts new ones in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sagaz_tiering.catalog.erasures import settle_upload
from sagaz_tiering.catalog.frame_index import insert_frames
from sagaz_tiering.catalog.leases import Lease, Repository, fenced, micros, of_row
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.drivers.postgresql.pool import affected
from sagaz_tiering.drivers.postgresql.queries import from_column, load
from sagaz_tiering.errors import LeaseLost
from sagaz_tiering.packs.entries import Frames

_SQL = load(__package__, "compaction")
_PACKS = load(__package__, "packs")


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
        rows = await self._db.fetch(_SQL["candidates"], live_share, small_bytes, after, limit)
        return [Candidate(pack=of_row(Pack, row), erased=row["erased"]) for row in rows]

    async def live(self, pack_id: int) -> dict[int, LiveFrame]:
        """What lives of a pack, by frame number."""
        attributes = {row["frame_no"]: row["attributes"] for row in await self._db.fetch(_SQL["attributes"], pack_id)}
        found: dict[int, LiveFrame] = {}
        for row in await self._db.fetch(_SQL["live"], pack_id):
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
            if await conn.fetchval(_SQL["erased"], list(old_ids), [frame.saga_id for frame in frames]):
                raise LeaseLost("a saga was erased while its pack was written anew; the next run does it again")
            looked = [pack.attributes_revision for pack in old]
            if await conn.fetchval(_SQL["reindexed"], old_ids, looked, [pack.attributes_digest for pack in old]):
                raise LeaseLost("a pack got other attributes while it was written anew; the next run does it again")
            await settle_upload(conn, new_id)
            await insert_frames(conn, new_id, frames)
            ids = [meta.snapshot_id for frame in frames for meta, _, _ in frame.snapshots]
            numbers = [number for number, frame in enumerate(frames) for _ in frame.snapshots]
            moved = affected(await conn.execute(_SQL["move"], new_id, list(old_ids), ids, numbers))
            if moved < len(ids):
                await conn.execute(_SQL["trim_frames"], new_id)
            if await conn.fetchval(_SQL["left_behind"], list(old_ids)):
                raise LeaseLost("an old pack got a snapshot while it was written anew; the next run does it again")
            if affected(await conn.execute(_PACKS["activate"], new_id, moved, now)) != 1:
                raise LeaseLost(f"pack {new_id} was given up before its upload ended; nothing was changed")
            await conn.execute(_SQL["next_expiry"], new_id)
            await conn.execute(_PACKS["evicted"], new_id, now)
            await conn.execute(_SQL["retire_old"], list(old_ids), now, until)
        return moved
