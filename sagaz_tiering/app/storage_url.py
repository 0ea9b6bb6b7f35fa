"""A storage from one line of text: a URL with options, or the configuration file of a tiered storage.

    memory://                                       no options
    file:///FOLDER                                  enable_compression, pretty_json, max_concurrency, io_timeout
    redis://… rediss://… unix:///…                  key_prefix, default_ttl, enable_compression, compression_level,
      redis+cluster://… redis+sentinel://…            max_connections, socket_timeout; and the driver's own
    postgresql://…                                  pool_min_size, pool_max_size, command_timeout,
                                                      statement_cache_size; and libpq's own
    s3://BUCKET/PREFIX                              region_name, endpoint_url, storage_class, enable_compression, …
    FILE.yaml, tiered:FILE                          none: all is in the file
    export:///FOLDER export:///FILE.zip             key (a public key's file); an export, only to be read
    sagaz+redis://… sagaz+s3://…                    what sagaz's own storages wrote, only to be read
      sagaz+postgresql://… sagaz+file://…

Options are those of the storage's constructor, in the query of the URL. S3 credentials are best left to the
environment (AWS_ACCESS_KEY_ID, …): a command line is seen by others.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote, unquote_plus

from pydantic import BeforeValidator, SecretStr, TypeAdapter, ValidationError

from sagaz_tiering import storage
from sagaz_tiering.clock import Clock
from sagaz_tiering.config.units import ByteSize, Duration
from sagaz_tiering.config.urls import HIDDEN, bucket_and_prefix, check_cold_url, file_path, redacted
from sagaz_tiering.errors import CatalogUnavailable, ConfigError
from sagaz_tiering.storage.base import SnapshotSource, SnapshotStorage

FOREIGN: Final = "sagaz+"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PLAIN: Final = {"int_parsing": "must be a whole number", "bool_parsing": "must be true or false"}
_FORMS: Final = (
    "redis://HOST:6379/0, postgresql://USER@HOST/DATABASE, s3://BUCKET/PREFIX, file:///FOLDER, memory://, the path "
    "of a configuration (FILE.yaml), export:///FOLDER for what `sagaz-tiering export` wrote, or sagaz+redis://… and so "
    "on for what sagaz itself wrote"
)
_REDIS_OWN: Final = (
    r"(ssl|sentinel|socket)_\w+|db|username|password|client_name|lib_\w+|protocol|health_check_interval|retry_on_timeout"
    r"|decode_responses|path|virtual_host"
)
_LIBPQ_OWN: Final = r"\w+"
"""Any setting of the server may stand there; what looks like a typo of ours is refused all the same."""


def _seconds(value: object) -> object:
    """A bare number counts as seconds, as Redis's driver has it; else as durations are written everywhere."""
    plain = isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value)
    return timedelta(seconds=float(str(value))) if plain else value


Seconds = Annotated[Duration, BeforeValidator(_seconds)]


_READ_AS: Final[dict[str, Any]] = {
    **dict.fromkeys(("key_prefix", "prefix", "region_name", "endpoint_url", "storage_class"), str),
    **dict.fromkeys(("key", "kms_key_id", "checksums"), str),
    **dict.fromkeys(("access_key_id", "secret_access_key"), SecretStr),
    **dict.fromkeys(("enable_compression", "enable_encryption", "pretty_json"), bool),
    **dict.fromkeys(("max_concurrency", "default_ttl", "compression_level", "max_connections"), int),
    **dict.fromkeys(("pool_min_size", "pool_max_size", "statement_cache_size"), int),
    **dict.fromkeys(("io_timeout", "socket_timeout", "command_timeout", "request_timeout"), Seconds),
    "multipart_threshold": ByteSize,
}
"""What the text of an option in a URL stands for; its default is the constructor's."""


class _Kind(NamedTuple):
    """A kind of storage: its class, the argument that the URL without its options is, and the options it may give.

    Options are arguments of the constructor. `own` matches the names of its driver's parameters, which stay in the URL.
    """

    name: str
    place: str = ""
    options: tuple[str, ...] = ()
    own: str = ""


_BUCKET: Final = ("region_name", "endpoint_url", "access_key_id", "secret_access_key")
_COMPRESSION: Final = ("enable_compression", "compression_level")
_AT_REST: Final = ("enable_encryption", "storage_class", "kms_key_id", "checksums", "multipart_threshold")
_FILES: Final = ("enable_compression", "pretty_json", "max_concurrency", "io_timeout")
_KEYS: Final = ("key_prefix", "default_ttl", *_COMPRESSION, "max_connections", "socket_timeout")
_POOL: Final = ("pool_min_size", "pool_max_size", "command_timeout", "statement_cache_size")
_OBJECTS: Final = (*_BUCKET, *_COMPRESSION, *_AT_REST, "max_connections", "request_timeout")
_STORAGES: Final = {
    "memory": _Kind("InMemorySnapshotStorage"),
    "file": _Kind("FilesystemSnapshotStorage", "base_path", _FILES),
    "redis": _Kind("RedisSnapshotStorage", "redis_url", _KEYS, _REDIS_OWN),
    "postgresql": _Kind("PostgreSQLSnapshotStorage", "connection_string", _POOL, _LIBPQ_OWN),
    "s3": _Kind("S3SnapshotStorage", "bucket_name", _OBJECTS),
    "tiered": _Kind("TieredSnapshotStorage"),
    "export": _Kind("ExportSource", "path", ("key",)),
}
_FOREIGN: Final = {
    "file": _Kind("SagazFilesystemSource", "base_path"),
    "redis": _Kind("SagazRedisSource", "redis_url", ("key_prefix",), _REDIS_OWN),
    "postgresql": _Kind("SagazPostgreSQLSource", "connection_string", (), _LIBPQ_OWN),
    "s3": _Kind("SagazS3Source", "bucket_name", (*_BUCKET, "prefix")),  # `prefix` is for one that ends in no slash
}
_FAMILY: Final = {
    **dict.fromkeys(("redis", "rediss", "unix"), "redis"),
    **dict.fromkeys((f"{s}+{kind}" for s in ("redis", "rediss") for kind in ("cluster", "sentinel")), "redis"),
    **dict.fromkeys(("postgresql", "postgres"), "postgresql"),
    **{name: name for name in ("memory", "file", "s3", "tiered", "export")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a storage is. `shown` has no secrets and tells one place from another; `arguments` make the storage."""

    family: str
    is_foreign: bool
    shown: str
    arguments: dict[str, Any] = field(repr=False)

    @property
    def is_memory(self) -> bool:
        """Whether it ends with this process."""
        return self.family == "memory"


@asynccontextmanager
async def open_storage(url: str | Path, *, clock: Clock | None = None) -> AsyncIterator[SnapshotStorage]:
    """The storage that `url` names, for an `async with` block; servers are connected to when first used.

    Raises ConfigError for what is not such a URL or has options that are not known, and MissingDependencyError.
    """
    address = parse_address(url)
    if address.family == "export":
        raise ConfigError(f"{address.shown} can only be read", hint="transfer from it, into a storage")
    if address.is_foreign:
        raise ConfigError(
            f"{address.shown} can only be read: it is in the form of sagaz's own storages",
            hint=f"transfer from it into one of ours, such as {address.shown.removeprefix(FOREIGN)}",
        )
    async with _opening(address, clock) as opened:
        yield opened


@asynccontextmanager
async def open_source(url: str | Path, *, clock: Clock | None = None) -> AsyncIterator[SnapshotSource]:
    """Like `open_storage`, and an export or what sagaz's own storages wrote (`sagaz+redis://…`) too."""
    async with _opening(parse_address(url), clock) as source:
        yield source


def _opening(address: Address, clock: Clock | None) -> Any:
    if address.family == "tiered":
        return _tiered(address.arguments["config"], clock)
    if address.family == "export":
        from sagaz_tiering.exports.source import ExportSource

        return ExportSource(**address.arguments)
    if address.is_foreign:
        from sagaz_tiering.sagaz_engine import imports  # with the drivers of all

        return getattr(imports, _FOREIGN[address.family].name)(**address.arguments, clock=clock)
    return getattr(storage, _STORAGES[address.family].name)(**address.arguments, clock=clock)


@asynccontextmanager
async def _tiered(config: str, clock: Clock | None) -> AsyncIterator[SnapshotStorage]:
    """Raises SchemaMismatch for a catalog that is not there; one that is down is for the first call to tell."""
    from sagaz_tiering.app.runtime import open_runtime, read_config
    from sagaz_tiering.catalog.migrations import check_schema

    async with open_runtime(read_config(config), clock=clock) as runtime:
        with suppress(CatalogUnavailable):
            await check_schema(runtime.db)
        yield runtime.storage()


def parse_address(url: str | Path) -> Address:
    """What `url` names, checked as far as that goes without opening anything. Raises ConfigError."""
    text = str(url).strip()
    is_foreign = text.lower().startswith(FOREIGN)
    own = text[len(FOREIGN) :] if is_foreign else text
    scheme = _SCHEME.match(own)
    family = _FAMILY.get(scheme[1].lower()) if scheme else "tiered"
    kinds = _FOREIGN if is_foreign else _STORAGES
    if not own or family not in kinds:
        raise ConfigError(f"{redacted(text)!r} is not the place of a storage", hint=f"give one of: {_FORMS}")
    if family == "tiered":
        path = str(Path(own.partition(":")[2] if scheme else own).absolute())
        return Address(family=family, is_foreign=False, shown=path, arguments={"config": path})
    kind = kinds[family]
    bare, query = _split_query(own, kind, shown=redacted(text))
    place: dict[str, Any] = {kind.place: bare} if kind.place else {}
    if family in ("file", "export"):
        path = str(file_path(_checked_url(f"file:{bare.partition(':')[2]}")).absolute())
        bare, place = f"{family}://{quote(path)}", {kind.place: path}
    elif family == "s3":
        bucket, prefix = bucket_and_prefix(_checked_url(bare))
        place = {kind.place: bucket, **({"prefix": f"{prefix}/"} if prefix else {})}
    arguments = {**place, **_checked(query, shown=redacted(text))}
    options = _shown_options(query, joint="&" if "?" in bare else "?")
    shown = (FOREIGN if is_foreign else "") + redacted(bare) + options
    return Address(family=family, is_foreign=is_foreign, shown=shown, arguments=arguments)


def _checked_url(bare: str) -> str:
    try:
        return check_cold_url(bare)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc


def _split_query(url: str, kind: _Kind, *, shown: str) -> tuple[str, dict[str, str]]:
    """The URL without our options (with its driver's), and our options."""
    bare, mark, query = url.partition("?")
    kept, found = list[str](), dict[str, str]()
    for part in query.split("&") if mark else ():
        name, _, value = part.partition("=")
        name = unquote_plus(name)
        if not part:
            continue
        if name not in kind.options:
            if _near(name, kind) or not re.fullmatch(kind.own, name):
                known, near = ", ".join(kind.options) or "there are none", _near(name, kind)
                hint = (f"did you mean {near}? " if near else "") + f"options of {kind.name}: {known}"
                raise ConfigError(f"{shown}: unknown option {name!r:.80}", hint=hint)
            kept.append(part)
        elif name in found:
            raise ConfigError(f"{shown}: {name} is given twice", hint="give it once")
        else:
            found[name] = unquote_plus(value)
    return "?".join([bare, "&".join(kept)] if kept else [bare]), found


def _near(name: str, kind: _Kind) -> str:
    return next(iter(difflib.get_close_matches(name.lower(), kind.options, n=1, cutoff=0.8)), "")


def _checked(query: dict[str, str], *, shown: str) -> dict[str, Any]:
    """The options as arguments of the constructor."""
    values = dict[str, Any]()
    for name, text in query.items():
        try:
            value = TypeAdapter(_READ_AS[name]).validate_python(text)
        except ValidationError as exc:
            error = exc.errors(include_input=False)[0]
            reason = _PLAIN.get(error["type"], error["msg"])
            # The cause would carry the value, which may be a secret.
            raise ConfigError(f"{shown}: {name} {reason}", hint="correct it in the URL") from None
        values[name] = value.get_secret_value() if isinstance(value, SecretStr) else value
    return values


def _shown_options(query: dict[str, str], *, joint: str) -> str:
    """Our options again, without secrets; a prefix is none, though `redacted` thinks so of all that is called key."""
    secret = {name for name in query if _READ_AS[name] is SecretStr}
    shown = [f"{name}={HIDDEN if name in secret else quote(value, safe='/:')}" for name, value in sorted(query.items())]
    return joint + "&".join(shown) if shown else ""
