"""What is wrong with a Redis that keeps snapshots: it may evict them, forget them, or be nearly full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

MEMORY_WATERMARK: Final = 0.85
"""Share of maxmemory (or of the machine's memory where no maxmemory is set) from which on the memory is short."""

_SHOWN = ("redis_version", "valkey_version", "used_memory", "maxmemory", "maxmemory_policy", "aof_enabled")


async def server_facts(client: Any) -> list[dict[str, Any]]:
    """INFO of each server that keeps data, with `save` from CONFIG; [] where there is no INFO (fakeredis)."""
    is_cluster = isinstance(client, RedisCluster)
    nodes = {"target_nodes": RedisCluster.PRIMARIES} if is_cluster else {}
    try:
        answer = await client.info(**nodes)
    except ResponseError:
        return []
    servers: list[dict[str, Any]] = list(answer.values()) if is_cluster and "redis_version" not in answer else [answer]
    try:
        # All servers of a Cluster are set up alike; one is asked.
        save = await client.config_get("save", **({"target_nodes": RedisCluster.RANDOM} if is_cluster else {}))
    except ResponseError:  # hosted ones refuse CONFIG
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
