"""Numbered, explicit migrations. `migrate` applies what is missing; everything else only checks.

Each file runs in one transaction together with its row in `schema_migrations`, under a transaction-scoped
advisory lock, so that two `catalog migrate` at once do the work once.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import NamedTuple

import asyncpg

from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.refusals import MIGRATE
from sagaz_tiering.errors import ConfigError, SchemaMismatch

_LOCK = 0x5A6A7A01
_VERSION_TABLE = """
CREATE SCHEMA IF NOT EXISTS sagaz_tiering;
CREATE TABLE IF NOT EXISTS sagaz_tiering.schema_migrations (
    version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
"""


_KNOWN = "SELECT 1 FROM sagaz_tiering.schema_migrations WHERE version = $1"
_APPLIED = "INSERT INTO sagaz_tiering.schema_migrations (version, name) VALUES ($1, $2)"


class Migration(NamedTuple):
    """One numbered file."""

    version: int
    name: str
    sql: str


@cache
def migrations() -> list[Migration]:
    """All files `NNNN_name.sql`, in order."""
    found = []
    for entry in files(__package__).iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, entry.read_text(encoding="utf-8")))
    return sorted(found)


async def current_version(db: Database) -> int:
    """The newest applied migration; 0 for a database without a catalog."""
    try:
        return int(await db.fetchval("SELECT coalesce(max(version), 0) FROM sagaz_tiering.schema_migrations"))
    except (SchemaMismatch, asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return 0


async def check_schema(db: Database) -> None:
    """Raise SchemaMismatch unless the database's schema is exactly the one this code was written for."""
    have, want = await current_version(db), migrations()[-1].version
    if have < want:
        state = "has no catalog yet" if have == 0 else f"has catalog schema {have}, this version needs {want}"
        raise SchemaMismatch(f"the database at {db.shown_url} {state}", hint=MIGRATE)
    if have > want:
        raise SchemaMismatch(
            f"the database at {db.shown_url} has catalog schema {have}, this version knows only {want}",
            hint="a newer sagaz-tiering migrated it; upgrade this one",
        )


async def check_encoding(db: Database) -> None:
    """Raise ConfigError for a database that cannot hold every name: a saga may have one in any script."""
    encoding = await db.fetchval(
        "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
    )
    if encoding != "UTF8":
        raise ConfigError(
            f"the database at {db.shown_url} is encoded in {encoding}, the catalog needs UTF8",
            hint="make another one: createdb --encoding=UTF8 --template=template0 NAME",
        )


async def migrate(db: Database) -> list[Migration]:
    """Apply what is missing, one transaction per file; returns what was applied. Raises ConfigError (see above)."""
    await check_encoding(db)
    applied = []
    for migration in migrations():
        async with db.transaction() as conn:
            await conn.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await conn.execute(_VERSION_TABLE)
            if not await conn.fetchval(_KNOWN, migration.version):
                await conn.execute(migration.sql)
                await conn.execute(_APPLIED, migration.version, migration.name)
                applied.append(migration)
    return applied
