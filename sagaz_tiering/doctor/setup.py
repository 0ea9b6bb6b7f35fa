"""A first configuration for what this machine has: servers that answer, servers from wheels, AWS credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from sagaz_tiering.embedded.servers import are_installed

_WITHIN_S: Final = 2.0
_REDIS: Final = ("127.0.0.1", 6379)
_POSTGRESQL: Final = ("127.0.0.1", 5432)
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
    installed; `aws`: where credentials come from, or None; `region`: of AWS, if one is set."""

    redis: bool
    postgresql: bool
    embedded: bool
    aws: str | None
    region: str | None

    def told(self) -> Iterator[str]:
        """A sentence for each of them."""
        for name, found, (host, port) in (
            ("Redis", self.redis, _REDIS),
            ("PostgreSQL", self.postgresql, _POSTGRESQL),
        ):
            yield f"{name}: {'answers' if found else 'nothing answers'} at {host}:{port}"
        yield f"servers from wheels: {'' if self.embedded else 'not '}installed"
        yield "AWS: no credentials" if self.aws is None else f"AWS: credentials from {self.aws}"


async def look(environ: Mapping[str, str], home: Path) -> Machine:
    """What there is; asks only this machine."""
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

    A server that does not answer is one from wheels where they are installed; else it is expected at its usual port.
    """
    starts = _from_wheels(machine)
    template = Template((files(__package__) / "first.yaml").read_text(encoding="utf-8"))
    return template.substitute(
        hot="embedded" if "redis" in starts else '"redis://localhost:6379/0"',
        catalog="embedded" if "postgres" in starts else '"postgresql://sagaz@localhost/sagaz"',
        cold=_cold(machine, bucket, data),
        embedded=_embedded(starts, data),
    )


def preparations(machine: Machine) -> list[str]:
    """What that configuration needs first, as lines for a shell: the user and the database, but of a server from
    wheels."""
    if "postgres" in _from_wheels(machine):
        return []
    return [
        "createuser sagaz; createdb --owner=sagaz --encoding=UTF8 sagaz"
        "    # once, as PostgreSQL's administrator, unless they are there"
    ]


def _from_wheels(machine: Machine) -> list[str]:
    answers = {"postgres": machine.postgresql, "redis": machine.redis}
    return [name for name, found in answers.items() if machine.embedded and not found]


def _cold(machine: Machine, bucket: str | None, data: str) -> str:
    region = machine.region or "us-east-1"
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
