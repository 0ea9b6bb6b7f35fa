"""Redis as its users see it: one URL for a server, a Cluster or Sentinels, scripts, and errors that are ours.

redis://HOST:6379/0             one server; rediss:// for TLS, unix:///run/redis.sock for a socket
redis+cluster://HOST,HOST       a Cluster, found through any of its nodes; rediss+cluster:// for TLS
redis+sentinel://HOST,HOST/NAME the primary called NAME, found through Sentinels; rediss+sentinel:// for TLS
                                (?sentinel_username=…&sentinel_password=… for Sentinels with a password)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import redis.asyncio
import redis.exceptions as driver
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from sagaz_tiering import metrics
from sagaz_tiering.clock import from_micros
from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.drivers.redis.answers import is_demoted, redis_errors
from sagaz_tiering.drivers.redis.internals import NESTS_HEALTH_CHECKS, drop_idle, greet
from sagaz_tiering.drivers.redis.multiplexed import MultiplexedConnection
from sagaz_tiering.drivers.redis.scripts import Script, run_script
from sagaz_tiering.drivers.redis.sentinels import PrimaryPool
from sagaz_tiering.drivers.redis.url import RedisOptions
from sagaz_tiering.drivers.server_clock import ClockSample, sampled
from sagaz_tiering.errors import ConfigError

T = TypeVar("T")
Client = redis.asyncio.Redis | redis.asyncio.RedisCluster

_HEALTH_CHECK_SECONDS = 30
_LOST_CONNECTION_RETRIES = 2
_CLUSTER_RETRIES = 5
_SPARE_CLUSTER_CONNECTIONS = 32
"""Per node, for what the driver asks by itself: its pool fails callers instead of letting them wait."""
_DEADLINES = 4
"""One call may take so many socket timeouts: it may be redirected, or find the next primary."""
_MANY_DEADLINE_S = 10.0
"""Who asks for many things has time: a server that others keep busy is no reason to stop."""


_IN_USE = metrics.POOL_IN_USE.labels(server="redis")
_LIMIT = metrics.POOL_LIMIT.labels(server="redis")


@dataclass(slots=True, kw_only=True)
class _Opened:
    client: Client
    places: AbstractAsyncContextManager[Any]
    first_use: asyncio.Lock = field(default_factory=asyncio.Lock)
    multiplexed: dict[str, MultiplexedConnection] = field(default_factory=dict)


class RedisClient:
    """A pool, and connections that many calls share, made when first used and again after `close`.

    A client of the driver that is `given` is used instead, and not closed.
    """

    def __init__(self, options: RedisOptions, given: Client | None = None) -> None:
        """Nothing is connected to. Raises ConfigError for a client that cannot be used."""
        self.options = options
        self.where = "the given client" if given is not None else options.address.shown_url
        self._errors = partial(redis_errors, self.where, options)
        self.connected = 0
        """Grows with each new connection to one server, or to the primary that Sentinels name."""
        self._given = given
        self._opened: _Opened | None = None
        self._home = HomeLoop(self)
        self._deadline_s = options.socket_timeout.total_seconds()
        self._call_s = _DEADLINES * self._deadline_s if options.place_timeout is None else None
        if given is not None:
            _refuse_unusable(given)

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over servers by their hash tags."""
        if self._given is not None:
            return isinstance(self._given, redis.asyncio.RedisCluster)
        return self.options.address.kind == "cluster"

    def client(self) -> Client:
        """The client itself."""
        return self._open().client

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        """The client, for calls on connections of the pool; waits as the options say; driver errors as ours.

        A caller that is cancelled meanwhile hears of it: the driver sends by asyncio.wait_for, which forgets that in
        Python 3.11 where what was sent is just gone, and who asks again and again would never end.
        """
        opened, task = self._open(), asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        async with opened.places:
            with _IN_USE.track_inprogress(), self._errors():
                async with asyncio.timeout(self._call_s):
                    if isinstance(opened.client, redis.asyncio.RedisCluster):
                        async with opened.first_use:  # the driver's own first use is not safe for several callers
                            await opened.client.initialize()
                    yield opened.client
        if task is not None and task.cancelling() > cancelled:
            raise asyncio.CancelledError

    async def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """What a script answers, on a connection of the pool."""
        async with self.use() as client:
            return await self._followed(partial(run_script, client, script, keys, args))

    async def ask(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """What a script answers soon, on the connection that all such calls share; not on a Cluster."""
        shared = self._multiplexed("ask", 0)
        times, link = shared.times_left, shared.link()
        try:
            return await link.run(script, keys, args)
        except (driver.RedisError, OSError) as exc:
            again = partial(shared.again, exc, link, script, keys, args)
            return await self._followed(again, shared, times, partial(shared.run, script, keys, args))

    async def ask_many(self, script: Script, calls: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> list[Any]:
        """What a script answers to each of these (keys, args), on one more, so that no `ask` waits behind."""
        shared = self._multiplexed("ask_many", _MANY_DEADLINE_S)
        return await self._followed(partial(shared.run_many, script, calls), shared, shared.times_left)

    async def time(self) -> ClockSample:
        """What the server's clock says; connecting is not part of the round trip."""
        async with self.use() as client:
            return await sampled(client.time, time_of)

    def forget_idle(self) -> None:
        """End the connections that nobody uses: they may lead to a server that is gone, or another by now."""
        if self._opened is not None and isinstance(self._opened.client, redis.asyncio.Redis):
            drop_idle(self._opened.client.connection_pool)

    async def close(self) -> None:
        """Close every connection; the next use opens again."""
        opened, self._opened = self._opened, None
        if opened is not None:
            _LIMIT.dec(self._most)

        async def end() -> None:
            if opened is None:
                return
            for shared in opened.multiplexed.values():
                await shared.close()
            if opened.client is not self._given:
                await opened.client.aclose()
                if isinstance(opened.client, redis.asyncio.Redis):
                    await opened.client.connection_pool.aclose()  # older drivers only disconnect

        await self._home.close(end)

    async def _followed(
        self,
        call: Callable[[], Awaitable[T]],
        shared: MultiplexedConnection | None = None,
        times: int = 0,
        again: Callable[[], Awaitable[T]] | None = None,
    ) -> T:
        """What `call` answers; it is made `again` on new connections where it led to a replica, which did nothing.

        `times`: how often `shared` had been left when the call began.
        """
        try:
            return await call()
        except (driver.RedisError, OSError) as exc:
            with self._errors():
                if not is_demoted(exc):
                    raise
                if shared is not None:
                    await shared.leave(times)
                self.forget_idle()
                return await (again or call)()

    def _multiplexed(self, name: str, least_s: float) -> MultiplexedConnection:
        shared = None if self._opened is None else self._opened.multiplexed.get(name)  # which looks at the loop itself
        if shared is None:
            opened = self._open()
            assert isinstance(opened.client, redis.asyncio.Redis)
            make = opened.client.connection_pool.make_connection
            shared = opened.multiplexed[name] = MultiplexedConnection(make, max(self._deadline_s, least_s))
        return shared

    def _open(self) -> _Opened:
        self._home.check()
        if self._opened is None:
            client = self._make() if self._given is None else self._given
            self._opened = _Opened(client=client, places=self._places(client))
            _LIMIT.inc(self._most)
        return self._opened

    @property
    def _most(self) -> int:
        return int(self.options.address.options.get("max_connections", self.options.max_connections))

    def _places(self, client: Client) -> AbstractAsyncContextManager[Any]:
        """Where callers wait, each for one."""
        if self.options.place_timeout is not None:
            return nullcontext()  # they wait in the pool
        most = self._most
        pool_size = getattr(getattr(client, "connection_pool", None), "max_connections", None)
        return asyncio.Semaphore(min(most, pool_size or most))

    def _make(self) -> Client:
        address, place_timeout = self.options.address, self.options.place_timeout
        common: dict[str, Any] = {
            "socket_timeout": self._deadline_s,
            "socket_connect_timeout": self._deadline_s,
            "health_check_interval": _HEALTH_CHECK_SECONDS,
            "max_connections": self.options.max_connections,
            **address.options,
        }
        if address.kind == "cluster":
            retry = Retry(ExponentialBackoff(cap=0.5, base=0.02), _CLUSTER_RETRIES)
            common["max_connections"] += _SPARE_CLUSTER_CONNECTIONS
            if NESTS_HEALTH_CHECKS:
                common["health_check_interval"] = 0
            nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in address.hosts]
            return redis.asyncio.RedisCluster(startup_nodes=nodes, ssl=address.tls, retry=retry, **common)
        common.setdefault("timeout", self._call_s if place_timeout is None else place_timeout.total_seconds())
        if place_timeout is None:
            # Scripts do the same when they are run twice, so what a lost connection left unknown is just asked again.
            backoff = ExponentialBackoff(cap=0.2, base=0.02)
            common["retry"] = Retry(backoff, _LOST_CONNECTION_RETRIES, (driver.ConnectionError,))
        if address.kind == "sentinel":
            return redis.asyncio.Redis.from_pool(PrimaryPool(address, greeted=self._greeted, **common))
        pool = redis.asyncio.BlockingConnectionPool(redis_connect_func=self._greet, **common)
        return redis.asyncio.Redis.from_pool(pool)

    async def _greet(self, connection: Any) -> None:
        await greet(connection)
        self._greeted()

    def _greeted(self) -> None:
        self.connected += 1


def time_of(answer: Sequence[Any]) -> datetime:
    """What the command TIME answers: seconds and microseconds."""
    return from_micros(int(answer[0]) * 1_000_000 + int(answer[1]))


def _refuse_unusable(client: object) -> None:
    if not isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster):
        kind = f"{type(client).__module__}.{type(client).__name__}"
        raise ConfigError(f"client must be a redis.asyncio.Redis or RedisCluster, not {kind}")
    if client.get_encoder().decode_responses:
        raise ConfigError(
            "a Redis client with decode_responses=True cannot be used: values are bytes, not text",
            hint="give a client with decode_responses=False (the default)",
        )
