"""Where the demonstration lives: its folder, its servers and the configuration that a real installation would have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sagaz_tiering.app.runtime import Runtime, open_runtime
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import Clock
from sagaz_tiering.config.load import load_config
from sagaz_tiering.drivers.files import open_private, refusing
from sagaz_tiering.embedded import EmbeddedServers
from sagaz_tiering.errors import ConfigError

BUCKET = "sagaz-demo"

ATTRIBUTES = {"payment-transfer": "payment", "order-fulfilment": "order", "health-record-export": "export"}
"""The number that people know each kind of saga by: the name of the attribute, and where it is in the context."""

POLICIES = """\
attributes:                         # what sagas are found by, in every tier
  - {name: payment, path: payment, saga_name: "payment-*"}
  - {name: order, path: order, saga_name: "order-*"}
  - {name: export, path: export, saga_name: "health-*"}
policies:
  - name: payments                  # tax law: seven years
    match: {saga_name: "payment-*"}
    even_if_costlier: true          # packs of a demonstration are too small to be worth moving
    durability: durable             # acknowledged when PostgreSQL has it
    move: [{to: STANDARD_IA, after: 7d}, {to: GLACIER, after: 90d}]
    retain: 2555d
  - name: orders                    # until the last warranty claim is settled
    match: {saga_name: "order-*"}
    even_if_costlier: true
    durability: hot                 # acknowledged when Redis has it
    move: [{to: STANDARD_IA, after: 7d}, {to: GLACIER_IR, after: 60d}]
    retain: 400d
  - name: health-records            # never deleted
    match: {saga_name: "health-*"}
    retain: forever
    even_if_costlier: true
    move: [{to: STANDARD_IA, after: 7d}, {to: DEEP_ARCHIVE, after: 365d}]
  - name: everything-else           # kept as long as each snapshot says itself
    match: {}
    retention: snapshot
"""

_ON_S3 = """\
tiers:
  hot: {{url: "{redis_url}"}}
  cold:
    url: "s3://{bucket}/demo"
    region: us-east-1
    endpoint_url: "{s3_endpoint}"
    access_key_id: "{access_key_id}"
    secret_access_key: "{secret_access_key}"
catalog: {{url: "{postgres_url}"}}
schedule: {{restore: {{every: 5s}}}}
"""

_ON_DISK = """\
tiers:
  hot: {{url: "{redis_url}"}}
  cold: {{url: "file://cold"}}
catalog: {{url: "{postgres_url}"}}
"""

_KEPT = """\
# The servers of the demonstration, to look around:
#   sagaz-tiering status --config {file}
"""


@asynccontextmanager
async def demo_runtime(keep: Path | None, clock: Clock) -> AsyncIterator[Runtime]:
    """Servers started, catalog migrated, everything opened; gone at the end unless `keep` names a folder.

    Raises ConfigError for a `keep` that is not an empty folder, and what the servers' start raises.
    """
    with _folder(keep) as folder:
        async with EmbeddedServers.start(
            folder / "servers", s3=keep is None, durable=keep is not None, bucket=None if keep else BUCKET
        ) as servers:
            path = _write(folder / "demo.yaml", _configuration(servers) + POLICIES)
            config = load_config(path, {})  # the environment may name servers that are in use
            if keep is not None:
                path.unlink()
                _write(folder / "tiering.yaml", _kept_configuration(folder))
            async with open_runtime(config, clock=clock) as runtime:
                await migrate(runtime.db)
                yield runtime


def _configuration(servers: EmbeddedServers) -> str:
    if servers.s3 is None:
        return _ON_DISK.format(redis_url=servers.redis_url, postgres_url=servers.postgres_url)
    return _ON_S3.format(
        redis_url=servers.redis_url,
        postgres_url=servers.postgres_url,
        bucket=BUCKET,
        s3_endpoint=servers.s3_endpoint,
        **servers.s3_credentials._asdict(),
    )


def _kept_configuration(folder: Path) -> str:
    text = _ON_DISK.format(redis_url="embedded", postgres_url="embedded")
    return _KEPT.format(file=folder / "tiering.yaml") + text + "embedded: {data_dir: servers}\n" + POLICIES


def _write(path: Path, text: str) -> Path:
    """Readable by its owner alone: it holds the servers' passwords."""
    with open(path, "x", encoding="utf-8", opener=open_private) as file:
        file.write(text)
    return path


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder, which is gone at the end unless it is to be kept."""
    if keep is None:
        with TemporaryDirectory(prefix="sagaz-tiering-demo-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    hint = "give --keep a new or empty folder"
    with refusing(f"{keep} cannot be used", hint):
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise ConfigError(f"{keep} is not empty", hint=hint)
    yield keep.resolve()
