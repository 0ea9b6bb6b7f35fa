"""PostgreSQL: whether it answers, keeps what it acknowledges, has our schema, and lets us work in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from sagaz_tiering.app.runtime import Parts
from sagaz_tiering.catalog.migrations import check_schema, current_version
from sagaz_tiering.clock import Clock
from sagaz_tiering.doctor.finding import Finding, error, ok, warning
from sagaz_tiering.doctor.pooler import check_pooler
from sagaz_tiering.doctor.timing import clock_of, round_trip_of
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.postgresql.refusals import user_of
from sagaz_tiering.errors import SchemaMismatch

_SQL = load(__package__, "doctor")
OLDEST = 13
CROWDED = 0.8


async def check_postgresql(parts: Parts, *, caches: bool) -> AsyncGenerator[Finding, None]:
    """Server, durability, schema, rights, clock, and what may be between us and it; `caches`: prepared statements."""
    async with parts.database() as db:
        server = await db.fetchrow(_SQL["server"])  # connects, so it is no measure of a round trip
        assert server is not None  # a SELECT of settings always has a row
        hint = "durable saves wait so long: bring PostgreSQL nearer"
        yield await round_trip_of("postgresql.reachable", db.shown_url, lambda: db.fetchval("SELECT 1"), hint)
        for found in (*_server(server), *_durability(server)):
            yield found
        yield await _clock(db, parts.clock)
        async for found in check_pooler(db, caches=caches):
            yield found
        async for found in _schema(db):
            yield found


def _server(server: Any) -> Iterator[Finding]:
    text = f"PostgreSQL {server['version']}"
    if server["number"] // 10_000 < OLDEST:
        yield warning("postgresql.version", text, f"use {OLDEST} or newer: older ones are not tested")
    else:
        yield ok("postgresql.version", text)
    if server["standby"]:
        yield error("postgresql.role", "the server is a standby: it takes no writes", "give the primary in catalog.url")
    used, most = server["connections"], server["max_connections"]
    if used > most * CROWDED:
        hint = "raise max_connections, lower catalog.pool_max, or put a pooler between"
        yield warning("postgresql.connections", f"{used} of {most} connections are in use", hint)
    else:
        yield ok("postgresql.connections", f"{used} of {most} connections are in use")


def _durability(server: Any) -> Iterator[Finding]:
    """Whether what it acknowledges survives a crash of its machine."""
    for name in ("fsync", "full_page_writes"):
        if server[name] == "off":
            text = f"{name} is off: a crash of its machine can destroy acknowledged snapshots and the catalog"
            yield error("postgresql.durability", text, f"set {name} = on")
            return
    if server["synchronous_commit"] == "off":
        text = "synchronous_commit is off: a crash loses the saves that were acknowledged last"
        yield warning("postgresql.durability", text, "set synchronous_commit = on for this user or database")
    else:
        yield ok("postgresql.durability", f"synchronous_commit is {server['synchronous_commit']}")


async def _clock(db: Database, clock: Clock) -> Finding:
    async with db.connection() as connection:
        return await clock_of("postgresql.clock", "PostgreSQL", clock, lambda: connection.fetchval(_SQL["time"]))


async def _schema(db: Database) -> AsyncGenerator[Finding, None]:
    try:
        await check_schema(db)
    except SchemaMismatch as exc:
        yield error("postgresql.schema", str(exc), exc.hint, exit_code=exc.exit_code)
        return
    yield ok("postgresql.schema", f"catalog schema {await current_version(db)}")
    missing = await db.fetch(_SQL["missing_rights"])
    for row in missing:
        whom = user_of(db.shown_url)
        hint = f"GRANT {row['privilege']} ON ALL {row['kind']} IN SCHEMA sagaz_tiering TO {whom}"
        yield warning("postgresql.rights", f"no {row['privilege']} on {row['names']}", hint)
    if not missing:
        yield ok("postgresql.rights", "every table of the catalog can be read and written")
