"""The tiered storage behind a real Sentinel: its primary dies, is handed over or is not named rightly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from socket import create_server
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs
from support.commands import cli
from support.gate import Gate, hanging_up, through
from support.listening import listening
from support.payload import saga
from support.processes import redis_do
from support.redis_cluster import HOST, PlainRedis, Watched, watched_primary
from support.servers import server_folder
from support.tiers import DAY, NOW, Product, config, product
from support.yaml_config import write_config

from sagaz_tiering.app.workers import WorkerPool
from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.value import to_value
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.drivers.redis import sentinels
from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.hot.layout import ClaimedFrom, ClaimedSaga
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.redis.storage import RedisSnapshotStorage

DURABLE, HOT = "payment-order", "fast-order"
LONG_AGO = datetime.now(UTC) - timedelta(days=30)  # workers and commands have the real clock
HURRY: dict[str, Any] = {"jobs": {"claim_ttl": "1s"}, "dictionaries": {"enabled": False}}


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    """A primary and its replica, which do not forget what they saved."""
    with server_folder() as folder:
        async with watched_primary(folder, save="86400 1") as found:
            yield found


@asynccontextmanager
async def opened(watched: Watched, database: str, tmp_path: Path, **sections: Any) -> AsyncIterator[Product]:
    """The whole product behind the Sentinel."""
    settings = config(database=database, redis_url=watched.url, cold=tmp_path / "cold", **{**HURRY, **sections})
    async with product(settings) as shop:
        yield shop


@asynccontextmanager
async def hot_tier(watched: Watched, **changes: Any) -> AsyncIterator[HotTier]:
    """Only Redis."""
    async with HotTier(HotSettings(**{"url": watched.url, **changes})) as hot:
        yield hot


@pytest.fixture
def _not_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Sentinels are asked for new connections only."""
    monkeypatch.setattr(sentinels, "ASKED_EVERY_S", 600.0)


def large(number: int) -> SagaSnapshot:
    """One that is saved on a connection of the pool."""
    context = {"noise": [uuid4().hex for _ in range(20_000)]}
    return replace(saga(number, begun=NOW, saga_name=HOT)[0], context=context)


async def save(hot: HotTier, snapshot: SagaSnapshot) -> bool:
    """In Redis alone."""
    record = await encode_record(snapshot, saved_us=1_800_000_000_000_000)
    return await hot.save(record.meta, to_value(record, level=None), due_us=1, expires_us=None) is None


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Fails after two minutes: a Sentinel that got no time rests for half a minute."""
    deadline = time.monotonic() + 300
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def replicated(watched: Watched) -> None:
    """The replica has all that was saved; with the connection that wrote it another one would have to wait."""

    async def caught_up() -> bool:
        link: Any = await redis_do(watched.primary.url, "INFO", "replication")
        return bool(link["slave0"]["offset"] == link["master_repl_offset"])

    await until(caught_up)


async def ours(server: PlainRedis) -> list[str]:
    """Connections of the driver to a server, but for the one that asks."""
    url = server.url if server.name == PlainRedis.name else f"redis://{HOST}:{server.port}"
    found: Any = await redis_do(url, "CLIENT", "LIST", "TYPE", "NORMAL")
    lines = found.decode().splitlines()
    return [line for line in lines if " lib-name=redis-py" in line and " cmd=client|list " not in line]


async def until_left(server: PlainRedis) -> None:
    """Wait until no connection of the driver is there any more, as that server knows, which may be busy."""

    async def left() -> bool:
        return await ours(server) == []

    await until(left)


async def test_primary_dies_and_saves_and_reads_go_on(watched: Watched, database: str, tmp_path: Path) -> None:
    """Saves succeed all the time; afterwards every connection leads to the new primary, and nothing is missing."""
    durable, fast = (saga(number, begun=NOW, saga_name=name) for number, name in ((1, DURABLE), (2, HOT)))
    whole = [large(8), *durable, *fast, large(9)]
    async with opened(watched, database, tmp_path) as shop:
        save = shop.storage.save_snapshot
        for snapshot in (whole[0], *durable[:2], *fast[:2]):
            await save(snapshot)
        await shop.run("age")  # so that the jobs' connection is there too
        await replicated(watched)
        await watched.lose_primary()

        for snapshot in (*durable[2:4], *fast[2:4]):
            await save(snapshot)
        assert await shop.storage.get_latest_snapshot(durable[0].saga_id) == durable[3]

        async def is_back() -> bool:
            await save(durable[4])
            await save(fast[4])
            with suppress(HotTierUnavailable):
                return isinstance(await shop.runtime.hot.get(fast[4].snapshot_id), bytes)
            return False

        await until(is_back)
        await save(whole[-1])
        assert (await shop.runtime.hot.connection.info())["tcp_port"] == watched.replica.port
        assert (await shop.run("age")).counts["refilled"] >= 4
        assert await shop.hot_count() == len(whole)
        assert await shop.storage.list_snapshots(fast[0].saga_id, limit=5) == fast[::-1]
        for snapshot in whole:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot

        shop.clock.advance(9 * DAY)
        assert (await shop.run("age")).counts["archived"] == len(whole)
        assert await shop.hot_count() == 0
        for snapshot in whole:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def left_before_it_was_told(watched: Watched, old: PlainRedis) -> bool:
    """Hands over from the primary `old`: whether it was left while it still took saves."""

    async def is_accepted() -> bool:
        with suppress(ResponseError):  # after another one the Sentinel has to get to know the replica
            return bool(await watched.ask_sentinel("SENTINEL", "FAILOVER", "primary"))
        return False

    async def is_left() -> bool:
        return await ours(old) == []

    await until(is_accepted)
    await until(is_left)
    role: Any = await redis_do(old.url, "ROLE")
    return bool(role[0] == b"master")


async def test_planned_failover_is_followed_at_once(watched: Watched, database: str, tmp_path: Path) -> None:
    """All saves succeed; nobody saves to the old primary, which would take it, and forget it some seconds later."""
    async with opened(watched, database, tmp_path) as shop:
        before = [saga(1, begun=NOW, saga_name=HOT)[0], large(2)]
        for snapshot in before:
            await shop.storage.save_snapshot(snapshot)
        await shop.run("age")
        await replicated(watched)
        saved, over = list[SagaSnapshot](), asyncio.Event()

        async def save_until_over(first: int) -> None:
            for number in count(first, 10):
                saved.append(saga(number, begun=NOW, saga_name=DURABLE)[0])
                await shop.storage.save_snapshot(saved[-1])
                if over.is_set():
                    return

        saving = [asyncio.create_task(save_until_over(first)) for first in range(10, 14)]
        old, new = watched.primary, watched.replica
        for _ in range(3):
            if await left_before_it_was_told(watched, old):
                break
            old, new = new, old  # the machine stalled for too long: once more, the other way round
        else:
            pytest.fail("each time it was told, and closed the connections by itself")
        for snapshot in (after := saga(3, begun=NOW, saga_name=HOT)):
            await shop.storage.save_snapshot(snapshot)
        over.set()
        await asyncio.gather(*saving)
        await shop.run("age")
        await until_left(old)
        for snapshot in (*before, *saved, *after):
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
        assert (await shop.runtime.hot.connection.info())["tcp_port"] == new.port


@pytest.mark.usefixtures("_not_asking")
async def test_primary_that_became_a_replica_is_left_unnoticed(watched: Watched) -> None:
    """It refuses saves on connections that nobody closed: all are dropped, and the calls succeed all the same."""
    async with hot_tier(watched, socket_timeout=timedelta(minutes=1)) as hot:  # of which a Sentinel has its share
        first = saga(1, begun=NOW, saga_name=HOT)[0]
        assert await save(hot, first)
        assert await save(hot, large(2))
        await hot.queue.gather([first.saga_id])
        await replicated(watched)
        assert len(await ours(watched.primary)) == 3
        await watched.hand_over()
        assert len(await ours(watched.primary)) == 3

        some = [replace(first, snapshot_id=uuid4(), step_index=at) for at in range(50)]
        assert await asyncio.gather(save(hot, large(3)), *(save(hot, one) for one in some)) == [True] * 51
        await hot.queue.gather([first.saga_id])
        await hot.queue.ack([(ClaimedSaga(first.saga_id, "t", ClaimedFrom.AGE), 51, 5, None)], 1)
        await until_left(watched.primary)
        assert len(await hot.values(first.saga_id, 100)) == 51
        assert (await hot.connection.info())["tcp_port"] == watched.replica.port


@pytest.mark.usefixtures("_not_asking")
async def test_jobs_leave_a_primary_that_became_a_replica(watched: Watched) -> None:
    """They notice by themselves, where no application saves."""
    first = saga(1, begun=NOW, saga_name=HOT)[0]
    async with hot_tier(watched) as application:
        await save(application, first)
    async with hot_tier(watched) as hot:
        open_claims = [(ClaimedSaga(uuid4(), "t", ClaimedFrom.AGE), 1, 5, None) for _ in range(40)]
        await hot.queue.ack(open_claims, 1)
        await hot.connection.ping()
        await replicated(watched)
        await watched.hand_over()
        assert await ours(watched.primary) != []
        ask: dict[str, Any] = {"expiring": False, "now_us": 9, "ttl": timedelta(minutes=1), "token": "t", "count": 9}
        claimed, _ = await hot.queue.claim(shard=first.saga_id.hex[0], **ask)
        assert [each.saga_id for each in claimed] == [first.saga_id]
        await hot.queue.ack(open_claims, 1)
        await until_left(watched.primary)


async def test_address_that_follows_its_primary_is_followed(watched: Watched) -> None:
    """Without Sentinels: who came before it moved is refused by the old primary, and comes again."""
    async with (
        Gate(HOST, watched.primary.port) as gate,
        hot_tier(watched, url=through(watched.primary.url, gate.port)) as hot,
    ):
        open_claims = [(ClaimedSaga(uuid4(), "t", ClaimedFrom.AGE), 1, 5, None)]
        await asyncio.gather(*(save(hot, large(number)) for number in range(4)))
        await save(hot, saga(5, begun=NOW, saga_name=HOT)[0])
        await hot.queue.ack(open_claims, 1)
        await replicated(watched)
        await watched.hand_over()
        gate.lead_to(HOST, watched.replica.port)
        assert await save(hot, large(6))
        assert await save(hot, saga(7, begun=NOW, saga_name=HOT)[0])
        await hot.queue.ack(open_claims, 1)
        await until_left(watched.primary)


async def test_storage_on_its_own_follows_such_an_address_too(watched: Watched) -> None:
    """Its first save after the move finds the new primary, and leaves no connection at the old one."""
    saved = saga(8, begun=NOW, saga_name=HOT)
    async with (
        Gate(HOST, watched.primary.port) as gate,
        RedisSnapshotStorage(through(watched.primary.url, gate.port)) as storage,
    ):
        await asyncio.gather(*(storage.save_snapshot(each) for each in saved[:-1]))
        await replicated(watched)
        await watched.hand_over()
        gate.lead_to(HOST, watched.replica.port)
        await storage.save_snapshot(saved[-1])
        assert await storage.list_snapshots(saved[0].saga_id) == saved[::-1]
        await until_left(watched.primary)


async def test_replica_that_a_sentinel_still_names_is_not_read(watched: Watched) -> None:
    """A Sentinel that was cut off: what a replica says may be old, so nobody is told it."""
    await watched.ask_sentinel("SENTINEL", "REMOVE", "primary")
    await watched.watch(watched.primary)
    async with hot_tier(watched) as hot:
        assert await hot.get(uuid4()) is None
        await redis_do(watched.replica.url, "REPLICAOF", "NO", "ONE")
        await redis_do(watched.primary.url, "REPLICAOF", HOST, str(watched.replica.port))
        await redis_do(watched.primary.url, "CLIENT", "KILL", "TYPE", "NORMAL")
        for ask in (lambda: hot.get(uuid4()), lambda: hot.values(uuid4(), 10)):
            with pytest.raises(HotTierUnavailable, match="no primary"):
                await ask()


async def test_primary_that_hangs_up_is_asked_a_few_times(watched: Watched) -> None:
    """Each connection is greeted anew, and none of them from within another's greeting."""
    await watched.ask_sentinel("SENTINEL", "REMOVE", "primary")
    url = watched.url.replace(f":{watched.primary.password}@", "")
    async with hanging_up() as server, RedisSnapshotStorage(url) as storage:
        await watched.watch(server)
        with pytest.raises(HotTierUnavailable):
            await storage.get_snapshot(uuid4())
        assert 0 < len([said for said in server.said if b"sentinel-" not in said]) < 20


async def test_more_callers_than_connections_wait(watched: Watched) -> None:
    """For the few connections, and for the one question to the Sentinels, which take only a hundred at once."""
    async with hot_tier(watched, max_connections=3) as hot:
        found = await asyncio.gather(*(hot.values(uuid4(), 10) for _ in range(300)))
        assert found == [[]] * 300
        assert len(await ours(watched.primary)) == 3
        assert len(await ours(watched.sentinel)) == 1
    assert await ours(watched.primary) == await ours(watched.sentinel) == []
    before: Any = await watched.ask_sentinel("INFO", "stats")
    async with hot_tier(watched, max_connections=250) as hot:
        assert await asyncio.gather(*(hot.values(uuid4(), 10) for _ in range(250))) == [[]] * 250
    after: Any = await watched.ask_sentinel("INFO", "stats")
    assert after["total_connections_received"] - before["total_connections_received"] < 10


@contextmanager
def silent_port() -> Iterator[int]:
    """It takes connections, and never says a word."""
    with create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


async def test_sentinels_that_are_gone_are_passed_over(watched: Watched) -> None:
    """One that refuses and two that say nothing: the first answer is in time all the same."""
    with silent_port() as silent, silent_port() as mute:
        url = watched.url.replace(f"@{HOST}", f"@{HOST}:{silent},{HOST}:1,{HOST}:{mute},{HOST}")
        # A fifth of it for each: enough where nothing else runs on time.
        wait: dict[str, Any] = {"url": url, "socket_timeout": timedelta(seconds=10)}
        async with hot_tier(watched, **wait) as one, hot_tier(watched, **wait) as another:
            assert await asyncio.gather(one.get(uuid4()), another.values(uuid4(), 10)) == [None, []]


async def test_sentinels_that_do_not_answer_are_unavailable(watched: Watched) -> None:
    """Also those that do not know the name; the error does not show the password."""
    password = watched.primary.password
    unknown = watched.url.replace("/primary/", "/nobody/")
    for url in (f"redis+sentinel://:{password}@{HOST}:1,{HOST}:2/primary", unknown):
        async with hot_tier(watched, url=url) as hot:
            for ask in (lambda: hot.get(uuid4()), lambda: hot.values(uuid4(), 10), hot.connection.ping):
                with pytest.raises(HotTierUnavailable, match="no Sentinel names a primary called") as caught:
                    await ask()
                assert password not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_sentinels_password_is_in_no_error(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor in its causes, whatever the driver tells of its connections; the Sentinels that were asked are named."""
    monkeypatch.setattr(Redis, "__repr__", lambda it: f"<Redis?{it.connection_pool.connection_kwargs}>")
    url = watched.url.replace(f"@{HOST}:{watched.sentinel.port}/", f"@{HOST}:1,{HOST}:2/")
    async with hot_tier(watched, url=f"{url}?sentinel_username=su&sentinel_password=geheim") as hot:
        for ask in (lambda: hot.get(uuid4()), lambda: hot.values(uuid4(), 10), hot.connection.ping):
            with pytest.raises(HotTierUnavailable) as caught:
                await ask()
            wanted = f"no Sentinel names a primary called 'primary' (asked: {HOST}:1, {HOST}:2)"
            assert str(caught.value).endswith(f"cannot be asked: {wanted}")
            error: BaseException | None = caught.value
            while error is not None:
                assert "geheim" not in repr(error)
                error = error.__cause__ or error.__context__


@pytest.mark.parametrize("heard", [0, 1])
async def test_closing_tells_who_waits_for_the_sentinels(watched: Watched, heard: int) -> None:
    """Nobody cancelled them; afterwards nothing goes on, also for who comes to a connection only then."""
    asked = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(heard)  # before the question the driver is at a place that forgets a cancellation
        asked.set()
        await reader.read()
        writer.close()

    async with listening(say_nothing, HOST) as silent:
        url = watched.url.replace(f":{watched.sentinel.port}/", f":{silent}/")
        before = asyncio.all_tasks()
        async with hot_tier(watched, url=url, max_connections=1, socket_timeout=timedelta(seconds=600)) as hot:
            calls = [asyncio.create_task(hot.values(uuid4(), 10)) for _ in range(3)]
            await asyncio.wait_for(asked.wait(), 300)
            began = time.monotonic()
        assert time.monotonic() - began < 300, "it waited for the Sentinel"
        for told in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(told, HotTierUnavailable)
            assert "closed" in str(told)
        left = [task for task in asyncio.all_tasks() - before if "say_nothing" not in repr(task)]
        assert left == []


async def test_following_starts_anew_after_an_error_of_our_own(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, without the text; the next question to the Sentinels begins it again."""
    monkeypatch.setattr(sentinels, "ASKED_EVERY_S", "hunter2")  # asyncio.sleep does not take it
    async with hot_tier(watched) as hot:

        async def is_read() -> bool:
            with suppress(HotTierUnavailable):  # a Sentinel that got no time for half a second sees no primary
                return await hot.values(uuid4(), 10) == []
            return False

        with capture_logs() as logs, suppress(HotTierUnavailable):
            await hot.get(uuid4())
        assert {(each["event"], each["error"]) for each in logs} == {("sentinels.unfollowed", "TypeError")}
        assert "hunter2" not in str(logs)
        monkeypatch.undo()
        await until(is_read)  # on a connection that is not made yet
        assert await ours(watched.primary) != []
        await replicated(watched)
        await watched.hand_over()

        async def is_left() -> bool:
            return await ours(watched.primary) == []

        await until(is_left)


async def test_workers_and_commands_find_the_primary(watched: Watched, database: str, tmp_path: Path) -> None:
    """They open the same configuration in processes of their own."""
    saved = saga(1, begun=LONG_AGO, saga_name=HOT)
    async with opened(watched, database, tmp_path) as shop:
        await shop.run("age")
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        tally = Tally(None)
        async with WorkerPool(shop.runtime.settings).share("age", asyncio.Event(), tally, shop.runtime.policies):
            pass
        assert tally.notes == []
        assert tally.counts["archived"] == len(saved)
        await shop.storage.save_snapshot(saga(2, begun=LONG_AGO, saga_name=HOT)[0])

    settings = write_config(tmp_path / "tiering.yaml", database=database, redis_url=watched.url, cold=tmp_path / "cold")
    answer = await cli("status", "--json", "--config", settings)
    assert answer.code == 0, answer.err
    assert watched.primary.password not in answer.out + answer.err


async def test_doctor_looks_at_the_primary_and_at_the_sentinels(
    watched: Watched, database: str, tmp_path: Path
) -> None:
    """It is asked for its role; a Sentinel that is gone, and saves that a fail-over would forget, are named."""
    await redis_do(watched.primary.url, "CONFIG", "SET", "min-replicas-to-write", "1")
    port = watched.primary.port

    async def levels(url: str) -> dict[str, tuple[str, str]]:
        settings = write_config(tmp_path / "tiering.yaml", database=database, redis_url=url, cold=tmp_path / "cold")
        document = (await cli("doctor", "--json", "--config", settings)).document
        assert watched.primary.password not in str(document)
        return {each["subject"]: (each["level"], each["message"]) for each in document["findings"]}

    found = await levels(watched.url)
    assert "redis.role" not in found
    assert found["redis.sentinels"] == ("ok", f"{HOST}:{watched.sentinel.port}: {HOST}:{port}")
    assert found["redis.failover"][0] == "ok"
    await redis_do(watched.primary.url, "CONFIG", "SET", "min-replicas-to-write", "0")
    found = await levels(watched.url.replace(f"@{HOST}", f"@{HOST}:1,{HOST}"))
    assert found["redis.sentinels"][0] == found["redis.failover"][0] == "warning"
    assert f"{HOST}:1: no primary" in found["redis.sentinels"][1]

    found = await levels(watched.url.replace("/primary/", "/nobody/"))
    assert found["redis.sentinels"] == ("error", f"{HOST}:{watched.sentinel.port}: no primary of that name")
    assert found["redis.reachable"][0] == "error"
    found = await levels(watched.url.replace(f"@{HOST}", f"@{HOST}:1,{HOST}:2,{HOST}").replace("/primary/", "/nobody/"))
    assert found["redis.sentinels"][0] == "error"
    assert found["redis.sentinels"][1].startswith(f"{HOST}:1, {HOST}:2: no primary (")

    async def is_down() -> bool:
        return "s_down" in repr(await watched.ask_sentinel("SENTINEL", "MASTERS"))

    watched.replica.kill()
    await watched.lose_primary()
    await until(is_down)
    found = await levels(watched.url)
    text = f"{HOST}:{watched.sentinel.port}: no primary ({HOST}:{port} is down)"
    assert found["redis.sentinels"] == ("error", text)
