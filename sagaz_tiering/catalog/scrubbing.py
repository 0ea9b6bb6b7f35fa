"""The catalog's side of a scrub: what should be where, and how to correct what the bucket says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sagaz_tiering.catalog.durable import ARCHIVE_LOCK
from sagaz_tiering.catalog.leases import Lease, fenced
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.postgresql.text import to_column
from sagaz_tiering.storage_class import StorageClass

_SQL = load(__package__, "scrub")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRow:
    """Where the catalog says that a frame is, and what vouches for it (None: packed before there were digests)."""

    frame_no: int
    saga_id: UUID
    byte_offset: int
    byte_length: int
    key_id: UUID | None
    digest: bytes | None


class Scrubbing(Repository):
    """Reads packs in key order and by age of their last look; corrects rows."""

    async def pages(self, after: str, limit: int) -> list[Pack]:
        """Packs whose objects must exist, in key order."""
        return [of_row(Pack, row) for row in await self._db.fetch(_SQL["pages"], after, limit)]

    async def oldest(self, before: datetime, limit: int) -> list[Pack]:
        """Active packs that were not looked into since `before`, the longest ago first."""
        return [of_row(Pack, row) for row in await self._db.fetch(_SQL["oldest"], before, limit)]

    async def due(self, before: datetime) -> tuple[int, int]:
        """How many active packs were not looked into since `before`, and how many were."""
        [row] = await self._db.fetch(_SQL["due"], before)
        return row["due"], row["done"]

    async def by_key(self, key: str) -> Pack | None:
        """The pack of an object."""
        row = await self._db.fetchrow(_SQL["by_key"], key)
        return None if row is None else of_row(Pack, row)

    async def scrubbed(self, pack_id: int, now: datetime) -> None:
        """It was looked into."""
        await self._db.execute(_SQL["scrubbed"], pack_id, now)

    async def set_class(self, pack_id: int, storage_class: StorageClass, now: datetime) -> None:
        """The bucket says that it is in this class."""
        await self._db.execute(_SQL["set_class"], pack_id, storage_class.value, now)

    async def frames(self, pack_id: int) -> list[FrameRow]:
        """The frames of a pack that still hold something, by number."""
        return [
            FrameRow(**{**dict(row), "digest": None if row["digest"] is None else row["digest"].bytes})
            for row in await self._db.fetch(_SQL["frames"], pack_id)
        ]

    async def vouch(self, pack_id: int, footer_digest: bytes, frames: Sequence[FrameRow], lease: Lease) -> None:
        """Write these rows, and the digest of the footer that says so: the caller has seen that it is the true one."""
        async with fenced(self._db, lease) as conn:
            await conn.execute(_SQL["set_footer_digest"], pack_id, footer_digest)
            await conn.execute(
                _SQL["set_frames"],
                pack_id,
                [frame.frame_no for frame in frames],
                [frame.saga_id for frame in frames],
                [frame.byte_offset for frame in frames],
                [frame.byte_length for frame in frames],
                [frame.key_id for frame in frames],
                [None if frame.digest is None else UUID(bytes=frame.digest) for frame in frames],
            )

    async def set_attributes(self, pack_id: int, texts: Mapping[int, str], lease: Lease) -> None:
        """What the snapshots of these frames carry, by frame number (see `packs.attributes`); `find` follows."""
        async with fenced(self._db, lease) as conn:
            columns = [to_column(text) or None for text in texts.values()]
            await conn.execute(_SQL["set_attributes"], pack_id, list(texts), columns)

    async def set_attributes_digest(self, pack_id: int, digest: bytes, lease: Lease) -> None:
        """The object of a pack's attributes has this digest."""
        async with fenced(self._db, lease) as conn:
            await conn.execute(_SQL["set_attributes_digest"], pack_id, digest)

    async def without_attributes(self, key_ids: Sequence[UUID], limit: int, after: int) -> list[Pack]:
        """Active packs, by id after an id, with a frame under one of these keys of which no attributes are known."""
        return [
            of_row(Pack, row) for row in await self._db.fetch(_SQL["without_attributes"], list(key_ids), after, limit)
        ]

    async def dispute(
        self, object_keys: Sequence[str], snapshot_ids: Sequence[UUID], lease: Lease, *, footer: bytes, frame: bytes
    ) -> None:
        """Digests that nothing has, for these packs and for the frames that these snapshots are in."""
        async with fenced(self._db, lease) as conn:
            await conn.execute(_SQL["dispute_packs"], list(object_keys), footer)
            await conn.execute(_SQL["dispute_frames"], list(snapshot_ids), UUID(bytes=frame))

    async def snapshot_ids(self, pack_id: int) -> list[UUID]:
        """Live snapshots of a pack."""
        return [row["snapshot_id"] for row in await self._db.fetch(_SQL["snapshot_ids"], pack_id)]

    async def durable_of(self, snapshot_ids: Sequence[UUID]) -> set[UUID]:
        """Of these, the ones with a durable copy."""
        return {row["snapshot_id"] for row in await self._db.fetch(_SQL["durable_of"], list(snapshot_ids))}

    async def let_go(self, pack_id: int, snapshot_ids: Sequence[UUID], lease: Lease) -> None:
        """Forget the places of these in a pack whose bytes are gone."""
        async with fenced(self._db, lease) as conn:
            await conn.execute("SELECT pg_advisory_xact_lock($1)", ARCHIVE_LOCK)
            await conn.execute(_SQL["let_go"], pack_id, list(snapshot_ids))
