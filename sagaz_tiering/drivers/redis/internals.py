"""The members of redis-py that we cannot do without and that it may change, all of them.

`test_redis_drivers` uses each with every supported major. redis-py has no types for them, so a connection is Any here.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import hiredis
import redis.asyncio
import redis.exceptions as driver
from redis.asyncio.connection import AbstractConnection, DefaultParser

NESTS_HEALTH_CHECKS: Final = not hasattr(AbstractConnection, "connect_check_health")
"""Whether the driver connects anew where a health check fails while it connects, which may never end."""


async def greet(connection: Any) -> None:
    """What the driver does after connecting, but for its health check: what was just opened needs none.

    Where that fails the driver opens another, which greets and is checked too: without end where a server hangs up.
    """
    connection.next_health_check = asyncio.get_running_loop().time() + connection.health_check_interval
    await connection.on_connect()


def drop_idle(pool: redis.asyncio.ConnectionPool) -> None:
    """End the connections that nobody uses, before anybody can: `pool.disconnect` may end one that is used by then."""
    connection: Any
    for connection in pool._available_connections:
        connection._parser.on_disconnect()
        connection._close()


def transport_of(connection: Any) -> asyncio.WriteTransport:
    """What an open connection writes to."""
    transport: asyncio.WriteTransport = connection._writer.transport
    return transport


def reply_reader() -> hiredis.Reader:
    """What makes answers of bytes, and of errors the driver's."""
    return hiredis.Reader(protocolError=driver.InvalidResponse, replyError=DefaultParser.parse_error)
