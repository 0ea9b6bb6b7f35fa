"""Erasures: a saga goes from every table at once; the packs that hold bytes of it are noted until those are gone.

With the data key of an encrypted saga its bytes become undecipherable wherever they lie, copies and backups of the
bucket included, so packs that hold it only encrypted are not waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sagaz_tiering.catalog.holds import Holds, Named
from sagaz_tiering.catalog.journal import note
from sagaz_tiering.catalog.locations import ARCHIVE_LOCK, remove
from sagaz_tiering.catalog.saga_keys import destroy
from sagaz_tiering.db.database import Connection, Database, affected
from sagaz_tiering.db.queries import load
from sagaz_tiering.db.text import from_column, to_column

_SQL = load("erasures")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedPack:
    """A pack that holds or held bytes of an erased saga; `gone_at` is when they were deleted (None: not yet).

    `gone_by` is when they will be at the latest, as far as it is known.
    """

    object_key: str
    storage_class: str
    state: str
    gone_at: datetime | None
    gone_by: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReceipt:
    """What an erasure removed, from where, and what still has to go physically.

    `key_destroyed` is since when what was encrypted of it is undecipherable (None: it had no key);
    `undecipherable_packs` held such bytes then, and are not among the `packs` that are waited for.
    """

    erasure_id: UUID
    saga_id: UUID
    requested_at: datetime
    who: str
    reason: str
    hot: int
    durable: int
    archived: int
    replays: int
    key_destroyed: datetime | None
    undecipherable_packs: int
    packs: tuple[ErasedPack, ...]

    @property
    def complete(self) -> bool:
        """Whether no byte of it is left that anybody could read."""
        return all(pack.gone_at is not None for pack in self.packs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "erasure_id": str(self.erasure_id),
            "saga_id": str(self.saga_id),
            "requested_at": self.requested_at.isoformat(),
            "who": self.who,
            "reason": self.reason,
            "removed": {
                "hot": self.hot,
                "durable": self.durable,
                "archived": self.archived,
                "replay_logs": self.replays,
            },
            "key_destroyed": self.key_destroyed.isoformat() if self.key_destroyed else None,
            "undecipherable_packs": self.undecipherable_packs,
            "complete": self.complete,
            "packs": [
                {
                    "object_key": pack.object_key,
                    "storage_class": pack.storage_class,
                    "gone_at": pack.gone_at.isoformat() if pack.gone_at else None,
                    "gone_by": pack.gone_by.isoformat() if pack.gone_by else None,
                }
                for pack in self.packs
            ],
        }


class Erasures:
    """The tables `erasures` and `erasure_packs`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._holds = Holds(db)

    async def erase(
        self, saga_id: UUID, snapshots: Sequence[Named], hot: int, *, who: str, reason: str, now: datetime
    ) -> UUID:
        """Remove a saga's rows of every kind in one transaction; the erasure's id. The caller clears Redis.

        `snapshots` are all that is known of it, those in Redis included: none of them is ever published again.
        Raises LegalHold (nothing was removed).
        """
        erasure_id = uuid4()
        async with self._db.transaction() as conn:
            await conn.execute("SELECT pg_advisory_xact_lock_shared($1)", ARCHIVE_LOCK)
            await self._holds.refuse(snapshots, conn)
            known = {row["snapshot_id"] for row in await conn.fetch(_SQL["saga_ids_of"], saga_id)}
            durable, archived = await remove(
                conn, sorted(known | {snapshot.snapshot_id for snapshot in snapshots}), now
            )
            replays = affected(await conn.execute(_SQL["drop_replays"], saga_id))
            counts = (hot, len(durable), len(archived), replays)
            names = (to_column(who), to_column(reason))
            keys = await destroy(conn, saga_id, now)
            shredded = await conn.fetchval(_SQL["count_shredded"], saga_id, keys)
            await conn.execute(
                _SQL["create"], erasure_id, saga_id, now, *names, *counts, now if keys else None, shredded
            )
            await conn.execute(_SQL["add_packs"], erasure_id, saga_id, keys)
            await conn.execute(_SQL["drop_frames"], saga_id)
            await note(conn, "forget", {"saga_id": saga_id, "who": who, "reason": reason}, now)
        return erasure_id

    async def cleared(self, erasure_id: UUID, now: datetime) -> None:
        """Redis has nothing of it any more."""
        await self._db.execute(_SQL["cleared"], erasure_id, now)

    async def uncleared(self) -> list[tuple[UUID, UUID]]:
        """(erasure, saga) of those whose process ended before Redis was cleared."""
        return [(row["erasure_id"], row["saga_id"]) for row in await self._db.fetch(_SQL["uncleared"])]

    async def receipt(self, erasure_id: UUID) -> ErasureReceipt | None:
        """What was removed, and what is still to go."""
        row = await self._db.fetchrow(_SQL["get"], erasure_id)
        return None if row is None else await self._receipt(row)

    async def newest(self, limit: int) -> list[ErasureReceipt]:
        """The newest erasures."""
        return [await self._receipt(row) for row in await self._db.fetch(_SQL["newest"], limit)]

    async def _receipt(self, row: Any) -> ErasureReceipt:
        packs = await self._db.fetch(_SQL["packs"], row["erasure_id"])
        names = [name for name in ErasureReceipt.__dataclass_fields__ if name != "packs"]
        values = {name: row[name] for name in names}
        values |= {"who": from_column(row["who"]), "reason": from_column(row["reason"])}
        return ErasureReceipt(
            **values,
            packs=tuple(
                ErasedPack(
                    object_key=pack["object_key"],
                    storage_class=pack["storage_class"],
                    state=pack["state"],
                    gone_at=pack["deleted_at"],
                    gone_by=pack["deleted_at"] or pack["delete_after"],
                )
                for pack in packs
            ),
        )


async def note_late_pack(conn: Connection, saga_ids: Sequence[UUID], pack_id: int) -> None:
    """A pack just published holds bytes of sagas of which something was deleted on the way: erased ones count."""
    await conn.execute(_SQL["add_late_pack"], list(saga_ids), pack_id)


async def erased_since(conn: Connection, saga_ids: Sequence[UUID], moment: datetime) -> bool:
    """Whether one of these sagas was erased at or after `moment`."""
    return await conn.fetchval(_SQL["erased_since"], list(saga_ids), moment) is not None
