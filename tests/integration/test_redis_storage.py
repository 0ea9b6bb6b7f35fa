"""What only the Redis storage promises: round trips, time to live, keys, health, and how it is set up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import fakeredis
import pytest
import redis
import redis.asyncio
from support.processes import redis_do
from support.snapshots import OTHER_SAGA, SAGA, ids_of, make, number, replay, save_all
from support.tiers import DAY, NOW

from sagaz_tiering import RedisSnapshotStorage, SnapshotStorage
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.embedded import RedisServer
from sagaz_tiering.errors import ConfigError, CorruptRecord, HotTierRefused, HotTierUnavailable
from sagaz_tiering.storage.redis import keys as redis_keys
from sagaz_tiering.storage.redis import single as redis_shelf
from sagaz_tiering.storage.redis.keys import RedisKeys, SagaHome
from sagaz_tiering.storage.redis.single import IndexCursor

HOUR = timedelta(hours=1)
OwnRedis = Callable[..., Awaitable[RedisServer]]
KEYS = RedisKeys("snapshot:")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
async def storage(redis_url: str, clock: VirtualClock) -> AsyncIterator[RedisSnapshotStorage]:
    """An empty one with the seeds' defaults."""
    async with RedisSnapshotStorage(redis_url, clock=clock) as opened:
        yield opened


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    """The same server from the side."""
    async with redis.asyncio.Redis.from_url(redis_url) as opened:
        yield opened


async def calls(client: Any) -> dict[str, int]:
    """How often each command was sent by somebody else (what scripts do is not counted)."""
    found = await client.info("commandstats")
    own = {"info", "config|resetstat", "auth", "hello", "client|setinfo", "select", "ping", "flushall"}
    sent = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in found.items()}
    return {name: count for name, count in sent.items() if name not in own}


async def sent_by(client: Any, work: Awaitable[Any]) -> int:
    """How many commands `work` sends."""
    before = await client.info("commandstats")
    await work
    after = await client.info("commandstats")
    names = ("cmdstat_evalsha", "cmdstat_eval")
    return sum(after.get(n, {}).get("calls", 0) - before.get(n, {}).get("calls", 0) for n in names)


async def keys_of(client: Any) -> set[str]:
    return {key.decode() async for key in client.scan_iter("*")}


async def test_every_read_and_save_is_one_round_trip(storage: RedisSnapshotStorage, client: Any) -> None:
    """On one server: one script each, and nothing else is ever sent."""
    snapshots = await save_all(storage, [make(at) for at in range(120)])
    await storage.get_snapshot(number(0))
    await storage.list_snapshots(SAGA)
    await storage.delete_snapshot(number(9))
    for work in (
        storage.save_snapshot(make(500)),
        storage.save_snapshot(make(0, saga_id=OTHER_SAGA)),
        storage.get_snapshot(number(3)),
        storage.get_latest_snapshot(SAGA),
        storage.get_latest_snapshot(SAGA, before_step="step_1"),
        storage.get_snapshot_at_time(SAGA, snapshots[50].created_at),
        storage.list_snapshots(SAGA),
        storage.delete_snapshot(number(7)),
    ):
        await client.config_resetstat()
        await work
        sent = await client.info("commandstats")
        assert sent["cmdstat_evalsha"]["calls"] == 1
        assert "cmdstat_eval" not in sent


async def test_no_method_scans_the_keyspace(storage: RedisSnapshotStorage, client: Any, clock: VirtualClock) -> None:
    """Neither expiry nor health nor a walk over everything asks Redis to go through its keys."""
    await save_all(storage, [make(at, retention_until=NOW + HOUR if at % 2 else None) for at in range(8)])
    await storage.save_replay_log(replay())
    clock.advance(2 * HOUR)
    assert await storage.delete_expired_snapshots() == 4
    assert (await storage.health_check()).snapshot_count == 4
    assert len([each async for each in storage.iter_snapshots()]) == 4
    assert len([each async for each in storage.iter_replay_logs()]) == 1
    assert await storage.cleanup_saga(SAGA) == 4
    assert not {"scan", "keys", "sscan", "zscan", "hscan", "hgetall"} & set(await calls(client))


async def test_a_step_is_found_without_fetching_the_others(storage: RedisSnapshotStorage, client: Any) -> None:
    """The oldest of many steps: Redis sends one value."""
    big = {"text": "".join(chr(33 + (at * at) % 90) for at in range(20_000))}
    await save_all(storage, [make(at, context=big) for at in range(100)])
    before = (await client.info("stats"))["total_net_output_bytes"]
    assert await storage.get_latest_snapshot(SAGA, before_step="step_0") == make(0, context=big)
    after = (await client.info("stats"))["total_net_output_bytes"]
    assert after - before < 60_000


async def test_steps_whose_hashes_are_the_same_are_told_apart(
    storage: RedisSnapshotStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of a step's name only leaves out; the name itself decides."""
    monkeypatch.setattr(redis_keys, "step_tag", lambda name: "00000000000000aa")
    await save_all(storage, [make(at) for at in range(5)])
    for at in range(5):
        assert await storage.get_latest_snapshot(SAGA, before_step=f"step_{at}") == make(at)
    assert await storage.get_latest_snapshot(SAGA, before_step="none") is None


async def test_a_server_that_forgot_the_scripts_is_told_again(storage: RedisSnapshotStorage, client: Any) -> None:
    """After a restart or SCRIPT FLUSH nothing fails."""
    await storage.save_snapshot(make(1))
    await client.script_flush()
    await storage.save_snapshot(make(2))
    await client.script_flush()
    assert await ids_of(storage) == [number(1), number(2)]


async def test_everything_of_a_snapshot_has_its_time_to_live(redis_url: str, client: Any, clock: VirtualClock) -> None:
    """Value, index, facts and pointer; measured by the clock that was given, whatever Redis thinks the time is."""
    old = VirtualClock(NOW - 3000 * DAY)
    async with RedisSnapshotStorage(redis_url, default_ttl=3600, clock=old) as storage:
        await storage.save_snapshot(make(1))
    place = SagaHome.of(SAGA)
    for key in (KEYS.value(place, number(1).hex), KEYS.index(place), KEYS.facts(place), KEYS.pointer(number(1).hex)):
        assert 3590 < await client.ttl(key) <= 3600
    assert await client.pttl(KEYS.totals(place.shard)) == -1


async def test_index_lives_as_long_as_its_longest_member(
    redis_url: str, storage: RedisSnapshotStorage, client: Any
) -> None:
    """Longer ones extend it, shorter ones do not shorten it, one that never expires keeps it."""
    index, facts = KEYS.index(SagaHome.of(SAGA)), KEYS.facts(SagaHome.of(SAGA))
    for hours, expected in ((2, 2), (5, 5), (1, 5)):
        await storage.save_snapshot(make(hours, retention_until=NOW + hours * HOUR))
        for key in (index, facts):
            assert expected * 3600 - 10 < await client.ttl(key) <= expected * 3600
    await storage.save_snapshot(make(9))
    await storage.save_snapshot(make(8, retention_until=NOW + HOUR))
    assert await client.ttl(index) == await client.ttl(facts) == -1


async def test_retention_until_comes_before_default_ttl(redis_url: str, clock: VirtualClock) -> None:
    """The default is for those that say nothing; it is not written into the snapshot."""
    async with RedisSnapshotStorage(redis_url, default_ttl=7200, clock=clock) as storage:
        await save_all(storage, [make(1, retention_until=NOW + HOUR), make(2), make(3, retention_until=NOW + 9 * HOUR)])
        assert await storage.get_snapshot(number(2)) == make(2)
        clock.advance(HOUR)
        assert await ids_of(storage) == [number(2), number(3)]
        clock.advance(HOUR)
        assert await ids_of(storage) == [number(3)]
        await storage.save_snapshot(make(2))
        assert await ids_of(storage) == [number(2), number(3)]
        clock.advance(7 * HOUR)
        assert await ids_of(storage) == []
        assert await storage.delete_expired_snapshots() == 3


async def test_redis_frees_what_is_expired_by_itself(
    redis_url: str, storage: RedisSnapshotStorage, client: Any, clock: VirtualClock
) -> None:
    """Nobody has to remove anything; counts, lists and the latest are right before and after somebody does."""
    before = await save_all(
        storage, [make(1), make(2, saga_id=OTHER_SAGA, retention_until=NOW + timedelta(seconds=0.3))]
    )
    await storage.save_snapshot(make(3, retention_until=NOW + timedelta(seconds=0.3)))
    await until(lambda: value_is_gone(client, OTHER_SAGA, 2))
    await until(lambda: value_is_gone(client, SAGA, 3))
    clock.advance(timedelta(seconds=1))
    assert not {key for key in await keys_of(client) if OTHER_SAGA.hex in key}
    assert await storage.get_latest_snapshot(SAGA) == before[0]
    assert await ids_of(storage) == [number(1)]
    assert (await storage.health_check()).snapshot_count == 1
    assert await storage.delete_expired_snapshots() == 2
    health = await storage.health_check()
    assert (health.snapshot_count, [each async for each in storage.saga_ids()]) == (1, [SAGA])
    assert health.total_size_bytes == await client.strlen(KEYS.value(SagaHome.of(SAGA), number(1).hex))


async def value_is_gone(client: Any, saga_id: UUID, at: int) -> bool:
    return not await client.exists(KEYS.value(SagaHome.of(saga_id), number(at).hex))


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    """Poll the server until it is so."""
    deadline = time.monotonic() + 300
    while not await what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("again", [make(2), make(2, retention_until=NOW + 3 * DAY), make(2, saga_id=OTHER_SAGA)])
async def test_saved_again_after_redis_freed_it(
    storage: RedisSnapshotStorage, client: Any, clock: VirtualClock, again: Any
) -> None:
    """What the first life left behind neither counts nor takes the second one with it."""
    await storage.save_snapshot(make(2, retention_until=NOW + timedelta(milliseconds=50)))
    await until(lambda: value_is_gone(client, SAGA, 2))
    clock.advance(HOUR)
    await storage.save_snapshot(again)
    assert (await storage.health_check()).snapshot_count == 1
    await storage.delete_expired_snapshots()
    assert await storage.get_snapshot(number(2)) == again
    health = await storage.health_check()
    size = await client.strlen(KEYS.value(SagaHome.of(again.saga_id), number(2).hex))
    assert (health.snapshot_count, health.total_size_bytes) == (1, size)


async def test_two_lives_of_one_snapshot_expire_as_one(
    storage: RedisSnapshotStorage, client: Any, clock: VirtualClock
) -> None:
    """The first was freed by Redis, the second is larger; both are due when they are removed."""
    await storage.save_snapshot(make(2, retention_until=NOW + timedelta(milliseconds=50)))
    await until(lambda: value_is_gone(client, SAGA, 2))
    clock.advance(HOUR)
    await storage.save_snapshot(make(2, context={"long": "text" * 50}, retention_until=NOW + 2 * HOUR))
    clock.advance(HOUR)
    assert await storage.delete_expired_snapshots() == 1
    health = await storage.health_check()
    assert (health.snapshot_count, health.total_size_bytes) == (0, 0)
    assert await client.hvals(KEYS.totals(SagaHome.of(SAGA).shard)) == [b"0", b"0"]


async def test_saved_when_already_expired_can_still_be_removed(storage: RedisSnapshotStorage) -> None:
    """It is invisible, but it was there."""
    await save_all(storage, [make(1, retention_until=NOW), make(2, retention_until=NOW - DAY)])
    assert await ids_of(storage) == []
    assert await storage.delete_snapshot(number(1))
    assert await storage.delete_expired_snapshots() == 1


async def test_what_expired_long_ago_goes_with_later_saves(
    storage: RedisSnapshotStorage, client: Any, clock: VirtualClock
) -> None:
    """Where nobody calls delete_expired_snapshots, the lists of a busy saga stay small all the same."""
    place = SagaHome.of(SAGA)
    await storage.save_snapshot(make(20))
    await save_all(storage, [make(at, retention_until=NOW + timedelta(seconds=0.2)) for at in range(10)])
    await until(lambda: value_is_gone(client, SAGA, 9))
    clock.advance(2 * DAY)
    await save_all(storage, [make(at) for at in range(21, 24)])
    assert await client.zcard(KEYS.index(place)) == await client.hlen(KEYS.facts(place)) == 4
    assert await storage.delete_expired_snapshots() == 0


async def test_values_that_redis_evicted_are_skipped(storage: RedisSnapshotStorage, client: Any) -> None:
    """A newest entry without its value does not hide the live ones behind it, and is counted no more."""
    await save_all(storage, [make(at) for at in range(4)])
    await client.delete(KEYS.value(SagaHome.of(SAGA), number(3).hex), KEYS.value(SagaHome.of(SAGA), number(1).hex))
    assert await storage.get_latest_snapshot(SAGA) == make(2)
    assert await storage.get_snapshot(number(3)) is None
    assert await ids_of(storage) == [number(0), number(2)]
    assert (await storage.health_check()).snapshot_count == 2


async def test_deleting_everything_leaves_nothing(
    storage: RedisSnapshotStorage, client: Any, clock: VirtualClock
) -> None:
    """By id, by saga and by expiry: only counters at zero are left."""
    await save_all(storage, [make(at, retention_until=NOW + HOUR if at > 5 else None) for at in range(9)])
    await storage.save_snapshot(make(0, saga_id=OTHER_SAGA))
    clock.advance(HOUR)
    assert await storage.delete_expired_snapshots() == 3
    assert await storage.delete_snapshot(number(0))
    assert await storage.cleanup_saga(SAGA) == 5
    assert await keys_of(client) == {KEYS.totals(SagaHome.of(saga).shard) for saga in (SAGA, OTHER_SAGA)}
    health = await storage.health_check()
    assert (health.snapshot_count, health.total_size_bytes) == (0, 0)


async def test_long_lists_come_in_pages(storage: RedisSnapshotStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ties, more than a page of entries and more bytes than a page: each once, in order."""
    monkeypatch.setattr(redis_shelf, "PAGE", 7)
    monkeypatch.setattr(redis_shelf, "_PAGE_BYTES", 1000)
    snapshots = [make(at, created_at=NOW + timedelta(seconds=at // 10)) for at in range(60)]
    await save_all(storage, reversed(snapshots))
    assert await storage.list_snapshots(SAGA, 33) == snapshots[:-34:-1]
    assert await ids_of(storage) == [each.snapshot_id for each in snapshots]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_page_goes_on_behind_what_was_deleted_meanwhile(
    storage: RedisSnapshotStorage, newest_first: bool
) -> None:
    """Nothing is left out and nothing comes twice, also among ties."""
    snapshots = [make(at, created_at=NOW + timedelta(seconds=at // 5)) for at in range(15)]
    await save_all(storage, snapshots)
    order = [each.snapshot_id for each in (reversed(snapshots) if newest_first else snapshots)]
    found: list[UUID] = []
    cursor: IndexCursor | None = None
    while True:
        page, cursor = await storage._store.page(SAGA, 0, limit=2, newest_first=newest_first, behind=cursor)
        found += [stored.snapshot_id for stored in page]
        if cursor is None:
            break
        await storage.delete_snapshot(found[-1])
    assert found == order


async def test_sagas_come_in_order_over_many_pages(
    storage: RedisSnapshotStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From all shards, from behind any of them on, with a bounded number of them at a time."""
    monkeypatch.setattr(redis_shelf, "_IDS_OF_A_SHARD", 2)
    sagas = [UUID(int=at * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128) for at in range(1, 601)]
    await asyncio.gather(*(storage.save_snapshot(make(at, saga_id=saga)) for at, saga in enumerate(sagas)))
    sagas.sort()
    assert [each async for each in storage.saga_ids()] == sagas
    assert [each async for each in storage.saga_ids(after=sagas[250])] == sagas[251:]
    pages = [page async for page in storage._store._ids(KEYS.sagas, None, 0)]
    assert len(pages) > 3
    assert max(map(len, pages)) <= 2 * 256


async def test_two_prefixes_share_a_server(redis_url: str, storage: RedisSnapshotStorage, clock: VirtualClock) -> None:
    """Neither sees, counts or deletes what is the other's; braces in a prefix are just letters."""
    for prefix in ("saga:snapshot:", "snapshot:{a}:", "", "snäp{"):
        async with RedisSnapshotStorage(redis_url, key_prefix=prefix, clock=clock) as other:
            await storage.save_snapshot(make(1))
            assert await ids_of(other) == []
            await other.save_snapshot(make(2))
            assert await ids_of(other) == [number(2)]
            assert await storage.cleanup_saga(SAGA) == 1
            assert await ids_of(other) == [number(2)]
            assert await other.cleanup_saga(SAGA) == 1


async def test_a_pointer_that_cannot_be_read_is_not_mistaken_for_nothing(
    storage: RedisSnapshotStorage, client: Any
) -> None:
    """The saga still lists its snapshot; saving it again heals."""
    await storage.save_snapshot(make(1))
    await client.set(KEYS.pointer(number(1).hex), b"\xff?")
    with pytest.raises(CorruptRecord):
        await storage.get_snapshot(number(1))
    assert await storage.list_snapshots(SAGA) == [make(1)]
    await storage.save_snapshot(make(1))
    assert await storage.get_snapshot(number(1)) == make(1)
    assert (await storage.health_check()).snapshot_count == 1


async def test_replay_records_do_not_expire(redis_url: str, client: Any, clock: VirtualClock) -> None:
    """default_ttl is for snapshots; who replayed what stays known."""
    async with RedisSnapshotStorage(redis_url, default_ttl=60, clock=clock) as storage:
        await storage.save_replay_log(replay(1))
        assert {await client.ttl(key) for key in await keys_of(client)} == {-1}
        await storage.save_replay_log(replay(1, original_saga_id=OTHER_SAGA))
        assert await storage.list_replays(SAGA) == []
        assert len(await storage.list_replays(OTHER_SAGA)) == 1


async def test_full_server_refuses_saves_and_nothing_else(own_redis: OwnRedis, clock: VirtualClock) -> None:
    """A save that finds no memory stores nothing at all; reads and deletes go on, and make room."""
    server = await own_redis()
    async with RedisSnapshotStorage(server.url, clock=clock) as storage:
        await save_all(storage, [make(at) for at in range(20)])
        await redis_do(server.url, "CONFIG", "SET", "maxmemory", "1")
        for again in (make(21), make(3), make(3, saga_id=OTHER_SAGA)):
            with pytest.raises(HotTierUnavailable, match="full"):
                await storage.save_snapshot(again)
        assert await ids_of(storage) == [number(at) for at in range(20)]
        assert await storage.delete_snapshot(number(3))
        assert await storage.cleanup_saga(SAGA) == 19
        await redis_do(server.url, "CONFIG", "SET", "maxmemory", "0")
        health = await storage.health_check()
        assert (health.snapshot_count, health.total_size_bytes) == (0, 0)


async def test_health_tells_what_endangers_snapshots(own_redis: OwnRedis, clock: VirtualClock) -> None:
    """Eviction, no persistence and little memory: each is named with what to do, and nothing else is."""
    server = await own_redis()
    async with RedisSnapshotStorage(server.url, clock=clock) as storage:
        for settings, word in (
            ({}, "no persistence"),
            ({"save": "3600 1", "maxmemory-policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
            ({"maxmemory-policy": "noeviction", "maxmemory": "1000"}, "memory is"),
        ):
            for name, value in settings.items():
                await redis_do(server.url, "CONFIG", "SET", name, value)
            health = await storage.health_check()
            [warning] = health.details["warnings"]
            assert (health.status, word in warning) == ("degraded", True)
        await redis_do(server.url, "CONFIG", "SET", "maxmemory", "0")
        assert (await storage.health_check()).status == "healthy"


async def test_server_that_does_not_answer_is_not_waited_for(own_redis: OwnRedis, clock: VirtualClock) -> None:
    """A frozen server: every caller has its error soon, also those that had to wait for a connection."""
    server = await own_redis()
    options: dict[str, Any] = {"socket_timeout": timedelta(seconds=0.2), "max_connections": 2, "clock": clock}
    async with RedisSnapshotStorage(server.url, **options) as storage:
        await storage.save_snapshot(make(1))
        server.pause()
        try:
            began = time.monotonic()
            calls = [storage.get_snapshot(number(1)) for _ in range(6)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 120
            assert {type(result) for result in results} == {HotTierUnavailable}
        finally:
            server.resume()
        assert await storage.get_snapshot(number(1)) == make(1)


async def test_wrong_password_is_refused_and_not_shown(redis_url: str) -> None:
    """Like a server that is away, since it may be put right there; the hint says what to check."""
    wrong = redis_url.replace(redis_url.split(":")[2].partition("@")[0], "hunter2")
    async with RedisSnapshotStorage(wrong) as storage:
        with pytest.raises(HotTierRefused) as caught:
            await storage.save_snapshot(make(1))
        assert "hunter2" not in f"{caught.value}{caught.value.hint}{storage.get_storage_info()}"


@pytest.mark.parametrize(
    ("scheme", "number", "hint"), [("redis", 99, "fewer databases"), ("rediss", 0, "speaks TLS at that port")]
)
async def test_database_that_is_not_there_and_tls_that_is_not_spoken_are_told(
    redis_url: str, scheme: str, number: int, hint: str
) -> None:
    """The hint says what to write instead; a server that was merely away is said to be so."""
    url = f"{redis_url.replace('redis', scheme, 1).removesuffix('/0')}/{number}"
    async with RedisSnapshotStorage(url, socket_timeout=timedelta(seconds=0.5)) as storage:
        with pytest.raises(HotTierUnavailable) as caught:
            await storage.save_snapshot(make(1))
    assert hint in caught.value.hint


async def test_one_server_is_not_a_cluster(redis_url: str) -> None:
    """The error says which URL to write."""
    async with RedisSnapshotStorage(redis_url.replace("redis://", "redis+cluster://").removesuffix("/0")) as storage:
        with pytest.raises(ConfigError, match="not a Cluster") as caught:
            await storage.get_snapshot(number(1))
        assert "redis://" in caught.value.hint


async def test_client_is_there_for_what_only_redis_knows(storage: RedisSnapshotStorage) -> None:
    """As the seeds use it: synchronous, and the same client that the storage works with."""
    info = await storage._get_redis().info("memory")
    assert info["used_memory_human"]
    assert storage._get_redis() is storage._get_redis()


async def test_given_client_is_used_and_not_closed(clock: VirtualClock) -> None:
    """A fakeredis too, which has neither INFO nor a pool that lets callers wait."""
    async with fakeredis.FakeAsyncRedis() as client:
        async with RedisSnapshotStorage(client=client, clock=clock) as storage:
            assert storage._get_redis() is client
            await asyncio.gather(*(storage.save_snapshot(make(at)) for at in range(200)))
            assert len(await ids_of(storage)) == 200
            health = await storage.health_check()
            assert (health.status, health.snapshot_count) == ("healthy", 200)
            assert storage.get_storage_info()["redis_url"] == "the given client"
        assert await client.ping()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"compression_level": 0}, "compression_level"),
        ({"compression_level": 23, "enable_compression": False}, "compression_level"),
        ({"compression_level": True}, "compression_level"),
        ({"default_ttl": 0}, "default_ttl"),
        ({"default_ttl": -1}, "default_ttl"),
        ({"default_ttl": 1.5}, "default_ttl"),
        ({"max_connections": 0}, "max_connections"),
        ({"socket_timeout": timedelta(0)}, "socket_timeout"),
        ({"redis_url": "http://localhost"}, "redis_url"),
        ({"redis_url": ""}, "redis_url"),
        ({"redis_url": None}, "redis_url"),
        ({"redis_url": "redis://"}, "host"),
        ({"redis_url": "redis://localhost:port"}, "redis_url"),
        ({"redis_url": "redis+cluster://a:1,b:2/3"}, "database 0"),
        ({"redis_url": "redis+sentinel://a:1,b:2"}, "name the primary"),
        ({"redis_url": "redis+sentinel://a:1,b:2/primary?sentinel_foo=1"}, "unknown option 'sentinel_foo'"),
        ({"redis_url": "redis+cluster://a:1,,b:2"}, "host"),
        ({"redis_url": "redis://localhost?decode_responses=True"}, "decode_responses"),
        ({"redis_url": "redis://localhost?ssl_cert_reqs=none"}, "write rediss://"),
        ({"redis_url": "redis+sentinel://a:1,b:2/primary?ssl_ca_certs=/ca"}, "write rediss://"),
        ({"redis_url": "redis+cluster://a:1,b:2?sentinel_password=x"}, "unknown option 'sentinel_password'"),
        ({"redis_url": "redis://localhost?timeout=5"}, "unknown option 'timeout'"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any], word: str) -> None:
    """The constructor names the option."""
    with pytest.raises(ConfigError, match=word):
        RedisSnapshotStorage(**options)


async def test_clients_that_cannot_work_are_refused_at_once() -> None:
    """One that turns bytes into text would damage every value; a synchronous one cannot be awaited."""
    async with redis.asyncio.Redis(decode_responses=True) as text_client:
        with pytest.raises(ConfigError, match="decode_responses=True"):
            RedisSnapshotStorage(client=text_client)
    with redis.Redis() as synchronous, pytest.raises(ConfigError, match=r"redis\.asyncio"):
        RedisSnapshotStorage(client=synchronous)


def test_options_are_those_of_the_documents() -> None:
    """By position too; what is shown holds no secret."""
    storage = RedisSnapshotStorage("redis://me:hunter2@localhost:6379/3", "saga:snapshot:", 2_592_000, True, 10)
    assert storage.get_storage_info() == {
        "storage_type": "redis",
        "redis_url": "redis://me:***@localhost:6379/3",
        "key_prefix": "saga:snapshot:",
        "default_ttl": 2_592_000,
        "compression_enabled": True,
        "compression_level": 10,
        "cluster": False,
    }
    as_the_contract: SnapshotStorage = storage
    assert isinstance(as_the_contract, SnapshotStorage)


@pytest.mark.guarantee("G13")
async def test_replay_record_of_another_id_is_refused(storage: RedisSnapshotStorage) -> None:
    """By id and in lists, with the others; a walk raises where it comes to it and goes on behind it."""
    for at in range(3):
        await storage.save_replay_log(replay(at))
    client, keys = storage._get_redis(), RedisKeys(storage.key_prefix)
    await client.set(keys.replay(number(1)), await client.get(keys.replay(number(0))) or b"")
    with pytest.raises(CorruptRecord, match=str(number(0))) as caught:
        await storage.get_replay_log(number(1))
    assert str(number(1)) in str(caught.value)
    with pytest.raises(CorruptRecord) as caught:
        await storage.list_replays(SAGA)
    assert caught.value.readable == (replay(2).to_dict(), replay(0).to_dict())
    walk = storage.iter_replay_logs()
    assert await anext(walk) == replay(0).to_dict()
    with pytest.raises(CorruptRecord) as caught:
        await anext(walk)
    assert list(caught.value.unreadable) == [number(1)]
    assert [each async for each in storage.iter_replay_logs(after=number(1))] == [replay(2).to_dict()]


@pytest.mark.guarantee("G13")
async def test_snapshot_at_another_place_in_the_order_is_refused(storage: RedisSnapshotStorage) -> None:
    """An index that puts an old snapshot last never makes it the newest."""
    await save_all(storage, [make(at) for at in range(3)])
    client, keys = storage._get_redis(), RedisKeys(storage.key_prefix)
    index = keys.index(SagaHome.of(SAGA))
    [member] = await client.zrange(index, 0, 0)
    await client.zadd(index, {member: float("inf")})
    with pytest.raises(CorruptRecord, match=str(number(0))):
        await storage.get_latest_snapshot(SAGA)
    with pytest.raises(CorruptRecord) as caught:
        await storage.list_snapshots(SAGA)
    assert caught.value.readable == (make(2), make(1))
    assert await storage.get_snapshot_at_time(SAGA, make(1).created_at) == make(1)
