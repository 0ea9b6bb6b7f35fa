"""Processes that are killed: savers, which note what was acknowledged, and daemons as `sagaz-tiering run` starts them.

They are forked from a server that has imported everything, so that they work a moment after their start and are killed
at work rather than while Python starts.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import sys
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from sagaz_tiering.config.load import load_config
from sagaz_tiering.torture.model import Scenario, Worker

WORKERS = 4
_TAIL = 3000
_PROCESSES = multiprocessing.get_context("forkserver")
_PRELOAD = ["sagaz_tiering.torture.processes", "sagaz_tiering.daemon", "sagaz_tiering.app.runtime", "rich.console"]


def prepare() -> None:
    """Start the server that the others are forked from; returns when it has imported everything."""
    _PROCESSES.set_forkserver_preload(_PRELOAD)
    first = _PROCESSES.Process(target=len, args=("",))
    first.start()
    first.join()


def start_saver(config: Path, script: Scenario, *, life: int, acks: Path, pause: timedelta, log: Path) -> BaseProcess:
    """A process that saves until it is killed, each worker at most once in `pause`."""
    process = _PROCESSES.Process(
        target=_save, args=(config, script.seed, script.begun, script.span, life, acks, pause.total_seconds(), log)
    )
    process.start()
    return process


def start_daemon(config: Path, log: Path) -> BaseProcess:
    """`sagaz-tiering run`."""
    process = _PROCESSES.Process(target=_run, args=(config, log))
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


def _run(config: Path, log: Path) -> None:
    from sagaz_tiering import daemon

    _speak_into(log)
    sys.exit(asyncio.run(daemon.run(config, {})))


def _save(
    config: Path, seed: int, begun: datetime, span: timedelta, life: int, acks: Path, pause: float, log: Path
) -> None:
    _speak_into(log)
    asyncio.run(_save_all(config, Scenario(seed=seed, begun=begun, span=span), life, acks, pause))


async def _save_all(config: Path, script: Scenario, life: int, acks: Path, pause: float) -> None:
    from sagaz_tiering.app.tiered import TieredSnapshotStorage

    file = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    async with TieredSnapshotStorage.from_config(load_config(config, {})) as storage:

        async def work(number: int) -> None:
            worker = Worker(life, number)
            for turn in itertools.count():
                await storage.save_snapshot(script.snapshot(worker, turn))
                os.write(file, f"{number} {turn}\n".encode())  # one write, so a line is there whole or not at all
                await asyncio.sleep(pause)

        await asyncio.gather(*(work(number) for number in range(WORKERS)))


def _speak_into(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
