"""Leases with a fencing epoch: who may change what now.

A holder renews in the background; a holder that was paused past its lease finds out inside its next
transaction (`fenced`), not after it. The database's clock decides, so hosts may disagree about the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sagaz_tiering import metrics
from sagaz_tiering.drivers.postgresql.pool import Connection, Database
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.errors import CatalogUnavailable, LeaseLost
from sagaz_tiering.logs import Logger

_SQL = load(__package__, "leases")
_log = Logger(__name__)
ARCHIVE_LOCK: Final = 0x5A6A7A02
"""Transaction-scoped: publishing a pack takes it alone, deleting snapshots shares it; neither misses the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Proof of having been the holder; only `fenced` tells whether one still is."""

    name: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLease(Lease):
    """One row of `status`: who holds a lease until when."""

    expires_at: datetime


@asynccontextmanager
async def fenced(db: Database, lease: Lease, *, archive_lock: bool = False) -> AsyncIterator[Connection]:
    """A transaction: raises LeaseLost unless `lease` is still ours, and keeps it ours until the commit.

    With `archive_lock` nobody else publishes or deletes meanwhile.
    """
    async with db.transaction() as conn:
        if await conn.fetchval(_SQL["fence"], lease.name, lease.owner, lease.epoch) is None:
            raise LeaseLost(
                f"lease {lease.name!r} (epoch {lease.epoch}) is not held by {lease.owner} any more; nothing was written"
            )
        if archive_lock:
            await conn.execute("SELECT pg_advisory_xact_lock($1)", ARCHIVE_LOCK)
        yield conn


async def share_archive(conn: Connection) -> None:
    """For the rest of this transaction, which deletes, no pack is published."""
    await conn.execute("SELECT pg_advisory_xact_lock_shared($1)", ARCHIVE_LOCK)


class Leases:
    """Acquire, renew, release, and the check inside transactions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def acquire(self, name: str, owner: str, ttl: timedelta) -> Lease | None:
        """The lease under a new epoch, or None while somebody holds it."""
        epoch = await self._db.fetchval(_SQL["acquire"], name, owner, ttl)
        return None if epoch is None else Lease(name=name, owner=owner, epoch=epoch)

    async def renew(self, lease: Lease, ttl: timedelta) -> bool:
        """Extend; False when it has run out or somebody else has it."""
        return await self._db.execute(_SQL["renew"], lease.name, lease.owner, lease.epoch, ttl) == 1

    async def release(self, lease: Lease) -> None:
        """Let others have it now."""
        await self._db.execute(_SQL["release"], lease.name, lease.owner, lease.epoch)

    async def held(self) -> list[HeldLease]:
        """Every lease that is held now."""
        return [HeldLease(**dict(row)) for row in await self._db.fetch(_SQL["held"])]

    @asynccontextmanager
    async def hold(self, name: str, owner: str, ttl: timedelta) -> AsyncIterator[Lease | None]:
        """Hold the lease, renewed in the background, for the block; yields None where somebody else has it."""
        lease = await self.acquire(name, owner, ttl)
        if lease is None:
            yield None
            return
        renewal = asyncio.create_task(self._keep(lease, ttl), name=f"renew {name}")
        try:
            with metrics.LEASES_HELD.labels(job=name.partition("/")[0]).track_inprogress():
                yield lease
        finally:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal
            with suppress(CatalogUnavailable):
                await self.release(lease)

    async def _keep(self, lease: Lease, ttl: timedelta) -> None:
        while True:
            await asyncio.sleep(ttl.total_seconds() / 3)
            try:
                if not await self.renew(lease, ttl):
                    _log.warning("lease.lost", lease=lease.name, epoch=lease.epoch)
                    return
            except CatalogUnavailable as exc:
                _log.warning("lease.renewal_failed", lease=lease.name, error=str(exc))
