"""The Redis storage on a real Cluster of three, and behind a real Sentinel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio
from redis.crc import key_slot
from support.redis_cluster import Cluster, watched_primary
from support.servers import new_folder, run_apart, server_folder
from support.snapshots import OTHER_SAGA, SAGA, ids_of, make, number, replay, save_all
from support.tiers import DAY, NOW

from sagaz_tiering import RedisSnapshotStorage
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.drivers.redis.client import RedisClient
from sagaz_tiering.errors import ConfigError, HotTierUnavailable
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.redis.keys import RedisKeys, SagaHome

HOUR = timedelta(hours=1)
OLD, NEW = make(1, status="old"), make(1, status="new")
MOVED = make(1, status="new", saga_id=OTHER_SAGA)


@pytest.fixture(scope="module")
def cluster_url(servers_folder: Path) -> Iterator[str]:
    """The URL of a Cluster that all tests here share; each has a prefix of its own."""
    cluster = Cluster(new_folder(servers_folder, "cluster"))
    run_apart(cluster.start)
    yield cluster.url
    run_apart(cluster.stop)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def options(cluster_url: str, clock: VirtualClock) -> dict[str, Any]:
    """A storage with nothing in it."""
    return {"redis_url": cluster_url, "key_prefix": f"{uuid4().hex}:", "clock": clock}


@pytest.fixture
async def storage(options: dict[str, Any]) -> AsyncIterator[RedisSnapshotStorage]:
    async with RedisSnapshotStorage(**options) as opened:
        yield opened


async def keys_of(storage: RedisSnapshotStorage) -> set[str]:
    client: Any = storage._get_redis()
    return {key.decode() async for key in client.scan_iter(f"{storage.key_prefix}*")}


class Crash(BaseException):
    """The process ends here."""


class Crashing(RedisClient):
    """A client whose process ends before the n-th time that Redis is asked."""

    left = 0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        self.left -= 1
        if self.left < 0:
            raise Crash
        async with super().use() as client:
            yield client


async def crash_while(storage: RedisSnapshotStorage, after: int, call: Callable[[], Awaitable[Any]]) -> bool:
    """Call, with a crash after so many questions; False if the call was done by then."""
    whole = storage._redis
    crashing = Crashing(whole.options)
    crashing.left = after
    storage._redis = storage._store.redis = crashing
    try:
        await call()
    except Crash:
        return True
    finally:
        await crashing.close()
        storage._redis = storage._store.redis = whole
    return False


async def seen(storage: RedisSnapshotStorage) -> SagaSnapshot | None:
    """What there is of snapshot 1, after checking that every way to look says the same of every saga."""
    found = await storage.get_snapshot(number(1))
    for saga in (SAGA, OTHER_SAGA):
        expected = [found] if found is not None and found.saga_id == saga else []
        assert await storage.list_snapshots(saga) == expected
        assert [each async for each in storage.iter_snapshots(saga)] == expected
        latest = await storage.get_latest_snapshot(saga, before_step="step_1")
        assert latest == (expected[0] if expected else None)
    return found


SAVES = {
    "first": ((), NEW, None),
    "again": ((OLD,), NEW, OLD),
    "under-another-saga": ((OLD,), MOVED, OLD),
    "back-again": ((NEW, make(1, status="old", saga_id=OTHER_SAGA)), NEW, make(1, status="old", saga_id=OTHER_SAGA)),
}


@pytest.mark.parametrize("look_first", [True, False])
@pytest.mark.parametrize("name", SAVES)
async def test_crash_at_any_point_of_a_save(
    storage: RedisSnapshotStorage, clock: VirtualClock, name: str, look_first: bool
) -> None:
    """The snapshot is the old or the new one, seen alike by every read; a later save and a delete leave nothing."""
    begun, new, old = SAVES[name]
    after, outcomes = 0, list[SagaSnapshot | None]()
    while True:
        await save_all(storage, begun)
        crashed = await crash_while(storage, after, lambda: storage.save_snapshot(new))
        if look_first or not crashed:
            found = await storage.get_snapshot(number(1))
            assert await seen(storage) == found
            assert found in (old, new)
            outcomes.append(found)
        last = make(1, status="last", saga_id=OTHER_SAGA if after % 2 else SAGA)
        await storage.save_snapshot(last)
        assert await seen(storage) == last
        assert (await storage.health_check()).snapshot_count == 1
        assert await storage.delete_snapshot(number(1))
        assert await seen(storage) is None
        assert {key.rpartition("}")[2] for key in await keys_of(storage)} == {"totals"}
        if not crashed:
            break
        after += 1
    assert outcomes[-1] == new
    assert after >= 2
    assert outcomes == sorted(outcomes, key=lambda each: each == new)


@pytest.mark.parametrize("name", ["again", "under-another-saga"])
async def test_lists_are_right_after_a_crash_before_anything_else_looks(
    storage: RedisSnapshotStorage, name: str
) -> None:
    """The saga that a snapshot left does not list it, whoever asks first."""
    begun, new, old = SAVES[name]
    for saga in (SAGA, OTHER_SAGA):
        after, crashed = 0, True
        while crashed:
            await save_all(storage, begun)
            crashed = await crash_while(storage, after, lambda: storage.save_snapshot(new))
            listed = await storage.list_snapshots(saga)
            other = await storage.list_snapshots(OTHER_SAGA if saga == SAGA else SAGA)
            assert [*listed, *other] in ([old], [new])
            assert [await storage.get_snapshot(number(1))] == [*listed, *other]
            await storage.delete_snapshot(number(1))
            after += 1


@pytest.mark.parametrize("begun", [[], [MOVED], [OLD]])
async def test_crash_at_any_point_of_a_delete(storage: RedisSnapshotStorage, begun: list[SagaSnapshot]) -> None:
    """It is wholly there or not at all."""
    for after in range(8):
        await save_all(storage, begun)
        await crash_while(storage, after, lambda: storage.delete_snapshot(number(1)))
        assert await seen(storage) in (None, *begun)
        await crash_while(storage, after, lambda: storage.cleanup_saga(SAGA))
        assert await seen(storage) in (None, *begun)


async def test_pointer_that_a_crash_left_goes_when_it_is_old(
    storage: RedisSnapshotStorage, clock: VirtualClock
) -> None:
    """Not before: a save may be under way."""
    assert await crash_while(storage, 1, lambda: storage.save_snapshot(NEW))
    pointer = storage._store.keys.pointer(number(1).hex)
    assert await storage.get_snapshot(number(1)) is None
    assert await keys_of(storage) == {pointer}
    clock.advance(2 * HOUR)
    assert await storage.get_snapshot(number(1)) is None
    assert await keys_of(storage) == set()


async def test_shorter_life_does_not_lose_the_pointer_of_the_longer_one(storage: RedisSnapshotStorage) -> None:
    """A save that would expire soon crashes half-way: what is there lives on, with its pointer."""
    client: Any = storage._get_redis()
    pointer = storage._store.keys.pointer(number(1).hex)
    short = make(1, status="new", retention_until=NOW + HOUR)
    await storage.save_snapshot(OLD)
    assert await crash_while(storage, 1, lambda: storage.save_snapshot(short))
    assert await seen(storage) == OLD
    assert await client.ttl(pointer) == -1
    await storage.save_snapshot(short)
    assert 0 < await client.ttl(pointer) <= 3600
    await storage.save_snapshot(make(1, retention_until=NOW + 5 * HOUR))
    assert 4 * 3600 < await client.ttl(pointer) <= 5 * 3600
    assert await crash_while(storage, 1, lambda: storage.save_snapshot(short))
    assert 4 * 3600 < await client.ttl(pointer) <= 5 * 3600
    await storage.save_snapshot(OLD)
    assert await client.ttl(pointer) == -1


async def test_crash_at_any_point_of_saving_a_replay(storage: RedisSnapshotStorage) -> None:
    """Found by its id is found in its saga's list, and in no other's."""
    for after in range(6):
        for new in (replay(after), replay(after, original_saga_id=OTHER_SAGA), replay(after, error_message="again")):
            await crash_while(storage, after, partial(storage.save_replay_log, new))
            record = await storage.get_replay_log(number(after))
            listed = [each for saga in (SAGA, OTHER_SAGA) for each in await storage.list_replays(saga)]
            walked = [each async for each in storage.iter_replay_logs()]
            assert [each for each in listed if each["replay_id"] == str(number(after))] == ([record] if record else [])
            assert {each["replay_id"] for each in walked} == {each["replay_id"] for each in listed}
    assert record is not None


async def test_first_use_by_many_with_few_connections(options: dict[str, Any]) -> None:
    """The driver's own pool would fail them; here they wait, and one client is made."""
    async with RedisSnapshotStorage(**options, max_connections=3) as storage:
        await asyncio.gather(*(storage.save_snapshot(make(at)) for at in range(300)))
        assert await ids_of(storage) == [number(at) for at in range(300)]
        sagas = [uuid4() for _ in range(100)]
        await asyncio.gather(*(storage.save_snapshot(make(1000 + at, saga_id=s)) for at, s in enumerate(sagas)))
        assert {each async for each in storage.saga_ids()} == {SAGA, *sagas}
        health = await storage.health_check()
        assert (health.status, health.snapshot_count, len(health.details["servers"])) == ("healthy", 400, 3)


async def test_sagas_are_spread_and_each_is_in_one_slot(storage: RedisSnapshotStorage) -> None:
    """Also sagas whose ids begin alike, as those made of the time do."""
    keys, slots = RedisKeys("p:"), set[int]()
    for at in range(2000):
        place = SagaHome.of(number(at))
        slot = key_slot(keys.index(place).encode())
        for key in (keys.facts(place), keys.value(place, "0" * 32), keys.sagas(place.shard), keys.totals(place.shard)):
            assert key_slot(key.encode()) == slot
        slots.add(slot)
    assert len(slots) > 200


async def test_expired_snapshots_go_from_every_shard(storage: RedisSnapshotStorage, clock: VirtualClock) -> None:
    """More of one saga than a page, and many sagas; what never expires stays."""
    until = NOW + HOUR
    many = [make(at, retention_until=until) for at in range(250)]
    sagas = [make(500 + at, saga_id=uuid4(), retention_until=until) for at in range(40)]
    await asyncio.gather(*(storage.save_snapshot(each) for each in (*many, *sagas, make(900))))
    clock.advance(HOUR)
    assert (await storage.health_check()).snapshot_count == 1
    assert await storage.delete_expired_snapshots() == 290
    assert await storage.delete_expired_snapshots() == 0
    assert await ids_of(storage) == [number(900)]
    clock.advance(DAY)
    assert await storage.cleanup_saga(SAGA) == 1


async def test_a_node_of_a_cluster_is_not_one_server(cluster_url: str) -> None:
    """The error says which URL to write."""
    node = cluster_url.replace("redis+cluster://", "redis://").partition(",")[0]
    async with RedisSnapshotStorage(node) as storage:
        calls: list[Callable[[int], Awaitable[Any]]] = [
            lambda at: storage.save_snapshot(make(at)),
            lambda at: storage.get_snapshot(number(at)),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match="node of a Cluster") as caught:
                await asyncio.gather(*(call(at) for at in range(50)))
            assert "redis+cluster://" in caught.value.hint


async def test_hot_tier_on_a_node_of_a_cluster_tells_what_it_takes(cluster_url: str) -> None:
    """Not the URL of the Cluster, which its setting refuses."""
    node = cluster_url.replace("redis+cluster://", "redis://").partition(",")[0]
    async with HotTier(HotSettings(url=node)) as hot:
        for ask in (hot.get, partial(hot.values, limit=10)):
            with pytest.raises(ConfigError, match="node of a Cluster") as caught:
                await asyncio.gather(*(ask(number(at)) for at in range(50)))
            assert "redis+cluster" not in caught.value.hint
            assert "redis+sentinel://HOST,HOST/NAME in tiers.hot.url" in caught.value.hint


async def test_given_cluster_client_is_used_and_not_closed(options: dict[str, Any], cluster_url: str) -> None:
    """As a client of one server is."""
    first = cluster_url.replace("redis+cluster://", "redis://").partition(",")[0]
    async with redis.asyncio.RedisCluster.from_url(first) as client:
        async with RedisSnapshotStorage(**options, client=client) as storage:
            await save_all(storage, [make(at) for at in range(5)])
            assert len(await ids_of(storage)) == 5
            assert storage.get_storage_info()["cluster"] is True
        assert await client.ping()


async def test_cluster_that_is_away_is_unavailable() -> None:
    """With our error, soon."""
    options: dict[str, Any] = {"socket_timeout": timedelta(seconds=0.3)}
    async with RedisSnapshotStorage("redis+cluster://127.0.0.1:1,127.0.0.1:2", **options) as storage:
        with pytest.raises(HotTierUnavailable):
            await storage.get_snapshot(number(1))
        assert (await storage.health_check()).status == "unhealthy"


async def test_sentinel_leads_to_the_next_primary(clock: VirtualClock) -> None:
    """The primary dies: calls fail with our error until there is another one, then they work and nothing is lost."""
    with server_folder() as folder:
        async with watched_primary(folder) as watched, RedisSnapshotStorage(watched.url, clock=clock) as storage:
            await save_all(storage, [make(1), make(2)])
            await storage._get_redis().wait(1, 5000)
            await watched.lose_primary()
            await until_saved(storage, make(3))
            assert await ids_of(storage) == [number(1), number(2), number(3)]


async def until_saved(storage: RedisSnapshotStorage, snapshot: SagaSnapshot) -> None:
    """Save as often as it takes; fails after two minutes: a Sentinel that got no time rests for half a minute."""
    deadline = time.monotonic() + 300
    while True:
        try:
            return await storage.save_snapshot(snapshot)
        except HotTierUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
