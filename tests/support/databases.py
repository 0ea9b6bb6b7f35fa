"""Databases that many tests use one after the other: making one, and migrating it, takes longer than most tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.drivers.postgresql.pool import Database, DatabaseOptions
from sagaz_tiering.embedded import PostgresServer

_CATALOG = "sagaz_tiering"
_OTHERS_LEAVE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@dataclass(slots=True)
class ReusedDatabases:
    """On one server; emptied before each use, whatever the test before left."""

    server: PostgresServer
    _made: set[str] = field(default_factory=set)
    _first_rows: dict[str, list[asyncpg.Record]] = field(default_factory=dict)

    async def empty(self) -> str:
        """The URL of a database with nothing in it."""
        url = await self._database("reused_empty")
        await _execute(url, _OTHERS_LEAVE, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        return url

    async def migrated(self) -> str:
        """The URL of a database with a catalog as `catalog migrate` leaves it."""
        new = "reused_catalog" not in self._made
        url = await self._database("reused_catalog")
        if new:
            async with Database(DatabaseOptions(url=url, shown_url=url)) as database:
                await migrate(database)
        connection = await asyncpg.connect(url, timeout=10)
        try:
            await self._reset(connection, new=new)
        finally:
            await connection.close()
        return url

    async def _reset(self, connection: asyncpg.Connection[asyncpg.Record], *, new: bool) -> None:
        await connection.execute(_OTHERS_LEAVE)
        tables = [
            f'{_CATALOG}."{row[0]}"'
            for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", _CATALOG)
        ]
        if new:
            self._first_rows = {table: await connection.fetch(f"SELECT * FROM {table}") for table in tables}
            return
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")  # no triggers, rows in any order
            await connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
            for table, rows in self._first_rows.items():
                for row in rows:
                    places = ", ".join(f"${at + 1}" for at in range(len(row)))
                    names = ", ".join(f'"{name}"' for name in row.keys())  # noqa: SIM118  # a Record iterates values
                    await connection.execute(
                        f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({places})", *row
                    )

    async def _database(self, name: str) -> str:
        if name not in self._made:
            await _execute(self.server.url, f"CREATE DATABASE {name}")
            self._made.add(name)
        return self.server.url_of(name)


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
