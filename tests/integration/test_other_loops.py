"""The tiered storage and its parts, called from other event loops than theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from support.elsewhere import in_thread
from support.s3_server import s3_options
from support.snapshots import SAGA, make, number
from support.tiers import DEFAULT_POLICIES, Places, Product, config, insistent, product

from sagaz_tiering.app.tiered import TieredSnapshotStorage
from sagaz_tiering.catalog.restores import Wanted
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.embedded.servers import is_held
from sagaz_tiering.errors import WrongEventLoop
from sagaz_tiering.jobs import run_job
from sagaz_tiering.objects.s3.store import S3ObjectStore
from sagaz_tiering.policy import Policy
from sagaz_tiering.storage.redis.storage import RedisSnapshotStorage

pytestmark = pytest.mark.guarantee("G13")


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    """Few connections."""
    settings = config(**places)
    hot = settings.tiers.hot.model_copy(update={"max_connections": 3})
    tiers = settings.tiers.model_copy(update={"hot": hot})
    catalog = settings.catalog.model_copy(update={"pool_max": 2})
    async with product(settings.model_copy(update={"tiers": tiers, "catalog": catalog})) as opened:
        yield opened


async def refused(call: Callable[[], Awaitable[Any]]) -> bool:
    """Whether another loop is refused."""
    try:
        await in_thread(call)
    except WrongEventLoop as exc:
        return bool(exc.hint)
    return False


async def test_parts_refuse_every_other_loop(shop: Product) -> None:
    """Whoever goes past the storage is told, before anything is sent; and the parts go on at home."""
    runtime = shop.runtime
    await shop.storage.save_snapshot(make(1))
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: runtime.hot.get(number(1)),
        lambda: runtime.hot.values(SAGA, 5),
        runtime.hot.connection.ping,
        lambda: runtime.db.fetch("SELECT 1"),
        lambda: runtime.catalog.holds.place(SAGA, reason="r", who="w", now=shop.clock.now()),
        lambda: run_job("age", runtime.job_context()),
        lambda: shop.storage.restorer.request(Wanted(saga_ids=[SAGA]), who="w"),
    ]
    assert [await refused(call) for call in calls] == [True] * len(calls)
    assert await shop.storage.get_snapshot(number(1)) == make(1)


async def test_open_object_store_refuses_every_other_loop() -> None:
    """Its client is of the loop that opened it; nothing is sent."""
    async with await S3ObjectStore.open(s3_options("http://127.0.0.1:9", "nowhere")) as store:
        assert await refused(lambda: store.head("packs/a"))


async def test_storage_of_open_tiers_serves_its_own_loop_alone(shop: Product) -> None:
    """Made by hand it cannot be opened a second time, and says what can."""
    storage = TieredSnapshotStorage(shop.runtime)
    await storage.save_snapshot(make(1))
    with pytest.raises(WrongEventLoop) as caught:
        await in_thread(lambda: storage.get_snapshot(number(1)))
    assert "from_config" in caught.value.hint
    assert await storage.get_snapshot(number(1)) == make(1)


async def test_connections_of_a_process_are_those_of_two_storages(shop: Product, database: str, redis_url: str) -> None:
    """However many threads and loops there are: the limits hold at home and on the helper loop."""

    async def burst() -> None:
        await asyncio.gather(*(shop.storage.save_snapshot(make(at)) for at in range(40)))
        await asyncio.gather(*(shop.storage.timeline(SAGA) for _ in range(20)))

    await asyncio.gather(burst(), *(in_thread(burst) for _ in range(4)))
    observer = await asyncpg.connect(database)
    ours = await observer.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'sagaz-tiering'"
    )
    await observer.close()
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        clients = len(await client.client_list()) - 1
    assert ours <= 2 * 2
    assert clients <= 2 * (3 + 2)


async def test_policies_that_are_reloaded_rule_on_every_loop(shop: Product) -> None:
    """Also what is open for other loops already."""
    await in_thread(lambda: shop.storage.save_snapshot(make(1)))
    hot_only = tuple(Policy.model_validate({**policy, "durability": "hot"}) for policy in insistent(DEFAULT_POLICIES))
    await shop.runtime.reload(shop.runtime.settings.model_copy(update={"policies": hot_only}))
    before = await shop.runtime.catalog.durable.totals(shop.clock.now())
    await in_thread(lambda: shop.storage.save_snapshot(make(2)))
    assert await shop.runtime.catalog.durable.totals(shop.clock.now()) == before
    assert await shop.storage.get_snapshot(number(2)) == make(2)


async def test_embedded_servers_that_run_serve_every_loop(data_dir: Path, tmp_path: Path) -> None:
    """What other loops open starts none of its own, and the servers end with the storage."""
    settings = TieringConfig(
        embedded={"data_dir": str(data_dir), "s3": False},
        tiers={"hot": {"url": "embedded"}, "cold": {"url": f"file://{tmp_path}/cold"}},
        catalog={"url": "embedded"},
        policies=insistent(DEFAULT_POLICIES),
    )
    async with TieredSnapshotStorage.from_config(settings, clock=VirtualClock(make(9).created_at)) as storage:
        await storage.save_snapshot(make(1))
        assert await in_thread(lambda: storage.get_snapshot(number(1))) == make(1)
        await in_thread(lambda: storage.save_snapshot(make(2)))
        assert await storage.get_snapshot(number(2)) == make(2)
    assert not is_held(data_dir)


async def test_cancelled_caller_ends_whatever_it_waits_for(shop: Product, redis_url: str) -> None:
    """One cancellation is enough, whenever it comes: who asks again and again in the background stops."""
    runtime = shop.runtime
    await shop.storage.save_snapshot(make(1))
    async with RedisSnapshotStorage(redis_url, "alone:") as alone:
        await alone.save_snapshot(make(1))
        calls: list[Callable[[], Awaitable[Any]]] = [
            runtime.hot.connection.ping,
            runtime.hot.connection.time,
            lambda: runtime.hot.values(SAGA, 5),
            lambda: runtime.db.fetch("SELECT 1"),
            lambda: shop.storage.list_snapshots(SAGA),
            lambda: alone.list_snapshots(SAGA),
            lambda: alone.get_snapshot(number(1)),
        ]
        for call in calls:
            await call()
            for turns in range(12):
                assert await ends(call, turns), f"{call} went on, cancelled after {turns} turns of the loop"


async def ends(call: Callable[[], Awaitable[Any]], turns: int) -> bool:
    """Whether a task that calls for ever ends by being cancelled once, after so many turns of the loop."""

    async def call_for_ever() -> None:
        while True:
            await call()

    task = asyncio.create_task(call_for_ever())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    _, left = await asyncio.wait((task,), timeout=60)
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.01)
    return not left
