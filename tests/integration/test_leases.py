"""Leases: one holder at a time, whose transactions nobody overtakes, and who keeps it while he works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count

import pytest

from sagaz_tiering.catalog.leases import Leases, fenced
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.errors import LeaseLost

LONG, SHORT = timedelta(minutes=10), timedelta(seconds=1)
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
async def db(database: str) -> AsyncIterator[Database]:
    """A catalog."""
    async with Database(CatalogSettings(url=database)) as opened:
        yield opened


async def test_lease_is_renewed_while_a_transaction_of_its_holder_is_under_way(db: Database) -> None:
    """Else a job that publishes one pack after the other loses its lease for want of a gap."""
    leases = Leases(db)
    lease = await leases.acquire("age", "we", LONG)
    assert lease is not None
    async with fenced(db, lease):
        assert await leases.renew(lease, LONG)


@pytest.mark.guarantee("G1")
async def test_expired_lease_is_taken_only_when_the_transactions_of_its_holder_have_ended(db: Database) -> None:
    """What a fenced transaction writes is never written beside a new holder; afterwards the old one is refused."""
    leases = Leases(db)
    lease = await leases.acquire("age", "we", SHORT)
    assert lease is not None
    async with fenced(db, lease):
        await asyncio.sleep(SHORT.total_seconds())
        taking = asyncio.create_task(leases.acquire("age", "they", LONG))
        async with asyncio.timeout(120):
            for _ in count():
                if taking.done() or await db.fetchval(WAITS):
                    break
                await asyncio.sleep(0.02)
        assert not taking.done()
    taken = await taking
    assert taken is not None
    assert taken.epoch == lease.epoch + 1
    with pytest.raises(LeaseLost):
        async with fenced(db, lease):
            pytest.fail("somebody else has the lease")
