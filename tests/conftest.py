"""Real servers for every test that asks for one; those of the session are started when first asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis.asyncio
from support.processes import redis_do
from support.servers import cluster_template, fresh_database, new_folder, run_apart, server_folder

from sagaz_tiering.embedded import PostgresServer, RedisServer

SLOW = frozenset(
    {
        "test_s3_storage.py",
        "test_s3_store.py",
        "test_old_stores.py",
        "test_transfer_cli.py",
        "test_from_sagaz.py",
        "test_crypto_shredding.py",
        "test_master_keys.py",
        "test_examples.py",
        "test_large_values.py",
        "test_storage_processes.py",
        "test_storage_large.py",
        "test_filesystem_crash.py",
        "test_rebuild.py",
        "test_restore.py",
        "test_object_store.py",
        "test_embedded.py",
        "test_storage_outages.py",
        "test_compaction.py",
        "test_dictionaries.py",
        "test_storage_concurrency.py",
        "test_plan.py",
        "test_redis_cluster.py",
        "test_sentinel.py",
        "test_demo.py",
        "test_years.py",
        "test_workers.py",
        "test_doctor.py",
        "test_catalog_verify.py",
        "test_torture.py",
        "test_expire.py",
        "test_many_rows.py",
        "test_scrub.py",
        "test_holds.py",
        "test_storm.py",
        "test_storage_loops.py",
        "test_other_loops.py",
        "test_forgeries.py",
        "test_aws_credentials.py",
        "test_tls.py",
    }
)
"""Files that `make test` leaves to `make check`, so that it is done soon."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow: whole files, and the contract suite over S3."""
    for item in items:
        if item.path.name in SLOW or (item.path.parent.name == "contracts" and "[s3" in item.name):
            item.add_marker(pytest.mark.slow)


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
    server.discard()


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


@pytest.fixture
async def database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of an empty PostgreSQL database of this test alone."""
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
