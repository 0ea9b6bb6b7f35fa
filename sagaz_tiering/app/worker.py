"""A worker's side of `workers`: does a share of a job's backlog, and tells the process that started it."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import orjson

from sagaz_tiering import logs, metrics
from sagaz_tiering.app.process import tune_process
from sagaz_tiering.app.runtime import open_runtime
from sagaz_tiering.app.workers import LENGTH
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import run_share
from sagaz_tiering.jobs.context import Tally

TOLD_EVERY_S: Final = 0.5


async def work(job: str, config: TieringConfig, stopping: asyncio.Event) -> None:
    """One share of one run; what it did is written to standard output, a line of JSON now and then."""
    done: deque[tuple[str, int]] = deque()  # threads add to it, too
    told: dict[str, tuple[float, float]] = {}

    def tell(**more: Any) -> None:
        said, spent = Counter[str](), metrics.spent()
        while done:
            kind, number = done.popleft()
            said[kind] += number
        if said or more or spent != told:
            since = {kind: _difference(spent[kind], told.get(kind, (0.0, 0.0))) for kind in spent}
            told.update(spent)
            with suppress(BrokenPipeError):  # nobody listens any more, which the end of the input tells too
                os.write(sys.stdout.fileno(), orjson.dumps({"counts": said, "spent": since, **more}) + b"\n")

    async def tell_regularly() -> None:
        while True:
            await asyncio.sleep(TOLD_EVERY_S)
            tell()

    tally = Tally(lambda kind, number: done.append((kind, number)))
    telling, error = asyncio.create_task(tell_regularly()), None
    try:
        async with open_runtime(config) as runtime:
            await run_share(job, replace(runtime.job_context(), stopping=stopping, alone=True), tally)
    except SagazTieringError as exc:
        error = {"kind": type(exc).__name__, "message": str(exc), "hint": exc.hint}
    telling.cancel()
    tell(notes=tally.notes, error=error)


def _difference(now: tuple[float, float], before: tuple[float, float]) -> tuple[float, float]:
    return now[0] - before[0], now[1] - before[1]


async def main() -> None:
    """Until the work is done, or standard input ends."""
    stopping = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    job, config = pickle.loads(await reader.readexactly(length))

    async def stop_with_input() -> None:
        with suppress(asyncio.CancelledError):
            await reader.read()
            stopping.set()

    # A service manager tells every process of the service to stop.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    watching = asyncio.create_task(stop_with_input())
    logs.configure(level="warning", format=config.log.format)
    await work(job, config, stopping)
    watching.cancel()


if __name__ == "__main__":
    # Signals from a terminal go to the whole group: the process that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    tune_process()
    asyncio.run(main())
