"""Where a `PostgreSQLSnapshotStorage` is, fit to be shown, checked as far as that goes without connecting."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sagaz_tiering.config.urls import postgres_address, redacted
from sagaz_tiering.errors import ConfigError

_HINT = "give a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE, or set PGHOST, PGDATABASE and so on"
_SAYS_WHERE = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")


_WHERE: Final = ("host", "port", "database", "user")
_POOL_OPTIONS: Final = frozenset(
    {*_WHERE, "password", "passfile", "ssl", "direct_tls", "krbsrvname", "gsslib", "timeout", "server_settings"}
    | {"target_session_attrs", "max_cached_statement_lifetime", "max_cacheable_statement_size"}
    | {"max_queries", "max_inactive_connection_lifetime", "init", "setup"}
)


def checked_options(pool_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Options for the driver. Raises ConfigError for one that it does not know, or that the storage sets itself."""
    for name in pool_kwargs:
        if name not in _POOL_OPTIONS:
            raise ConfigError(
                f"PostgreSQLSnapshotStorage does not take the option {name!r:.80}",
                hint=f"beside its own it takes these of asyncpg.create_pool: {', '.join(sorted(_POOL_OPTIONS))}",
            )
    return dict(pool_kwargs)


def shown_url(
    connection_string: str | None, environment: Mapping[str, str], pool_kwargs: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """The URL without its password, and what goes before it; what libpq's environment says where there is none.

    Raises ConfigError.
    """
    where = ", ".join(f"{name}={pool_kwargs[name]}" for name in _WHERE if name in pool_kwargs)
    shown = _shown_url(connection_string, environment, says_where=bool(where))
    return f"{shown} ({where})" if where else shown


def _shown_url(connection_string: str | None, environment: Mapping[str, str], *, says_where: bool) -> str:
    if connection_string is None:
        if not says_where and not any(environment.get(name) for name in _SAYS_WHERE):
            raise ConfigError(
                "connection_string is not given, nor does the environment say where PostgreSQL is", hint=_HINT
            )
        host, port = environment.get("PGHOST", "localhost"), environment.get("PGPORT", "5432")
        return f"{host}:{port}/{environment.get('PGDATABASE', '')} (from the environment)"
    if not isinstance(connection_string, str):
        raise ConfigError(f"connection_string must be a URL, not {type(connection_string).__name__}", hint=_HINT)
    if not connection_string.startswith(("postgresql://", "postgres://")):
        raise ConfigError(f"connection_string is not a PostgreSQL URL: {redacted(connection_string)}", hint=_HINT)
    try:
        postgres_address(connection_string)
    except ValueError as exc:
        raise ConfigError(f"connection_string: {exc}", hint=_HINT) from None
    return redacted(connection_string)
