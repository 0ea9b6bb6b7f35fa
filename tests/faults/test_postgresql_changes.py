"""PostgreSQL that changes under its clients: another server behind its address, read-only, frozen, a new password."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from support.gate import Gate, through
from support.payload import snapshots
from support.processes import redis_do, sql
from support.servers import server_folder
from support.tiers import NOW, Product, config, product

from sagaz_tiering import metrics
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.embedded import PostgresServer, postgres
from sagaz_tiering.errors import (
    CatalogRefused,
    CatalogUnavailable,
    ConfigError,
    HotTierRefused,
    HotTierUnavailable,
    StatementRefused,
    TierUnavailable,
)
from sagaz_tiering.snapshot import SagaSnapshot

Servers = tuple[PostgresServer, PostgresServer, Gate]


def one(saga_name: str = "orders") -> SagaSnapshot:
    """A snapshot like any."""
    like = next(iter(snapshots(1, created_at=NOW, saga_name=saga_name)))
    return replace(like, snapshot_id=uuid4(), saga_id=uuid4())


async def saved_in_the_end(shop: Product, snapshot: SagaSnapshot) -> None:
    """Save until it is taken."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await shop.storage.save_snapshot(snapshot)
            except CatalogUnavailable:
                await asyncio.sleep(0.05)


async def refused_in_the_end(shop: Product, match: str) -> None:
    """Save until it is refused like that."""
    async with asyncio.timeout(120):
        while True:
            try:
                await shop.storage.save_snapshot(one())
            except CatalogUnavailable as exc:
                if match in str(exc):
                    return
                raise


@asynccontextmanager
async def twins(template: Path, *, standby: bool) -> AsyncIterator[Servers]:
    """Two servers with the same catalog, and an address that leads to the second. As a standby it follows nobody."""
    async with AsyncExitStack() as stack:
        folders = [stack.enter_context(server_folder()) for _ in range(2)]
        first = PostgresServer(folders[0], durable=False, template=template)
        await first.start()
        async with Database(CatalogSettings(url=first.url)) as db:
            await migrate(db)
        await first.stop()
        second = PostgresServer(folders[1], durable=False, template=first.home)
        second.initialise()
        if standby:
            (second.home / "data" / "standby.signal").touch()
        for server in (first, second):
            await stack.enter_async_context(server)
        gate = await stack.enter_async_context(Gate("127.0.0.1", second.port))
        yield first, second, gate


@pytest.fixture
def _able_to_be_a_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**postgres._SETTINGS, "wal_level": "replica", "max_wal_senders": "2", "hot_standby": "on"}
    monkeypatch.setattr(postgres, "_SETTINGS", settings)


@pytest.mark.guarantee("G2")
@pytest.mark.usefixtures("_able_to_be_a_standby")
async def test_address_that_led_to_a_standby_is_used_as_soon_as_it_leads_to_the_primary(
    postgres_template: Path, redis_url: str, tmp_path: Path
) -> None:
    """A standby is never asked, since it knows yesterday's state; no restart is needed afterwards."""
    async with twins(postgres_template, standby=True) as (first, _second, gate):
        settings = config(database=through(first.url, gate.port), redis_url=redis_url, cold=tmp_path / "cold")
        async with product(settings, schema=False) as shop:
            with pytest.raises(CatalogUnavailable, match="target attribute"):
                await shop.storage.timeline(uuid4())
            gate.lead_to("127.0.0.1", first.port)
            saved = one()
            await shop.storage.save_snapshot(saved)
            assert await shop.storage.list_snapshots(saved.saga_id) == [saved]


async def test_connections_to_a_server_that_became_read_only_are_left(
    postgres_template: Path, redis_url: str, tmp_path: Path
) -> None:
    """The old primary was fenced and the address leads elsewhere: the first refused save is the last one."""
    async with twins(postgres_template, standby=False) as (first, second, gate):
        settings = config(database=through(first.url, gate.port), redis_url=redis_url, cold=tmp_path / "cold")
        async with product(settings, schema=False) as shop:
            await asyncio.gather(*(shop.storage.save_snapshot(each) for each in snapshots(8, created_at=NOW)))
            await sql(second.url, "ALTER SYSTEM SET default_transaction_read_only = on")
            await sql(second.url, "SELECT pg_reload_conf()")
            gate.lead_to("127.0.0.1", first.port)
            await refused_in_the_end(shop, "read-only")
            saved = one()
            await shop.storage.save_snapshot(saved)
            assert await sql(first.url, "SELECT count(*) FROM sagaz_tiering.saga_snapshots") == 1


async def test_frozen_postgresql_holds_up_a_saga_once(
    own_postgres: Callable[..., Any], redis_url: str, tmp_path: Path
) -> None:
    """A save waits for its deadline as a whole; the next ones for a second; it is well again by itself."""
    server = await own_postgres()
    settings = config(database=server.url, redis_url=redis_url, cold=tmp_path / "cold")
    quick = settings.catalog.model_copy(update={"command_timeout": timedelta(seconds=3)})
    settings = settings.model_copy(update={"catalog": quick})
    async with product(settings) as shop:
        await shop.storage.save_snapshot(one())
        server.pause()
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(CatalogUnavailable, match="PostgreSQL"):
                await shop.storage.save_snapshot(one())
        waited = time.monotonic() - began
        await shop.storage.save_snapshot(one("fast-track"))  # durability: hot
        server.resume()
        saved = one()
        await saved_in_the_end(shop, saved)
        assert await shop.storage.list_snapshots(saved.saga_id) == [saved]
    assert waited < 120, "each of them waited for the whole command time-out, or longer"


async def test_postgresql_that_refuses_a_password_is_away_until_it_takes_it(
    own_postgres: Callable[..., Any], redis_url: str, tmp_path: Path
) -> None:
    """Nothing to be configured anew: a rotated password is put right on the server, or in a secret."""
    server = await own_postgres()
    user = urlsplit(server.url).username
    async with product(config(database=server.url, redis_url=redis_url, cold=tmp_path / "cold")) as shop:
        password = urlsplit(server.url).password
        await shop.storage.save_snapshot(one("fast-track"))
        await sql(server.url, f"ALTER ROLE {user} PASSWORD 'another'; ")
        await shop.runtime.db._pool.expire_connections()  # type: ignore[union-attr]
        with pytest.raises(CatalogRefused, match="refuses"):
            await shop.storage.save_snapshot(one())
        await shop.storage.save_snapshot(one("fast-track"))
        other = server.url.replace(f":{password}@", ":another@")
        await sql(other, f"ALTER ROLE {user} PASSWORD '{password}'")
        await saved_in_the_end(shop, one())


async def test_redis_that_refuses_a_password_is_saved_around(
    own_redis: Callable[..., Any], database: str, tmp_path: Path
) -> None:
    """Durable saves and those of `hot` go to PostgreSQL as in an outage, and are read from there."""
    server = await own_redis()
    async with product(config(database=database, redis_url=server.url, cold=tmp_path / "cold")) as shop:
        await shop.storage.save_snapshot(one())
        await redis_do(server.url, "CONFIG", "SET", "requirepass", "another")
        client = server.url.replace(urlsplit(server.url).password or "", "another")
        await redis_do(client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        durable, hot = one(), one("fast-track")
        await shop.storage.save_snapshot(durable)
        await shop.storage.save_snapshot(hot)
        assert await shop.storage.get_snapshot(durable.snapshot_id) == durable
        refused = 0
        while not refused:  # a connection of the pool may have to find out first that it was ended
            try:
                await shop.runtime.hot.connection.ping()
            except HotTierUnavailable as exc:
                refused = isinstance(exc, HotTierRefused)


async def test_hot_save_is_not_refused_since_redis_failed_a_moment_ago(
    own_redis: Callable[..., Any], own_postgres: Callable[..., Any], tmp_path: Path
) -> None:
    """PostgreSQL is gone, and Redis is back before its pause is over: it takes the save."""
    redis_server, server = await own_redis(durable=True), await own_postgres()
    async with product(config(database=server.url, redis_url=redis_server.url, cold=tmp_path / "cold")) as shop:
        await shop.storage.save_snapshot(one("fast-track"))
        await redis_server.stop()
        server.kill()
        with pytest.raises(HotTierUnavailable, match=r"Redis .*PostgreSQL"):
            await shop.storage.save_snapshot(one("fast-track"))
        await redis_server.start()
        shop.storage._saver._hot_pause.begin(3600)
        await shop.storage.save_snapshot(one("fast-track"))


async def test_catalog_of_another_encoding_is_refused(own_postgres: Callable[..., Any]) -> None:
    """Names in any script must fit: LATIN1 refused one, and every run of `age` ended with it."""
    server = await own_postgres()
    await sql(server.url, "CREATE DATABASE western ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    async with Database(CatalogSettings(url=server.url_of("western"))) as db:
        with pytest.raises(ConfigError, match=r"LATIN1.*UTF8"):
            await migrate(db)


async def test_pool_opens_as_many_connections_as_it_is_told_to(database: str) -> None:
    """Once the server has answered the first; before, an application starts without it."""
    async with Database(CatalogSettings(url=database, pool_min=4)) as db:
        assert await db.fetchval("SELECT 1") == 1
        async with asyncio.timeout(300):
            while db._warming is None or not db._warming.done():  # noqa: ASYNC110 - it is a task of the pool's own
                await asyncio.sleep(0.01)
        assert await sql(database, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sagaz%'") == 4


async def test_connections_that_a_pool_opens_for_itself_count_as_used(database: str) -> None:
    """Beside those in use only what is missing is opened; whoever comes meanwhile waits as long as it may."""
    async with Database(CatalogSettings(url=database, pool_min=4, pool_max=4)) as db, AsyncExitStack() as held:
        for _ in range(2):
            conn = await held.enter_async_context(db.connection())
            assert await conn.fetchval("SELECT 1") == 1
        assert await db.fetchval("SELECT 1") == 1
        assert (db.users, pool_in_use()) == (4, 4)
        assert db._warming is not None
        async with asyncio.timeout(300):
            await db._warming
        assert (db.users, pool_in_use()) == (2, 2)
        assert await sql(database, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sagaz%'") == 4


def pool_in_use() -> float | None:
    return metrics.REGISTRY.get_sample_value("sagaz_tiering_pool_in_use", {"server": "postgresql"})


async def test_transactions_are_read_committed_whatever_the_servers_default_is(database: str) -> None:
    """Claims and fences count on it."""
    name = await sql(database, "SELECT current_database()")
    await sql(database, f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
    async with Database(CatalogSettings(url=database)) as db, db.transaction() as conn:
        assert await conn.fetchval("SHOW transaction_isolation") == "read committed"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_statement_that_lost_to_another_is_run_again_whatever_the_servers_default_is(
    database: str, level: str
) -> None:
    """An update that waited for another of the same row counts after it, instead of failing."""
    name = await sql(database, "SELECT current_database()")
    await sql(database, f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    await sql(database, "CREATE TABLE counted AS SELECT 0 AS n")
    add = "UPDATE counted SET n = n + 1 RETURNING n"
    async with Database(CatalogSettings(url=database)) as db, asyncio.timeout(120):
        async with db.transaction() as conn:
            await conn.execute(add)
            asked = [asyncio.create_task(ask(add)) for ask in (db.execute, db.fetch, db.fetchrow, db.fetchval)]
            while await sql(database, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") < len(
                asked
            ):
                pass
        await asyncio.gather(*asked)
        assert await db.fetchval("SELECT n FROM counted") == 1 + len(asked)


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("SELECT $1::bigint", 2**63),
        ("SELECT $1::text", "\x00"),
        ("SELECT $1::text", "\ud800"),
        ("SELECT 1 / $1::integer", 0),
        ("SELECT $1::bigint * 2", 2**62),
        ("SELECT ($1::text)::timestamptz", "never"),
        ("SELECT no_such_function($1::integer)", 0),
        ("INSERT INTO sagaz_tiering.owner SELECT * FROM sagaz_tiering.owner WHERE $1", True),
        ("SELECT $1 FRM", 1),
    ],
)
async def test_fault_in_what_is_asked_is_not_taken_for_a_server_that_is_away(
    database: str, query: str, value: object
) -> None:
    """Asked again it would be refused for ever: it is said at once, and nobody waits for the server."""
    async with Database(CatalogSettings(url=database)) as db:
        with pytest.raises(StatementRefused) as told:
            await db.fetch(query, value)
        assert told.value.permanent
        assert not isinstance(told.value, TierUnavailable)
        assert await db.fetchval("SELECT 1") == 1


async def test_server_without_tls_is_told_apart(database: str) -> None:
    """The hint says that no TLS is spoken, not that the server is away."""
    url = f"{database}{'&' if '?' in database else '?'}sslmode=require"
    async with Database(CatalogSettings(url=url)) as db:
        with pytest.raises(CatalogUnavailable) as caught:
            await db.fetchval("SELECT 1")
    assert "speaks no TLS" in caught.value.hint
