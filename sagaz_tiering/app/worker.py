"""A worker's side of `workers`: does a share of a job's backlog, and tells the process that started it."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from sagaz_tiering import logs, metrics
from sagaz_tiering.app.process import tune_process
from sagaz_tiering.app.runtime import open_runtime
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import run_share
from sagaz_tiering.jobs.context import Tally


async def work(starter: Connection) -> None:
    """One share of one run; what it did is told as it is done."""
    job, config = starter.recv()
    logs.configure(level="warning", format=config.log.format)
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(starter.fileno())
        stopping.set()

    loop.add_reader(starter.fileno(), stop)  # the word to stop, or the end of the process that would say it
    loop.add_signal_handler(signal.SIGTERM, stopping.set)  # a service manager tells every process of the service
    told: dict[str, tuple[float, float]] = {}
    one_at_a_time = threading.Lock()  # counts come from threads, too

    def tell(**more: Any) -> None:
        with one_at_a_time, suppress(ConnectionError):  # nobody listens any more, which `stop` is told too
            spent = metrics.spent()
            since = {kind: _difference(spent[kind], told.get(kind, (0.0, 0.0))) for kind in spent}
            told.update(spent)
            starter.send({"spent": since, **more})

    tally, error = Tally(lambda kind, number: tell(counts={kind: number})), None
    try:
        async with open_runtime(config) as runtime:
            await run_share(job, replace(runtime.job_context(), stopping=stopping, alone=True), tally)
    except SagazTieringError as exc:
        error = exc
    tell(notes=tally.notes, error=error)


def _difference(now: tuple[float, float], before: tuple[float, float]) -> tuple[float, float]:
    return now[0] - before[0], now[1] - before[1]


if __name__ == "__main__":
    # Signals from a terminal go to the whole group: the process that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    tune_process()
    asyncio.run(work(Connection(int(sys.argv[1]))))
