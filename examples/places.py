"""Where the examples find their servers: given by arguments, else started here and gone at the end.

    python examples/backends.py                                    # real servers from wheels, nothing to install
    python examples/backends.py --redis redis://localhost:6379 --postgres postgresql://me@localhost/trial \
        --s3 http://localhost:9000 --bucket trial                  # yours (S3 keys: AWS_ACCESS_KEY_ID, …)
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sagaz_tiering.embedded import EmbeddedServers

BUCKET = "saga-snapshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """URLs of the servers that were asked for, a folder for files, and how to reach the bucket."""

    folder: Path
    redis_url: str = ""
    postgres_url: str = ""
    s3: dict[str, Any] = field(default_factory=dict)
    """`bucket_name`, `endpoint_url` and keys: arguments of S3SnapshotStorage."""


@asynccontextmanager
async def open_places(
    description: str | None,
    *,
    redis: bool = False,
    postgres: bool = False,
    s3: bool = False,
    durable: bool = False,
    more: argparse.ArgumentParser | None = None,
) -> AsyncIterator[Places]:
    """What the arguments say; what they leave out is started.

    `durable`: those started flush what they acknowledge. `more`: arguments that the script itself reads.
    """
    given = _arguments(description, more, redis=redis, postgres=postgres, s3=s3)
    with TemporaryDirectory(prefix="sagaz-tiering-example-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with EmbeddedServers.start(
            folder / "servers",
            redis=redis and not given.redis,
            postgres=postgres and not given.postgres,
            s3=s3 and not given.s3,
            bucket=BUCKET,
            durable=durable,
        ) as started:
            yield Places(
                folder=folder,
                redis_url=given.redis or (started.redis_url if redis else ""),
                postgres_url=given.postgres or (started.postgres_url if postgres else ""),
                s3=_bucket(given, started) if s3 else {},
            )


def tiered_config(places: Places, policies: str) -> Path:
    """The configuration of a TieredSnapshotStorage on these servers; `policies` is YAML."""
    s3 = places.s3
    lines = [
        "tiers:",
        f'  hot: {{url: "{places.redis_url}"}}',
        "  cold:",
        f"    url: s3://{s3['bucket_name']}/tiered",
        "    region: us-east-1",
        *(f'    {key}: "{s3[key]}"' for key in ("endpoint_url", "access_key_id", "secret_access_key") if s3.get(key)),
        f'catalog: {{url: "{places.postgres_url}"}}',
        policies,
    ]
    path = places.folder / "tiering.yaml"
    path.touch(mode=0o600)  # it holds passwords
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _arguments(
    description: str | None, more: argparse.ArgumentParser | None, *, redis: bool, postgres: bool, s3: bool
) -> Any:
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[] if more is None else [more],
    )
    parser.set_defaults(redis=None, postgres=None, s3=None, bucket=BUCKET)
    if redis:
        parser.add_argument("--redis", metavar="URL", help="default: one is started")
    if postgres:
        parser.add_argument("--postgres", metavar="URL", help="default: one is started")
    if s3:
        parser.add_argument("--s3", metavar="ENDPOINT", help="default: one is started")
        parser.add_argument("--bucket", help=f"default: {BUCKET}")
    return parser.parse_args()


def _bucket(given: Any, started: EmbeddedServers) -> dict[str, Any]:
    if given.s3:
        return {"bucket_name": given.bucket, "endpoint_url": given.s3}
    return {"bucket_name": BUCKET, "endpoint_url": started.s3_endpoint, **started.s3_credentials._asdict()}
