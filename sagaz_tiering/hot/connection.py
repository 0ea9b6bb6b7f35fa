"""The hot tier's connections to Redis: a pool, one connection that short calls share, and one for the jobs.

Tier and queue are two views of it, which call its scripts by their names. Behind Sentinels every connection
leads to the primary that they name; any server that became a replica is left (`drivers.redis.client`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import redis.exceptions as driver

from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.drivers.redis.client import RedisClient
from sagaz_tiering.drivers.redis.scripts import load_script
from sagaz_tiering.drivers.redis.url import RedisOptions, parse_redis_url
from sagaz_tiering.drivers.server_clock import ClockSample
from sagaz_tiering.errors import ConfigError, HotTierUnavailable
from sagaz_tiering.hot.layout import HotKeys

_SETTING = "tiers.hot.url"
_NO_CLUSTER = "give one server that is no node of a Cluster, or redis+sentinel://HOST,HOST/NAME"
_SHORTEST_WAIT = timedelta(seconds=5)
"""So long at least a caller waits for a connection of the pool."""
_GUARD = "same"
_OTHER = -1
"""What a script behind the guard answers where another incarnation is met than the reader expects."""


class HotConnection:
    """Opens, closes, and runs scripts. Connects when first used."""

    def __init__(self, settings: HotSettings) -> None:
        """Nothing is connected to. Raises ConfigError for a URL of no use."""
        self.settings = settings
        self.keys = HotKeys(settings.key_prefix)
        self._incarnation = self.keys.incarnation()
        self.expected = ""
        """The nonce of the incarnation that reads are meant for ("": any)."""
        setting = settings.url.named(_SETTING)
        address = parse_redis_url(settings.url.get_secret_value(), setting=setting)
        if address.kind == "cluster":
            raise ConfigError(f"{setting} is the URL of a Cluster", hint=_NO_CLUSTER)
        self._redis = RedisClient(
            RedisOptions(
                address=address,
                setting=setting,
                keys=f"{settings.key_prefix}*",
                max_connections=settings.max_connections,
                socket_timeout=settings.socket_timeout,
                place_timeout=max(settings.socket_timeout, _SHORTEST_WAIT),
                when_full="raise maxmemory or let the age job catch up",
                when_node=f"{_NO_CLUSTER} in {setting}",
            )
        )
        self._is_open = False
        self._others_met = 0

    @property
    def generation(self) -> int:
        """Grows with each new connection, and when another incarnation answers: what was known may not hold."""
        return self._redis.connected + self._others_met

    async def open(self) -> None:
        """Belong to this event loop from now on; nothing is sent yet."""
        self._redis.client()
        self._is_open = True

    async def close(self) -> None:
        """Close every connection."""
        self._is_open = False
        await self._redis.close()

    def pool(self) -> AbstractAsyncContextManager[Any]:
        """`async with` gives the driver's client; its errors are HotTierUnavailable (ConfigError: retrying is vain)."""
        return self._opened().use()

    async def ping(self) -> None:
        """Raise HotTierUnavailable unless Redis answers."""
        async with self.pool() as client:
            await client.ping()

    async def time(self) -> ClockSample:
        """What Redis' clock says. Raises HotTierUnavailable, or ConfigError where it is not told."""
        return await self._opened().time()

    async def info(self) -> dict[str, Any]:
        """Redis INFO (empty where the server has none)."""
        async with self.pool() as client:
            try:
                found: dict[str, Any] = await client.info()
            except driver.ResponseError:
                return {}
        return found

    def ask(self, name: str, keys: Sequence[Any], args: Sequence[Any], *, behind: str | None = None) -> Awaitable[Any]:
        """What a script answers to a short call, on the connection that all share."""
        opened = self._redis if self._is_open else self._opened()
        return opened.ask(load_script(__package__, name, behind), keys, args)

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Any], *, behind: str | None = None) -> Any:
        """What a script answers, on a connection of the pool."""
        return await self._opened().run(load_script(__package__, name, behind), keys, args)

    async def run_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """The same script many times, pipelined on the jobs' own connection, so that no application waits behind."""
        return await self._opened().ask_many(load_script(__package__, name), calls)

    async def pipelined(self, commands: Sequence[tuple[Any, ...]], *, errors_too: bool = False) -> list[Any]:
        """What Redis answers to each of these, in one trip; `errors_too`: its errors are among the answers."""
        async with self.pool() as client:
            pipe = client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=not errors_too) if commands else []
        return answers

    async def mget(self, keys: Sequence[str]) -> list[Any]:
        """What each of these keys has, None where that is nothing, or no bytes; one trip."""
        async with self.pool() as client:
            found: list[Any] = await client.mget(keys) if keys else []
        return found

    async def scan(self, match: str) -> AsyncIterator[list[bytes]]:
        """Keys by SCAN, a page at a time, in no order, some twice."""
        async with self.pool() as client:
            cursor = 0
            while True:
                cursor, keys = await client.scan(cursor, match=match, count=1000)
                yield keys
                if cursor == 0:
                    return

    async def read(self, run: Callable[..., Awaitable[Any]], name: str, keys: list[str], args: list[Any]) -> Any:
        """What a script reads, by `ask` or `run`. That another incarnation answers is noted, for who asks to look.

        `keys` and `args` are changed.
        """
        expected = self.expected
        keys.append(self._incarnation)
        args.append(expected)
        found = await run(name, keys, args, behind=_GUARD)
        if found == _OTHER:
            if self.expected == expected:
                self.expected = ""
                self._others_met += 1
            args[-1] = ""
            found = await run(name, keys, args, behind=_GUARD)
        return found

    def forget_idle(self) -> None:
        """End the connections that nobody uses: they may lead to a server that is gone, or another by now."""
        self._redis.forget_idle()

    def _opened(self) -> RedisClient:
        if not self._is_open:
            raise HotTierUnavailable("the Redis client is closed", hint="open the storage with `async with`")
        return self._redis
