"""What the catalog knows of Redis: which one it met last, how far that had come, whether it is believed alone.

And what Redis alone acknowledged, snapshot by snapshot: without it nobody could tell what a Redis has lost.

Writers note it in the background, a moment after the save. It goes when the snapshot leaves Redis: in the transaction
that publishes its pack, deletes it or expires it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.durable import meta_of, put_rows, row_to_put, versions
from sagaz_tiering.catalog.leases import Lease, fenced, share_archive
from sagaz_tiering.catalog.rows import Repository, micros, moment
from sagaz_tiering.clock import from_micros
from sagaz_tiering.drivers.postgresql.pool import Connection
from sagaz_tiering.drivers.postgresql.queries import json_rows, load, to_column
from sagaz_tiering.errors import StatementRefused
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_SQL = load(__package__, "hot_saves")
_NOTE_LOCK: Final = 0x5A6A7A04
"""With a number below 32 by the snapshot's id, transaction-scoped: noting saves shares it, deleting takes it alone."""
_HOT_TIER = load(__package__, "hot_tier")


@dataclass(frozen=True, slots=True, kw_only=True)
class HotSave:
    """A save that Redis alone acknowledged. `lost_at`: since when it is known to be lost. `packed`: a pack has the
    snapshot, in this save or an older one."""

    meta: SnapshotMeta
    expires_us: int | None
    lost_at: datetime | None = None
    packed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What Redis alone has of a save that is to be durable, and what its policy says of it.

    `older_in`: the pack that has an older save of it (None: no pack has any).
    """

    meta: SnapshotMeta
    value: bytes
    due_us: int | None
    expires_us: int | None
    older_in: int | None = None


class HotSaves(Repository):
    """The table `hot_saves`."""

    async def note(self, metas: Sequence[SnapshotMeta], expiries_us: Sequence[int | None]) -> int:
        """Each snapshot once; an older save than what is noted changes nothing. Returns `HotTierState.changes`."""
        rows = [
            {
                "snapshot_id": meta.snapshot_id,
                "saga_id": meta.saga_id,
                "saga_name": to_column(meta.saga_name),
                "step_name": to_column(meta.step_name),
                "step_index": meta.step_index,
                "status": to_column(meta.status),
                "created_at": from_micros(meta.created_us),
                "saved_at": from_micros(meta.saved_us),
                "expires_at": moment(expires_us),
                "attributes": to_column(meta.attributes) or None,
                "retention_until": "infinity" if meta.retention_us is None else from_micros(meta.retention_us),
            }
            for meta, expires_us in zip(metas, expiries_us, strict=True)
        ]
        async with self._db.transaction() as conn:
            await conn.execute(_SQL["begin_notes"], _NOTE_LOCK, [meta.snapshot_id for meta in metas])
            return int(await conn.fetchval(_SQL["note"], json_rows(rows)))

    async def note_each(self, metas: Sequence[SnapshotMeta], expiries_us: Sequence[int | None]) -> int | None:
        """As `note`. What PostgreSQL would refuse for ever is told in the log, and holds up no other."""
        try:
            return await self.note(metas, expiries_us)
        except StatementRefused as exc:
            if len(metas) == 1:
                metrics.HOT_SAVES_UNNOTED.inc()
                _log.error("hot_saves.refused", snapshot_id=str(metas[0].snapshot_id), error=str(exc), hint=exc.hint)
                return None
        half = len(metas) // 2
        before = await self.note_each(metas[:half], expiries_us[:half])
        changes = await self.note_each(metas[half:], expiries_us[half:])
        return before if changes is None else changes

    async def make_durable(self, saves: Sequence[Found], lease: Lease) -> set[UUID]:
        """Put what Redis alone has of these, each id once, into `saga_snapshots`; the ids of what is there now.

        By the rules of a save, and nothing that was deleted, forgotten or packed since: who does that waits, or is
        seen. What PostgreSQL would refuse for ever is told in the log, and holds up no other. Raises LeaseLost.
        """
        some = sorted(saves, key=lambda save: save.meta.snapshot_id.int)
        ids, times = versions([save.meta for save in some])
        try:
            async with fenced(self._db, lease) as conn:
                await share_archive(conn)
                await conn.execute(_SQL["begin_notes"], _NOTE_LOCK, ids)
                rows = await conn.fetch(_SQL["forgotten"], ids, [save.meta.saga_id for save in some], times)
                left_out = {row["snapshot_id"] for row in rows}
                older = [-1 if save.older_in is None else save.older_in for save in some]
                left_out |= {row["snapshot_id"] for row in await conn.fetch(_SQL["packed_since"], ids, older)}
                put = [
                    row_to_put(one.meta, one.value, due_us=one.due_us, expires_us=one.expires_us, fallback=False)
                    for one in some
                    if one.meta.snapshot_id not in left_out
                ]
                return {row["snapshot_id"] for row in await put_rows(conn, put)}
        except StatementRefused as exc:
            if len(some) == 1:
                _log.error("durable.refused", snapshot_id=str(ids[0]), error=str(exc), hint=exc.hint)
                return set()
        half = len(some) // 2
        return await self.make_durable(some[:half], lease) | await self.make_durable(some[half:], lease)

    async def not_elsewhere(self, *, saga_id: UUID | None = None, snapshot_id: UUID | None = None) -> list[HotSave]:
        """Of a saga or one snapshot, what has no durable copy of this save or a newer one; expired ones included."""
        rows = await self._db.fetch(_SQL["not_elsewhere"], saga_id, snapshot_id)
        return [replace(_save(row), packed=row["packed"]) for row in rows]

    async def noted(self, metas: Sequence[SnapshotMeta]) -> set[UUID]:
        """Of these saves, the ones that are noted."""
        return await self._ids(_SQL["noted"], *versions(metas))

    async def page(self, after: UUID, limit: int, *, only_lost: bool = False) -> list[HotSave]:
        """All of them (or of those that are lost), by id, after an id."""
        return [_save(row) for row in await self._db.fetch(_SQL["page"], after, limit, only_lost)]

    async def ended(self, now: datetime, after: tuple[datetime, UUID], limit: int) -> list[HotSave]:
        """Those whose noted expiry has passed by `now`, in its order, after a position in it, with their own dates."""
        return [_save(row, row["own_until"]) for row in await self._db.fetch(_SQL["ended"], now, *after, limit)]

    async def postpone(self, expiries_us: Sequence[tuple[SnapshotMeta, int | None]]) -> None:
        """These saves expire then (None: never), since their sagas went on."""
        saves = versions([meta for meta, _ in expiries_us])
        await self._db.execute(_SQL["postpone"], *saves, [moment(expires_us) for _, expires_us in expiries_us])

    @asynccontextmanager
    async def losing(
        self, ids: Sequence[UUID], lease: Lease, now: datetime
    ) -> AsyncIterator[tuple[list[HotSave], list[HotSave]]]:
        """(still noted, lost): those of these that nobody removes, nor can in the block; the caller says what is lost.

        Raises LeaseLost.
        """
        async with fenced(self._db, lease) as conn:
            noted, lost = [_save(row) for row in await conn.fetch(_SQL["keep"], list(ids))], list[HotSave]()
            yield noted, lost
            if lost:
                await conn.fetchval(_SQL["lose"], *versions([save.meta for save in lost]), now)

    async def only_there(self, ids: Sequence[UUID]) -> list[HotSave]:
        """Those of these that are noted, and that PostgreSQL has not got in this save or a newer one."""
        return [_save(row) for row in await self._db.fetch(_SQL["only_there"], list(ids))]

    async def accept(self, saves: Sequence[HotSave], lease: Lease) -> None:
        """These are lost, and somebody knows. Raises LeaseLost."""
        async with fenced(self._db, lease) as conn:
            await drop_hot_saves(conn, *versions([save.meta for save in saves]))

    async def drop(self, metas: Sequence[SnapshotMeta]) -> None:
        """These saves are not Redis' alone any more."""
        if metas:
            await self._db.execute(_SQL["drop"], *versions(metas))


async def wait_for_notes(conn: Connection, ids: Sequence[UUID]) -> None:
    """Notes of saves of these that are under way; later ones see what this transaction does. It has no rows yet."""
    await conn.execute(_SQL["wait_for_notes"], _NOTE_LOCK, list(ids))


async def drop_hot_saves(conn: Connection, ids: Sequence[UUID], until: Sequence[datetime]) -> set[UUID]:
    """In the transaction that removes them, or publishes them elsewhere: saves until an instant each; which went."""
    if not await conn.fetchval(_SQL["any"]):
        return set()
    return {row["snapshot_id"] for row in await conn.fetch(_SQL["drop"], list(ids), list(until))}


def _save(row: Any, own_until: datetime | None = None) -> HotSave:
    expires_us = micros(row["expires_at"])
    return HotSave(meta=meta_of(row, own_until), expires_us=expires_us, lost_at=row["lost_at"])


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRedis:
    """The Redis that the catalog knows, which may be believed alone while it is `trusted` and nothing is a `fallback`.

    `number` is how far it had come at least; `changes` how often Redis was found to be another one; `first_after` the
    youngest age of a move ever in force; `held` the matches (JSON) of the legal holds in force; `packed` whether there
    is any pack; `accepted` the number of the retention rules that `expire` accepted last (None: none yet).
    """

    nonce: str | None
    number: int
    run_id: str
    trusted: bool
    changes: int
    fallback: bool = False
    first_after: timedelta | None = None
    held: tuple[str, ...] = ()
    packed: bool = True
    accepted: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HotTierState:
    """For people and jobs. `good_at`: what Redis has was whole then (None: nobody knows).

    `lost` snapshots are known to be lost and not accepted as such; `lost_ever` counts all there ever were.
    """

    nonce: str | None
    trusted: bool
    changes: int
    changed_at: datetime | None
    reason: str
    good_at: datetime | None
    reconciled_at: datetime | None
    lost: int
    lost_ever: int

    def warnings(self) -> list[str]:
        """What somebody should know, each with what to do; [] while all is well."""
        found = []
        if not self.trusted:
            found.append(
                f"Redis is not trusted since {self.changed_at}: {self.reason}; the job `reconcile` puts it right, "
                "until then reads ask PostgreSQL too"
            )
        if self.lost:
            found.append(
                f"{self.lost} snapshots that Redis alone had acknowledged are lost, reads of them raise SnapshotLost; "
                "see `sagaz-tiering status`; `sagaz-tiering job reconcile --once --accept-lost` ends this"
            )
        return found


class KnownHotTier(Repository):
    """The table `hot_tier`, which has one row."""

    async def look(self) -> KnownRedis:
        """What must be known before Redis alone is believed."""
        [row] = await self._db.fetch(_HOT_TIER["look"])  # the migration makes it
        return KnownRedis(**{**row, "held": tuple(row["held"])})

    async def note(self, nonce: str, number: int) -> None:
        """That Redis has come so far."""
        await self._db.execute(_HOT_TIER["note"], number, nonce)

    async def state(self) -> HotTierState:
        """The whole row, and what is lost."""
        [row] = await self._db.fetch(_HOT_TIER["state"])
        return HotTierState(**dict(row))

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[tuple[Connection, KnownRedis]]:
        """A transaction in which nobody else finds Redis to be another one."""
        async with self._db.transaction() as conn:
            [row] = await conn.fetch(_HOT_TIER["lock"])
            yield conn, KnownRedis(**dict(row))

    async def transactions_begun(self) -> int:
        """Every transaction that writes has a lower number than this one, or begins later."""
        return int(await self._db.fetchval(_HOT_TIER["transactions_begun"]))

    async def transactions_ended(self) -> int:
        """Every transaction that writes and has a lower number than this has ended."""
        return int(await self._db.fetchval(_HOT_TIER["transactions_ended"]))

    async def doubt(self, reason: str, now: datetime) -> None:
        """Do not believe Redis alone until it is reconciled, though it is the one that was met last."""
        await self._db.execute(_HOT_TIER["doubt"], now, reason)

    async def doubt_all(self, reason: str, now: datetime) -> None:
        """The same where this catalog is not what it was, so that it may know nothing of anything that Redis has."""
        await self._db.execute(_HOT_TIER["doubt_all"], now, reason)

    async def trust(self, changes: int, lease: Lease, now: datetime) -> bool:
        """Believe Redis again; False if it was found to be another one meanwhile. Raises LeaseLost."""
        return await self._change(lease, _HOT_TIER["trust"], changes, now) == 1


async def knows_nothing(conn: Connection) -> bool:
    """Whether there is nothing that a Redis could lack, or have though it must not."""
    return bool(await conn.fetchval(_HOT_TIER["knows_nothing"]))


async def change(
    conn: Connection,
    *,
    nonce: str,
    number: int,
    run_id: str,
    reason: str,
    good_us: int | None,
    trusted: bool,
    now: datetime,
) -> int | None:
    """In a transaction of `changing`: this is the Redis from now on. Returns when it was whole last (None: unknown)."""
    good_at = await conn.fetchval(_HOT_TIER["change"], nonce, number, run_id, reason, moment(good_us), trusted, now)
    return micros(good_at)
