"""Durable copies: acknowledged snapshots in PostgreSQL until their pack is committed.

What Redis could not take is a fallback row. Readers trust Redis alone only while no fallback is announced, so the
first fallback of an outage is acknowledged only after every reader's knowledge of "none" has run out
(`FALLBACK_NOTICE`); later ones of the same outage do not wait. Concurrent saves share transactions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

import asyncpg

from sagaz_tiering.catalog.group_commit import GroupCommit
from sagaz_tiering.catalog.holds import Holds, hold_still
from sagaz_tiering.catalog.leases import Lease, fenced
from sagaz_tiering.catalog.rows import Repository, columns, micros, moment
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.drivers.postgresql.pool import Connection, Database, affected
from sagaz_tiering.drivers.postgresql.queries import from_column, load, recordset, to_column
from sagaz_tiering.errors import CatalogUnavailable, LegalHold
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_SQL = load(__package__, "durable")
_PUT: Final = (
    *("snapshot_id", "saga_id", "saga_name", "step_name", "step_index", "status", "created_at", "retention_until"),
    *("saved_at", "expires_at", "due_at", "body_crc", "spilled", "attributes"),
)
"""What a row to put has before its value."""
_SAVED_AT, _SPILLED = _PUT.index("saved_at"), _PUT.index("spilled")

MOST_DUE = 100_000
"""So many due rows are counted for `status`."""
_EXACT_PAGES = 1_000
"""A table of so many pages is counted row by row in a few milliseconds."""

FALLBACK_NOTICE = timedelta(seconds=1)
"""How long a reader may rely on having seen that nothing is a fallback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRow:
    """A due durable row that this job works on, or would if it were not dry."""

    snapshot_id: UUID
    saga_id: UUID
    saved_at: datetime
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableRow:
    """A durable row without its value."""

    snapshot_id: UUID
    saved_at: datetime
    byte_length: int


ExpiredRows = tuple[list[tuple[SnapshotMeta, int | None]], tuple[datetime, UUID]]
"""Durable rows of sagas in which a noted expiry passed, each with its own (None: never); where the next batch begins.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponement:
    """When a row is looked at next (None: never) and when it expires (None: never)."""

    snapshot_id: UUID
    saved_us: int
    due_us: int | None
    expires_us: int | None

    @classmethod
    def of(cls, meta: SnapshotMeta, due_us: int | None, expires_us: int | None) -> Self:
        """Of the row of this save."""
        return cls(snapshot_id=meta.snapshot_id, saved_us=meta.saved_us, due_us=due_us, expires_us=expires_us)


class Put(NamedTuple):
    """What became of a row. `changes`: how often Redis had been found to be another one when it was stored.

    `in_the_way_us`: it was not stored, for that was done to its snapshot then; a hold forbids it where it is `frozen`.
    `announced_for_s`: for how long readers can know of it, where it is a fallback.
    """

    changes: int | None = None
    in_the_way_us: int | None = None
    frozen: bool = False
    announced_for_s: float | None = None


class DurableCopies(Repository):
    """The table `saga_snapshots`."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._deadline_s = db.settings.command_timeout.total_seconds()
        self._saves: GroupCommit[tuple[Any, ...], Put] = GroupCommit(self._put_all)

    async def put(
        self,
        meta: SnapshotMeta,
        value: bytes,
        *,
        due_us: int | None,
        expires_us: int | None,
        fallback: bool,
        deadline_s: float | None = None,
    ) -> Put:
        """Store durably; returns when it is committed (and, for the first fallback of an outage, announced).

        It is given up after `deadline_s` (else the command time-out): CatalogUnavailable.
        With something in the way nothing was stored, since the snapshot was saved or deleted at the instant of this
        save or later: at that one (microseconds). Raises LegalHold where what is stored of it is held.
        """
        row = row_to_put(meta, value, due_us=due_us, expires_us=expires_us, fallback=fallback)
        seconds = self._deadline_s if deadline_s is None else deadline_s
        try:
            done = await self._saves.put(row, len(value), seconds=seconds)
        except TimeoutError as exc:
            raise CatalogUnavailable(f"PostgreSQL at {self._db.shown_url} did not answer within {seconds:g} s") from exc
        if done.announced_for_s is not None:
            await asyncio.sleep(max(0.0, FALLBACK_NOTICE.total_seconds() - done.announced_for_s))
        if done.frozen:
            raise LegalHold(f"snapshot {meta.snapshot_id} is under a legal hold; it cannot be replaced")
        return done

    async def _put_fallbacks(self, rows: Sequence[tuple[Any, ...]], tries: int = 3) -> tuple[Sequence[Any], float]:
        """In one transaction with their announcement, once more where that and another waited for each other."""
        try:
            async with self._db.transaction() as conn:
                return await put_rows(conn, rows), float(await conn.fetchval(_SQL["announce_fallback"]))
        except CatalogUnavailable as exc:
            if tries == 1 or not isinstance(exc.__cause__, asyncpg.DeadlockDetectedError):
                raise
        return await self._put_fallbacks(rows, tries - 1)

    async def _put_all(self, rows: Sequence[tuple[Any, ...]]) -> list[Put]:
        """One transaction."""
        ordered = sorted(rows, key=lambda row: row[0].int)  # two processes with the same rows do not lock crosswise
        announced_for_s = None
        if any(row[_SPILLED] for row in rows):
            stored, announced_for_s = await self._put_fallbacks(ordered)
        elif len(rows) == 1:
            stored = await self._db.fetch(_SQL["put"], *rows[0])
        else:
            stored = await put_rows(self._db, ordered)
        there = Put(changes=stored[0]["changes"] if stored else None)
        if len(stored) == len(rows) and announced_for_s is None:
            return [there] * len(rows)
        refused = await self._refused(rows, {row["snapshot_id"] for row in stored})
        told = {True: announced_for_s, False: None}
        return [refused.get(row[0], there)._replace(announced_for_s=told[row[_SPILLED]]) for row in rows]

    async def _refused(self, rows: Sequence[tuple[Any, ...]], stored: Collection[UUID]) -> dict[UUID, Put]:
        """What is in the way of the others."""
        refused = {row[0]: row[_SAVED_AT] for row in rows if row[0] not in stored}
        if not refused:
            return {}
        found = {row["snapshot_id"]: row for row in await self._db.fetch(_SQL["in_the_way"], list(refused))}
        # What has gone meanwhile (into a pack, say) was as new as the save that it kept out.
        since = {each: max(found[each]["at"] or saved_at, saved_at) for each, saved_at in refused.items()}
        return {each: Put(in_the_way_us=to_micros(at), frozen=found[each]["frozen"]) for each, at in since.items()}

    async def blocked(self, metas: Sequence[SnapshotMeta]) -> set[UUID]:
        """Of these saves, the ones that `put` would not store: for what was done since, or for a hold."""
        rows = await self._db.fetch(_SQL["in_the_way"], [meta.snapshot_id for meta in metas])
        found = {row["snapshot_id"]: row for row in rows}
        return {
            meta.snapshot_id
            for meta in metas
            if (row := found[meta.snapshot_id])["frozen"] or (row["at"] and to_micros(row["at"]) >= meta.saved_us)
        }

    async def fallback_rows(self, after: UUID, limit: int) -> list[DurableRow]:
        """Rows that Redis lacks, by id, after an id."""
        return [DurableRow(**dict(row)) for row in await self._db.fetch(_SQL["fallback_rows"], after, limit)]

    async def page(self, after: UUID, limit: int) -> list[DurableRow]:
        """All rows, by id, after an id."""
        return [DurableRow(**dict(row)) for row in await self._db.fetch(_SQL["page"], after, limit)]

    async def rows_of(self, ids: Sequence[UUID]) -> list[DurableRow]:
        """Those of these that there are."""
        return [DurableRow(**dict(row)) for row in await self._db.fetch(_SQL["rows_of"], list(ids))]

    @asynccontextmanager
    async def keeping(self, ids: Sequence[UUID], lease: Lease) -> AsyncIterator[list[tuple[UUID, datetime, bytes]]]:
        """(id, saved_at, value) of those of these rows that nobody is removing; nor can anybody in the block.

        So that what is copied to Redis in the block is removed there too by whoever removes the row. Raises LeaseLost.
        """
        async with fenced(self._db, lease) as conn:
            rows = await conn.fetch(_SQL["keep"], list(ids))
            yield [(row["snapshot_id"], row["saved_at"], row["value"]) for row in rows]

    async def clear_fallback(self, done: Sequence[tuple[UUID, datetime]]) -> None:
        """These versions are in Redis now."""
        await self._db.execute(_SQL["clear_fallback"], *columns(2, done))

    async def mark_fallback(self, rows: Sequence[tuple[UUID, datetime]]) -> None:
        """Redis lacks these versions; returns when every reader can know."""
        async with self._db.transaction() as conn:
            await conn.execute(_SQL["mark_fallback"], *columns(2, rows))
            announced_for_s: float = await conn.fetchval(_SQL["announce_fallback"])
        await asyncio.sleep(max(0.0, FALLBACK_NOTICE.total_seconds() - announced_for_s))

    async def end_fallback(self) -> bool:
        """Withdraw the announcement if there is no fallback row any more; True if it was withdrawn."""
        async with self._db.transaction() as conn:
            await conn.execute(_SQL["lock_fallback"])
            return affected(await conn.execute(_SQL["end_fallback"])) == 1

    async def claim_due(self, now: datetime, limit: int, ttl: timedelta) -> list[ClaimedRow]:
        """Up to `limit` due rows that nobody works on, and as many others of their sagas, claimed for `ttl`."""
        return [ClaimedRow(**dict(row)) for row in await self._db.fetch(_SQL["claim_due"], now, limit, ttl)]

    async def peek_due(self, now: datetime | None, after: UUID, limit: int) -> list[ClaimedRow]:
        """Rows that are due and others of their sagas (`now` None: all) by id, after an id, without claiming."""
        return [ClaimedRow(**dict(row)) for row in await self._db.fetch(_SQL["peek_due"], now, after, limit)]

    async def postpone(self, rows: Sequence[Postponement]) -> None:
        """Look at these rows again later and let go of them; rows that were saved anew meanwhile are left alone."""
        values = ((r.snapshot_id, from_micros(r.saved_us), moment(r.due_us), moment(r.expires_us)) for r in rows)
        await self._db.execute(_SQL["postpone"], *columns(4, values))

    async def expired(self, now: datetime, after: tuple[datetime, UUID], limit: int) -> ExpiredRows | None:
        """All rows of sagas in which a noted expiry has passed, a batch after a position; None: there is none.

        A saga comes in the batch of the first such row of it.
        """
        rows = await self._db.fetch(_SQL["expired"], now, *after, limit)
        if not rows:
            return None
        passed = [row for row in rows if row["expires_at"] is not None and row["expires_at"] <= now]
        seen = {row["saga_id"] for row in passed if (row["expires_at"], row["snapshot_id"]) <= after}
        found = [_with_expiry(row) for row in rows if row["saga_id"] not in seen]
        return found, (rows[0]["last_at"], rows[0]["last_id"])

    async def of_sagas(self, saga_ids: Iterable[UUID]) -> list[tuple[SnapshotMeta, int | None]]:
        """All rows of these sagas, each with its noted expiry (None: never)."""
        return [_with_expiry(row) for row in await self._db.fetch(_SQL["of_sagas"], list(saga_ids))]

    async def metas(self, after: UUID, limit: int) -> list[tuple[SnapshotMeta, int | None]]:
        """Rows by id, after an id, each with its recorded expiry (None: never)."""
        return [_with_expiry(row) for row in await self._db.fetch(_SQL["metas"], after, limit)]

    async def recompute_expiry(self, rows: Sequence[tuple[SnapshotMeta, int | None]]) -> None:
        """These saves expire then (None: never), and `age` looks at them once more."""
        saves = versions([meta for meta, _ in rows])
        await self._db.execute(_SQL["recompute_expiry"], *saves, [moment(expires_us) for _, expires_us in rows])

    @asynccontextmanager
    async def deleting_unheld(
        self, metas: Sequence[SnapshotMeta], lease: Lease, *, ends: Mapping[UUID, SagaEnd]
    ) -> AsyncIterator[tuple[int, set[UUID]]]:
        """Remove exactly these saves, but no held one; yields how many rows went, and the held ids.

        The caller removes the same saves from Redis in the block, so that a hold is placed before all of it or
        after. `ends`: see `Holds.covering`. Raises LeaseLost; after any error nothing was removed here.
        """
        async with fenced(self._db, lease) as conn:
            await hold_still(conn, expiring=True)
            held = await Holds(self._db).covering(metas, conn, ends=ends)
            ids, saves = versions([meta for meta in metas if meta.snapshot_id not in held])
            await lock_rows(conn, ids)
            await conn.execute(_SQL["drop_hot_saves"], ids, saves)
            yield affected(await conn.execute(_SQL["delete_versions"], ids, saves)), held

    async def reset_due(self, after: UUID, limit: int) -> UUID | None:
        """Make a batch of rows (by id) due for another look; the last id, or None at the end."""
        return max((row["snapshot_id"] for row in await self._db.fetch(_SQL["reset_due"], after, limit)), default=None)

    async def totals(self, now: datetime) -> dict[str, int]:
        """`snapshots`, `bytes`, `fallback` (only here: Redis could not take them), `due`."""
        [row] = await self._db.fetch(_SQL["totals"], now)
        return dict(row)

    async def estimate(self, now: datetime) -> dict[str, int | bool]:
        """`totals` for looking at, however many rows there are.

        Where that are many, `estimated` is true: then `snapshots` is by PostgreSQL's statistics and `bytes` what the
        table takes; `due` says MOST_DUE for anything above it.
        """
        [row] = await self._db.fetch(_SQL["estimate"], now, _EXACT_PAGES, MOST_DUE)
        return dict(row)


def versions(metas: Sequence[SnapshotMeta]) -> tuple[list[UUID], list[datetime]]:
    """What tells these saves apart, as two columns."""
    return [meta.snapshot_id for meta in metas], [from_micros(meta.saved_us) for meta in metas]


async def lock_rows(conn: Connection, ids: Sequence[UUID]) -> None:
    """In a transaction that removes something of these snapshots by more than one statement, before the first.

    Deleting a row locks the row of its saga, and a save has the snapshot's row when it comes for that.
    """
    await conn.execute(_SQL["lock"], list(ids))


def names_of(meta: SnapshotMeta) -> tuple[Any, ...]:
    """What tables of single snapshots begin with: its id, saga, name, step, number of the step, status, instant."""
    saga = (meta.snapshot_id, meta.saga_id, to_column(meta.saga_name))
    return (*saga, to_column(meta.step_name), meta.step_index, to_column(meta.status), from_micros(meta.created_us))


def row_to_put(
    meta: SnapshotMeta, value: bytes, *, due_us: int | None, expires_us: int | None, fallback: bool
) -> tuple[Any, ...]:
    """What `_PUT` names, and the value."""
    return (
        *names_of(meta),
        moment(meta.retention_us),
        from_micros(meta.saved_us),
        moment(expires_us),
        moment(due_us),
        meta.body_crc,
        fallback,
        to_column(meta.attributes) or None,
        value,
    )


async def put_rows(conn: Connection | Database, rows: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
    """Store these, each id once and in the order of ids, unless something is in the way; what was stored."""
    return await conn.fetch(_SQL["put_many"], recordset(_PUT, rows), [row[-1] for row in rows])


def naming(row: Any) -> dict[str, Any]:
    """The columns that name a snapshot: what tables, SnapshotMeta and SnapshotRef have in common."""
    return {
        "snapshot_id": row["snapshot_id"],
        "saga_id": row["saga_id"],
        "saga_name": from_column(row["saga_name"]),
        "step_name": from_column(row["step_name"]),
        "step_index": row["step_index"],
        "status": from_column(row["status"]),
    }


def _with_expiry(row: Any) -> tuple[SnapshotMeta, int | None]:
    return meta_of(row, row["retention_until"], row["body_crc"]), micros(row["expires_at"])


def meta_of(row: Any, retention_until: datetime | None = None, body_crc: int = 0) -> SnapshotMeta:
    """Of a row of a save, whose own date and checksum not every table has."""
    return SnapshotMeta(
        **naming(row),
        created_us=to_micros(row["created_at"]),
        saved_us=to_micros(row["saved_at"]),
        retention_us=micros(retention_until),
        body_crc=body_crc,
        attributes=from_column(row["attributes"] or ""),
    )
