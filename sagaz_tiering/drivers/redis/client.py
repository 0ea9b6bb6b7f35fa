"""Redis as its users see it: one URL for a server, a Cluster or Sentinels, scripts, and errors that are ours.

redis://HOST:6379/0             one server; rediss:// for TLS, unix:///run/redis.sock for a socket
redis+cluster://HOST,HOST       a Cluster, found through any of its nodes; rediss+cluster:// for TLS
redis+sentinel://HOST,HOST/NAME the primary called NAME, found through Sentinels; rediss+sentinel:// for TLS
                                (?sentinel_username=…&sentinel_password=… for Sentinels with a password)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

import redis.asyncio
import redis.exceptions as driver
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.drivers.redis.hints import is_missing_right, missing_right, tls_hint
from sagaz_tiering.drivers.redis.sentinels import PrimaryPool
from sagaz_tiering.drivers.redis.url import RedisAddress
from sagaz_tiering.errors import ConfigError, HotTierRefused, HotTierUnavailable

Client = redis.asyncio.Redis | redis.asyncio.RedisCluster

_HEALTH_CHECK_SECONDS = 30
_LOST_CONNECTION_RETRIES = 2
_CLUSTER_RETRIES = 5
_SPARE_CLUSTER_CONNECTIONS = 32
"""Per node, for what the driver asks by itself: its pool fails callers instead of letting them wait."""
_DEADLINES = 4
"""One call may take so many socket timeouts: it may be redirected, or find the next primary."""


class Script(NamedTuple):
    """A Lua script, and its SHA-1, by which servers that have seen it know it."""

    text: str
    digest: str


@cache
def load_script(package: str, name: str, *, behind: str | None = None) -> Script:
    """`lua/<name>.lua` of `package`, with `lua/<behind>.lua` in front of it."""
    folder = files(package).joinpath("lua")
    names = [name] if behind is None else [behind, name]
    text = "\n".join(folder.joinpath(f"{each}.lua").read_text(encoding="utf-8") for each in names)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


async def run_script(client: Any, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
    """What a script answers; a server that does not know it yet is sent its text."""
    try:
        return await client.evalsha(script.digest, len(keys), *keys, *args)
    except driver.NoScriptError:
        return await client.eval(script.text, len(keys), *keys, *args)


def is_demoted(error: BaseException) -> bool:
    """Whether a server refused because it is a replica, which it was not when it was connected to; it did nothing."""
    refusals = (driver.ReadOnlyError, driver.MasterDownError)
    # Behind Sentinels the driver makes another error of it. Scripts before Redis 7 give it in the text of theirs.
    return isinstance(error, refusals) or isinstance(error.__context__, refusals) or "-READONLY " in str(error)


@contextmanager
def redis_errors(where: str, *, setting: str, keys: str, when_full: str, when_node: str) -> Iterator[None]:
    """Driver errors as HotTierUnavailable, or as ConfigError where asking again cannot help.

    `where` is a URL without its password, `setting` is where people give it, `keys` the pattern of our keys,
    `when_full` what to do about memory,
    `when_node` what to do where one server was meant and it is a node of a Cluster.
    """
    unreachable = f"check {setting} and that Redis is running and reachable"
    try:
        yield
    except (driver.AuthenticationError, driver.AuthorizationError) as exc:
        raise HotTierRefused(f"Redis at {where} refuses: {exc}", hint=f"check user and password in {setting}") from exc
    except (driver.MovedError, driver.ClusterCrossSlotError) as exc:
        raise ConfigError(f"Redis at {where} is a node of a Cluster", hint=when_node) from exc
    except (driver.ConnectionError, driver.TimeoutError, OSError, TimeoutError) as exc:
        message = f"Redis at {where} cannot be asked: {exc or type(exc).__name__}"
        raise HotTierUnavailable(message, hint=f"{unreachable}; {tls_hint(where)}") from exc
    except driver.OutOfMemoryError as exc:
        raise HotTierUnavailable(f"Redis at {where} is full: {exc}", hint=when_full) from exc
    except driver.RedisClusterException as exc:
        if "not enabled" in str(exc):
            raise ConfigError(
                f"Redis at {where} is not a Cluster", hint=f"write redis://… for one server in {setting}"
            ) from exc
        raise HotTierUnavailable(f"Redis at {where} cannot be asked: {exc}", hint=unreachable) from exc
    except driver.RedisError as exc:
        raise _refused(exc, where, setting, keys) from exc


def _refused(exc: driver.RedisError, where: str, setting: str, keys: str) -> HotTierUnavailable:
    if is_missing_right(exc):
        hint = missing_right(str(exc), where, setting=setting, keys=keys)
        return HotTierRefused(f"Redis at {where} refuses: {exc}", hint=hint)
    if "DB index" in str(exc):
        hint = f"that server has fewer databases (its setting `databases`, 16): give a lower number in {setting}"
        return HotTierRefused(f"Redis at {where} refuses: {exc}", hint=hint)
    return HotTierUnavailable(f"Redis at {where} refuses: {exc}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """How to reach Redis, and the pattern of our keys there. More callers than `max_connections` wait.

    `socket_timeout`: to connect, and for an answer.
    """

    address: RedisAddress
    setting: str = "redis_url"
    keys: str = "*"
    max_connections: int = 64
    socket_timeout: timedelta = timedelta(seconds=5)


@dataclass(slots=True, kw_only=True)
class _Opened:
    client: Client
    places: asyncio.Semaphore
    primary: PrimaryPool | None = None
    is_ours: bool = True
    first_use: asyncio.Lock = field(default_factory=asyncio.Lock)


class LazyRedis:
    """One client, made when it is first used and again after `close`. A client that is `given` is not closed."""

    def __init__(self, options: RedisOptions, given: Client | None = None) -> None:
        """Nothing is connected to. Raises ConfigError for a client that cannot be used."""
        self.options = options
        self.where = "the given client" if given is not None else options.address.shown_url
        self._given = given
        self._opened: _Opened | None = None
        self._home = HomeLoop(self)
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
        """The client for one call, which has a deadline; waits for its turn; driver errors as `redis_errors` says."""
        opened = self._open()
        deadline_s = _DEADLINES * self.options.socket_timeout.total_seconds()
        async with opened.places:
            with self.errors():
                async with asyncio.timeout(deadline_s):
                    if isinstance(opened.client, redis.asyncio.RedisCluster):
                        async with opened.first_use:  # the driver's own first use is not safe for several callers
                            await opened.client.initialize()
                    yield opened.client

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Driver errors as ours."""
        full = "raise maxmemory, or let snapshots expire (default_ttl, retention_until)"
        setting = self.options.setting
        node = f"write redis+cluster://… in {setting}"
        with redis_errors(self.where, setting=setting, keys=self.options.keys, when_full=full, when_node=node):
            yield

    async def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """What a script answers."""
        async with self.use() as client:
            return await run_script(client, script, keys, args)

    async def close(self) -> None:
        """Close every connection; the next use opens again."""
        opened, self._opened = self._opened, None

        async def end() -> None:
            if opened is not None and opened.is_ours:
                await opened.client.aclose()
                if opened.primary is not None:
                    await opened.primary.aclose()

        await self._home.close(end)

    def _open(self) -> _Opened:
        self._home.check()
        if self._opened is None:
            self._opened = self._adopt(self._given) if self._given is not None else self._make()
        return self._opened

    def _adopt(self, given: Client) -> _Opened:
        pool_size = getattr(getattr(given, "connection_pool", None), "max_connections", None)
        places = min(self.options.max_connections, pool_size or self.options.max_connections)
        return _Opened(client=given, places=asyncio.Semaphore(places), is_ours=False)

    def _make(self) -> _Opened:
        address, seconds = self.options.address, self.options.socket_timeout.total_seconds()
        common: dict[str, Any] = {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "health_check_interval": _HEALTH_CHECK_SECONDS,
            "max_connections": self.options.max_connections,
            **address.options,
        }
        places = asyncio.Semaphore(common["max_connections"])
        # Scripts do the same when they are run twice, so what a lost connection left unknown is just asked again.
        lost = Retry(ExponentialBackoff(cap=0.2, base=0.02), _LOST_CONNECTION_RETRIES, (driver.ConnectionError,))
        if address.kind == "cluster":
            retry = Retry(ExponentialBackoff(cap=0.5, base=0.02), _CLUSTER_RETRIES)
            common["max_connections"] += _SPARE_CLUSTER_CONNECTIONS
            nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in address.hosts]
            return _Opened(
                client=redis.asyncio.RedisCluster(startup_nodes=nodes, ssl=address.tls, retry=retry, **common),
                places=places,
            )
        if address.kind == "sentinel":
            primary = PrimaryPool(address, retry=lost, timeout=_DEADLINES * seconds, **common)
            return _Opened(client=redis.asyncio.Redis.from_pool(primary), places=places, primary=primary)
        pool = redis.asyncio.BlockingConnectionPool(retry=lost, timeout=_DEADLINES * seconds, **common)
        return _Opened(client=redis.asyncio.Redis.from_pool(pool), places=places)


def _refuse_unusable(client: object) -> None:
    if not isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster):
        kind = f"{type(client).__module__}.{type(client).__name__}"
        raise ConfigError(f"client must be a redis.asyncio.Redis or RedisCluster, not {kind}")
    if client.get_encoder().decode_responses:
        raise ConfigError(
            "a Redis client with decode_responses=True cannot be used: values are bytes, not text",
            hint="give a client with decode_responses=False (the default)",
        )
