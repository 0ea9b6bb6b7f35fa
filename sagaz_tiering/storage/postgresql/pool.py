"""The connections of one `PostgreSQLSnapshotStorage`, opened when first used, and its tables, made when missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from sagaz_tiering.drivers.postgresql.pool import Connection, Database, affected
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.server_clock import ClockSample
from sagaz_tiering.errors import CatalogUnavailable, ConfigError, CorruptRecord, SnapshotTooLarge

_SQL: Final = load(__package__, "standalone_schema")
_SCHEMA_TIMEOUT_S: Final = 900.0
"""For making tables, or waiting for another process that does: an index over many rows of sagaz takes long."""

_CANNOT_MAKE: Final = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.FeatureNotSupportedError,  # a view depends on a column that must be widened
    asyncpg.DependentObjectsStillExistError,
)


class SnapshotPool:
    """A pool that opens when it is first used. `async with pool.acquire() as conn` gives an asyncpg connection."""

    def __init__(self, database: Database, create_tables: str) -> None:
        self._create_tables = create_tables
        self._database = database
        self._tables: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close every connection; the next call opens anew."""
        await self._forget_tables()
        await self._database.close()

    def __await__(self) -> Generator[Any, None, SnapshotPool]:
        return self._ready().__await__()

    async def _ready(self) -> SnapshotPool:
        """Itself, with the tables: made once for all who wait; if that fails, the next call tries again, not everyone
        who waited."""
        task = self._tables
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._tables = asyncio.create_task(self._ensure_tables())
        if not task.done():
            # Not awaited itself: one caller's cancellation must not reach the others.
            await asyncio.wait((task,))
        if task.cancelled():
            raise CatalogUnavailable("the storage was closed while it was being opened", hint="call again")
        task.result()
        return self

    async def _forget_tables(self) -> None:
        """Stop making them, if that is under way; the next call looks anew."""
        task, self._tables = self._tables, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,))

    async def time(self) -> ClockSample:
        """What the server's clock says. Raises CatalogUnavailable, ConfigError."""
        await self._open()
        return await self._database.time()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection as it is: tables are not made, each statement commits by itself."""
        await self._open()
        async with self._database.connection() as conn:
            yield conn

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """A connection for this storage's own statements; the tables are there.

        Raises CatalogUnavailable, ConfigError, SnapshotTooLarge, CorruptRecord.
        """
        await self._ready()
        try:
            async with self.acquire() as conn:
                yield conn
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as exc:
            await self._forget_tables()
            raise CatalogUnavailable(
                f"the tables at {self._database.shown_url} changed: {exc}", hint="the next call makes what is missing"
            ) from exc
        except asyncpg.ProgramLimitExceededError as exc:
            raise SnapshotTooLarge(f"PostgreSQL cannot hold the snapshot: {exc}") from exc
        except OverflowError as exc:
            raise CorruptRecord(f"a row at {self._database.shown_url} has a time that cannot be read: {exc}") from exc
        except asyncpg.PostgresError as exc:
            raise ConfigError(
                f"PostgreSQL at {self._database.shown_url} refuses a statement: {exc}",
                hint="compare the tables with PostgreSQLSnapshotStorage.CREATE_TABLES_SQL",
            ) from exc

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of one statement."""
        async with self.session() as conn:
            return await conn.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """The first row of one statement, or None."""
        async with self.session() as conn:
            return await conn.fetchrow(query, *args)

    async def execute(self, query: str, *args: Any) -> int:
        """Run one statement; the number of rows it touched."""
        async with self.session() as conn:
            return affected(await conn.execute(query, *args))

    async def _open(self) -> None:
        """Nothing is connected yet, so nobody comes in between."""
        try:
            if not self._database.is_open:
                await self._database.open()
        except ValueError:
            # Not chained: it may quote a piece of the password.
            raise ConfigError(f"connection_string is not a PostgreSQL URL: {self._database.shown_url}") from None

    async def _ensure_tables(self) -> None:
        """Make or upgrade the tables; if they are right, which one look tells, nothing is changed or locked."""
        async with self.acquire() as conn, conn.transaction():
            if not missing(await self._find(conn)):
                return
            await conn.execute(_SQL["lock"], timeout=_SCHEMA_TIMEOUT_S)
            found = await self._find(conn)
            if not missing(found):
                return
            try:
                if found:
                    await conn.execute(_SQL["work_in"], found[0]["schema"])
                await conn.execute(self._create_tables, timeout=_SCHEMA_TIMEOUT_S)
            except _CANNOT_MAKE as exc:
                raise ConfigError(
                    f"the tables at {self._database.shown_url} cannot be made: {exc}",
                    hint="let the owner of the schema run PostgreSQLSnapshotStorage.CREATE_TABLES_SQL once",
                ) from exc
            if left := missing(await self._find(conn)):
                raise ConfigError(f"the tables at {self._database.shown_url} lack {', '.join(left)}")

    async def _find(self, conn: Connection) -> list[asyncpg.Record]:
        return await conn.fetch(_SQL["found"], list(TABLES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: what makes it one of ours or of sagaz's (columns by type, key), and what an upgrade adds."""

    columns: Mapping[str, str]
    key: str
    added: frozenset[str]
    parts: frozenset[str]


def _columns(text: str) -> dict[str, str]:
    """`name type, …` by name."""
    return dict(column.split(" ", 1) for column in text.split(", "))


TABLES: Final = {
    "saga_snapshots": Table(
        columns=_columns(
            "snapshot_id uuid, saga_id uuid, saga_name character varying, step_name character varying, "
            "step_index integer, status character varying, context jsonb, completed_steps jsonb, "
            "created_at timestamp with time zone, retention_until timestamp with time zone"
        ),
        key="PRIMARY KEY (snapshot_id)",
        added=frozenset({"external_refs jsonb", "body bytea"}),
        parts=frozenset({"idx_saga_snapshots_order", "idx_saga_snapshots_retention", "saga_snapshots_edited"}),
    ),
    "saga_replay_log": Table(
        columns=_columns(
            "replay_id uuid, original_saga_id uuid, new_saga_id uuid, checkpoint_step character varying, "
            "context_override jsonb, initiated_by character varying, replay_status character varying, "
            "error_message text, created_at timestamp with time zone, completed_at timestamp with time zone"
        ),
        key="PRIMARY KEY (replay_id)",
        added=frozenset({"body bytea"}),
        parts=frozenset({"idx_replay_log_order", "saga_replay_log_edited"}),
    ),
}
_UNWANTED: Final = "idx_saga_snapshots_saga_id_step"
"""sagaz's UNIQUE (saga_id, step_name, created_at), which forbids two snapshots of one instant."""


def missing(found: Sequence[Any]) -> list[str]:
    """What CREATE_TABLES_SQL has to add or change, by the rows of the query `found`; nothing if all is right.

    Raises ConfigError for tables of these names that are somebody else's.
    """
    rows = {row["name"]: row for row in found}
    left = []
    for name, table in TABLES.items():
        row = rows.get(name)
        if row is None:
            left.append(f"table {name}")
            continue
        _check_ours(row, table)
        wanted = {f"{column} {kind}" for column, kind in table.columns.items()} | table.added
        left += sorted(f"{name}.{column}" for column in wanted - set(row["columns"]))
        left += sorted(table.parts - set(row["parts"]))
        if _UNWANTED in row["parts"]:
            left.append(f"no constraint {_UNWANTED}")
    return left


def _check_ours(row: Any, table: Table) -> None:
    name = f"{row['schema']}.{row['name']}"
    if row["encoding"] != "UTF8":
        raise ConfigError(f"the database has the encoding {row['encoding']}", hint="use a database with encoding UTF8")
    kinds = dict(column.split(" ", 1) for column in row["columns"])
    for column, kind in table.columns.items():
        # A length, as in character varying(255), is what an upgrade takes away.
        if kinds.get(column, "nothing").partition("(")[0] not in (kind, kind.replace("character varying", "text")):
            raise ConfigError(
                f"{name} is not a table of snapshots: {column} is {kinds.get(column, 'missing')}, not {kind}",
                hint="use another database, or another schema by ?options=-csearch_path%3DSCHEMA in connection_string",
            )
    if table.key not in row["parts"]:
        raise ConfigError(
            f"{name} has no {table.key}", hint=f"ALTER TABLE {name} ADD {table.key}, dropping the one it has"
        )
