"""Erasures: a saga goes from every table at once; the packs that hold bytes of it are noted until those are gone.

With the data key of an encrypted saga its bytes become undecipherable wherever they lie, copies and backups of the
bucket included, so packs that hold it only encrypted are not waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

from sagaz_tiering.catalog.holds import Holds, NearCopy
from sagaz_tiering.catalog.journal import note
from sagaz_tiering.catalog.leases import share_archive
from sagaz_tiering.catalog.locations import Doomed, remove
from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.catalog.saga_keys import destroy
from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.drivers.postgresql.pool import Connection, affected
from sagaz_tiering.drivers.postgresql.queries import checked_text, load, to_column
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.terminal import document, plain

_SQL = load(__package__, "erasures")
VACUUMED = ("saga_snapshots", "saga_replay_log", "saga_keys")
"""Tables that held bodies, overrides and keys of what is erased."""
VACUUM_COMMAND = f"VACUUM (FULL) {', '.join(f'sagaz_tiering.{table}' for table in VACUUMED)}"
LEFT_IN_POSTGRESQL = (
    "PostgreSQL's dead rows may hold it as plain text until a vacuum and until their space is used again (VACUUM FULL "
    "writes the tables anew, and locks them meanwhile); its write-ahead log, replicas and backups, and Redis' own "
    "files, as long as they are kept"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedPack:
    """A pack that holds or held bytes of an erased saga; `gone_at` is when they were deleted (None: not yet).

    `gone_by` is when they will be at the latest, as far as it is known; `restore_id` a restore under way that reads it
    first.
    """

    object_key: str
    storage_class: str
    state: str
    gone_at: datetime | None
    gone_by: datetime | None
    restore_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReceipt:
    """What an erasure removed, from where, and what still has to go physically.

    `snapshots` is how many there were, however many copies of each (None: an order from before that was counted);
    `hot_done_at` since when Redis has nothing of it. PostgreSQL's dead rows were given up at `vacuumed_at` (None: not
    yet, or not by us where `vacuum_refused`).

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
    snapshots: int | None = None
    hot_done_at: datetime | None = None
    vacuumed_at: datetime | None = None
    vacuum_refused: bool = False

    @property
    def found_nothing(self) -> bool:
        """Whether there was nothing to erase: no tier, no replay log and no key knew the saga."""
        known = any(pack.state not in ("UPLOADING", "ABANDONED") for pack in self.packs)
        return self.snapshots == 0 and not (self.replays or self.key_destroyed or known)

    @property
    def complete(self) -> bool:
        """Whether it erased something, and Redis and the bucket have no byte of it left that anybody could read."""
        if self.found_nothing or self.hot_done_at is None:
            return False
        return all(pack.gone_at is not None for pack in self.packs)

    @property
    def was_in_postgresql(self) -> bool:
        """Whether PostgreSQL had bodies of it, of which dead rows, the log and backups may have copies."""
        return bool(self.durable or self.replays)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        left = self.was_in_postgresql
        removed = {"hot": self.hot, "durable": self.durable, "archived": self.archived, "replay_logs": self.replays}
        apart = ("hot", "durable", "archived", "replays", "hot_done_at", "vacuumed_at", "vacuum_refused", "packs")
        return {
            **document(self, "found_nothing", "complete", without=apart),
            "removed": removed,
            "postgresql": {
                "had_bodies": left,
                "vacuumed_at": plain(self.vacuumed_at),
                "vacuum_refused": self.vacuum_refused,
                "note": LEFT_IN_POSTGRESQL if left else None,
                "command": VACUUM_COMMAND if left else None,
            },
            "packs": [document(pack, without=("state",)) for pack in self.packs],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """An erasure that Redis has to follow. What was saved after `requested_at` is none of it.

    `doomed` are ids, each with the instant until which its saves go: what was known is removed without a search.
    """

    erasure_id: UUID
    saga_id: UUID
    requested_at: datetime
    doomed: tuple[tuple[UUID, datetime], ...] = ()


class HotHeader(Protocol):
    """What Redis tells of one snapshot; `head` None: its value is gone."""

    @property
    def snapshot_id(self) -> UUID: ...
    @property
    def member(self) -> bytes: ...
    @property
    def head(self) -> bytes | None: ...


class HotCopies(Protocol):
    """What an erasure needs of Redis (`hot.tier.HotTier`)."""

    async def headers_from(self, saga_id: UUID, first: int) -> Sequence[HotHeader]: ...
    async def delete_many(self, saves: Sequence[tuple[UUID, int]]) -> int: ...
    async def erase(self, saga_id: UUID, members: Sequence[bytes], until_us: int) -> int: ...


class Erasures(Repository):
    """The tables `erasures` and `erasure_packs`."""

    async def erase(
        self, saga_id: UUID, known: Sequence[Doomed], hot: int, *, who: str, reason: str, clock: Clock
    ) -> Erasure:
        """Remove what was saved of a saga until now, of every kind, in one transaction. The caller clears Redis.

        `known` is all that is there, in Redis too: none of it is ever published again. Raises LegalHold (nothing was
        removed).
        """
        erasure_id = uuid4()
        reason, who = checked_text(reason, "the reason"), checked_text(who, "the name of who orders it")
        async with self._db.transaction() as conn:
            await share_archive(conn)
            now = clock.now()  # after the lock: no pack that is there already can hold anything saved later
            found_rows = await conn.fetch(_SQL["rows_of_saga"], saga_id)
            rows = [of_row(NearCopy, row, "saga_name", "step_name", "status") for row in found_rows]
            disputed = {row["snapshot_id"] for row in await conn.fetch(_SQL["disputed"], saga_id)}
            known = [one for one in known if one.snapshot.snapshot_id not in disputed]
            await Holds(self._db).refuse([*(one.snapshot for one in known), *rows], conn)
            # Redis may have a later save of these under another saga, so no more than this version is buried.
            found = {row.snapshot_id: row.saved_at for row in rows if row.saved_at is not None and row.saved_at <= now}
            found |= {one.snapshot.snapshot_id: max(one.until, now) for one in known}
            durable, archived, _ = await remove(conn, sorted(found.items()), {row.snapshot_id for row in rows})
            places = await conn.fetch(_SQL["drop_places"], saga_id)
            gone = durable | archived.keys() | {row["snapshot_id"] for row in places}
            replays = affected(await conn.execute(_SQL["drop_replays"], saga_id))
            counts = (hot, len(durable), len(archived) + len(places), replays)
            names = (to_column(who), to_column(reason))
            keys = await destroy(conn, saga_id, now)
            shredded = await conn.fetchval(_SQL["count_shredded"], saga_id, keys)
            snapshots = len(gone | {one.snapshot.snapshot_id for one in known})
            await conn.execute(
                _SQL["create"], erasure_id, saga_id, now, *names, *counts, now if keys else None, shredded, snapshots
            )
            await conn.execute(_SQL["add_packs"], erasure_id, saga_id, keys)
            await conn.execute(_SQL["add_uploads"], erasure_id)
            await conn.execute(_SQL["drop_frames"], saga_id)
            told = dict(zip(("hot", "durable", "archived", "replays"), counts, strict=True)) | {"snapshots": snapshots}
            body = {"erasure_id": erasure_id, "saga_id": saga_id, "who": who, "reason": reason, **told}
            await note(conn, "forget", body, now)
        return Erasure(erasure_id=erasure_id, saga_id=saga_id, requested_at=now, doomed=tuple(found.items()))

    async def clear(self, erasure: Erasure, hot: HotCopies, now: datetime) -> int:
        """Remove from Redis what was saved before the erasure, however long ago that was; how many went.

        What came meanwhile stays. Can be repeated, also by two at once.
        """
        removed = await hot.delete_many([(snapshot_id, to_micros(until)) for snapshot_id, until in erasure.doomed])
        while swept := await self._sweep(erasure, hot, to_micros(erasure.requested_at)):
            removed += swept
        await self._db.execute(_SQL["cleared"], erasure.erasure_id, now)
        return removed

    async def _sweep(self, erasure: Erasure, hot: HotCopies, until_us: int) -> int:
        """Saves that were on their way while the saga was erased, and damaged ones; how many went of one walk."""
        removed = first = 0
        while page := await hot.headers_from(erasure.saga_id, first):
            old = [header for header in page if _saved_us(header) <= until_us]
            if old:
                await self._bury(erasure, [header.snapshot_id for header in old])
            gone = await hot.erase(erasure.saga_id, [header.member for header in old], until_us) if old else 0
            removed, first = removed + gone, first + len(page) - gone
        return removed

    async def _bury(self, erasure: Erasure, ids: Sequence[UUID]) -> None:
        """In PostgreSQL before in Redis, so that readers of either see the same, and no job publishes one again."""
        async with self._db.transaction() as conn:
            await share_archive(conn)
            _, archived, _ = await remove(conn, [(snapshot_id, erasure.requested_at) for snapshot_id in sorted(ids)])
            await conn.execute(_SQL["add_packs_of"], erasure.erasure_id, sorted(set(archived.values())))

    async def uncleared(self) -> list[Erasure]:
        """Those whose process ended, or is about to, before Redis was cleared."""
        return [Erasure(**dict(row)) for row in await self._db.fetch(_SQL["uncleared"])]

    async def forgotten(self, saga_ids: Sequence[UUID]) -> set[UUID]:
        """Of these sagas, the ones that were ever erased."""
        return {row["saga_id"] for row in await self._db.fetch(_SQL["forgotten"], list(saga_ids))}

    async def unvacuumed(self, now: datetime, at_most_every: timedelta) -> bool:
        """Whether erasures wait for a vacuum, and the last one was long enough ago."""
        return bool(await self._db.fetchval(_SQL["unvacuumed"], now - at_most_every))

    async def vacuum(self, now: datetime, timeout: timedelta) -> list[str]:
        """Give up the dead rows of what was erased; the tables that this role may not vacuum. Not in a transaction."""
        refused = [row["name"] for row in await self._db.fetch(_SQL["not_ours"], list(VACUUMED))]
        for table in VACUUMED:
            if table not in refused:
                async with self._db.connection() as conn:
                    await conn.execute(f"VACUUM sagaz_tiering.{table}", timeout=timeout.total_seconds())
        await self._db.execute(_SQL["vacuumed"], now, bool(refused))
        return refused

    async def receipt(self, erasure_id: UUID) -> ErasureReceipt | None:
        """What was removed, and what is still to go."""
        row = await self._db.fetchrow(_SQL["get"], erasure_id)
        return None if row is None else await self._receipt(row)

    async def of_saga(self, saga_id: UUID) -> UUID | None:
        """The newest erasure of a saga that erased something."""
        found: UUID | None = await self._db.fetchval(_SQL["of_saga"], saga_id)
        return found

    async def newest(self, limit: int, behind: tuple[datetime, UUID] | None = None) -> list[ErasureReceipt]:
        """The newest erasures; `behind` the one that was asked for then and has that id."""
        rows = await self._db.fetch(_SQL["newest"], limit, *(behind or (None, None)))
        return [await self._receipt(row) for row in rows]

    async def _receipt(self, row: Any) -> ErasureReceipt:
        packs = await self._db.fetch(_SQL["packs"], row["erasure_id"])
        return of_row(ErasureReceipt, row, "who", "reason", packs=tuple(of_row(ErasedPack, pack) for pack in packs))


async def settle_upload(conn: Connection, pack_id: int) -> None:
    """An upload is about to be published: erasures that waited to know what is in it wait no more."""
    await conn.execute(_SQL["drop_upload"], pack_id)


async def note_late_pack(conn: Connection, oldest: Mapping[UUID, datetime], pack_id: int) -> None:
    """A pack just published holds bytes that were deleted on the way: sagas with the oldest such save of each.

    Erasures that came after those saves wait for it too.
    """
    await conn.execute(_SQL["add_late_pack"], list(oldest), list(oldest.values()), pack_id)


def _saved_us(header: HotHeader) -> int:
    """When a save was made; one that cannot be read may be of any time."""
    try:
        return -(2**62) if header.head is None else read_meta(header.head).saved_us
    except CorruptRecord:
        return -(2**62)
