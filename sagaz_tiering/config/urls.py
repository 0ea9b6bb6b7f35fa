"""Where servers are: URLs that never show their password, and checks that name what is wrong with one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from pydantic import AfterValidator, Secret, SecretStr

from sagaz_tiering.config.schema import problem

EMBEDDED = "embedded"
"""The word that stands for a server of the `embedded` section instead of a URL."""

HIDDEN = "***"
_SECRET_PARAMETER = re.compile(r"(?i)([?&;\s][^=&;\s]*(?:pass|secret|token|key|credential|auth)[^=&;\s]*=)[^&;#\s]*")
MANY_HOSTS = re.compile(r"(rediss?)\+(cluster|sentinel)://((?:.*@)?)([^/?#]*)(?:/([^?#]*))?(\?.*)?", re.DOTALL)
"""A Cluster or Sentinels: scheme, kind, credentials with their `@`, hosts, path without its `/`, query with its `?`."""
SENTINEL_OPTION: Final = "sentinel_"
"""What the names of options begin with that are for connections to Sentinels."""
_USER = re.compile(r"[\w.%~-]+")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


def redacted(url: str) -> str:
    """`url` fit for logs and messages: passwords, also in query parameters, become `***`.

    Rather hides too much than too little: everything between the scheme and the last `@` counts as
    credentials, so that a password with an unescaped `/` or `#` does not show either.
    """
    head, at, rest = url.rpartition("@")
    if at:
        scheme, slashes, credentials = head.partition("://") if "://" in head else ("", "", head)
        user, colon, _ = credentials.partition(":")
        # What stands alone before the @ is a user with PostgreSQL, but often a password with Redis.
        alone = not colon and scheme in ("postgresql", "postgres") and _USER.fullmatch(user) is not None
        url = f"{scheme}{slashes}{user if colon or alone else ''}{colon}{'' if alone else HIDDEN}@{rest}"
    return _SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", url)


def has_password(url: str) -> bool:
    """Whether there is a password before the last `@`, or a secret query parameter. A user name alone is none."""
    head, at, _ = url.rpartition("@")
    credentials = head.partition("://")[2] or head
    return bool(at and ":" in credentials) or _SECRET_PARAMETER.search(url) is not None


def without_secrets(url: str) -> str:
    """`url` with its user but without its password, and without query parameters that are secret."""
    if not has_password(url):
        return url
    head, at, rest = url.rpartition("@")
    scheme, slashes, credentials = head.partition("://") if "://" in head else ("", "", head)
    user = credentials.partition(":")[0]
    if not _USER.fullmatch(user):  # none, or the @ stands behind the host, in a secret
        user = ""
    rest, mark, query = rest.partition("?")
    kept = "&".join(each for each in query.split("&") if not has_password(f"?{each}"))
    return f"{scheme}{slashes}{user}{at if user else ''}{rest}{mark if kept else ''}{kept}"


class SecretUrl(Secret[str]):
    """A URL that may hold a password: shown redacted everywhere; `get_secret_value()` is the real one."""

    given_in: str | None = None
    """The environment variable that it comes from."""

    def named(self, setting: str) -> str:
        """`setting`, with the variable that gave its value; for messages that say what to correct."""
        return f"{setting} ({self.given_in})" if self.given_in else setting

    def _display(self) -> str:
        return redacted(self.get_secret_value())

    @property
    def is_embedded(self) -> bool:
        """Whether this is the word `embedded` instead of a URL."""
        return self.get_secret_value() == EMBEDDED


def secret_or_none(text: str | None) -> SecretStr | None:
    """A key that is given in the clear, or not given, as sections hold it."""
    return None if text is None else SecretStr(text)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise problem(f"{redacted(url)!r} is not a URL: the host or port cannot be read") from exc
    return parts


def check_redis_url(secret: SecretUrl) -> SecretUrl:
    """Refuse what is neither `embedded` nor the URL of one Redis server or of one primary that Sentinels know.

    `redis://`, `rediss://`, `unix://`; `redis+sentinel://HOST[:PORT],HOST[:PORT]/NAME`, `rediss+sentinel://`.
    """
    url = secret.get_secret_value()
    if url == EMBEDDED:
        return secret
    scheme = url.partition("://")[0]
    if scheme in ("redis+cluster", "rediss+cluster"):
        raise problem(
            f"{scheme}:// is not supported by this version, since scripts of the hot tier touch keys of several slots; "
            "give the redis:// URL of one server, or redis+sentinel://HOST,HOST/NAME"
        )
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        _check_sentinels(url)
        return secret
    parts = _split(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise problem(f"{redacted(url)!r} is not a Redis URL; write redis://HOST:6379/0 (rediss:// for TLS)")
    if parts.scheme == "unix" and not parts.path.strip("/"):
        raise problem("a unix:// URL needs the path of the socket, such as unix:///run/redis/redis.sock")
    if parts.scheme != "unix" and not parts.hostname:
        raise problem(f"{redacted(url)!r} names no host; write redis://HOST:6379/0")
    if parts.scheme != "unix" and not re.fullmatch(r"/?[0-9]*", parts.path):
        raise problem(f"{redacted(url)!r}: the path must be the number of a database, such as /0")
    _check_options(url, [name for name, _ in parse_qsl(parts.query)])
    return secret


def _check_options(url: str, names: Iterable[str]) -> None:
    try:
        check_redis_options(names, scheme=url.partition("://")[0])
    except ValueError as exc:
        raise problem(f"{redacted(url)!r}: {exc}") from exc


_REDIS_OPTIONS: Final = frozenset(
    {"db", "username", "password", "protocol", "client_name", "lib_name", "lib_version", "encoding", "encoding_errors"}
    | {"socket_timeout", "socket_connect_timeout", "socket_read_size", "health_check_interval", "max_connections"}
    | {"decode_responses", "retry_on_timeout", "retry_on_error"}
)
_REDIS_TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers"}
    | {"ssl_keyfile", "ssl_min_version", "ssl_password", "ssl_include_verify_flags", "ssl_exclude_verify_flags"}
)


def check_redis_options(names: Iterable[str], *, scheme: str) -> None:
    """Refuse (ValueError) what the driver would trip over at the first call: what it does not know, TLS without TLS."""
    for name in names:
        if name in _REDIS_TLS_OPTIONS:
            if not scheme.startswith("rediss"):
                raise ValueError(f"{name} is for TLS, which is not asked for; write rediss://, or leave it out")
        elif name not in _REDIS_OPTIONS and not (name == "socket_keepalive" and scheme != "unix"):
            known = ", ".join(sorted({*_REDIS_OPTIONS, *_REDIS_TLS_OPTIONS, "socket_keepalive"}))
            raise ValueError(f"unknown option {name!r:.80} (known: {known})")


def _check_sentinels(url: str) -> None:
    shown, found = redacted(url), MANY_HOSTS.fullmatch(url)
    example = "write redis+sentinel://HOST:26379,HOST:26379/NAME"
    if found is None:
        raise problem(f"{shown!r} cannot be read; {example}")
    for host in found[4].split(","):
        if not _split(f"{found[1]}://{found[3]}{host}").hostname:
            raise problem(f"{shown!r}: a host is missing (a / in a password is %2F); {example}")
    name, _, database = (found[5] or "").strip("/").partition("/")
    if not name:
        raise problem(f"{shown!r} does not name the primary as the Sentinels know it; {example}")
    if not re.fullmatch(r"[0-9]*", database):
        raise problem(f"{shown!r}: what follows the name must be the number of a database, such as /{name}/0")
    options = parse_qsl((found[6] or "").removeprefix("?"))
    _check_options(url, [name for name, _ in options if not name.startswith(SENTINEL_OPTION)])
    try:
        typed_sentinel_options({name: value for name, value in options if name.startswith(SENTINEL_OPTION)})
    except ValueError as exc:
        raise problem(f"{shown!r}: {exc}") from exc


def _is_meant(value: str) -> bool:
    return value.upper() not in ("0", "F", "FALSE", "N", "NO")  # as the driver reads its own options


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


_SENTINEL_OPTIONS: Final[dict[str, Callable[[str], object]]] = {
    **dict.fromkeys(("username", "password", "client_name", "lib_name", "lib_version", "ssl_ciphers"), str),
    **dict.fromkeys(("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_ca_data", "ssl_cert_reqs"), str),
    **dict.fromkeys(("ssl", "ssl_check_hostname", "socket_keepalive"), _is_meant),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _seconds),
    **dict.fromkeys(("protocol", "health_check_interval", "ssl_min_version"), int),
}
"""What every version of the driver takes for a connection to a Sentinel, and how it is read."""


def typed_sentinel_options(options: Mapping[str, str]) -> dict[str, object]:
    """`sentinel_NAME` options of a URL as {NAME: value}. Raises ValueError, without the value, for what is wrong."""
    typed: dict[str, object] = {}
    for name, value in options.items():
        own = name.removeprefix(SENTINEL_OPTION)
        if own not in _SENTINEL_OPTIONS:
            known = ", ".join(SENTINEL_OPTION + each for each in _SENTINEL_OPTIONS)
            raise ValueError(f"unknown option {name!r} (known: {known})")
        try:
            typed[own] = _SENTINEL_OPTIONS[own](value)
        except ValueError:
            raise ValueError(f"{name} is not a number that can be used") from None
    return typed


_WITHOUT_EFFECT: Final = {
    "client_encoding": ("auto", "utf8", "utf-8", "unicode"),
    "gssencmode": ("disable", "prefer"),
    "channel_binding": ("disable", "prefer"),
    "sslcompression": ("0",),
    "keepalives": ("1",),
    "load_balance_hosts": ("disable",),
    "sslsni": ("1",),
}
"""Parameters of libpq that the driver does not know, with the values that ask for what is done anyway."""
_NOT_TO_BE_HAD: Final = frozenset(
    {
        *("hostaddr", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "replication"),
        *("sslcrldir", "requirepeer", "require_auth", "gssdelegation", "requiressl", "sslcertmode", "sslkeylogfile"),
        *("scram_client_key", "scram_server_key", "min_protocol_version", "max_protocol_version"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    """A PostgreSQL URL as the driver takes it; what it has no words for beside it.

    `connect_timeout_s`: of `connect_timeout`; `wants`: the `target_session_attrs` that the URL asks for, if it does.
    """

    url: str = field(repr=False)
    connect_timeout_s: float | None
    wants: str | None


def postgres_address(url: str) -> PostgresAddress:
    """Read a URL as libpq does: several hosts, and every parameter of libpq mapped or refused by its name.

    Parameters that libpq does not have are settings of the server, such as `search_path`. Raises ValueError, which
    never quotes a value.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError(f"{redacted(url)!r} is not a PostgreSQL URL; write postgresql://USER@HOST:5432/DATABASE")
    _check_hosts(url)
    base, mark, query = url.partition("?")
    timeout: float | None = None
    kept: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _NOT_TO_BE_HAD:
            raise ValueError(f"{redacted(url)!r}: {name} of libpq cannot be had here; leave it out")
        if name in _WITHOUT_EFFECT:
            if value.lower() not in _WITHOUT_EFFECT[name]:
                allowed = " or ".join(_WITHOUT_EFFECT[name])
                raise ValueError(f"{redacted(url)!r}: {name} can only be {allowed} here; leave it out")
        elif name == "connect_timeout":
            if not value.isdigit():
                raise ValueError(f"{redacted(url)!r}: connect_timeout is not a whole number of seconds")
            timeout = float(value) or None
        else:
            kept["application_name" if name == "fallback_application_name" else name] = value
    return PostgresAddress(
        url=f"{base}?{urlencode(kept)}" if mark and kept else base,
        connect_timeout_s=timeout,
        wants=kept.get("target_session_attrs"),
    )


def _check_hosts(url: str) -> None:
    """`HOST:PORT,HOST:PORT`, of which a URL's own syntax knows only one."""
    try:
        authority = urlsplit(url).netloc
    except ValueError:
        raise ValueError(f"{redacted(url)!r} is not a URL: the host cannot be read") from None
    authority = authority.partition("@")[2] if "@" in authority else authority  # as the driver splits it
    for host in authority.split(","):
        try:
            _ = urlsplit(f"//{host}").port
        except ValueError:
            raise ValueError(f"{redacted(url)!r} is not a URL: the host or port cannot be read") from None


def check_postgres_url(secret: SecretUrl) -> SecretUrl:
    """Refuse what is not a PostgreSQL URL or `embedded`, and parameters that would mean nothing."""
    url = secret.get_secret_value()
    if url != EMBEDDED:
        try:
            postgres_address(url)
        except ValueError as exc:
            raise problem(str(exc)) from None
    return secret


def database_identity(secret: SecretUrl) -> tuple[object, ...]:
    """What tells two PostgreSQL URLs apart: the same for two spellings of one connection."""
    url = secret.get_secret_value()
    if url == EMBEDDED:
        return (EMBEDDED,)
    parts = urlsplit(url)
    account, _, hosts = parts.netloc.rpartition("@")
    named = tuple(host if ":" in host.rpartition("]")[2] else f"{host}:5432" for host in hosts.lower().split(","))
    return (account, named, parts.path.strip("/"), tuple(sorted(parse_qsl(parts.query))))


def check_endpoint_url(url: str) -> str:
    """Refuse what is not an http(s) URL without credentials, or `embedded`."""
    if url == EMBEDDED:
        return url
    if "@" in url:
        raise problem("credentials do not belong in endpoint_url; use access_key_id and secret_access_key")
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise problem(f"{redacted(url)!r} is not an endpoint; write https://HOST or http://HOST:PORT")
    return url


def check_cold_url(url: str) -> str:
    """Refuse what is neither `s3://BUCKET/PREFIX` nor `file:///DIRECTORY`; trailing slashes are dropped."""
    if url.startswith("file://"):
        path = file_path(url)
        if not path.parts or path.parts[0].startswith("~"):
            raise problem("a file:// URL needs a directory, such as file:///var/lib/sagaz-tiering/cold (no ~)")
        return url
    if not url.startswith("s3://"):
        raise problem(f"{redacted(url)!r} is not a cold tier; write s3://BUCKET/PREFIX or file:///DIRECTORY")
    if "@" in url or "?" in url:
        raise problem("an s3:// URL holds only bucket and prefix; region, endpoint_url and keys are settings beside it")
    bucket, prefix = bucket_and_prefix(url)
    if not _BUCKET.fullmatch(bucket):
        raise problem(f"{bucket!r} is not a bucket name; write s3://BUCKET/PREFIX")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise problem(f"the prefix {prefix!r} has empty, '.' or '..' parts; write s3://BUCKET/PREFIX")
    if not prefix.isprintable() or len(prefix.encode()) > 512:
        raise problem("the prefix must be printable and at most 512 bytes long")
    return url.rstrip("/")


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """Bucket and key prefix (without slashes around it, may be empty) of an `s3://` URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return bucket, prefix.strip("/")


def file_path(url: str) -> Path:
    """The directory of a `file://` URL; relative where the URL is (`file://../cold`)."""
    text = unquote(url.removeprefix("file://"))
    return Path(text.removeprefix("localhost") if text.startswith("localhost/") else text)


RedisUrl = Annotated[SecretUrl, AfterValidator(check_redis_url)]
PostgresUrl = Annotated[SecretUrl, AfterValidator(check_postgres_url)]
EndpointUrl = Annotated[str, AfterValidator(check_endpoint_url)]
ColdUrl = Annotated[str, AfterValidator(check_cold_url)]
