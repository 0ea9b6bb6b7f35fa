"""Real servers for every test that asks for one; those of the session are started when first asked for."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis.asyncio
from support import durations
from support.databases import ReusedDatabases
from support.processes import redis_do
from support.s3_server import s3_server  # noqa: F401  # a fixture
from support.servers import cluster_template, fresh_database, new_folder, run_apart, server_folder
from support.threads import of_large  # noqa: F401  # a fixture
from support.tiers import Places

from sagaz_tiering.embedded import PostgresServer, RedisServer
from sagaz_tiering.storage import reporting


def pytest_addoption(parser: pytest.Parser) -> None:
    """See `support.durations`."""
    parser.addoption("--measure", action="store_true", help="write what each test took into tests/durations.json")


def pytest_configure(config: pytest.Config) -> None:
    """With xdist the workers measure and the process that started them writes."""
    if config.getoption("--measure"):
        config.pluginmanager.register(durations.Measure(writes=not hasattr(config, "workerinput")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow, as it was measured; the longest first."""
    durations.arrange(items, durations.known())
    config.stash[durations.COLLECTED] = durations.collected(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: nobody need look through it for garbage, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _everything_told_anew() -> None:
    """Each test is told of failures, whatever another one was told a moment ago."""
    for known in (reporting._news, reporting._save_outages, reporting._read_outages):
        known.clear()


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """Where the session's servers live."""
    with server_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres_template(servers_folder: Path) -> Path:
    """The home of a PostgreSQL cluster that was never started, to copy from."""
    return cluster_template(new_folder(servers_folder, "template"))


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path, postgres_template: Path) -> Iterator[PostgresServer]:
    """The session's PostgreSQL. Do not stop it: `own_postgres` is for that."""
    server = PostgresServer(new_folder(servers_folder, "postgres"), durable=False, template=postgres_template)
    run_apart(server.start)
    yield server
    run_apart(server.stop)


@pytest.fixture(scope="session")
def redis_server(servers_folder: Path) -> Iterator[RedisServer]:
    """The session's Redis. Do not stop it: `own_redis` is for that."""
    server = RedisServer(new_folder(servers_folder, "redis"), durable=False)

    async def start() -> None:
        await server.start()
        await redis_do(server.url, "CONFIG", "SET", "save", "86400 1")  # one that saves nothing is not healthy

    run_apart(start)
    yield server
    run_apart(server.stop)


@pytest.fixture(scope="session")
def reused_databases(postgres_server: PostgresServer) -> Iterator[ReusedDatabases]:
    """Databases for one test after the other."""
    databases = ReusedDatabases(postgres_server)
    yield databases
    databases.close()


@pytest.fixture
async def database(reused_databases: ReusedDatabases) -> AsyncIterator[str]:
    """The URL of a PostgreSQL database of this test alone, with a catalog as `catalog migrate` leaves it."""
    async with reused_databases.catalog() as url:
        yield url


@pytest.fixture
async def empty_database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a PostgreSQL database of this test alone, with nothing in it."""
    async with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
async def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis (tests run one after the other)."""
    client = redis.asyncio.Redis.from_url(redis_server.url)
    try:
        await client.flushall()
        await client.config_resetstat()
    finally:
        await client.aclose()
    return redis_server.url


@pytest.fixture
def places(database: str, redis_url: str, tmp_path: Path) -> Places:
    """Where a product of this test has its data."""
    return {"database": database, "redis_url": redis_url, "cold": tmp_path / "cold"}


@pytest.fixture
async def own_postgres(postgres_template: Path) -> AsyncIterator[Callable[..., Awaitable[PostgresServer]]]:
    """`await own_postgres()`: a started PostgreSQL that the test may stop, kill and pause.

    `durable=True` for tests that kill it and count on what was committed.
    """
    async with AsyncExitStack() as stack:

        async def start(*, durable: bool = False) -> PostgresServer:
            folder = stack.enter_context(server_folder())
            server = PostgresServer(folder, durable=durable, template=postgres_template)
            return await stack.enter_async_context(server)

        yield start


@pytest.fixture
async def own_redis() -> AsyncIterator[Callable[..., Awaitable[RedisServer]]]:
    """`await own_redis()`: a started Redis that the test may stop, kill and pause.

    `durable=True` keeps its data over `stop` and `start`.
    """
    async with AsyncExitStack() as stack:

        async def start(*, durable: bool = False) -> RedisServer:
            folder = stack.enter_context(server_folder())
            return await stack.enter_async_context(RedisServer(folder, durable=durable))

        yield start
