"""What our user may do in Redis: every command that the product sends is queued in a transaction that is never ended.

Redis looks at rights when a command is queued, so nothing of it is ever carried out.
"""

from __future__ import annotations

from typing import Any, Final

from redis.exceptions import NoPermissionError, ResponseError

from sagaz_tiering.doctor.finding import Finding, ok, warning
from sagaz_tiering.drivers.redis.client import RedisClient
from sagaz_tiering.drivers.redis.refusals import missing_right
from sagaz_tiering.logs import Logger

_log = Logger(__name__)

ON_A_KEY: Final[dict[str, tuple[str, ...]]] = {
    "DEL": (),
    "EXISTS": (),
    "GET": (),
    "GETRANGE": ("0", "1"),
    "HDEL": ("f",),
    "HGET": ("f",),
    "HGETALL": (),
    "HINCRBY": ("f", "1"),
    "HMGET": ("f",),
    "HSET": ("f", "v"),
    "MGET": (),
    "MSET": ("v",),
    "PERSIST": (),
    "PEXPIRE": ("1",),
    "PTTL": (),
    "SET": ("v",),
    "STRLEN": (),
    "TYPE": (),
    "ZADD": ("1", "m"),
    "ZCARD": (),
    "ZCOUNT": ("0", "1"),
    "ZRANGE": ("0", "1"),
    "ZRANGEBYLEX": ("-", "+"),
    "ZRANGEBYSCORE": ("0", "1"),
    "ZREM": ("m",),
    "ZREVRANGE": ("0", "1"),
    "ZREVRANGEBYSCORE": ("1", "0"),
    "ZSCORE": ("m",),
}
"""Commands by name, with what follows their first key."""
WITHOUT_A_KEY: Final[dict[str, tuple[str, ...]]] = {
    "EVAL": ("return 1", "0"),
    "EVALSHA": ("0" * 40, "0"),
    "SCAN": ("0",),
    "TIME": (),
}


async def check_rights(redis: RedisClient, where: str, *, prefix: str, setting: str) -> Finding:
    """What is refused, with the ACL command that grants it."""
    key = f"{prefix}:doctor"
    commands = [(name, key, *more) for name, more in ON_A_KEY.items()]
    commands += [("RENAME", key, key), *((name, *more) for name, more in WITHOUT_A_KEY.items())]
    async with redis.use() as client:
        refused = await _refused(client, commands)
    if not refused:
        return ok("redis.rights", f"every command that is needed may be sent, on keys {prefix}*")
    hint = missing_right(*refused.values(), where=where, setting=setting, keys=f"{prefix}*")
    return warning("redis.rights", f"refused: {', '.join(refused)}", hint)


async def _refused(client: Any, commands: list[tuple[str, ...]]) -> dict[str, str]:
    """What Redis says to each command that it does not let us send."""
    found = {}
    connection = await client.connection_pool.get_connection()
    try:
        for command in (("MULTI",), *commands):
            try:
                await _said(connection, *command)
            except NoPermissionError as exc:
                found[command[0].lower()] = str(exc)
            except ResponseError as exc:  # full, a replica: not a matter of rights, and told elsewhere
                _log.debug("doctor.not_queued", command=command[0], error=str(exc))
            else:
                continue
            if command == ("MULTI",):  # without it what follows would be carried out
                break
    finally:
        await connection.disconnect()  # and with it goes what was queued
        await client.connection_pool.release(connection)
    return found


async def _said(connection: Any, *command: str) -> object:
    """By the driver's own connection, whose answers nobody parses: to a queued command they are no values."""
    await connection.send_command(*command)
    return await connection.read_response()
