"""Where a `PostgreSQLSnapshotStorage` is, fit to be shown, checked as far as that goes without connecting."""

from __future__ import annotations

from collections.abc import Mapping

from sagaz_tiering.errors import ConfigError
from sagaz_tiering.urls import postgres_address, redacted

_HINT = "give a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE, or set PGHOST, PGDATABASE and so on"
_SAYS_WHERE = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")


def shown_url(connection_string: str | None, environment: Mapping[str, str]) -> str:
    """The URL without its password; what libpq's environment says where there is no URL. Raises ConfigError."""
    if connection_string is None:
        if not any(environment.get(name) for name in _SAYS_WHERE):
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
