"""Redis: whether it answers, keeps what it acknowledges, and lets us send what we send.

Every command that the product sends is queued in a transaction that is never ended: Redis looks at rights when a
command is queued, so nothing of it is ever carried out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from sagaz_tiering.app.parts import Parts
from sagaz_tiering.clock import Clock
from sagaz_tiering.doctor.finding import Findings
from sagaz_tiering.drivers.redis.answers import MEMORY_WATERMARK, missing_right, server_facts, server_warnings
from sagaz_tiering.drivers.redis.client import RedisClient, time_of
from sagaz_tiering.drivers.redis.sentinels import sentinel_options
from sagaz_tiering.drivers.redis.url import RedisAddress, RedisOptions, parse_redis_url
from sagaz_tiering.errors import HotTierUnavailable, SagazTieringError
from sagaz_tiering.logs import Logger
from sagaz_tiering.policy import Durability
from sagaz_tiering.terminal import show_bytes

_log = Logger(__name__)

OLDEST = (6, 2)
_SOCKET_TIMEOUT = timedelta(seconds=5)
"""What the other checks do meanwhile may hold an answer up; how long it took is told anyway."""
_SETTING = "tiers.hot.url"
_NOBODY = "no primary"

ON_A_KEY: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("DEL", "EXISTS", "GET", "HGETALL", "MGET", "PERSIST", "PTTL", "STRLEN", "TYPE", "ZCARD"), ()),
    **dict.fromkeys(("GETRANGE", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE", "ZREVRANGE"), ("0", "1")),
    **dict.fromkeys(("HDEL", "HGET", "HMGET"), ("f",)),
    **dict.fromkeys(("MSET", "SET"), ("v",)),
    **dict.fromkeys(("ZREM", "ZSCORE"), ("m",)),
    "HINCRBY": ("f", "1"),
    "HSET": ("f", "v"),
    "PEXPIRE": ("1",),
    "ZADD": ("1", "m"),
    "ZRANGEBYLEX": ("-", "+"),
    "ZREVRANGEBYSCORE": ("1", "0"),
}
"""Commands by name, with what follows their first key."""
WITHOUT_A_KEY: Final[dict[str, tuple[str, ...]]] = {
    "EVAL": ("return 1", "0"),
    "EVALSHA": ("0" * 40, "0"),
    "SCAN": ("0",),
    "TIME": (),
}


async def check_hot_tier(parts: Parts, found: Findings) -> None:
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
            await _sentinels(found, address, settings.socket_timeout)
        try:
            hint = "every save and read waits so long: bring Redis nearer to the applications"
            await found.round_trip("redis.reachable", str(settings.url), partial(_ping, redis), hint)
        except SagazTieringError as exc:
            found.failed("redis.reachable", exc)
            return
        async with redis.use() as client:
            servers = await server_facts(client)
        hot_only = [policy.name for policy in parts.config.policies if policy.durability is Durability.HOT]
        if not servers:
            text = "INFO is refused: eviction, persistence and memory cannot be seen"
            found.warning("redis.info", text, "grant +info")
        for server in servers:
            _version(found, server)
            _kept(found, server, hot_only=hot_only)
            _role(found, server, is_cluster=redis.is_cluster)
            if address.kind == "sentinel":
                _failover(found, server)
        if not redis.is_cluster:
            await _rights(found, redis, str(settings.url), settings.key_prefix)
            await _clock(found, redis, parts.clock)
    finally:
        await redis.close()


async def _ping(redis: RedisClient) -> None:
    async with redis.use() as client:
        await client.ping()


def _version(found: Findings, server: dict[str, Any]) -> None:
    name = "valkey" if "valkey_version" in server else "redis"
    text = str(server.get(f"{name}_version", "?"))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        hint = f"use {OLDEST[0]}.{OLDEST[1]} or newer: older ones are not tested"
        found.warning("redis.version", f"{name} {text}", hint)
    else:
        found.ok("redis.version", f"{name} {text}")


def _kept(found: Findings, server: dict[str, Any], *, hot_only: Sequence[str]) -> None:
    """Eviction, persistence and memory, each named whether good or bad. `hot_only`: policies under which Redis alone
    acknowledges."""
    warnings = {each.what: each for each in server_warnings(server)}
    saves = server.get("save", "unknown")
    shown = saves.decode() if isinstance(saves, bytes) else str(saves)
    used, limit = server.get("used_memory", 0), server.get("maxmemory") or server.get("total_system_memory") or 0
    good = {
        "eviction": f"maxmemory-policy is {server.get('maxmemory_policy', 'noeviction')}",
        "persistence": "append-only file" if server.get("aof_enabled") else f"RDB saves: {shown}",
        "memory": f"{show_bytes(used)} of {show_bytes(limit)} used, watermark {MEMORY_WATERMARK:.0%}",
    }
    for what, text in good.items():
        subject, each = f"redis.{what}", warnings.get(what)
        if each is not None:
            tell = found.error if what == "eviction" else found.warning
            tell(subject, each.text, each.hint)
        elif what == "persistence" and not server.get("aof_enabled") and saves == "unknown":
            hint = "grant +config|get, or look there: appendonly yes, or save"
            found.warning(subject, "no append-only file, and CONFIG GET save is refused", hint)
        elif what == "persistence" and not server.get("aof_enabled") and hot_only:
            text += f": a crash loses what was saved since, of policies with durability hot ({', '.join(hot_only)})"
            hint = "set appendonly yes (appendfsync always loses nothing), or durability: durable"
            found.warning(subject, text, hint)
        else:
            found.ok(subject, text)
    if server.get("aof_last_write_status", "ok") != "ok" or server.get("rdb_last_bgsave_status", "ok") != "ok":
        found.error("redis.persistence", "the last write to disk failed", "look into Redis' log: is its disk full?")


def _role(found: Findings, server: dict[str, Any], *, is_cluster: bool) -> None:
    if not is_cluster and (server.get("redis_mode") == "cluster" or server.get("cluster_enabled")):
        text = f"the server is a node of a Cluster, but {_SETTING} is the URL of one server"
        hint = "give one primary, or redis+sentinel://HOST,HOST/NAME: the hot tier does not run on a Cluster"
        found.error("redis.cluster", text, hint)
    if server.get("role") == "slave":
        found.error("redis.role", "the server is a replica: it refuses saves", f"give the primary in {_SETTING}")


async def _sentinels(found: Findings, address: RedisAddress, deadline: timedelta) -> None:
    """Whether each of them answers, and names the same primary."""
    named: dict[str, list[str]] = {}
    lost: dict[str, list[str]] = {}
    for host, port in address.hosts:
        async with Redis(host=host, port=port, **sentinel_options(address, deadline.total_seconds())) as sentinel:
            try:
                states: Any = await sentinel.sentinel_masters()  # redis-py 6 cannot read the answer about one
                said = _named(states.get(address.service))
            except (RedisError, OSError) as exc:
                said = f"{_NOBODY} ({type(exc).__name__})"
        into = lost if said.startswith(_NOBODY) else named
        into.setdefault(said, []).append(f"{host}:{port}")
    subject, text = "redis.sentinels", "; ".join(f"{', '.join(who)}: {said}" for said, who in (named | lost).items())
    if not named:
        look = f"check hosts, name and sentinel_password in {_SETTING}"
        hint = f"{look}, and that the Sentinels are running and reachable"
        found.error(subject, text, hint, exit_code=HotTierUnavailable.exit_code)
    elif len(named) == 1 and not lost:
        found.ok(subject, text)
    else:
        hint = "look at the Sentinels: while they are gone or disagree, a fail-over may not happen, or not be noticed"
        found.warning(subject, text, hint)


def _named(state: dict[str, Any] | None) -> str:
    if state is None:
        return f"{_NOBODY} of that name"
    primary = f"{state['ip']}:{state['port']}"
    return f"{_NOBODY} ({primary} is down)" if state["is_sdown"] or state["is_odown"] else primary


def _failover(found: Findings, server: dict[str, Any]) -> None:
    """What a primary that is cut off from its replicas does; INFO tells only where it is told to refuse saves."""
    subject, replicas = "redis.failover", server.get("connected_slaves")
    if not replicas:
        found.warning(subject, "no replica is connected", "start one, or nothing takes over from the primary")
    elif "min_slaves_good_slaves" not in server:
        text = "a primary that is cut off goes on taking saves, which are forgotten when it comes back"
        found.warning(subject, text, "set min-replicas-to-write 1 and min-replicas-max-lag 10")
    else:
        found.ok(subject, f"{replicas} replicas, without which the primary takes no saves")


async def _clock(found: Findings, redis: RedisClient, clock: Clock) -> None:
    async def ask() -> datetime:
        return time_of(await client.time())

    try:
        async with redis.use() as client:
            await found.clock("redis.clock", "Redis", clock, ask)
    except (NoPermissionError, ResponseError):
        found.ok("redis.clock", "TIME is not offered: not compared")


async def _rights(found: Findings, redis: RedisClient, where: str, prefix: str) -> None:
    """What is refused, with the ACL command that grants it."""
    key = f"{prefix}:doctor"
    commands = [(name, key, *more) for name, more in sorted(ON_A_KEY.items())]
    commands += [("RENAME", key, key), *((name, *more) for name, more in WITHOUT_A_KEY.items())]
    async with redis.use() as client:
        refused = await _refused(client, commands)
    if not refused:
        found.ok("redis.rights", f"every command that is needed may be sent, on keys {prefix}*")
        return
    hint = missing_right(*refused.values(), where=where, setting=_SETTING, keys=f"{prefix}*")
    found.warning("redis.rights", f"refused: {', '.join(refused)}", hint)


async def _refused(client: Any, commands: list[tuple[str, ...]]) -> dict[str, str]:
    """What Redis says to each command that it does not let us send.

    By the driver's own connection, whose answers nobody parses: to a queued command they are no values.
    """
    refused = {}
    connection = await client.connection_pool.get_connection()
    try:
        for command in (("MULTI",), *commands):
            try:
                await connection.send_command(*command)
                await connection.read_response()
            except NoPermissionError as exc:
                refused[command[0].lower()] = str(exc)
            except ResponseError as exc:  # full, a replica: not a matter of rights, and told elsewhere
                _log.debug("doctor.not_queued", command=command[0], error=str(exc))
            else:
                continue
            if command == ("MULTI",):  # without it what follows would be carried out
                break
    finally:
        await connection.disconnect()  # and with it goes what was queued
        await client.connection_pool.release(connection)
    return refused
