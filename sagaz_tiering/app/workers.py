"""Processes beside this one for the length of a run: Python's lock lets a process use one core.

A worker (`app.worker`) is given the configuration and the job through a pipe, works on the same backlog by claims of
its own as another daemon would, and tells what it does as it does it. It stops when it is told to, or when this process
is gone: either wakes its end of the pipe.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sagaz_tiering import metrics
from sagaz_tiering.app.process import readable
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import BudgetSpent, MasterKeyUnavailable, SagazTieringError
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.logs import Logger
from sagaz_tiering.policy import PolicySet

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_log = Logger(__name__)

MOST_BY_DEFAULT: Final = 4
_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_PROCESS_BYTES: Final = 200 * 2**20
_MOMENT_S: Final = 3.0


def cpus(quota: Path = _CPU_QUOTA) -> int:
    """Cores that this process may use, by its affinity and by its container's quota (cgroup v2)."""
    found = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        allowed, period = quota.read_text(encoding="ascii").split()
        if allowed != "max":
            found = min(found, max(1, math.floor(int(allowed) / int(period))))
    return found


def room(limit: Path = _MEMORY_LIMIT) -> int:
    """Processes that the container's memory has room for (cgroup v2)."""
    with suppress(OSError, ValueError):
        return int(limit.read_text(encoding="ascii")) // _PROCESS_BYTES
    return MOST_BY_DEFAULT


def process_count(configured: int) -> int:
    """How many processes a run with a large backlog uses; `configured` 0: one a core, at most MOST_BY_DEFAULT."""
    return configured or max(1, min(cpus(), room(), MOST_BY_DEFAULT))


class WorkerPool:
    """Starts them. `config` is what this process was opened with."""

    def __init__(self, config: TieringConfig) -> None:
        self._config = config

    @property
    def processes(self) -> int:
        """How many work on a large backlog, this one included."""
        return process_count(self._config.jobs.processes)

    @asynccontextmanager
    async def share(self, job: str, stopping: asyncio.Event, tally: Tally, policies: PolicySet) -> AsyncIterator[None]:
        """Have workers do the same job meanwhile; leaves when they have ended, whatever happened.

        What they did is added to `tally` as they do it. An error here has them stop (but for MasterKeyUnavailable, the
        last word of a share that did what it could) and is the one that is raised. Else the error of a worker is, once
        all have ended, as if this process had met it. One that dies or cannot be started is logged and noted: what it
        left is due still.
        """
        enough = asyncio.Event()
        # The servers that this process has open, and the policies of this run, whatever was reloaded since.
        config = self._config.model_copy(update={"policies": tuple(policies.policies)})
        children = [asyncio.create_task(_child(job, config, enough, tally)) for _ in range(self.processes - 1)]
        telling = asyncio.create_task(_pass_on(stopping, enough))
        try:
            try:
                yield
            except MasterKeyUnavailable:
                raise
            except BaseException:
                enough.set()
                raise
            finally:
                if children:
                    await asyncio.wait(children)
        finally:
            defects = await _ended(telling, *children)
            for defect in defects:
                _failed(job, tally, defect)
        if defects:
            raise defects[0]
        met = [error for child in children if (error := child.result()) is not None]
        if met:  # a budget that is used up is the least of them
            raise min(met, key=lambda error: isinstance(error, BudgetSpent))


async def _child(job: str, config: TieringConfig, enough: asyncio.Event, tally: Tally) -> SagazTieringError | None:
    """One worker, from its start to its end; the error of ours that stopped it."""
    try:
        error = await _run(job, config, enough, tally)
    except OSError as exc:  # there is no room for one more
        error = exc
    if error is not None and not isinstance(error, BudgetSpent):  # which is no defect, and the run's word too
        _failed(job, tally, error)
    return error if isinstance(error, SagazTieringError) else None


async def _run(job: str, config: TieringConfig, enough: asyncio.Event, tally: Tally) -> Exception | None:
    """What stopped it before its end."""
    from multiprocessing import Pipe

    ours, theirs = Pipe()
    with ours:
        with theirs:
            # Not by `multiprocessing`, which runs an application's own script again in each process that it starts.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "sagaz_tiering.app.worker", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        telling = asyncio.create_task(_tell(ours, (job, config), enough))
        try:
            error = await _listen(ours, tally)
            code = await process.wait()
        finally:
            await _ended(telling)
            if process.returncode is None:
                await _end(process)
    return error or (ChildProcessError(f"exit code {code}") if code else None)


async def _pass_on(stopping: asyncio.Event, enough: asyncio.Event) -> None:
    await stopping.wait()
    enough.set()


async def _tell(worker: Connection, given: tuple[str, TieringConfig], enough: asyncio.Event) -> None:
    with suppress(ConnectionError):  # it is gone, which its end of the pipe tells
        worker.send(given)
        await enough.wait()
        worker.send("stop")


async def _end(process: asyncio.subprocess.Process) -> None:
    """It has a moment to give back what it claimed; a kill loses nothing either."""
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _MOMENT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ended(*tasks: asyncio.Task[Any]) -> list[Exception]:
    """Cancel what still runs and wait for all; what went wrong with them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    found = [None if task.cancelled() else task.exception() for task in tasks]
    return [error for error in found if isinstance(error, Exception)]


def _failed(job: str, tally: Tally, error: Exception) -> None:
    said = f"{type(error).__name__}: {error}"
    _log.warning("worker.failed", job=job, error=said)
    tally.note(f"a worker process stopped early: {said}")


async def _listen(worker: Connection, tally: Tally) -> Exception | None:
    """Until the worker says no more; what stopped it, or None if it came to its end."""
    error: Exception | None = ChildProcessError("it ended without a word")
    with suppress(EOFError, ConnectionError):
        while True:
            await readable(worker.fileno())
            said = worker.recv()
            for kind, number in said.get("counts", {}).items():
                tally.add(kind, number)
            for kind, (requests, usd) in said["spent"].items():
                metrics.spend(kind, requests, usd)
            for note in said.get("notes", []):
                tally.note(note)
            error = said.get("error", error)
    return error
