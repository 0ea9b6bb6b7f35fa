"""The URL of a Redis server, Cluster or group of Sentinels, taken apart and checked; nothing is connected to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from inspect import signature
from typing import Any, Literal

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url

from sagaz_tiering.config.urls import MANY_HOSTS, SENTINEL_OPTION, check_redis_options, redacted, typed_sentinel_options
from sagaz_tiering.errors import ConfigError

_PORTS = {"cluster": 6379, "sentinel": 26379}
_DONE_BY_US = frozenset({"retry", "retry_on_timeout", "retry_on_error"})
"""Options of the driver that are taken and left: the storage asks again by itself, where that is safe."""
_TLS_OPTIONS = frozenset(signature(SSLConnection.__init__).parameters) - {"self", "kwargs"}
_CONNECTION_OPTIONS = frozenset(
    {"db", "username", "password", "credential_provider", "protocol", "client_name", "lib_name", "lib_version"}
    | {"socket_connect_timeout", "socket_keepalive", "socket_keepalive_options", "socket_read_size"}
    | {"health_check_interval", "encoding", "encoding_errors"}
) & (signature(AbstractConnection.__init__).parameters.keys() | signature(Connection.__init__).parameters.keys())
_PLACE = frozenset({"host", "port", "path", "connection_class"})
"""What the driver makes of the rest of a URL."""
_EXAMPLES = "redis://HOST:6379/0, rediss://…, unix:///PATH, redis+cluster://HOST,HOST, redis+sentinel://HOST,HOST/NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where Redis is. `options` are the driver's for each connection; `hosts` those of a Cluster or of Sentinels."""

    kind: Literal["single", "cluster", "sentinel"]
    shown_url: str
    options: dict[str, Any] = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    tls: bool = False
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """How to reach Redis, and the pattern of our keys there.

    `socket_timeout`: to connect, and for an answer. More callers than `max_connections` wait for `place_timeout`;
    None: until it is their turn, and then the call has a deadline of its own, and is made again where its connection
    was lost. `when_full` and `when_node` say what to do about memory, and where one server was meant, not a Cluster's.
    """

    address: RedisAddress
    setting: str = "redis_url"
    keys: str = "*"
    max_connections: int
    socket_timeout: timedelta
    place_timeout: timedelta | None = None
    when_full: str = "raise maxmemory, or let snapshots expire (default_ttl, retention_until)"
    when_node: str = "write redis+cluster://… in redis_url"


def parse_redis_url(url: object, *, setting: str = "redis_url") -> RedisAddress:
    """The address that `url` tells. Raises ConfigError that names `setting` and what is wrong."""
    if not isinstance(url, str) or not url:
        raise ConfigError(f"{setting} must be a URL", hint=f"one of {_EXAMPLES}")
    shown = redacted(url)
    try:
        many = MANY_HOSTS.fullmatch(url)
        if many is not None:
            address = _parse_many(many, shown)
        else:
            address = RedisAddress(kind="single", shown_url=shown, options=_options_in(url))
            if not address.options.get("host") and not address.options.get("path"):
                raise ValueError("it names no host")
    except ValueError as exc:
        raise ConfigError(f"{setting} is not a Redis URL: {shown}: {exc}", hint=f"one of {_EXAMPLES}") from exc
    if str(address.options.pop("decode_responses", False)).lower() not in ("", "0", "false", "no", "none"):
        raise ConfigError(
            f"{setting} asks for decode_responses, which cannot be used: values are bytes, not text",
            hint=f"remove decode_responses from {setting}",
        )
    return address


def with_driver_options(address: RedisAddress, given: Mapping[str, Any]) -> RedisAddress:
    """`address` with options that sagaz's storage hands to the driver; what the URL says goes before them.

    Raises ConfigError for what the driver does not know, or what the storage cannot work with.
    """
    options = {name: value for name, value in given.items() if name not in _DONE_BY_US and value is not None}
    tls = options.pop("ssl", False) or address.tls or "connection_class" in address.options
    if options.pop("decode_responses", False):
        raise ConfigError("decode_responses cannot be used: values are bytes, not text", hint="leave it out")
    known = _TLS_OPTIONS | _CONNECTION_OPTIONS
    if unknown := sorted(set(options) - known):
        raise ConfigError(
            f"RedisSnapshotStorage does not know the option {unknown[0]!r:.80}",
            hint=f"beside its own it takes those of a connection of redis-py: ssl, {', '.join(sorted(known))}",
        )
    if not tls and (needless := sorted(set(options) & _TLS_OPTIONS)):
        raise ConfigError(
            f"{needless[0]} is for TLS, which is not asked for", hint="write rediss://…, or give ssl=True"
        )
    if tls and address.kind == "single":
        if "path" in address.options:
            raise ConfigError("ssl=True cannot be used with a Unix socket", hint="leave it out")
        options["connection_class"] = SSLConnection
    if tls and options.get("ssl_cert_reqs") != "none":
        options.setdefault("ssl_check_hostname", True)
    if address.kind == "cluster" and options.pop("db", 0):
        raise ConfigError("a Cluster has only database 0", hint="leave out db")
    return replace(address, options={**options, **address.options}, tls=tls)


def _options_in(url: str, *, beside: str = "\0") -> dict[str, Any]:
    """The driver's options; its versions before 6 look at the name in a certificate only where they are told to.

    Names that begin with `beside` are not the driver's. Raises ValueError for what it would trip over.
    """
    options = dict(parse_url(url))
    if options.get("host") or options.get("path"):  # else a password is taken for options
        asked = [name for name in options if name not in _PLACE and not name.startswith(beside)]
        check_redis_options(asked, scheme=url.partition("://")[0])
    for name in _DONE_BY_US & options.keys():
        del options[name]
    if options.get("connection_class") is SSLConnection and options.get("ssl_cert_reqs") != "none":
        options.setdefault("ssl_check_hostname", True)
    return options


def _parse_many(parts: re.Match[str], shown: str) -> RedisAddress:
    scheme, kind, account, netloc, path, query = (part or "" for part in parts.groups())
    beside = SENTINEL_OPTION if kind == "sentinel" else "\0"
    found = [_options_in(f"{scheme}://{account}{host}{query}", beside=beside) for host in netloc.split(",")]
    if any(not one.get("host") for one in found):
        raise ValueError("a host is missing")
    hosts = tuple((str(one["host"]), int(str(one.get("port", _PORTS[kind])))) for one in found)
    options = {name: value for name, value in found[0].items() if name not in ("host", "port", "connection_class")}
    tls = found[0].get("connection_class") is SSLConnection
    address = RedisAddress(kind="cluster", shown_url=shown, options=options, hosts=hosts, tls=tls)
    if kind == "cluster":
        if path.strip("/") not in ("", "0") or options.pop("db", 0):
            raise ValueError("a Cluster has only database 0")
        return address
    service, _, database = path.strip("/").partition("/")
    if not service:
        raise ValueError("it does not name the primary (…/NAME)")
    if database:
        options["db"] = int(database)
    own = {name: str(options.pop(name)) for name in list(options) if name.startswith(SENTINEL_OPTION)}
    return replace(address, kind="sentinel", service=service, sentinel_options=typed_sentinel_options(own))
