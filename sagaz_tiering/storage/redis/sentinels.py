"""Connections to the primary that Sentinels name, and to no other server.

Each new one asks them anew, and the server for its role, as Redis' "Guidelines for Redis clients with support for
Redis Sentinel" want it. They are asked now and then too: after SENTINEL FAILOVER the old primary takes saves for ten
seconds and more, on connections that nobody closes, before it is told that it is a replica and throws them away.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

import redis.asyncio
import redis.exceptions as driver
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from sagaz_tiering.storage.redis.url import RedisAddress

ASKED_EVERY_S: Final = 0.5


def sentinel_options(address: RedisAddress, deadline_s: float) -> dict[str, Any]:
    """The driver's options for a connection to one of the Sentinels."""
    return {
        **address.sentinel_options,
        "socket_timeout": deadline_s,
        "socket_connect_timeout": deadline_s,
        # By default the driver tries one that is gone for seconds before it asks the next.
        "retry": Retry(NoBackoff(), 0),
    }


def drop_idle(pool: redis.asyncio.ConnectionPool) -> None:
    """End the connections that nobody uses, before anybody can: `pool.disconnect` may end one that is used by then."""
    for connection in pool._available_connections:
        connection._parser.on_disconnect()  # type: ignore[no-untyped-call]  # redis-py has no types for it
        connection._close()  # type: ignore[no-untyped-call]  # as above


class PrimaryPool(SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """A pool whose callers wait for a connection, and ask the Sentinels together.

    A fail-over ends every connection at once, and the driver allows only a hundred to a Sentinel.
    """

    def __init__(self, address: RedisAddress, *, socket_timeout: float, **options: Any) -> None:
        """Nothing is connected to. `options` are the driver's, for connections to the primary.

        A Sentinel has only its share of `socket_timeout` seconds: with all but the last of them gone, the primary is
        still found in time.
        """
        share = socket_timeout / (len(address.hosts) + 1)
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has no types for it
            address.hosts, sentinel_kwargs=sentinel_options(address, share)
        )
        super().__init__(  # type: ignore[no-untyped-call]  # redis-py has no types for it
            address.service,
            sentinel,
            ssl=address.tls,
            redis_connect_func=_greet_primary,
            socket_timeout=socket_timeout,
            **options,
        )
        self._made: WeakSet[Any] = WeakSet()
        self._asking: asyncio.Task[tuple[str, int]] | None = None
        self._following: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Close every connection, those to the Sentinels too."""
        tasks = [task for task in (self._following, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
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
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
        if self._asking is None:
            self._asking = asyncio.create_task(super().get_master_address())  # type: ignore[no-untyped-call]  # as above
            self._asking.add_done_callback(self._asked)
        asking = self._asking
        await asyncio.wait((asking,))  # not the task itself: a cancelled caller does not end it for the others
        try:
            return asking.result()
        except driver.ConnectionError as exc:
            raise MasterNotFoundError(str(exc)) from exc

    async def _follow(self) -> None:
        """Leave a primary that is none any more, in the middle of a call too: what it says no longer counts."""
        while True:
            await asyncio.sleep(ASKED_EVERY_S)
            with suppress(driver.RedisError, OSError):
                address = await self.get_master_address()
                for connection in list(self._made):
                    if connection.is_connected and (connection.host, connection.port) != address:
                        connection._writer.transport.abort()

    def _asked(self, asking: asyncio.Task[tuple[str, int]]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # who waits is told


async def _greet_primary(connection: Any) -> None:
    """After connecting: Sentinels that were cut off name a primary that is none any more, which would answer reads."""
    await connection.on_connect()
    await connection.send_command("ROLE")
    try:
        role, *_ = await connection.read_response()
    except driver.NoPermissionError:
        return  # then its refusal of the first save tells
    if role not in (b"master", "master"):
        raise driver.ConnectionError(f"{connection.host}:{connection.port}, which the Sentinels name, is no primary")
