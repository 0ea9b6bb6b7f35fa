"""One run of ours over the redis-py that is imported here: `python -m support.redis_driver URL MAJOR`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any

import redis

from sagaz_tiering.codec.threaded import encode_record
from sagaz_tiering.codec.value import to_value
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.drivers.redis.internals import drop_idle, reply_reader, transport_of
from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.storage.redis.storage import RedisSnapshotStorage
from support.gate import hanging_up
from support.payload import saga
from support.tiers import NOW

LIMIT = timedelta(minutes=2)


async def check(url: str) -> None:
    """What needs the driver's private members, and around it a save and reads by either use of the connections."""
    saved = saga(1, begun=NOW)
    async with HotTier(HotSettings(url=url, key_prefix="driver", socket_timeout=LIMIT)) as hot:
        await shared_connection_answers_each_its_own(hot, saved)
        await idle_connections_are_dropped(hot)
        await hot.connection.ping()
    async with RedisSnapshotStorage(url, "driver:", socket_timeout=LIMIT) as storage:
        for snapshot in saved:
            await storage.save_snapshot(snapshot)
        assert await storage.list_snapshots(saved[0].saga_id) == saved[::-1]
        pool = storage._get_redis().connection_pool
        await open_connection_is_cut(pool)
    for scheme in ("redis", "redis+cluster"):
        await server_that_hangs_up_is_asked_a_few_times(scheme, saved[0])
    reader = reply_reader()
    reader.feed(b"-NOSCRIPT No matching script\r\n")
    assert isinstance(reader.gets(), redis.exceptions.NoScriptError)


async def shared_connection_answers_each_its_own(hot: HotTier, saved: list[Any]) -> None:
    """Saves and reads at once, one of which meets an error."""
    records = [await encode_record(each, saved_us=1_800_000_000_000_000) for each in saved]
    values = [to_value(each, level=None) for each in records]
    pairs = list(zip(records, values, strict=True))
    await asyncio.gather(*(hot.save(one.meta, value, due_us=1, expires_us=None) for one, value in pairs))
    async with hot.connection.pool() as client:
        await client.delete(hot.keys.pointer(records[1].meta.snapshot_id.hex))
        await client.lpush(hot.keys.pointer(records[1].meta.snapshot_id.hex), "not a pointer")
    found = await asyncio.gather(*(hot.get(each.snapshot_id) for each in saved), return_exceptions=True)
    assert isinstance(found.pop(1), HotTierUnavailable)
    assert found == values[:1] + values[2:]
    assert len(await hot.queue.gather([saved[0].saga_id])) == 1


async def idle_connections_are_dropped(hot: HotTier) -> None:
    """The next call has another connection, and who uses one goes on with it."""
    async with hot.connection.pool() as client:
        before = await client.client_id()
        drop_idle(client.connection_pool)
        assert await client.client_id() != before
        in_use: Any = client.client()
        async with in_use as own:
            mine = await own.client_id()
            hot.connection.forget_idle()
            assert await own.client_id() == mine


async def open_connection_is_cut(pool: Any) -> None:
    """As it is when it leads to a server that is the primary no more; whoever waits for an answer is told."""
    connection: Any = pool.make_connection()
    await connection.connect()
    await connection.send_command("BLPOP", "driver:nothing", 0)
    answer = asyncio.create_task(connection.read_response())
    await asyncio.sleep(0)
    transport_of(connection).abort()
    await asyncio.wait((answer,))
    assert isinstance(answer.exception(), redis.exceptions.ConnectionError)
    await connection.disconnect(nowait=True)


async def server_that_hangs_up_is_asked_a_few_times(scheme: str, saved: Any) -> None:
    """And the error tells it: the driver does not connect while it connects, again and again."""
    async with hanging_up() as server, RedisSnapshotStorage(f"{scheme}://127.0.0.1:{server.port}") as storage:
        with suppress(HotTierUnavailable):
            await storage.save_snapshot(saved)
            raise AssertionError("it was not saved")
        assert 0 < len(server.said) < 20, scheme


if __name__ == "__main__":
    found = redis.__version__
    assert found.partition(".")[0] == sys.argv[2], found
    asyncio.run(check(sys.argv[1]))
