"""The private members of redis-py that we cannot do without, all of them.

`test_redis_drivers` uses each with every supported major. redis-py has no types for them, so a connection is Any here.
"""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
import redis.asyncio
import redis.exceptions as driver
from redis.asyncio.connection import DefaultParser


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
