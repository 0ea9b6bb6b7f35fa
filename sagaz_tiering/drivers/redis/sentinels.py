"""Connections to the primary that Sentinels name, and to no other server.

Each new one asks them anew, and the server for its role, as Redis' "Guidelines for Redis clients with support for
Redis Sentinel" want it. They are asked now and then too: after SENTINEL FAILOVER the old primary takes saves for ten
seconds and more, on connections that nobody closes, before it is told that it is a replica and throws them away.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final
from weakref import WeakSet

import redis.asyncio
import redis.exceptions as driver
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from sagaz_tiering.drivers.redis.internals import drop_idle, greet, transport_of
from sagaz_tiering.drivers.redis.url import RedisAddress
from sagaz_tiering.logs import Logger

ASKED_EVERY_S: Final = 0.5
_CANCELLED_EVERY_S: Final = 0.05

_log = Logger(__name__)


def sentinel_options(address: RedisAddress, deadline_s: float) -> dict[str, Any]:
    """The driver's options for a connection to one of the Sentinels."""
    return {
        "socket_timeout": deadline_s,
        "socket_connect_timeout": deadline_s,
        "ssl_check_hostname": address.sentinel_options.get("ssl_cert_reqs") != "none",
        **address.sentinel_options,
        # By default the driver tries one that is gone for seconds before it asks the next.
        "retry": Retry(NoBackoff(), 0),
    }


class PrimaryPool(SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """A pool whose callers wait for a connection, and ask the Sentinels together.

    A fail-over ends every connection at once, and the driver allows only a hundred to a Sentinel.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        socket_timeout: float,
        greeted: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        """Nothing is connected to. `options` are the driver's, for connections to the primary; each calls `greeted`.

        A Sentinel has only its share of `socket_timeout` seconds, unless the URL tells another: with all but the last
        of them gone, the primary is still found in time.
        """
        share = socket_timeout / (len(address.hosts) + 1)
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has no types for it
            address.hosts, sentinel_kwargs=sentinel_options(address, share)
        )
        super().__init__(  # type: ignore[no-untyped-call]  # redis-py has no types for it
            address.service,
            sentinel,
            ssl=address.tls,
            redis_connect_func=partial(_greet_primary, greeted),
            socket_timeout=socket_timeout,
            **options,
        )
        asked = ", ".join(f"{host}:{port}" for host, port in address.hosts)
        self._nobody = f"no Sentinel names a primary called {address.service!r} (asked: {asked})"
        self._is_over = False
        self._made: WeakSet[Any] = WeakSet()
        self._asking: asyncio.Task[tuple[str, int]] | None = None
        self._following: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Close every connection, those to the Sentinels too, for good; who waits for an address is told."""
        self._is_over = True
        tasks: set[asyncio.Task[Any]] = {task for task in (self._following, self._asking) if task is not None}
        while tasks:
            for task in tasks:
                task.cancel()
            # Not once: where the driver uses asyncio.wait_for, Python 3.11 may forget it.
            _, tasks = await asyncio.wait(tasks, timeout=_CANCELLED_EVERY_S)
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """End connections. For the driver, which does it with the idle ones when it learns of another primary."""
        if inuse_connections:
            await super().disconnect()
        else:
            drop_idle(self)

    def make_connection(self) -> Any:
        """Not connected yet. For the driver, and for who keeps a connection to himself."""
        connection = super().make_connection()  # type: ignore[no-untyped-call]  # as above
        self._made.add(connection)
        return connection

    async def get_master_address(self) -> tuple[str, int]:
        """Host and port of the primary; where it is another than before, idle connections end. For the driver."""
        if self._is_over:
            raise _closed()
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
            self._following.add_done_callback(self._followed)
        if self._asking is None:
            self._asking = asyncio.create_task(super().get_master_address())  # type: ignore[no-untyped-call]  # as above
            self._asking.add_done_callback(self._asked)
        asking = self._asking
        await asyncio.wait((asking,))  # not the task itself: a cancelled caller does not end it for the others
        if self._is_over or asking.cancelled():
            raise _closed()
        if isinstance(asking.exception(), driver.ConnectionError):
            # The driver's own text holds the Sentinels' password, or pages of its objects.
            raise MasterNotFoundError(self._nobody) from None
        return asking.result()

    async def _follow(self) -> None:
        """Leave a primary that is none any more, in the middle of a call too: what it says no longer counts."""
        while True:
            await asyncio.sleep(ASKED_EVERY_S)
            with suppress(driver.RedisError, OSError):
                address = await self.get_master_address()
                for connection in list(self._made):
                    if connection.is_connected and (connection.host, connection.port) != address:
                        transport_of(connection).abort()

    def _asked(self, asking: asyncio.Task[tuple[str, int]]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # who waits is told

    def _followed(self, following: asyncio.Task[None]) -> None:
        """It goes on until closing cancels it, unless there is an error that nobody thought of."""
        self._following = None
        if not following.cancelled() and (error := following.exception()) is not None:
            at = traceback.extract_tb(error.__traceback__)[-1]  # the text may hold a password
            _log.error("sentinels.unfollowed", error=type(error).__name__, at=f"{at.filename}:{at.lineno}")


def _closed() -> driver.ConnectionError:
    return driver.ConnectionError("the connections to the Sentinels were closed")


async def _greet_primary(greeted: Callable[[], None], connection: Any) -> None:
    """After connecting: Sentinels that were cut off name a primary that is none any more, which would answer reads."""
    await greet(connection)
    greeted()
    await connection.send_command("ROLE")
    try:
        role, *_ = await connection.read_response()
    except driver.NoPermissionError:
        return  # then its refusal of the first save tells
    if role not in (b"master", "master"):
        raise driver.ConnectionError(f"{connection.host}:{connection.port}, which the Sentinels name, is no primary")
