"""A pooler between us and PostgreSQL: whether there is one, and whether it breaks prepared statements.

A pooler in transaction mode gives a connection another server process from one transaction to the next. That shows
when a second connection keeps the process of the first busy: the first is then answered by another. A statement that
was prepared before is gone there, unless the pooler carries it over (pgbouncer from 1.21 on, with
max_prepared_statements).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg

from sagaz_tiering.doctor.finding import Finding, error, ok, warning
from sagaz_tiering.drivers.postgresql.pool import CONNECT_S, Database
from sagaz_tiering.drivers.postgresql.queries import load

_BACKEND = load(__package__, "doctor")["backend"]
_ROUNDS = 12
_ANSWER_S = 2.0
_ADVICE = "set catalog.statement_cache: false (or, for pgbouncer from 1.21 on, max_prepared_statements there)"

Connection = Any


async def check_pooler(db: Database, *, caches: bool) -> AsyncGenerator[Finding, None]:
    """Two connections of our own, outside of the pool. `caches`: whether the settings keep prepared statements."""
    with db.translated():
        async with _connected(db) as one, _connected(db) as other:
            switched, lost = await _switches(one, other)
    subject = "postgresql.pooler"
    if not switched:
        yield ok(subject, "no pooler in transaction mode was seen")
    elif not caches:
        yield ok(subject, "a pooler in transaction mode; catalog.statement_cache is false, which suits it")
    elif lost:
        yield error(subject, "a pooler in transaction mode is between, and prepared statements get lost in it", _ADVICE)
    elif lost is None:
        yield warning(subject, "perhaps a pooler in transaction mode: a second connection got no answer", _ADVICE)
    else:
        yield ok(subject, "a pooler in transaction mode, which carries prepared statements over")


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
