"""What the catalog knows of Redis: which one it met last, how far that had come, and whether it is believed alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sagaz_tiering.catalog.durable import moment
from sagaz_tiering.catalog.leases import Lease, fenced
from sagaz_tiering.catalog.rows import Repository
from sagaz_tiering.clock import to_micros
from sagaz_tiering.drivers.postgresql.pool import Connection, affected
from sagaz_tiering.drivers.postgresql.queries import load

_SQL = load(__package__, "hot_tier")


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
        [row] = await self._db.fetch(_SQL["look"])  # the migration makes it
        return KnownRedis(**{**row, "held": tuple(row["held"])})

    async def note(self, nonce: str, number: int) -> None:
        """That Redis has come so far."""
        await self._db.execute(_SQL["note"], number, nonce)

    async def state(self) -> HotTierState:
        """The whole row, and what is lost."""
        [row] = await self._db.fetch(_SQL["state"])
        return HotTierState(**dict(row))

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[tuple[Connection, KnownRedis]]:
        """A transaction in which nobody else finds Redis to be another one."""
        async with self._db.transaction() as conn:
            [row] = await conn.fetch(_SQL["lock"])
            yield conn, KnownRedis(**dict(row))

    async def transactions_begun(self) -> int:
        """Every transaction that writes has a lower number than this one, or begins later."""
        return int(await self._db.fetchval(_SQL["transactions_begun"]))

    async def transactions_ended(self) -> int:
        """Every transaction that writes and has a lower number than this has ended."""
        return int(await self._db.fetchval(_SQL["transactions_ended"]))

    async def doubt(self, reason: str, now: datetime) -> None:
        """Do not believe Redis alone until it is reconciled, though it is the one that was met last."""
        await self._db.execute(_SQL["doubt"], now, reason)

    async def doubt_all(self, reason: str, now: datetime) -> None:
        """The same where this catalog is not what it was, so that it may know nothing of anything that Redis has."""
        await self._db.execute(_SQL["doubt_all"], now, reason)

    async def trust(self, changes: int, lease: Lease, now: datetime) -> bool:
        """Believe Redis again; False if it was found to be another one meanwhile. Raises LeaseLost."""
        async with fenced(self._db, lease) as conn:
            return affected(await conn.execute(_SQL["trust"], changes, now)) == 1


async def knows_nothing(conn: Connection) -> bool:
    """Whether there is nothing that a Redis could lack, or have though it must not."""
    return bool(await conn.fetchval(_SQL["knows_nothing"]))


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
    good_at = await conn.fetchval(_SQL["change"], nonce, number, run_id, reason, moment(good_us), trusted, now)
    return None if good_at is None else to_micros(good_at)
