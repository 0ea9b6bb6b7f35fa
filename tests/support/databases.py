"""Databases that many tests use one after the other: making one, and migrating it, takes longer than most tests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.embedded import PostgresServer

_CATALOG = "sagaz_tiering"
_TEMPLATE = "template_catalog"
_LEAVE = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
_SYSTEM_TABLES = (
    *("pg_class", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_namespace", "pg_proc", "pg_trigger"),
    *("pg_type", "pg_rewrite", "pg_policy", "pg_extension", "pg_default_acl"),
)
_DEFINITIONS = " UNION ALL ".join(f"SELECT count(*), max(xmin::text::bigint) FROM {name}" for name in _SYSTEM_TABLES)
"""Every change of a definition or a right writes a row of one of these; what a VACUUM writes keeps its `xmin`."""
_SETTINGS = (
    "SELECT count(*) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase"
    " WHERE datname = current_database()"
    " UNION ALL SELECT count(*) FROM pg_database WHERE datname = current_database()"
    " AND datallowconn AND datconnlimit = -1 AND datacl IS NULL"
)
_BLOATED = (
    "SELECT oid::regclass::text FROM pg_class"
    f" WHERE relnamespace = '{_CATALOG}'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 100000"
)


@dataclass(slots=True)
class ReusedDatabases:
    """On one server; each use finds what a new one would have, whatever the test before left."""

    server: PostgresServer
    _spare: list[str] = field(default_factory=list)
    _first_state: str = ""
    _definitions: list[tuple[int, ...]] = field(default_factory=list)
    _has_empty: bool = False

    async def empty(self) -> str:
        """The URL of a database with nothing in it."""
        name = "reused_empty"
        async with _connected(self.server.url) as admin:
            if not self._has_empty:
                await admin.execute(f"CREATE DATABASE {name}")
                self._has_empty = True
            await admin.execute(_LEAVE, name)
        async with _connected(self.server.url_of(name)) as connection:
            await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return self.server.url_of(name)

    @asynccontextmanager
    async def catalog(self) -> AsyncIterator[str]:
        """The URL of a database with a catalog as `catalog migrate` leaves it.

        Its name is new each time, so that nothing which the test before left behind finds it.
        """
        name = f"test_{secrets.token_hex(6)}"
        async with _connected(self.server.url) as admin:
            if not self._first_state:
                await self._make_template(admin)
            if not (self._spare and await self._made_as_new(admin, self._spare.pop(), name)):
                await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        async with _connected(self.server.url_of(name)) as connection:
            await connection.execute(f"UPDATE {_CATALOG}.owner SET catalog_id = gen_random_uuid(), created_at = now()")
        try:
            yield self.server.url_of(name)
        finally:
            self._spare.append(name)

    async def _made_as_new(self, admin: asyncpg.Connection[asyncpg.Record], used: str, name: str) -> bool:
        """Whether it could be: a database whose definitions a test changed, or that is gone, is dropped."""
        await admin.execute(_LEAVE, used)
        try:
            await admin.execute(f"ALTER DATABASE {used} RENAME TO {name}")
        except asyncpg.InvalidCatalogNameError:
            return False
        async with _connected(self.server.url_of(name)) as connection:
            if intact := await _definitions(connection) == self._definitions:
                await connection.execute(self._first_state)
                for (table,) in await connection.fetch(_BLOATED):
                    await connection.execute(f"VACUUM {table}")
        if not intact:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        return intact

    async def _make_template(self, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        await admin.execute(f"CREATE DATABASE {_TEMPLATE}")
        url = self.server.url_of(_TEMPLATE)
        async with Database(CatalogSettings(url=url)) as database:
            await migrate(database)
        async with _connected(url) as connection:
            self._definitions = await _definitions(connection)
            self._first_state = await _first_state(connection)


async def _definitions(connection: asyncpg.Connection[asyncpg.Record]) -> list[tuple[int, ...]]:
    return [tuple(row) for query in (_DEFINITIONS, _SETTINGS) for row in await connection.fetch(query)]


async def _first_state(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """Statements that make the rows of all tables, and the numbers of all sequences, what they are now."""
    tables = await connection.fetch("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = $1", _CATALOG)
    sequences = await connection.fetch(
        "SELECT quote_literal(format('%I.%I', schemaname, sequencename)), coalesce(last_value, start_value),"
        " last_value IS NOT NULL FROM pg_sequences WHERE schemaname = $1",
        _CATALOG,
    )
    statements = ["BEGIN", "SET LOCAL session_replication_role = replica"]  # no triggers, rows in any order
    for (table,) in tables:
        statements.append(f"DELETE FROM {_CATALOG}.{table}")
        rows = await connection.fetchval(f"SELECT quote_literal(json_agg(t)::text) FROM {_CATALOG}.{table} AS t")
        if rows is not None:
            populated = f"json_populate_recordset(NULL::{_CATALOG}.{table}, {rows})"
            statements.append(f"INSERT INTO {_CATALOG}.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {populated}")
    statements += [f"SELECT setval({name}, {last}, {used})" for name, last, used in sequences]
    return "; ".join([*statements, "COMMIT"])


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(url, timeout=60)
    try:
        yield connection
    finally:
        await connection.close()
