"""Databases that many tests use one after the other: making one, and migrating it, takes longer than most tests."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.embedded.postgres import DATABASE

T = TypeVar("T")

_CATALOG = "sagaz_tiering"
_TEMPLATE = "template_catalog"
_IN_TURN = 4
"""So many databases are used one after the other."""
_ALONE = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
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


@dataclass(frozen=True, slots=True)
class _Reused:
    """A database, and a session that stays in it: a new one would first have to learn what tables there are."""

    database: str
    role: str
    session: asyncpg.Connection[asyncpg.Record]


class ReusedDatabases:
    """On one server; each use finds what a new one would have, whatever the test before left.

    What connects is a role whose name is new each time, so that nothing which another test left behind comes in again.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        """Of the sessions; it runs, in some thread, only while they are asked."""
        self._admin: asyncpg.Connection[asyncpg.Record] | None = None
        self._empty: _Reused | None = None
        self._spare: deque[_Reused] = deque()
        self._first_state = ""
        self._definitions: list[tuple[int, ...]] = []

    async def empty(self) -> str:
        """The URL of a database with nothing in it."""
        return await asyncio.to_thread(self._run, self._made_empty())

    @asynccontextmanager
    async def catalog(self) -> AsyncIterator[str]:
        """The URL of a database with a catalog as `catalog migrate` leaves it."""
        made = await asyncio.to_thread(self._run, self._made_catalog())
        try:
            yield self._url_of(made)
        finally:
            self._spare.append(made)

    def close(self) -> None:
        """Before the server stops."""
        self._run(self._left())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    async def _made_empty(self) -> str:
        if self._empty is None:
            self._empty = await self._new("template1")
        used, name = self._empty, _name("user")
        await used.session.execute(
            f"{_ALONE}; DROP SCHEMA public CASCADE; CREATE SCHEMA public; ALTER ROLE {used.role} RENAME TO {name}"
        )
        self._empty = replace(used, role=name)
        return self._url_of(self._empty)

    async def _made_catalog(self) -> _Reused:
        if not self._first_state:
            await self._make_template()
        made = None
        if len(self._spare) >= _IN_TURN:
            made = await self._made_as_new(self._spare.popleft())
        if made is None:
            made = await self._new(_TEMPLATE)
        await made.session.execute(f"UPDATE {_CATALOG}.owner SET catalog_id = gen_random_uuid(), created_at = now()")
        return made

    async def _made_as_new(self, used: _Reused) -> _Reused | None:
        """None where a test changed its definitions, or dropped it; it is gone then."""
        name = _name("user")
        try:
            await used.session.execute(f"{_ALONE}; ALTER ROLE {used.role} RENAME TO {name}")
            if await _definitions(used.session) == self._definitions:
                await used.session.execute(self._first_state)
                for (table,) in await used.session.fetch(_BLOATED):
                    await used.session.execute(f"VACUUM {table}")
                return replace(used, role=name)
        except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError, OSError):
            pass
        used.session.terminate()
        admin = await self._administrator()
        await admin.execute(f"DROP DATABASE IF EXISTS {used.database} WITH (FORCE)")
        return None

    async def _new(self, template: str) -> _Reused:
        admin, name, role = await self._administrator(), _name("test"), _name("user")
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        await admin.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{urlsplit(self._server.url).password}'")
        return _Reused(name, role, await self._connected(name))

    async def _make_template(self) -> None:
        admin = await self._administrator()
        await admin.execute(f"CREATE DATABASE {_TEMPLATE}")
        async with Database(CatalogSettings(url=self._server.url_of(_TEMPLATE))) as database:
            await migrate(database)
        connection = await self._connected(_TEMPLATE)
        self._definitions = await _definitions(connection)
        self._first_state = await _first_state(connection)
        await connection.close()

    async def _administrator(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._admin is None or self._admin.is_closed():
            self._admin = await self._connected(DATABASE)
        return self._admin

    async def _connected(self, database: str) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(self._server.url_of(database), timeout=120)

    def _url_of(self, reused: _Reused) -> str:
        parts = urlsplit(self._server.url_of(reused.database))
        return parts._replace(netloc=f"{reused.role}:{parts.password}@{parts.hostname}:{parts.port}").geturl()

    async def _left(self) -> None:
        sessions = [self._admin, *(each.session for each in (self._empty, *self._spare) if each is not None)]
        for session in sessions:
            if session is not None:
                session.terminate()
        await asyncio.sleep(0)


def _name(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(6)}"


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
