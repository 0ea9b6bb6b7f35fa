"""A first configuration for what this machine has: servers that answer, servers from wheels, AWS credentials."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final
from urllib.parse import unquote, urlsplit

from sagaz_tiering.config.load import given_urls, variable_named
from sagaz_tiering.config.urls import EMBEDDED, has_password, without_secrets
from sagaz_tiering.embedded.servers import are_installed

_WITHIN_S: Final = 2.0
_REDIS: Final = ("127.0.0.1", 6379)
_POSTGRESQL: Final = ("127.0.0.1", 5432)
_HOT_URL: Final = "tiers.hot.url"
_CATALOG_URL: Final = "catalog.url"
_COLD_URL: Final = "tiers.cold.url"
_OWN: Final = "postgresql://sagaz@localhost/sagaz"
_AWS_VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was found. `redis`, `postgresql`: answers at its usual port here; `embedded`: the servers from wheels are
    installed; `aws`: where credentials come from, or None; `region`: of AWS, if one is set; `urls`: those that the
    environment sets, by setting and without passwords; `password`: whether PostgreSQL's is in the environment."""

    redis: bool
    postgresql: bool
    embedded: bool
    aws: str | None
    region: str | None
    urls: dict[str, str] = field(default_factory=dict)
    password: bool = False

    def told(self) -> Iterator[str]:
        """A sentence for each of them."""
        for name, found, (host, port), setting in (
            ("Redis", self.redis, _REDIS, _HOT_URL),
            ("PostgreSQL", self.postgresql, _POSTGRESQL, _CATALOG_URL),
        ):
            if setting in self.urls:
                yield f"{name}: {self.urls[setting]}, from {variable_named(setting)}"
            else:
                yield f"{name}: {'answers' if found else 'nothing answers'} at {host}:{port}"
        if _COLD_URL in self.urls:
            yield f"packs: {self.urls[_COLD_URL]}, from {variable_named(_COLD_URL)}"
        yield f"servers from wheels: {'' if self.embedded else 'not '}installed"
        yield "AWS: no credentials" if self.aws is None else f"AWS: credentials from {self.aws}"


async def look(environ: Mapping[str, str], home: Path) -> Machine:
    """What there is; asks only this machine. Raises ConfigError for a variable of ours that cannot be read."""
    given = given_urls(environ, (_HOT_URL, _CATALOG_URL, _COLD_URL))
    redis, postgresql = await asyncio.gather(
        _answers(_REDIS, b"PING\r\n", (b"+PONG", b"-NOAUTH")),
        # "Do you speak TLS?", to which PostgreSQL says yes or no in one letter.
        _answers(_POSTGRESQL, (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"), (b"S", b"N")),
    )
    return Machine(
        redis=redis,
        postgresql=postgresql,
        embedded=are_installed(),
        aws=_credentials(environ, home),
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or None,
        urls={name: without_secrets(url) for name, url in given.items()},
        password=has_password(given.get(_CATALOG_URL, "")) or bool(environ.get("PGPASSWORD")),
    )


async def _answers(address: tuple[str, int], question: bytes, answers: tuple[bytes, ...]) -> bool:
    try:
        async with asyncio.timeout(_WITHIN_S):
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(question)
                said = await reader.read(16)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return said.startswith(answers)


def _credentials(environ: Mapping[str, str], home: Path) -> str | None:
    named = next((name for name in _AWS_VARIABLES if environ.get(name)), None)
    if named is not None:
        return named
    file = home / ".aws" / "credentials"
    return str(file) if file.is_file() else None


def configuration(machine: Machine, bucket: str | None, data: str) -> str:
    """A commented configuration in YAML; packs go to `bucket` (`NAME` or `NAME/PREFIX`), else into the folder `data`,
    as the file names it.

    A URL that the environment sets is written as it is, without a password. Else a server that does not answer is one
    from wheels where they are installed, or is expected at its usual port.
    """
    starts = _from_wheels(machine)
    template = Template((files(__package__) / "first.yaml").read_text(encoding="utf-8"))
    return template.substitute(
        hot=EMBEDDED if "redis" in starts else json.dumps(machine.urls.get(_HOT_URL, "redis://localhost:6379/0")),
        catalog=EMBEDDED if "postgres" in starts else json.dumps(machine.urls.get(_CATALOG_URL, _OWN)),
        cold=_cold(machine, bucket, data),
        embedded=_embedded(starts, data),
    )


def preparations(machine: Machine) -> list[str]:
    """What that configuration needs first, as lines for a shell: the user and the database, but of a server from
    wheels."""
    if "postgres" in _from_wheels(machine):
        return []
    there = urlsplit(machine.urls.get(_CATALOG_URL, _OWN))
    user = shlex.quote(unquote(there.username or "") or "sagaz")
    database = shlex.quote(unquote(there.path.strip("/")) or "sagaz")
    return [
        f"createuser --pwprompt {user}; createdb --owner={user} --encoding=UTF8 {database}"
        "    # once, as PostgreSQL's administrator, unless they are there"
    ]


def password_advice(machine: Machine) -> str | None:
    """Where PostgreSQL's password belongs; None where it is given, or not asked for."""
    url = machine.urls.get(_CATALOG_URL, _OWN)
    if machine.password or "postgres" in _from_wheels(machine) or "@" not in url:
        return None
    with_password = url.replace("@", ":PASSWORD@", 1)
    return f"where PostgreSQL asks for a password: {variable_named(_CATALOG_URL)}={with_password}, or PGPASSWORD"


def _from_wheels(machine: Machine) -> list[str]:
    servers = (("postgres", machine.postgresql, _CATALOG_URL), ("redis", machine.redis, _HOT_URL))
    return [
        name
        for name, answers, setting in servers
        if machine.urls.get(setting, EMBEDDED if machine.embedded and not answers else "") == EMBEDDED
    ]


def _cold(machine: Machine, bucket: str | None, data: str) -> str:
    region = machine.region or "us-east-1"
    given = machine.urls.get(_COLD_URL)
    if bucket is None and given is not None:
        beside = f", region: {region}" if given.startswith("s3://") else ""
        return f"cold: {{url: {json.dumps(given)}{beside}}}"
    if bucket is None:
        return (
            f'cold: {{url: "file://{data}/cold"}}    # a folder; with S3 instead:\n'
            f'  # cold: {{url: "s3://BUCKET/sagaz", region: {region}}}'
        )
    where = bucket.removeprefix("s3://").strip("/")
    where = where if "/" in where else f"{where}/sagaz"
    return f'cold: {{url: "s3://{where}", region: {region}}}    # credentials: the environment, or the instance\'s role'


def _embedded(starts: list[str], data: str) -> str:
    if not starts:
        return ""
    return (
        "\n# Started and stopped with a process, shared by those beside it; for trying out and small installations.\n"
        f"embedded: {{data_dir: {data}, s3: false}}\n"
    )
