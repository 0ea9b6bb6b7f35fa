"""One `place` per kind of storage, on the session's real servers."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis.asyncio
from support.commands import write_config
from support.s3_server import S3Server, s3_server  # noqa: F401  # a fixture
from support.servers import fresh_database
from support.stores import KINDS, MakePlace, Place
from support.tiers import NOW

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.db.migrations import migrate
from sagaz_tiering.storage.base import SnapshotStorage
from sagaz_tiering.wiring import open_database, read_config


class Ground:
    """The session's servers, started when first asked for, and one test's folder."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path, stack: AsyncExitStack) -> None:
        self._server = request.getfixturevalue
        self._stack = stack
        self._flushed = False
        self.folder = folder

    async def database(self) -> str:
        """The URL of an empty database."""
        return await self._stack.enter_async_context(fresh_database(self._server("postgres_server")))

    async def redis(self) -> str:
        """The URL of an empty Redis."""
        url = str(self._server("redis_server").url)
        if not self._flushed:
            async with redis.asyncio.Redis.from_url(url) as client:
                await client.flushall()
            self._flushed = True
        return url

    def s3(self) -> S3Server:
        """The S3 server."""
        server: S3Server = self._server("s3_server")
        return server


@pytest.fixture
async def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakePlace]:
    """`await make_place(kind)`: an empty place of that kind; a kind asked for twice shares its server."""
    async with AsyncExitStack() as stack:
        count, ground = itertools.count(), Ground(request, tmp_path, stack)

        async def make(kind: str) -> Place:
            ground.folder = tmp_path / f"{kind}{next(count)}"
            place = await _MAKERS[kind](ground)
            stack.push_async_callback(place.close)
            return place

        yield make


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, make_place: MakePlace) -> Place:
    """An empty place of each kind in turn."""
    return await make_place(request.param)


@pytest.fixture
async def storage(place: Place) -> SnapshotStorage:
    """An open, empty storage of each kind in turn."""
    return await place.open()


async def _memory(ground: Ground) -> Place:
    return Place(kind="memory", name="InMemorySnapshotStorage", options={}, clock=VirtualClock(NOW))


async def _filesystem(ground: Ground) -> Place:
    options = {"base_path": str(ground.folder)}
    url = f"file://{ground.folder}"
    return Place(kind="filesystem", name="FilesystemSnapshotStorage", options=options, clock=VirtualClock(NOW), url=url)


async def _redis(ground: Ground) -> Place:
    url = await ground.redis()
    options = {"redis_url": url, "key_prefix": f"{ground.folder.name}:"}
    return Place(
        kind="redis",
        name="RedisSnapshotStorage",
        options=options,
        clock=VirtualClock(NOW),
        url=f"{url}?key_prefix={ground.folder.name}:",
    )


async def _postgresql(ground: Ground) -> Place:
    url = await ground.database()
    options = {"connection_string": url, "pool_min_size": 1, "pool_max_size": 4}
    return Place(kind="postgresql", name="PostgreSQLSnapshotStorage", options=options, clock=VirtualClock(NOW), url=url)


async def _s3(ground: Ground) -> Place:
    server = ground.s3()
    bucket = await server.make_bucket()
    options = {
        "bucket_name": bucket,
        "endpoint_url": server.endpoint,
        "access_key_id": "testing",
        "secret_access_key": "testing-secret",
    }
    return Place(
        kind="s3",
        name="S3SnapshotStorage",
        options=options,
        clock=VirtualClock(NOW),
        url=f"s3://{bucket}/snapshots?endpoint_url={server.endpoint}",
    )


async def _tiered(ground: Ground) -> Place:
    ground.folder.mkdir()
    path = write_config(ground.folder, database=await ground.database(), redis_url=await ground.redis())
    async with open_database(read_config(path)) as database:
        await migrate(database)
    return Place(
        kind="tiered",
        name="TieredSnapshotStorage",
        options={"config": str(path)},
        clock=VirtualClock(NOW),
        url=str(path),
    )


_MAKERS = {
    "memory": _memory,
    "filesystem": _filesystem,
    "redis": _redis,
    "postgresql": _postgresql,
    "s3": _s3,
    "tiered": _tiered,
}
