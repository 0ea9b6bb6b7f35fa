"""One `place` per kind of storage, on the session's real servers."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import fakeredis
import pytest
import redis.asyncio
from support import damage
from support.commands import write_config
from support.databases import ReusedDatabases
from support.gate import Gate, through
from support.s3_server import S3Server
from support.servers import fresh_database
from support.stores import ABILITIES, KINDS, Ability, MakePlace, Place
from support.tiers import NOW

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import CatalogUnavailable, ColdTierUnavailable, HotTierUnavailable
from sagaz_tiering.storage.base import SnapshotStorage


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest our marker."""
    config.addinivalue_line("markers", "needs(*abilities): only for the kinds of storage that have all of them")


class Ground:
    """The session's servers, started when first asked for, and one test's folder. `gated`: servers behind gates."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path, stack: AsyncExitStack) -> None:
        self._server = request.getfixturevalue
        self._stack = stack
        self._flushed = False
        self._has_database = False
        self.folder = folder
        self.gated = False
        self.gates: list[Gate] = []

    async def database(self) -> str:
        """The URL of an empty database; the first one in a test has been used by other tests."""
        if not self._has_database:
            self._has_database = True
            return str(await self._server("reused_databases").empty())
        return await self._stack.enter_async_context(fresh_database(self._server("postgres_server")))

    async def catalog(self) -> str:
        """The URL of a database with an empty catalog."""
        databases: ReusedDatabases = self._server("reused_databases")
        return await self._stack.enter_async_context(databases.catalog())

    def closing(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call this when the test is over."""
        self._stack.push_async_callback(close)

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

    async def through_gate(self, url: str) -> str:
        """`url`, through a gate if this place has any."""
        if not self.gated:
            return url
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        gate = await self._stack.enter_async_context(Gate(parts.hostname, parts.port))
        self.gates.append(gate)
        return through(url, gate.port)


@pytest.fixture
async def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakePlace]:
    """`await make_place(kind)`: an empty place of that kind; a kind asked for twice shares its server.

    With `gated=True` it can be cut off.
    """
    async with AsyncExitStack() as stack:
        count, ground = itertools.count(), Ground(request, tmp_path, stack)

        async def make(kind: str, *, gated: bool = False) -> Place:
            ground.folder, ground.gated, ground.gates = tmp_path / f"{kind}{next(count)}", gated, []
            place = await _MAKERS[kind](ground)
            place.gates = ground.gates
            stack.push_async_callback(place.close)
            return place

        yield make


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of storage in turn that has what the test needs."""
    chosen = str(request.param)
    for marker in request.node.iter_markers("needs"):
        for ability in marker.args:
            if ability not in ABILITIES[chosen]:
                pytest.skip(f"not for {chosen}: {Ability(ability).value}")
    return chosen


@pytest.fixture
async def place(kind: str, make_place: MakePlace) -> Place:
    """An empty place of each kind in turn."""
    return await make_place(kind)


@pytest.fixture
async def gated_place(kind: str, make_place: MakePlace) -> Place:
    """An empty place of each kind in turn that can be cut off."""
    return await make_place(kind, gated=True)


@pytest.fixture
async def storage(place: Place) -> SnapshotStorage:
    """An open, empty storage of each kind in turn."""
    return await place.open()


_COMPRESSION = (
    {"enable_compression": True, "compression_level": 1},
    {"enable_compression": False},
    {"enable_compression": True, "compression_level": 19},
)


async def _memory(ground: Ground) -> Place:
    return Place(kind="memory", name="InMemorySnapshotStorage", options={}, clock=VirtualClock(NOW), harm=damage.memory)


async def _filesystem(ground: Ground) -> Place:
    return Place(
        kind="filesystem",
        name="FilesystemSnapshotStorage",
        options={"base_path": str(ground.folder)},
        clock=VirtualClock(NOW),
        url=f"file://{ground.folder}",
        settings=(
            {"enable_compression": True},
            {"enable_compression": False, "pretty_json": False},
            {"enable_compression": False, "pretty_json": True},
        ),
        folder=ground.folder,
        harm=damage.filesystem,
    )


async def _redis(ground: Ground) -> Place:
    url, prefix = await ground.through_gate(await ground.redis()), f"{ground.folder.name}:"
    return Place(
        kind="redis",
        name="RedisSnapshotStorage",
        options={"redis_url": url, "key_prefix": prefix},
        clock=VirtualClock(NOW),
        url=f"{url}?key_prefix={prefix}",
        settings=_COMPRESSION,
        connections=64,
        unavailable=HotTierUnavailable,
        harm=damage.redis_values,
    )


async def _fakeredis(ground: Ground) -> Place:
    """The same storage on a Redis that is not there, with a client of the user's own: its laws are Redis' own."""
    client = fakeredis.FakeAsyncRedis()
    ground.closing(client.aclose)
    return Place(
        kind="redis",
        name="RedisSnapshotStorage",
        options={"client": client, "key_prefix": f"{ground.folder.name}:"},
        clock=VirtualClock(NOW),
        settings=_COMPRESSION,
        crowd=100,
        harm=damage.fakeredis_values,
    )


async def _postgresql(ground: Ground) -> Place:
    url = await ground.through_gate(await ground.database())
    return Place(
        kind="postgresql",
        name="PostgreSQLSnapshotStorage",
        options={"connection_string": url, "pool_min_size": 1, "pool_max_size": 4},
        clock=VirtualClock(NOW),
        url=url,
        connections=4,
        unavailable=CatalogUnavailable,
        secrets=(str(urlsplit(url).password),),
        harm=damage.postgresql,
    )


async def _s3(ground: Ground) -> Place:
    server = ground.s3()
    bucket, endpoint = await server.make_bucket(), await ground.through_gate(server.endpoint)
    return Place(
        kind="s3",
        name="S3SnapshotStorage",
        options={
            "bucket_name": bucket,
            "endpoint_url": endpoint,
            "access_key_id": "testing",
            "secret_access_key": "testing-secret",
        },
        clock=VirtualClock(NOW),
        url=f"s3://{bucket}/snapshots?endpoint_url={endpoint}",
        settings=_COMPRESSION,
        crowd=80,
        rounds=2,
        connections=64,
        unavailable=ColdTierUnavailable,
        secrets=("testing-secret",),
        harm=damage.s3,
    )


async def _tiered(ground: Ground) -> Place:
    ground.folder.mkdir()
    url, redis_url = await ground.through_gate(await ground.catalog()), await ground.through_gate(await ground.redis())
    path = write_config(ground.folder, database=url, redis_url=redis_url)
    path.write_text(path.read_text().replace("hot: {", "hot: {socket_timeout: 60s, "))  # a busy machine is no outage
    levels = [path.with_name(f"level-{level}.yaml") for level in ("1", "null", "19")]
    for each in levels:
        level = each.stem.removeprefix("level-")
        each.write_text(path.read_text().replace("hot: {", f"hot: {{compression_level: {level}, "))
    return Place(
        kind="tiered",
        name="TieredSnapshotStorage",
        options={"config": str(path)},
        clock=VirtualClock(NOW),
        url=str(path),
        settings=[{"config": str(each)} for each in levels],
        connections=64 + 10,
        secrets=(str(urlsplit(url).password),),
        harm=damage.tiered,
    )


_MAKERS = {
    "memory": _memory,
    "filesystem": _filesystem,
    "redis": _redis,
    "fakeredis": _fakeredis,
    "postgresql": _postgresql,
    "s3": _s3,
    "tiered": _tiered,
}
