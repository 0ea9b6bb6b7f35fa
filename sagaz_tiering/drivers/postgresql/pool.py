"""One connection pool, opened late, healed by itself, with driver errors turned into ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from sagaz_tiering import errors, metrics
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.config.urls import postgres_address
from sagaz_tiering.drivers import traces
from sagaz_tiering.drivers.postgresql import refusals
from sagaz_tiering.drivers.postgresql.queries import load, name_of
from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.drivers.server_clock import ClockSample, sampled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncpg import Pool
    from asyncpg.pool import PoolConnectionProxy

_SQL = load(__package__, "clock")

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# A server that dies in the middle of a query surfaces as any of these, InternalClientError ("cannot switch to
# state …") among them; all mean: the answer is unknown, ask again later.
_LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until the failover is over
)
_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
"""Such a server does not answer either, and may again once somebody has put it right."""
_UNMADE = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedColumnError)
"""`catalog migrate` was not run, or by another version."""
_OURS = (
    asyncpg.DataError,  # of the server: a number too large, a character that it cannot hold
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.ProgramLimitExceededError,
)
"""What no server would take: the fault is in the statement or in its values."""
_END_S = 1.0
"""How long a connection that is given back in the middle of something may take to be of use again."""

_LIMIT = metrics.POOL_LIMIT.labels(server="postgresql")
_open: WeakSet[Database] = WeakSet()


def _in_use() -> float:
    return sum(min(db.users, db.settings.pool_max) for db in list(_open))


metrics.POOL_IN_USE.labels(server="postgresql").set_function(_in_use)

_TIMES_OVERTAKEN = 10
"""So often others may be quicker at the same rows before a statement by itself gives up."""

_UNDONE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""A statement that lost to another one, or waited for it crosswise, was undone as a whole."""

CONNECT_S = 5.0
_STATEMENT_CACHE_SIZE = 100


class _Stateless(asyncpg.Connection):
    """A session in which nothing is ever set, locked or listened to outside a transaction: there is nothing to reset.

    The driver's own pool asks the server for that whenever a connection is given back, a round trip each time.

    Nor is the isolation set, which poolers would not take: where the server's default is stricter than READ COMMITTED,
    a statement by itself that lost to another's update did nothing, and is run again, as READ COMMITTED would. So is
    one that was undone since two waited for each other.
    """

    def get_reset_query(self) -> str:
        return ""

    async def reset(self, *, timeout: float | None = None) -> None:
        # A timer for nothing would be a twentieth of a short statement's cost.
        await super().reset(timeout=timeout if self.is_in_transaction() else None)

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        return await self._again(super().fetch, args, kwargs)

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        return await self._again(super().fetchrow, args, kwargs)

    async def fetchval(self, *args: Any, **kwargs: Any) -> Any:
        return await self._again(super().fetchval, args, kwargs)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        return await self._again(super().execute, args, kwargs)

    async def _again(self, run: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if traces.tracer is not None:
            with traces.span(f"sql {name_of(args[0])}", db__system__name="postgresql"):
                return await self._until_done(run, args, kwargs)
        return await self._until_done(run, args, kwargs)

    async def _until_done(
        self, run: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        for _ in range(_TIMES_OVERTAKEN):
            try:
                return await run(*args, **kwargs)
            except _UNDONE:
                if self.is_in_transaction():
                    raise
        return await run(*args, **kwargs)


@contextmanager
def translated(shown_url: str, setting: str = refusals.CATALOG_SETTING) -> Iterator[None]:
    """Driver errors as ours: CatalogUnavailable where asking again may help, ConfigError where it will not.

    StatementRefused where the fault is our own. What a storage that stands alone is refused it names itself.
    """
    try:
        yield
    except (asyncpg.PostgresError, ValueError, *_LOST) as exc:
        ours = _refusal(exc, shown_url, setting)
        if ours is None:
            ours = _absence(exc, shown_url, setting)
        if ours is None:
            raise
        raise ours from exc


def _refusal(exc: Exception, shown_url: str, setting: str) -> errors.SagazTieringError | None:
    """What a server that answers says no to."""
    if isinstance(exc, _REFUSED):
        hint = refusals.refusal_hint(str(exc), shown_url, setting)
        return errors.CatalogRefused(f"PostgreSQL at {shown_url} refuses: {exc}", hint=hint)
    if isinstance(exc, asyncpg.InsufficientPrivilegeError):
        hint = refusals.missing_grant(str(exc), shown_url, setting)
        return errors.ConfigError(f"PostgreSQL at {shown_url} refuses: {exc}", hint=hint)
    if isinstance(exc, asyncpg.UndefinedObjectError):
        return errors.ConfigError(f"PostgreSQL at {shown_url} refuses a parameter of {setting}: {exc}")
    if isinstance(exc, asyncpg.ClientConfigurationError):
        return errors.ConfigError(f"{setting} is not a usable PostgreSQL URL: {shown_url}: {exc}")
    if isinstance(exc, ValueError) and isinstance(exc, asyncpg.InterfaceError):  # the driver cannot send a value
        return errors.StatementRefused(f"what PostgreSQL at {shown_url} is asked has no such value: {exc!s:.200}")
    if not refusals.is_catalog(setting):
        return None
    if isinstance(exc, _UNMADE):
        reason = f"the database at {shown_url} has no catalog for this version: {exc}"
        return errors.SchemaMismatch(reason, hint=refusals.MIGRATE)
    if isinstance(exc, _OURS):
        return errors.StatementRefused(f"PostgreSQL at {shown_url} refuses a statement: {exc!s:.200}")
    return None


def _absence(exc: Exception, shown_url: str, setting: str) -> errors.SagazTieringError | None:
    """What is said where nobody answers."""
    if isinstance(exc, _LOST):
        reason = str(exc) or ("no answer in time" if isinstance(exc, TimeoutError) else type(exc).__name__)
        hint = refusals.reach_hint(reason, setting)
        return errors.CatalogUnavailable(f"PostgreSQL at {shown_url} cannot be asked: {reason}", hint=hint)
    if isinstance(exc, ValueError) and "dsn" in str(exc).lower():
        return errors.ConfigError(f"{setting} is not a PostgreSQL URL: {shown_url}")
    return None


class Database:
    """A lazily connected pool, as a section `catalog` says. `async with Database(settings) as db`.

    For another database than the catalog's: `setting` is where people give its URL, `shown_url` what messages call it;
    `driver_options`, of `asyncpg.create_pool`, go before what section and URL say.
    """

    def __init__(
        self,
        settings: CatalogSettings,
        *,
        setting: str = refusals.CATALOG_SETTING,
        shown_url: str | None = None,
        driver_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.setting = settings, settings.url.named(setting)
        self.shown_url = str(settings.url) if shown_url is None else shown_url
        self._driver_options = driver_options or {}
        self._pool: Pool[asyncpg.Record] | None = None
        self.users = 0
        """How many have a connection, open one, or wait for one."""
        self._acquire_s = settings.command_timeout.total_seconds()
        self._home = HomeLoop(self)
        self._to_warm_up = settings.pool_min if settings.pool_min > 1 else 0
        self._warming: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the pool; connects only when first used, so a server that is down does not stop an app."""
        self._home.check()
        try:
            address = postgres_address(self.settings.url.get_secret_value())
        except ValueError as exc:
            raise errors.ConfigError(f"{self.setting}: {exc}") from None
        with self.translated():
            given = dict(self._driver_options)
            session = {"application_name": "sagaz-tiering", **given.pop("server_settings", {}), "timezone": "UTC"}
            defaults = {
                "timeout": address.connect_timeout_s or CONNECT_S,
                "statement_cache_size": _STATEMENT_CACHE_SIZE if self.settings.statement_cache else 0,
                # A standby would answer with yesterday's state, and take no save.
                "target_session_attrs": None if address.wants else SessionAttribute.primary,
            }
            self._pool = await asyncpg.create_pool(
                address.url,
                min_size=0,  # a server that is down does not stop an app; `_warm_up` opens the rest
                max_size=self.settings.pool_max,
                command_timeout=self.settings.command_timeout.total_seconds(),
                server_settings=session,
                connection_class=_Stateless,
                **(defaults | given),
            )
        _LIMIT.inc(self.settings.pool_max)
        _open.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it has a pool."""
        return self._pool is not None

    def translated(self) -> AbstractContextManager[None]:
        """For a block that asks this server: driver errors become ours."""
        return translated(self.shown_url, self.setting)

    async def close(self) -> None:
        """Close every connection, waiting at most a few seconds for those in use."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        _LIMIT.dec(self.settings.pool_max)
        _open.discard(self)

        async def end() -> None:
            if self._warming is not None:
                self._warming.cancel()
                await asyncio.wait((self._warming,))
            try:
                with self.translated():
                    await asyncio.wait_for(pool.close(), timeout=5)
            except errors.CatalogUnavailable:
                pool.terminate()

        await self._home.close(end)

    async def __aenter__(self) -> Database:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection, no transaction: each statement commits by itself.

        One that hangs is ended, not awaited; where a server turns out to be read-only every connection is ended, since
        the address leads to another one by now, or will.
        """
        pool = self._pool
        if pool is None:
            raise errors.CatalogUnavailable("the connection pool is closed", hint="open the storage with `async with`")
        self._home.check()
        with self.translated():
            self.users += 1
            try:
                # Where there is one for everybody, at most it must be made, and that has a time-out of its own.
                conn = await pool.acquire(timeout=None if self.users <= self.settings.pool_max else self._acquire_s)
                try:
                    yield conn
                except TimeoutError:
                    conn.terminate()
                    raise
                except asyncpg.ReadOnlySQLTransactionError:
                    await pool.expire_connections()
                    raise
                finally:
                    await pool.release(conn, timeout=_END_S)
            finally:
                self.users -= 1
        if self._to_warm_up:
            self._warm_up(pool)

    def _warm_up(self, pool: Pool[asyncpg.Record]) -> None:
        """The server is there: open as many connections as are wanted, beside those that are in use by now."""
        number, self._to_warm_up = max(0, self._to_warm_up - self.users), 0
        self.users += number

        async def open_them() -> None:
            all_of_them = (pool.acquire(timeout=CONNECT_S) for _ in range(number))
            opened = await asyncio.gather(*all_of_them, return_exceptions=True)
            for conn in opened:
                if not isinstance(conn, BaseException):
                    await pool.release(conn)

        def end(task: asyncio.Task[None]) -> None:
            self.users -= number
            if not task.cancelled():
                task.exception()

        self._warming = asyncio.create_task(open_them())
        self._warming.add_done_callback(end)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection inside one READ COMMITTED transaction, whatever the server's default is."""
        async with self.connection() as conn, conn.transaction(isolation="read_committed"):
            yield conn

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of one statement."""
        async with self.connection() as conn:
            return await conn.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """The first row of one statement, or None."""
        async with self.connection() as conn:
            return await conn.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        async with self.connection() as conn:
            return await conn.fetchval(query, *args)

    async def check_writable(self) -> None:
        """Raise CatalogUnavailable where the server takes no writes: a primary that was fenced, say."""
        async with self.connection() as conn:
            if await conn.fetchval(_SQL["is_read_only"]):
                raise asyncpg.ReadOnlySQLTransactionError("it is read-only")

    async def time(self) -> ClockSample:
        """What the server's clock says; connecting is not part of the round trip."""
        async with self.connection() as conn:
            return await sampled(partial(conn.fetchval, _SQL["server_time"]))

    async def execute(self, query: str, *args: Any) -> int:
        """Run one statement; the number of rows it touched."""
        async with self.connection() as conn:
            return affected(await conn.execute(query, *args))


def affected(status: str) -> int:
    """Rows of a command tag such as `DELETE 5`."""
    tail = status.rpartition(" ")[2]
    return int(tail) if tail.isdigit() else 0
