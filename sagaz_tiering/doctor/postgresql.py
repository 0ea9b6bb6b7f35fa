"""PostgreSQL: whether it answers, keeps what it acknowledges, has our schema, and lets us work in it; its data keys.

A pooler in transaction mode gives a connection another server process from one transaction to the next. That shows
when a second connection keeps the process of the first busy: the first is then answered by another. A statement that
was prepared before is gone there, unless the pooler carries it over (pgbouncer from 1.21 on, with
max_prepared_statements).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg

from sagaz_tiering.app.parts import Parts
from sagaz_tiering.catalog.migrations import check_schema, current_version
from sagaz_tiering.catalog.saga_keys import SagaKeys
from sagaz_tiering.doctor.finding import Findings
from sagaz_tiering.drivers.postgresql.pool import CONNECT_S, Database
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.postgresql.refusals import user_of
from sagaz_tiering.errors import MasterKeyUnavailable, SagazTieringError, SchemaMismatch
from sagaz_tiering.keys.keyring import Keyring
from sagaz_tiering.keys.master import KeyTotals, WrappedKey

_SQL = load(__package__, "doctor")
_BACKEND = _SQL["backend"]
OLDEST = 13
CROWDED = 0.8
_ROUNDS = 12
_ANSWER_S = 2.0
_ADVICE = "set catalog.statement_cache: false (or, for pgbouncer from 1.21 on, max_prepared_statements there)"
_DATA_KEYS = "encryption.data_keys"

Connection = Any


async def check_postgresql(parts: Parts, found: Findings, *, caches: bool) -> None:
    """Server, durability, schema, rights, clock, and what may be between us and it; `caches`: prepared statements."""
    async with parts.database() as db:
        server = await db.fetchrow(_SQL["server"])  # connects, so it is no measure of a round trip
        assert server is not None  # a SELECT of settings always has a row
        hint = "durable saves wait so long: bring PostgreSQL nearer"
        await found.round_trip("postgresql.reachable", db.shown_url, lambda: db.fetchval("SELECT 1"), hint)
        _server(found, server)
        _durability(found, server)
        async with db.connection() as connection:
            clock = parts.clock
            await found.clock("postgresql.clock", "PostgreSQL", clock, lambda: connection.fetchval(_SQL["time"]))
        await _pooler(found, db, caches=caches)
        await _schema(found, db)


def _server(found: Findings, server: Any) -> None:
    text = f"PostgreSQL {server['version']}"
    if server["number"] // 10_000 < OLDEST:
        found.warning("postgresql.version", text, f"use {OLDEST} or newer: older ones are not tested")
    else:
        found.ok("postgresql.version", text)
    if server["standby"]:
        found.error("postgresql.role", "the server is a standby: it takes no writes", "give the primary in catalog.url")
    used, most = server["connections"], server["max_connections"]
    if used > most * CROWDED:
        hint = "raise max_connections, lower catalog.pool_max, or put a pooler between"
        found.warning("postgresql.connections", f"{used} of {most} connections are in use", hint)
    else:
        found.ok("postgresql.connections", f"{used} of {most} connections are in use")


def _durability(found: Findings, server: Any) -> None:
    """Whether what it acknowledges survives a crash of its machine."""
    subject = "postgresql.durability"
    off = next((name for name in ("fsync", "full_page_writes") if server[name] == "off"), None)
    if off is not None:
        text = f"{off} is off: a crash of its machine can destroy acknowledged snapshots and the catalog"
        found.error(subject, text, f"set {off} = on")
    elif server["synchronous_commit"] == "off":
        text = "synchronous_commit is off: a crash loses the saves that were acknowledged last"
        found.warning(subject, text, "set synchronous_commit = on for this user or database")
    else:
        found.ok(subject, f"synchronous_commit is {server['synchronous_commit']}")


async def _schema(found: Findings, db: Database) -> None:
    try:
        await check_schema(db)
    except SchemaMismatch as exc:
        found.failed("postgresql.schema", exc)
        return
    found.ok("postgresql.schema", f"catalog schema {await current_version(db)}")
    missing = await db.fetch(_SQL["missing_rights"])
    for row in missing:
        whom = user_of(db.shown_url)
        hint = f"GRANT {row['privilege']} ON ALL {row['kind']} IN SCHEMA sagaz_tiering TO {whom}"
        found.warning("postgresql.rights", f"no {row['privilege']} on {row['names']}", hint)
    if not missing:
        found.ok("postgresql.rights", "every table of the catalog can be read and written")


async def _pooler(found: Findings, db: Database, *, caches: bool) -> None:
    """Two connections of our own, outside of the pool. `caches`: whether the settings keep prepared statements."""
    with db.translated():
        async with _connected(db) as one, _connected(db) as other:
            switched, lost = await _switches(one, other)
    subject = "postgresql.pooler"
    if not switched:
        found.ok(subject, "no pooler in transaction mode was seen")
    elif not caches:
        found.ok(subject, "a pooler in transaction mode; catalog.statement_cache is false, which suits it")
    elif lost:
        found.error(subject, "a pooler in transaction mode is between, and prepared statements get lost in it", _ADVICE)
    elif lost is None:
        found.warning(subject, "perhaps a pooler in transaction mode: a second connection got no answer", _ADVICE)
    else:
        found.ok(subject, "a pooler in transaction mode, which carries prepared statements over")


async def _switches(one: Connection, other: Connection) -> tuple[bool, bool | None]:
    """(whether `one` was answered by different processes, whether its prepared statement got lost: None unknown)."""
    # The driver's own names are the same in every process: behind a pooler they find statements of others.
    statement = await one.prepare(_BACKEND, name=f"doctor_{uuid4().hex}")
    first = await statement.fetchval()
    for _ in range(_ROUNDS):
        async with other.transaction():
            await other.fetchval(_BACKEND)  # whoever answered `one` may be busy with this from now on
            try:
                if await one.fetchval(_BACKEND) != first:
                    return True, await _is_lost(statement)
            except TimeoutError:
                return True, None  # of a pool of one process, that is
    return False, False


async def _is_lost(statement: Any) -> bool:
    try:
        await statement.fetchval()
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.InternalClientError):
        return True
    return False


@asynccontextmanager
async def _connected(db: Database) -> AsyncIterator[Connection]:
    url = db.settings.url.get_secret_value()
    connection = await asyncpg.connect(url, statement_cache_size=0, timeout=CONNECT_S, command_timeout=_ANSWER_S)
    try:
        yield connection
    finally:
        connection.terminate()


async def check_encryption(parts: Parts, found: Findings) -> None:
    """The master key wraps and unwraps; and the catalog's data keys are all there and under a key that we have."""
    async with parts.database() as db:
        keys = SagaKeys(db)
        keyring = Keyring(keys, parts.master_keys())
        try:
            if parts.config.encryption is not None:
                names = [each.name for each in parts.config.policies if each.encryption != "none"]
                users = f"for {', '.join(names)}" if names else "though no policy asks for it"
                found.ok("encryption.master_key", f"{await keyring.check()} wraps and unwraps, {users}")
            await _data_keys(found, keyring, keys, needed=parts.config.encryption is not None)
        finally:
            await keyring.close()


async def _data_keys(found: Findings, keyring: Keyring, keys: SagaKeys, *, needed: bool) -> None:
    try:
        totals, samples = await keys.totals(), await keys.one_of_each_master()
    except SagazTieringError as exc:
        if needed:
            found.warning(_DATA_KEYS, f"not looked at: {exc}", exc.hint)
        else:
            found.ok("encryption", "no master key is configured, and no policy needs one")
        return
    if not (needed or samples or totals.frames):
        found.ok("encryption", "not used")
        return
    for row in samples:
        await _opened(found, keyring, row, totals)
    if totals.keyless_frames:
        text = f"{totals.keyless_frames:,} of {totals.frames:,} encrypted frames have lost their data key"
        found.error(_DATA_KEYS, text, "sagaz-tiering keys import FILE", exit_code=6)
    else:
        found.ok(_DATA_KEYS, f"{totals.frames:,} encrypted frames, none without its data key")


async def _opened(found: Findings, keyring: Keyring, row: WrappedKey, totals: KeyTotals) -> None:
    """Whether its master key still opens what it wrapped."""
    subject = f"{totals.by_master.get(row.master_id, 1):,} data keys under {row.master_id}"
    try:
        await keyring.open(row)
    except MasterKeyUnavailable as exc:
        found.error(_DATA_KEYS, f"{subject} cannot be opened: {exc}", exc.hint, exit_code=exc.exit_code)
    else:
        found.ok(_DATA_KEYS, f"{subject} can be opened")
