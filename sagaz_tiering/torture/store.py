"""The store under torture, in a folder that is gone at the end, and the processes at it that are killed.

They are savers, which note what was acknowledged, and daemons as `sagaz-tiering run` starts them; forked from a server
that has imported everything, so that they work a moment after their start and are killed at work rather than while
Python starts.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
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
from sagaz_tiering.torture.model import Scenario, Worker, policies

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


WORKERS = 4
_TAIL = 3000
_PROCESSES = multiprocessing.get_context("forkserver")
_PRELOAD = ["sagaz_tiering.torture.store", "sagaz_tiering.daemon", "sagaz_tiering.app.runtime", "rich.console"]


def prepare() -> None:
    """Start the server that the others are forked from; returns when it has imported everything."""
    _PROCESSES.set_forkserver_preload(_PRELOAD)
    begin(len, "").join()


def begin(work: Callable[..., object], *about: object) -> BaseProcess:
    """A process that does that."""
    process = _PROCESSES.Process(target=work, args=about)
    process.start()
    return process


def tail(log: Path) -> str:
    """The end of what a process said."""
    return log.read_text(errors="replace")[-_TAIL:] if log.exists() else ""


def is_ready(log: Path) -> bool:
    """Whether a daemon has said that it begins to work."""
    return log.exists() and b"daemon.ready" in log.read_bytes()


def acknowledged(acks: Path) -> dict[int, int]:
    """The last acknowledged turn of each worker that a saver has noted; -1 for none."""
    last = dict.fromkeys(range(WORKERS), -1)
    for line in acks.read_text().split("\n")[:-1] if acks.exists() else ():
        worker, turn = map(int, line.split())
        last[worker] = turn
    return last


def run_daemon(config: Path, log: Path) -> None:
    """`sagaz-tiering run`, in a process of its own."""
    from sagaz_tiering import daemon

    _speak_into(log)
    sys.exit(asyncio.run(daemon.run(config, {})))


def save(config: Path, script: Scenario, life: int, acks: Path, pause_s: float, log: Path) -> None:
    """Saves until it is killed, in a process of its own; each worker at most once in `pause_s`."""
    _speak_into(log)
    asyncio.run(_save_all(config, script, life, acks, pause_s))


async def _save_all(config: Path, script: Scenario, life: int, acks: Path, pause_s: float) -> None:
    from sagaz_tiering.app.tiered import TieredSnapshotStorage

    file = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    async with TieredSnapshotStorage.from_config(load_config(config, {})) as storage:

        async def work(number: int) -> None:
            worker = Worker(life, number)
            for turn in itertools.count():
                await storage.save_snapshot(script.snapshot(worker, turn))
                os.write(file, f"{number} {turn}\n".encode())  # one write, so a line is there whole or not at all
                await asyncio.sleep(pause_s)

        await asyncio.gather(*(work(number) for number in range(WORKERS)))


def _speak_into(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
