"""`PostgreSQLSnapshotStorage`: snapshots in two tables, exact to read and open to SQL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar, Final
from uuid import UUID

from sagaz_tiering.clock import Clock, from_micros, to_micros
from sagaz_tiering.codec.unsupported import OnUnsupported, texts_for
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.config.urls import SecretUrl, postgres_address, redacted
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.server_clock import ServerClock
from sagaz_tiering.errors import ConfigError, CorruptRecord
from sagaz_tiering.snapshot import MAX_STEP_INDEX, SagaSnapshot
from sagaz_tiering.storage.answers import check_answer, checked_replay
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.base import as_duration
from sagaz_tiering.storage.postgresql.pool import SnapshotPool
from sagaz_tiering.storage.postgresql.rows import Row, replay_of, replay_row_of, row_of, snapshot_of, step_as_stored
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.standalone import ReplayRecord, StandaloneStorage, attempted

_SQL: Final = load(__package__, "standalone")

_PAGE: Final = 200
_PAGE_BYTES: Final = 8 * 1024 * 1024
_IDS_PAGE: Final = 500
_DELETE_BATCH: Final = 1000
_AT_ONCE: Final = 16
"""Small rows decoded before the event loop gets its turn."""
_COUNTED_BYTES: Final = 256 * 1024 * 1024
"""Up to this size of the table proper (about a million rows) the health check counts, beyond it estimates."""

_FIRST: Final = (datetime(1, 1, 1, tzinfo=UTC), -MAX_STEP_INDEX - 1, UUID(int=0))
_LAST: Final = (datetime(9999, 12, 31, tzinfo=UTC), MAX_STEP_INDEX, UUID(int=2**128 - 1))
_MICROSECOND: Final = timedelta(microseconds=1)

_Place = tuple[datetime, int, UUID]
_HINT = "give a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE, or set PGHOST, PGDATABASE and so on"
_SAYS_WHERE = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")
_WHERE: Final = ("host", "port", "database", "user")
_POOL_OPTIONS: Final = frozenset(
    {*_WHERE, "password", "passfile", "ssl", "direct_tls", "krbsrvname", "gsslib", "timeout", "server_settings"}
    | {"target_session_attrs", "max_cached_statement_lifetime", "max_cacheable_statement_size"}
    | {"max_queries", "max_inactive_connection_lifetime", "init", "setup"}
)


class PostgreSQLSnapshotStorage(AnyLoop, StandaloneStorage):
    """Snapshots in the tables `saga_snapshots` and `saga_replay_log` of the connection's default schema.

    `connection_string` is a PostgreSQL URL; without one, libpq's environment (PGHOST, PGDATABASE, …) says where.
    The first call connects and makes the tables, or upgrades those of sagaz 1.5.0, if need be. More callers than
    `pool_max_size` wait for a connection, `command_timeout` at most. Behind pgbouncer in transaction mode use
    `statement_cache_size=0`.

    Every method raises CatalogUnavailable while the server cannot be asked and ConfigError where it refuses.
    """

    _kind = "postgresql"

    CREATE_TABLES_SQL: ClassVar[str] = load(__package__, "standalone_schema")["create_tables"]
    """Makes or upgrades the tables; may be run any number of times."""

    def __init__(
        self,
        connection_string: str | None = None,
        pool_min_size: int = 5,
        pool_max_size: int = 20,
        *,
        clock: Clock | None = None,
        command_timeout: timedelta | float | None = None,
        statement_cache_size: int = 100,
        on_unsupported: OnUnsupported = "refuse",
        **pool_kwargs: Any,
    ) -> None:
        """Connects to nothing yet. `command_timeout`: 30 seconds by default; a number is seconds. `pool_kwargs` are
        options of `asyncpg.create_pool` (password, ssl, server_settings, …), which go before what the URL says.

        Raises ConfigError.
        """
        super().__init__()
        if not 0 <= pool_min_size <= pool_max_size or pool_max_size < 1:
            raise ConfigError(f"pool_min_size {pool_min_size} and pool_max_size {pool_max_size} are no sizes of a pool")
        self.connection_string, self.pool_kwargs = connection_string, pool_kwargs
        self.pool_min_size, self.pool_max_size = pool_min_size, pool_max_size
        self._clock = clock
        self._texts = texts_for(on_unsupported, self._kind)
        deadline = timedelta(seconds=30) if command_timeout is None else command_timeout
        self._shown_url = shown_url(connection_string, os.environ, pool_kwargs)
        self._driver_options = {"statement_cache_size": statement_cache_size, **checked_options(pool_kwargs)}
        if connection_string is None and os.environ.get("PGTARGETSESSIONATTRS"):
            self._driver_options.setdefault("target_session_attrs", None)  # the driver asks the environment
        self._settings = CatalogSettings.model_construct(
            url=SecretUrl(connection_string or "postgresql://"),
            pool_min=pool_min_size,
            pool_max=pool_max_size,
            command_timeout=as_duration(deadline, "command_timeout"),
        )
        self._renew()

    def _renew(self) -> None:
        told = {"setting": "connection_string", "shown_url": self._shown_url}
        database = Database(self._settings, **told, driver_options=self._driver_options)
        self._pool = SnapshotPool(database, self.CREATE_TABLES_SQL)
        self._server_clock = ServerClock(self._pool.time)

    async def _disconnect(self) -> None:
        await self._pool.close()

    def _get_pool(self) -> SnapshotPool:
        """For statements of your own: `async with storage._get_pool().acquire() as conn` (an asyncpg connection).

        May be awaited, as in sagaz: that connects, and makes the tables.
        """
        return self._pool

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many."""
        return await self._delete_batches("delete_expired", await self._now())

    def get_storage_info(self) -> dict[str, Any]:
        """Where this storage is, without the password, and its options."""
        return {
            "storage_type": self._kind,
            "connection_string": self._shown_url,
            "pool_min_size": self._settings.pool_min,
            "pool_max_size": self._settings.pool_max,
            "statement_cache_size": self._driver_options["statement_cache_size"],
            "command_timeout_seconds": self._settings.command_timeout.total_seconds(),
        }

    async def _save(self, snapshot: SagaSnapshot) -> None:
        row = await row_of(snapshot, to_micros(await self._now()), self._texts)
        await self._pool.execute(_SQL["save_snapshot"], *row)

    async def _get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        row = await self._pool.fetchrow(_SQL["by_id"], snapshot_id, await self._now())
        return None if row is None else await snapshot_of(row)

    async def _newest(self, saga_id: UUID, step_name: str | None, not_after_us: int | None) -> SagaSnapshot | None:
        before = _LAST if not_after_us is None else (from_micros(not_after_us) + _MICROSECOND, *_FIRST[1:])
        step = (None, None) if step_name is None else step_as_stored(step_name)
        now = await self._now()
        row = await self._pool.fetchrow(_SQL["newest"], saga_id, now, *before, 1, _PAGE_BYTES, *step)
        return None if row is None else await snapshot_of(row)

    async def _list(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[SagaSnapshot]:
        found, seen = list[SagaSnapshot](), 0
        async with aclosing(self._pages("newest", saga_id, _LAST, min(wanted, _PAGE), None, None)) as pages:
            async for page in pages:
                found += [each async for each in _readable(page[: wanted - seen], saga_id, gaps)]
                seen += len(page)
                if seen >= wanted:
                    break
        return found

    async def _delete(self, snapshot_id: UUID) -> bool:
        return await self._pool.execute(_SQL["delete_snapshot"], snapshot_id) == 1

    async def _delete_saga(self, saga_id: UUID) -> int:
        return await self._delete_batches("delete_saga", saga_id)

    async def _sagas(self, after: UUID | None) -> AsyncGenerator[UUID, None]:
        async for row in self._by_id("sagas", "saga_id", after, self._now):
            yield UUID(bytes=row["saga_id"].bytes)

    async def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        async for page in self._pages("oldest", saga_id, _FIRST, _PAGE):
            async for snapshot in _readable(page, saga_id, gaps):
                yield snapshot

    async def _save_replay(self, record: ReplayRecord) -> None:
        await self._pool.execute(_SQL["save_replay"], *replay_row_of(record))

    async def _replay(self, replay_id: UUID) -> ReplayRecord | None:
        row = await self._pool.fetchrow(_SQL["replay"], replay_id)
        return None if row is None else replay_of(row)

    async def _replays_of(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[ReplayRecord]:
        found, seen, (moment, _, last) = list[ReplayRecord](), 0, _LAST
        while (size := min(wanted - seen, _IDS_PAGE)) > 0:
            rows = await self._pool.fetch(_SQL["replays_of_saga"], saga_id, moment, last, size)
            for row in rows:
                with gaps.passing_over(UUID(bytes=row["replay_id"].bytes)):
                    found.append(checked_replay(replay_of(row), saga_id=saga_id))
            seen += len(rows)
            if len(rows) < size:
                break
            moment, last = rows[-1]["created_at"], rows[-1]["replay_id"]
        return found

    async def _replays(self, after: UUID | None) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
        async for row in self._by_id("replays_from", "replay_id", after):
            yield attempted(UUID(bytes=row["replay_id"].bytes), replay_of, row)

    async def _status(self, details: dict[str, Any]) -> str:
        await self._pool.time()
        return "healthy"

    async def _totals(self, details: dict[str, Any]) -> tuple[int, int]:
        """Stored bytes of the snapshots, without rows' and indexes' own (`table_bytes` in the details has all).

        A large table is not counted: both figures are the server's estimates, and the details say `estimated`.
        """
        sizes: Row = await self._pool.fetchrow(_SQL["sizes"]) or {}
        whole, estimated = int(sizes.get("table_bytes", 0)), sizes.get("heap_bytes", 0) > _COUNTED_BYTES
        details |= {"estimated": estimated, "table_bytes": whole}
        if estimated:
            return int(sizes["rows"]), whole
        row = await self._pool.fetchrow(_SQL["count"])
        return (0, 0) if row is None else (row["rows"], row["bytes"])

    async def _now(self) -> datetime:
        """By the server's clock, unless one was given."""
        return await self._server_clock.read() if self._clock is None else self._clock.now()

    async def _pages(
        self, query: str, saga_id: UUID, place: _Place, size: int, *rest: Any
    ) -> AsyncGenerator[list[Row], None]:
        """Rows of `newest` or `oldest` from a place on, at most `size` and some `_PAGE_BYTES` at a time."""
        while True:
            now = await self._now()
            rows = await self._pool.fetch(_SQL[query], saga_id, now, *place, size, _PAGE_BYTES, *rest)
            if not rows:
                return
            yield rows
            if len(rows) == rows[0]["found"] < size:
                return
            last = rows[-1]
            place = (last["created_at"], last["step_index"], last["snapshot_id"])

    async def _by_id(
        self, query: str, column: str, after: UUID | None, *current: Callable[[], Awaitable[Any]]
    ) -> AsyncGenerator[Row, None]:
        """Rows with an id behind `after`, ascending, a page at a time, asked with what is `current` then."""
        following = 0 if after is None else after.int + 1
        while following < 2**128:
            args = [await each() for each in current]
            rows = await self._pool.fetch(_SQL[query], UUID(int=following), *args, _IDS_PAGE)
            for row in rows:
                yield row
            if len(rows) < _IDS_PAGE:
                return
            following = UUID(bytes=rows[-1][column].bytes).int + 1

    async def _delete_batches(self, query: str, of: UUID | datetime) -> int:
        """Run a deleting query until nothing is left; each batch is a transaction."""
        deleted = batch = await self._pool.execute(_SQL[query], of, _DELETE_BATCH)
        while batch == _DELETE_BATCH:
            batch = await self._pool.execute(_SQL[query], of, _DELETE_BATCH)
            deleted += batch
        return deleted


async def _readable(page: list[Row], saga_id: UUID, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
    """The snapshots in these rows of a saga that can be read."""
    for at, row in enumerate(page):
        if at % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
        with gaps.passing_over(UUID(bytes=row["snapshot_id"].bytes)):
            snapshot = await snapshot_of(row)
            check_answer(snapshot, saga_id=saga_id)
            yield snapshot


def checked_options(pool_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Options for the driver. Raises ConfigError for one that it does not know, or that the storage sets itself."""
    for name in pool_kwargs:
        if name not in _POOL_OPTIONS:
            raise ConfigError(
                f"PostgreSQLSnapshotStorage does not take the option {name!r:.80}",
                hint=f"beside its own it takes these of asyncpg.create_pool: {', '.join(sorted(_POOL_OPTIONS))}",
            )
    return dict(pool_kwargs)


def shown_url(
    connection_string: str | None, environment: Mapping[str, str], pool_kwargs: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """The URL without its password, and what goes before it; what libpq's environment says where there is none.

    Raises ConfigError.
    """
    where = ", ".join(f"{name}={pool_kwargs[name]}" for name in _WHERE if name in pool_kwargs)
    shown = _shown_url(connection_string, environment, says_where=bool(where))
    return f"{shown} ({where})" if where else shown


def _shown_url(connection_string: str | None, environment: Mapping[str, str], *, says_where: bool) -> str:
    if connection_string is None:
        if not says_where and not any(environment.get(name) for name in _SAYS_WHERE):
            raise ConfigError(
                "connection_string is not given, nor does the environment say where PostgreSQL is", hint=_HINT
            )
        host, port = environment.get("PGHOST", "localhost"), environment.get("PGPORT", "5432")
        return f"{host}:{port}/{environment.get('PGDATABASE', '')} (from the environment)"
    if not isinstance(connection_string, str):
        raise ConfigError(f"connection_string must be a URL, not {type(connection_string).__name__}", hint=_HINT)
    if not connection_string.startswith(("postgresql://", "postgres://")):
        raise ConfigError(f"connection_string is not a PostgreSQL URL: {redacted(connection_string)}", hint=_HINT)
    try:
        postgres_address(connection_string)
    except ValueError as exc:
        raise ConfigError(f"connection_string: {exc}", hint=_HINT) from None
    return redacted(connection_string)
