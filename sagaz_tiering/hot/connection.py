"""The hot tier's connections to Redis: a pool, one connection that short calls share, and one for the jobs.

Behind Sentinels every connection leads to the primary that they name (`redis.sentinels`). Any server that refuses a
script since it became a replica is left, and the script run anew, on new connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Self

import redis.asyncio
import redis.exceptions as driver

from sagaz_tiering.clock import from_micros
from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.drivers.redis.client import is_demoted, load_script, redis_errors, run_script
from sagaz_tiering.drivers.redis.multiplexed import MultiplexedConnection
from sagaz_tiering.drivers.redis.sentinels import PrimaryPool, drop_idle
from sagaz_tiering.drivers.redis.url import RedisAddress, parse_redis_url
from sagaz_tiering.drivers.server_clock import ClockSample, uptime_s
from sagaz_tiering.errors import ConfigError, HotTierUnavailable
from sagaz_tiering.hot.keys import HotKeys

_SETTING = "tiers.hot.url"
_NO_CLUSTER = "give one server that is no node of a Cluster, or redis+sentinel://HOST,HOST/NAME"
_GUARD = "same"
_OTHER = -1
"""What a script behind the guard answers where another incarnation is met than the reader expects."""
_JOBS_DEADLINE_S = 10.0
"""Jobs have time: a Redis that is slow because applications keep it busy is no reason to stop."""


class _Call(Protocol):
    """`HotCalls._ask` or `HotCalls._eval`."""

    async def __call__(
        self, name: str, keys: Sequence[Any], args: Sequence[Any], *, behind: str | None = None
    ) -> Any: ...


class HotCalls:
    """Opens, closes, and runs scripts. Connects when first used."""

    def __init__(self, settings: HotSettings) -> None:
        self.settings = settings
        self._shown_url = str(settings.url)
        self.keys = HotKeys(settings.key_prefix)
        self._incarnation = self.keys.incarnation()
        self.generation = 0
        """Grows with each new connection, and when another incarnation answers: what was known may not hold."""
        self.expected = ""
        """The nonce of the incarnation that reads are meant for ("": any)."""
        self._client: redis.asyncio.Redis | None = None
        self._multiplexed: MultiplexedConnection | None = None
        self._job_multiplexed: MultiplexedConnection | None = None
        self._times_left: Counter[MultiplexedConnection] = Counter()
        self._home = HomeLoop(self)

    async def open(self) -> None:
        """Make the connection pool and those shared (nothing is sent yet). Raises ConfigError for a URL of no use."""
        address = parse_redis_url(self.settings.url.get_secret_value(), setting=_SETTING)
        self._home.check()
        seconds = self.settings.socket_timeout.total_seconds()
        common: dict[str, Any] = {
            "max_connections": self.settings.max_connections,
            "timeout": max(seconds, 5.0),
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "health_check_interval": 30,
            **address.options,
        }
        pool = self._pool(address, common)
        self._client = redis.asyncio.Redis.from_pool(pool)
        self._multiplexed = MultiplexedConnection(pool.make_connection, seconds)
        self._job_multiplexed = MultiplexedConnection(pool.make_connection, max(seconds, _JOBS_DEADLINE_S))

    async def close(self) -> None:
        """Close every connection."""
        both = [multiplexed for multiplexed in (self._multiplexed, self._job_multiplexed) if multiplexed is not None]
        client, self._client, self._multiplexed, self._job_multiplexed = self._client, None, None, None

        async def end() -> None:
            for multiplexed in both:
                await multiplexed.close()
            if client is not None:
                await client.aclose()
                await client.connection_pool.aclose()  # Redis.aclose() of older drivers only disconnects

        await self._home.close(end)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ping(self) -> None:
        """Raise HotTierUnavailable unless Redis answers."""
        with self._translated() as client:
            await client.ping()

    async def time(self) -> ClockSample:
        """What Redis' clock says. Raises HotTierUnavailable, or ConfigError where it is not told."""
        with self._translated() as client:
            asked_s = uptime_s()
            seconds, micros = await client.time()
            return ClockSample(from_micros(int(seconds) * 1_000_000 + int(micros)), asked_s, uptime_s())

    async def info(self) -> dict[str, Any]:
        """Redis INFO (empty where the server has none)."""
        with self._translated() as client:
            try:
                found: dict[str, Any] = await client.info()
            except driver.ResponseError:
                return {}
        return found

    async def _ask(self, name: str, keys: Sequence[Any], args: Sequence[Any], *, behind: str | None = None) -> Any:
        """A short call, on the connection that all share."""
        multiplexed = self._multiplexed
        if multiplexed is None:
            return await self._eval(name, keys, args)  # which tells that it is closed
        times, script = self._times_left[multiplexed], load_script(__package__, name, behind=behind)
        try:
            return await multiplexed.run(script, keys, args)
        except (driver.RedisError, OSError) as exc:
            with self._translated():
                await self._leave_replica(exc, multiplexed, times)
                return await multiplexed.run(script, keys, args)

    async def _eval(self, name: str, keys: Sequence[str], args: Sequence[Any], *, behind: str | None = None) -> Any:
        script = load_script(__package__, name, behind=behind)
        with self._translated() as client:
            try:
                return await run_script(client, script, keys, args)
            except driver.RedisError as exc:
                await self._leave_replica(exc)
                return await run_script(client, script, keys, args)

    async def _read(self, run: _Call, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """What a script reads. That another incarnation answers is noted; it is for who asks to look what it is."""
        keys, expected = [*keys, self._incarnation], self.expected
        found = await run(name, keys, [*args, expected], behind=_GUARD)
        if isinstance(found, int) and found == _OTHER:
            if self.expected == expected:
                self.expected = ""
                self.generation += 1
            found = await run(name, keys, [*args, ""], behind=_GUARD)
        return found

    async def _eval_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """The same script many times, pipelined on the jobs' own connection, so that no application waits behind."""
        multiplexed = self._job_multiplexed
        if multiplexed is None:
            raise _closed()
        times = self._times_left[multiplexed]
        try:
            return await multiplexed.run_many(load_script(__package__, name), calls)
        except (driver.RedisError, OSError) as exc:
            with self._translated():
                await self._leave_replica(exc, multiplexed, times)
                return await multiplexed.run_many(load_script(__package__, name), calls)

    async def _leave_replica(
        self, error: Exception, multiplexed: MultiplexedConnection | None = None, times: int = 0
    ) -> None:
        """Drop idle connections, and that of `multiplexed`, for the call to be made again, if they lead to a replica.

        Raises any other `error`. `times` is how often that had been left when the call began: once is enough for
        all calls that were under way.
        """
        if not is_demoted(error):
            raise error
        if multiplexed is not None and self._times_left[multiplexed] == times:
            self._times_left[multiplexed] += 1
            await multiplexed.close()
        self.forget_idle()

    def forget_idle(self) -> None:
        """End the connections that nobody uses: they may lead to a server that is gone, or another by now."""
        if self._client is not None:
            drop_idle(self._client.connection_pool)

    def _pool(self, address: RedisAddress, options: dict[str, Any]) -> redis.asyncio.ConnectionPool:
        if address.kind == "sentinel":
            return PrimaryPool(address, greeted=self._connected, **options)
        if address.kind == "cluster":
            raise ConfigError(f"{_SETTING} is the URL of a Cluster", hint=_NO_CLUSTER)
        return redis.asyncio.BlockingConnectionPool(redis_connect_func=self._greet, **options)

    async def _greet(self, connection: Any) -> None:
        await connection.on_connect()
        self._connected()

    def _connected(self) -> None:
        self.generation += 1

    @contextmanager
    def _translated(self) -> Iterator[redis.asyncio.Redis]:
        """The client, with driver errors as HotTierUnavailable (or ConfigError where retrying cannot help)."""
        if self._client is None:
            raise _closed()
        self._home.check()
        with redis_errors(
            self._shown_url,
            setting=_SETTING,
            keys=f"{self.settings.key_prefix}*",
            when_full="raise maxmemory or let the age job catch up",
            when_node=f"{_NO_CLUSTER} in {_SETTING}",
        ):
            yield self._client


def _closed() -> HotTierUnavailable:
    return HotTierUnavailable("the Redis client is closed", hint="open the storage with `async with`")
