"""The store under torture: servers and a configuration in a folder that is gone at the end, and a clock to move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from sagaz_tiering.app.runtime import Runtime, open_runtime
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.config.load import load_config
from sagaz_tiering.drivers.files import open_private
from sagaz_tiering.embedded import EmbeddedServers
from sagaz_tiering.jobs import JOBS
from sagaz_tiering.torture.model import policies

_LIMITS = {
    "lease_ttl": "2s",
    "claim_ttl": "2s",
    "batch_sagas": 16,
    "upload_deadline": "15s",
    "collect_min_age": "15s",
    "retire_grace": "15s",
    "expire_max_share": 1.0,
    "compact_live_share": 0.9,
}
"""So short that within seconds others take over from the dead, and what they left is collected."""


class ShiftedClock:
    """The machine's clock, `ahead` by as much as was asked for."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        """The current instant of this process."""
        return datetime.now(UTC) + self.ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An open runtime; other processes open `config` for one of their own. What they note goes into `folder`."""

    runtime: Runtime
    config: Path
    clock: ShiftedClock

    @property
    def folder(self) -> Path:
        """Where files of the run are."""
        return self.config.parent


@asynccontextmanager
async def open_store() -> AsyncIterator[Store]:
    """PostgreSQL, Redis and a directory as cold tier, empty. Raises what the servers' start raises."""
    clock = ShiftedClock()
    with TemporaryDirectory(prefix="sagaz-tiering-torture-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with EmbeddedServers.start(folder / "servers", s3=False, durable=False) as servers:
            config = _configured(servers, folder)
            async with open_runtime(load_config(config, {}), clock=clock) as runtime:
                await migrate(runtime.db)
                yield Store(runtime=runtime, config=config, clock=clock)


def _configured(servers: EmbeddedServers, folder: Path) -> Path:
    """A configuration as YAML, which JSON is; readable by its owner alone, since it holds the servers' passwords."""
    path = folder / "tiering.yaml"
    with open(path, "xb", opener=open_private) as file:
        file.write(orjson.dumps(_settings(servers, folder)))
    return path


def _settings(servers: EmbeddedServers, folder: Path) -> dict[str, Any]:
    every = {name: {"every": "1s", "jitter": "200ms"} for name, job in JOBS.items() if job.scheduled}
    return {
        "tiers": {
            "hot": {"url": servers.redis_url},
            "cold": {"url": f"file://{folder}/cold", "pack": {"target": "64KiB", "max_frame": "64KiB"}},
        },
        "catalog": {"url": servers.postgres_url},
        "policies": policies(),
        "schedule": every | {"age": {"every": "300ms", "jitter": "50ms"}},
        "jobs": _LIMITS,
        "daemon": {"port": 0},
    }
