"""What a server says, as ours: the driver's errors, and what to do about them (the missing right by its command, TLS or
none); and what is wrong with a Redis that keeps snapshots: it may evict them, forget them, or be nearly full.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import redis.exceptions as driver
from redis.asyncio import RedisCluster

from sagaz_tiering.drivers.redis.url import RedisOptions
from sagaz_tiering.errors import ConfigError, HotTierRefused, HotTierUnavailable

MEMORY_WATERMARK: Final = 0.85
"""Share of maxmemory (or of the machine's memory where no maxmemory is set) from which on the memory is short."""

_SHOWN = ("redis_version", "valkey_version", "used_memory", "maxmemory", "maxmemory_policy", "aof_enabled")
_COMMAND = re.compile(r"to run the '([^']+)' command")


def is_missing_right(error: BaseException | None) -> bool:
    """Whether Redis says that the user lacks a right; scripts tell it of a command inside as an error of their own."""
    told_by_script = isinstance(error, driver.ResponseError) and "ACL failure" in str(error)
    return told_by_script or isinstance(error, driver.NoPermissionError)


def missing_right(*said: str, where: str, setting: str, keys: str) -> str:
    """The ACL command that gives the user of the URL `where` what Redis says that it lacks; `keys`: a pattern."""
    named = re.search(r"\bUser (\S+) has no permissions", said[0])
    user = named[1] if named else unquote(urlsplit(where).username or "") or "default"
    commands = [_COMMAND.search(each) for each in said]
    rights = dict.fromkeys(f"~{keys}" if each is None else f"+{each[1].lower()}" for each in commands)
    return f"as Redis' administrator: ACL SETUSER {user} {' '.join(rights)} (the user of {setting})"


def tls_hint(where: str) -> str:
    """What to think of where a server closes or does not answer, which is all that is seen of a wrong kind of port."""
    if where.startswith("rediss"):
        return "and that it speaks TLS at that port (redis:// is without)"
    return "a port that speaks TLS needs rediss://"


def is_demoted(error: BaseException) -> bool:
    """Whether a server refused because it is a replica, which it was not when it was connected to; it did nothing."""
    refusals = (driver.ReadOnlyError, driver.MasterDownError)
    # Behind Sentinels the driver makes another error of it. Scripts before Redis 7 give it in the text of theirs.
    return isinstance(error, refusals) or isinstance(error.__context__, refusals) or "-READONLY " in str(error)


@contextmanager
def redis_errors(where: str, options: RedisOptions) -> Iterator[None]:
    """Driver errors as HotTierUnavailable, or as ConfigError where asking again cannot help. No password in `where`."""
    setting = options.setting
    unreachable = f"check {setting} and that Redis is running and reachable"
    try:
        yield
    except (driver.AuthenticationError, driver.AuthorizationError) as exc:
        raise HotTierRefused(f"Redis at {where} refuses: {exc}", hint=f"check user and password in {setting}") from exc
    except (driver.MovedError, driver.ClusterCrossSlotError) as exc:
        raise ConfigError(f"Redis at {where} is a node of a Cluster", hint=options.when_node) from exc
    except (driver.ConnectionError, driver.TimeoutError, OSError, TimeoutError) as exc:
        message = f"Redis at {where} cannot be asked: {exc or type(exc).__name__}"
        raise HotTierUnavailable(message, hint=f"{unreachable}; {tls_hint(where)}") from exc
    except driver.OutOfMemoryError as exc:
        raise HotTierUnavailable(f"Redis at {where} is full: {exc}", hint=options.when_full) from exc
    except driver.RedisClusterException as exc:
        if "not enabled" in str(exc):
            hint = f"write redis://… for one server in {setting}"
            raise ConfigError(f"Redis at {where} is not a Cluster", hint=hint) from exc
        raise HotTierUnavailable(f"Redis at {where} cannot be asked: {exc}", hint=unreachable) from exc
    except driver.RedisError as exc:
        message = f"Redis at {where} refuses: {exc}"
        if is_missing_right(exc):
            hint = missing_right(str(exc), where=where, setting=setting, keys=options.keys)
            raise HotTierRefused(message, hint=hint) from exc
        if "DB index" in str(exc):
            hint = f"that server has fewer databases (its setting `databases`, 16): give a lower number in {setting}"
            raise HotTierRefused(message, hint=hint) from exc
        raise HotTierUnavailable(message) from exc


async def server_facts(client: Any) -> list[dict[str, Any]]:
    """INFO of each server that keeps data, with `save` from CONFIG; [] where there is no INFO (fakeredis)."""
    is_cluster = isinstance(client, RedisCluster)
    nodes = {"target_nodes": RedisCluster.PRIMARIES} if is_cluster else {}
    try:
        answer = await client.info(**nodes)
    except driver.ResponseError:
        return []
    servers: list[dict[str, Any]] = list(answer.values()) if is_cluster and "redis_version" not in answer else [answer]
    try:
        # All servers of a Cluster are set up alike; one is asked.
        save = await client.config_get("save", **({"target_nodes": RedisCluster.RANDOM} if is_cluster else {}))
    except driver.ResponseError:  # hosted ones refuse CONFIG
        return servers
    return [{**server, "save": save.get("save", save.get(b"save", "?"))} for server in servers]


class ServerWarning(NamedTuple):
    """Something about a server that somebody should look at: `what` is eviction, persistence or memory."""

    what: str
    text: str
    hint: str


def server_warnings(server: dict[str, Any]) -> Iterator[ServerWarning]:
    """Everything doubtful about one server, by its INFO."""
    policy = server.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        text = f"maxmemory-policy is {policy}: Redis may drop snapshots that are not expired"
        yield ServerWarning("eviction", text, "set noeviction")
    if not server.get("aof_enabled") and server.get("save") in ("", b""):
        yield ServerWarning("persistence", "no persistence: a restart loses every snapshot", "set appendonly yes")
    limit = server.get("maxmemory") or server.get("total_system_memory") or 0
    used = server.get("used_memory", 0)
    if limit and used >= limit * MEMORY_WATERMARK:
        text = f"memory is {used / limit:.0%} full ({used} of {limit} bytes)"
        yield ServerWarning("memory", text, "raise maxmemory or keep less")


def warnings(servers: Iterable[dict[str, Any]]) -> list[str]:
    """What somebody should look at, each with what to do."""
    found = [f"{warning.text}; {warning.hint}" for server in servers for warning in server_warnings(server)]
    return list(dict.fromkeys(found))


def shown(servers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is worth showing of each server."""
    return [{name: server[name] for name in _SHOWN if name in server} for server in servers]
