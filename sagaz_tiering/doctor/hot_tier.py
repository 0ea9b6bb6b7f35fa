"""Redis: whether it answers, and whether it keeps what it acknowledges."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from sagaz_tiering.app.runtime import Parts
from sagaz_tiering.clock import Clock
from sagaz_tiering.doctor.finding import Finding, error, from_error, ok, warning
from sagaz_tiering.doctor.hot_rights import check_rights
from sagaz_tiering.doctor.timing import clock_of, round_trip_of
from sagaz_tiering.drivers.redis.client import RedisClient, time_of
from sagaz_tiering.drivers.redis.health import MEMORY_WATERMARK, server_facts, server_warnings
from sagaz_tiering.drivers.redis.sentinels import sentinel_options
from sagaz_tiering.drivers.redis.url import RedisAddress, RedisOptions, parse_redis_url
from sagaz_tiering.errors import HotTierUnavailable, SagazTieringError
from sagaz_tiering.policy import Durability
from sagaz_tiering.terminal import show_bytes

OLDEST = (6, 2)
_SOCKET_TIMEOUT = timedelta(seconds=5)
"""What the other checks do meanwhile may hold an answer up; how long it took is told anyway."""
_SETTING = "tiers.hot.url"
_NOBODY = "no primary"


async def check_hot_tier(parts: Parts) -> AsyncGenerator[Finding, None]:
    """The address, the server's answer, and what its INFO tells."""
    settings = parts.hot_settings()
    # A URL that asks for decode_responses is refused here.
    address = parse_redis_url(settings.url.get_secret_value(), setting=_SETTING)
    redis = RedisClient(
        RedisOptions(
            address=address,
            setting=_SETTING,
            when_node=f"write redis+cluster://… in {_SETTING}",
            keys=f"{settings.key_prefix}*",
            max_connections=2,
            socket_timeout=max(settings.socket_timeout, _SOCKET_TIMEOUT),
        )
    )
    try:
        if address.kind == "sentinel":
            yield await _sentinels(address, settings.socket_timeout)
        try:
            hint = "every save and read waits so long: bring Redis nearer to the applications"
            yield await round_trip_of("redis.reachable", str(settings.url), partial(_ping, redis), hint)
        except SagazTieringError as exc:
            yield from_error("redis.reachable", exc)
            return
        async with redis.use() as client:
            servers = await server_facts(client)
        hot_only = [policy.name for policy in parts.config.policies if policy.durability is Durability.HOT]
        if not servers:
            yield warning(
                "redis.info", "INFO is refused: eviction, persistence and memory cannot be seen", "grant +info"
            )
        for server in servers:
            for found in (
                *_server(server),
                *_kept(server, hot_only=hot_only),
                *_role(server, is_cluster=redis.is_cluster),
            ):
                yield found
            if address.kind == "sentinel":
                yield _failover(server)
        if not redis.is_cluster:
            yield await check_rights(redis, str(settings.url), prefix=settings.key_prefix, setting=_SETTING)
            yield await _clock(redis, parts.clock)
    finally:
        await redis.close()


async def _ping(redis: RedisClient) -> None:
    async with redis.use() as client:
        await client.ping()


def _server(server: dict[str, Any]) -> Iterator[Finding]:
    name = "valkey" if "valkey_version" in server else "redis"
    text = str(server.get(f"{name}_version", "?"))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        yield warning(
            "redis.version", f"{name} {text}", f"use {OLDEST[0]}.{OLDEST[1]} or newer: older ones are not tested"
        )
    else:
        yield ok("redis.version", f"{name} {text}")


def _kept(server: dict[str, Any], *, hot_only: Sequence[str]) -> Iterator[Finding]:
    """Eviction, persistence and memory, each named whether good or bad. `hot_only`: policies under which Redis alone
    acknowledges."""
    found = {each.what: each for each in server_warnings(server)}
    saves = server.get("save", "unknown")
    shown = saves.decode() if isinstance(saves, bytes) else str(saves)
    used, limit = server.get("used_memory", 0), server.get("maxmemory") or server.get("total_system_memory") or 0
    good = {
        "eviction": f"maxmemory-policy is {server.get('maxmemory_policy', 'noeviction')}",
        "persistence": "append-only file" if server.get("aof_enabled") else f"RDB saves: {shown}",
        "memory": f"{show_bytes(used)} of {show_bytes(limit)} used, watermark {MEMORY_WATERMARK:.0%}",
    }
    for what, text in good.items():
        subject, each = f"redis.{what}", found.get(what)
        if each is not None:
            make = error if what == "eviction" else warning
            yield make(subject, each.text, each.hint)
        elif what == "persistence" and not server.get("aof_enabled") and saves == "unknown":
            hint = "grant +config|get, or look there: appendonly yes, or save"
            yield warning(subject, "no append-only file, and CONFIG GET save is refused", hint)
        elif what == "persistence" and not server.get("aof_enabled") and hot_only:
            text += f": a crash loses what was saved since, of policies with durability hot ({', '.join(hot_only)})"
            yield warning(
                subject, text, "set appendonly yes (appendfsync always loses nothing), or durability: durable"
            )
        else:
            yield ok(subject, text)
    if server.get("aof_last_write_status", "ok") != "ok" or server.get("rdb_last_bgsave_status", "ok") != "ok":
        yield error("redis.persistence", "the last write to disk failed", "look into Redis' log: is its disk full?")


def _role(server: dict[str, Any], *, is_cluster: bool) -> Iterator[Finding]:
    if not is_cluster and (server.get("redis_mode") == "cluster" or server.get("cluster_enabled")):
        yield error(
            "redis.cluster",
            f"the server is a node of a Cluster, but {_SETTING} is the URL of one server",
            "give one primary, or redis+sentinel://HOST,HOST/NAME: the hot tier does not run on a Cluster",
        )
    if server.get("role") == "slave":
        yield error("redis.role", "the server is a replica: it refuses saves", f"give the primary in {_SETTING}")


async def _sentinels(address: RedisAddress, deadline: timedelta) -> Finding:
    """Whether each of them answers, and names the same primary."""
    named: dict[str, list[str]] = {}
    lost: dict[str, list[str]] = {}
    for host, port in address.hosts:
        async with Redis(host=host, port=port, **sentinel_options(address, deadline.total_seconds())) as sentinel:
            try:
                states: Any = await sentinel.sentinel_masters()  # redis-py 6 cannot read the answer about one
                found = _named(states.get(address.service))
            except (RedisError, OSError) as exc:
                found = f"{_NOBODY} ({type(exc).__name__})"
        into = lost if found.startswith(_NOBODY) else named
        into.setdefault(found, []).append(f"{host}:{port}")
    text = "; ".join(f"{', '.join(who)}: {primary}" for primary, who in (named | lost).items())
    if not named:
        hint = (
            f"check hosts, name and sentinel_password in {_SETTING}, and that the Sentinels are running and reachable"
        )
        return error("redis.sentinels", text, hint, exit_code=HotTierUnavailable.exit_code)
    if len(named) == 1 and not lost:
        return ok("redis.sentinels", text)
    hint = "look at the Sentinels: while they are gone or disagree, a fail-over may not happen, or not be noticed"
    return warning("redis.sentinels", text, hint)


def _named(state: dict[str, Any] | None) -> str:
    if state is None:
        return f"{_NOBODY} of that name"
    primary = f"{state['ip']}:{state['port']}"
    return f"{_NOBODY} ({primary} is down)" if state["is_sdown"] or state["is_odown"] else primary


def _failover(server: dict[str, Any]) -> Finding:
    """What a primary that is cut off from its replicas does; INFO tells only where it is told to refuse saves."""
    if not server.get("connected_slaves"):
        return warning("redis.failover", "no replica is connected", "start one, or nothing takes over from the primary")
    if "min_slaves_good_slaves" not in server:
        text = "a primary that is cut off goes on taking saves, which are forgotten when it comes back"
        return warning("redis.failover", text, "set min-replicas-to-write 1 and min-replicas-max-lag 10")
    return ok("redis.failover", f"{server['connected_slaves']} replicas, without which the primary takes no saves")


async def _clock(redis: RedisClient, clock: Clock) -> Finding:
    async def ask() -> datetime:
        return time_of(await client.time())

    try:
        async with redis.use() as client:
            return await clock_of("redis.clock", "Redis", clock, ask)
    except (NoPermissionError, ResponseError):
        return ok("redis.clock", "TIME is not offered: not compared")
