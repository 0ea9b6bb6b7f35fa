"""One clock for all: a wrong host, a wrong server or a jump removes nothing that is not past its retention."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.clocks import Ahead, Servers, Uptime
from support.snapshots import make
from support.tiers import DAY, Places, config

from sagaz_tiering import PostgreSQLSnapshotStorage, RedisSnapshotStorage
from sagaz_tiering.app.runtime import Runtime, open_runtime
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.drivers import server_clock
from sagaz_tiering.drivers.server_clock import AGREEING
from sagaz_tiering.errors import ClockDisagreement
from sagaz_tiering.jobs import JOBS, run_job
from sagaz_tiering.snapshot import SagaSnapshot

pytestmark = pytest.mark.guarantee("G11")
YEAR, HOUR, MINUTE = timedelta(days=365), timedelta(hours=1), timedelta(minutes=1)
KEEP: dict[str, Any] = {"retain": "200d"}
POLICIES: list[dict[str, Any]] = [
    {"name": "pay", "match": {"saga_name": "pay"}, "move": [{"to": "STANDARD_IA", "after": "30d"}], **KEEP},
    {"name": "packed", "match": {"saga_name": "packed"}, "move": [{"to": "STANDARD_IA", "after": "1s"}], **KEEP},
    {"name": "fast", "match": {"saga_name": "fast"}, "durability": "hot", **KEEP},
]
REMOVING = ("expire", "collect", "compact")


@pytest.fixture
def settings(places: Places) -> TieringConfig:
    """Everything may expire at once, if it does."""
    jobs = {"expire_max_share": 1.0, "retire_grace": "1s"}
    return config(**places, policies=POLICIES, jobs=jobs)


@pytest.fixture
async def shop(settings: TieringConfig) -> AsyncIterator[Runtime]:
    """A process whose host's clock is right."""
    async with open_runtime(settings) as runtime:
        yield runtime


async def saved(runtime: Runtime, *names: str) -> list[SagaSnapshot]:
    """One new snapshot of each of these sagas, from now."""
    found = [
        make(at, snapshot_id=uuid4(), saga_id=uuid4(), saga_name=name, created_at=datetime.now(UTC))
        for at, name in enumerate(names)
    ]
    for snapshot in found:
        await runtime.storage().save_snapshot(snapshot)
    return found


async def all_there(runtime: Runtime, snapshots: list[SagaSnapshot]) -> None:
    for snapshot in snapshots:
        assert await runtime.storage().get_snapshot(snapshot.snapshot_id) == snapshot
        assert await runtime.storage().get_latest_snapshot(snapshot.saga_id) == snapshot


@asynccontextmanager
async def over(settings: TieringConfig, servers: Servers) -> AsyncIterator[Runtime]:
    """A process to which the servers tell these times."""
    async with AsyncExitStack() as stack:
        clock = await stack.enter_async_context(servers.clock())
        yield await stack.enter_async_context(open_runtime(settings, clock=clock))


@pytest.fixture
def servers() -> Servers:
    """They begin with the true time."""
    uptime = Uptime()
    return Servers(uptime, start=datetime.now(UTC))


@pytest.mark.guarantee("G3")
async def test_host_a_year_ahead_removes_and_hides_nothing(settings: TieringConfig, shop: Runtime) -> None:
    """Its jobs and its readers go by the time of PostgreSQL's server; what it saves is saved now."""
    snapshots = await saved(shop, "pay", "packed", "fast")
    async with open_runtime(settings, host=Ahead(YEAR)) as ahead:
        snapshots += await saved(ahead, "pay", "packed", "fast")
        value = await ahead.hot.get(snapshots[-1].snapshot_id)
        assert isinstance(value, bytes)
        assert abs(read_meta(value).saved_us - to_micros(datetime.now(UTC))) < 60_000_000
        for job in JOBS:
            report = await run_job(job, ahead.job_context())
            assert "clock_unsure" not in report.counts
        await all_there(ahead, snapshots)
    await all_there(shop, snapshots)


@pytest.mark.parametrize("job", REMOVING)
async def test_catalog_clock_that_no_other_agrees_with_removes_nothing(
    settings: TieringConfig, shop: Runtime, servers: Servers, job: str
) -> None:
    """PostgreSQL's server is a year ahead of Redis, which is the only other that tells its time."""
    snapshots = await saved(shop, "pay", "fast")
    servers.catalog_ahead = YEAR
    async with over(settings, servers) as wrong:
        assert wrong.job_context().clock.now() > datetime.now(UTC) + YEAR - HOUR
        with pytest.raises(ClockDisagreement, match=r"Redis is .* behind PostgreSQL; nothing was removed") as raised:
            await run_job(job, wrong.job_context())
        assert raised.value.exit_code == 12
    await all_there(shop, snapshots)


async def test_object_store_that_agrees_outvotes_redis(
    settings: TieringConfig, shop: Runtime, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis' clock alone is wrong: what is past its retention goes, and the report says so. Both wrong: nothing."""
    (snapshot,) = await saved(shop, "pay")
    servers.catalog_ahead = YEAR
    ahead = YEAR

    async def server_time() -> datetime:
        return datetime.now(UTC) + ahead

    async with over(settings, servers) as both:
        monkeypatch.setattr(both.objects, "server_time", server_time)
        report = await run_job("expire", both.job_context())
        assert report.counts["hot"] == 1
        assert any("clocks differ: Redis is" in note for note in report.notes)
        (snapshot,) = await saved(shop, "pay")
        ahead = timedelta()
        with pytest.raises(ClockDisagreement, match=r"Redis is .* and the object store is"):
            await run_job("expire", both.job_context())
    await all_there(shop, [snapshot])


@pytest.mark.parametrize("job", REMOVING)
async def test_jump_removes_nothing_before_three_measurements_agree(
    settings: TieringConfig, shop: Runtime, servers: Servers, job: str
) -> None:
    """The run ends well, removes nothing and says why."""
    snapshots = await saved(shop, "pay", "fast")
    async with over(settings, servers) as jumped:
        servers.catalog_ahead = YEAR
        report = await run_job(job, jumped.job_context())
        assert report.counts == {"clock_unsure": 1}
        assert any("nothing was removed" in note for note in report.notes)
        servers.catalog_ahead = timedelta()
        for _ in range(AGREEING):
            await run_job(job, jumped.job_context())
        assert "clock_unsure" not in (await run_job(job, jumped.job_context())).counts
    await all_there(shop, snapshots)


async def test_facade_expires_nothing_before_postgresql_told_its_time(
    settings: TieringConfig, shop: Runtime, servers: Servers
) -> None:
    """`delete_expired_snapshots` is the same job; meanwhile saves go by Redis' clock."""
    servers.catalog_away, servers.host_ahead = True, YEAR
    async with over(settings, servers) as early:
        snapshots = await saved(early, "pay", "fast")
        servers.catalog_away, servers.catalog_ahead = False, YEAR
        assert await early.storage().delete_expired_snapshots() == 0
    await all_there(shop, snapshots)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("kind", ["postgresql", "redis"])
async def test_standalone_storages_go_by_their_own_servers(
    empty_database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """On a host a year ahead nothing has expired, and nothing is given a time to live that is a year too short."""
    monkeypatch.setattr(server_clock, "SystemClock", lambda: Ahead(YEAR))
    storage = PostgreSQLSnapshotStorage(empty_database) if kind == "postgresql" else RedisSnapshotStorage(redis_url)
    async with storage:
        now = datetime.now(UTC)
        kept = make(0, retention_until=now + 200 * DAY)
        await storage.save_snapshot(kept)
        await storage.save_snapshot(make(1, retention_until=now - DAY))
        assert await storage.delete_expired_snapshots() == 1
        assert await storage.get_snapshot(kept.snapshot_id) == kept
        assert await storage.list_snapshots(kept.saga_id) == [kept]
        assert [each async for each in storage.iter_snapshots()] == [kept]
