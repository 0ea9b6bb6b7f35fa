"""Processes beside this one for the length of a run: Python's lock lets a process use one core.

A worker (`app.worker`) is given the configuration and the job on its standard input, works on the same backlog by
claims of its own as another daemon would, tells on its standard output what it does, and stops when its input ends:
when it is told to, or when this process is gone.
"""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from sagaz_tiering import errors, metrics
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import BudgetSpent, MasterKeyUnavailable, SagazTieringError
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.logs import Logger
from sagaz_tiering.policy import PolicySet

_log = Logger(__name__)

LENGTH: Final = struct.Struct(">I")
"""In front of what a worker is given."""

MOST_BY_DEFAULT: Final = 4
_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_PROCESS_BYTES: Final = 200 * 2**20
_LONGEST_LINE: Final = 2**20
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
    """Starts them. `config` gives the configuration that this process was opened with."""

    def __init__(self, config: Callable[[], TieringConfig]) -> None:
        self._config = config

    @property
    def processes(self) -> int:
        """How many work on a large backlog, this one included."""
        return process_count(self._config().jobs.processes)

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
        given = pickle.dumps((job, self._config().model_copy(update={"policies": tuple(policies.policies)})))
        children = [asyncio.create_task(self._child(job, given, enough, tally)) for _ in range(self.processes - 1)]
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

    async def _child(self, job: str, given: bytes, enough: asyncio.Event, tally: Tally) -> SagazTieringError | None:
        """One worker, from its start to its end; the error of ours that stopped it."""
        try:
            error = await self._run(given, enough, tally)
        except (OSError, ValueError) as exc:  # it cannot be started, or says what is not for us
            error = exc
        if error is not None and not isinstance(error, BudgetSpent):  # which is no defect, and the run's word too
            _failed(job, tally, error)
        return error if isinstance(error, SagazTieringError) else None

    async def _run(self, given: bytes, enough: asyncio.Event, tally: Tally) -> Exception | None:
        """What stopped it before its end."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "sagaz_tiering.app.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        ending = asyncio.create_task(_end_input(process.stdin, LENGTH.pack(len(given)) + given, enough))
        try:
            error = await _listen(process.stdout, tally)
            code = await process.wait()
        finally:
            await _ended(ending)
            if process.returncode is None:
                await _end(process)
        return error or (ChildProcessError(f"exit code {code}") if code else None)


async def _pass_on(stopping: asyncio.Event, enough: asyncio.Event) -> None:
    await stopping.wait()
    enough.set()


async def _end_input(stdin: asyncio.StreamWriter, given: bytes, enough: asyncio.Event) -> None:
    with suppress(ConnectionError):  # it is gone, which its output tells
        stdin.write(given)
        await stdin.drain()
        await enough.wait()
        stdin.close()


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


async def _listen(stdout: asyncio.StreamReader, tally: Tally) -> Exception | None:
    """Until the worker says no more; what stopped it, or None if it came to its end."""
    error: Exception | None = ChildProcessError("it ended without a word")
    async for line in stdout:
        said = orjson.loads(line)
        for kind, number in said.get("counts", {}).items():
            tally.add(kind, number)
        for note in said.get("notes", []):
            tally.note(note)
        for kind, (requests, usd) in said.get("spent", {}).items():
            metrics.spend(kind, requests, usd)
        if "error" in said:
            error = None if said["error"] is None else _as_met_here(**said["error"])
    return error


def _as_met_here(kind: str, message: str, hint: str) -> SagazTieringError:
    """The error of a worker, of the same class; only what every error of ours has is told."""
    found = getattr(errors, kind, None)
    error_class = found if isinstance(found, type) and issubclass(found, SagazTieringError) else SagazTieringError
    error = error_class.__new__(error_class, message)
    SagazTieringError.__init__(error, message, hint=hint)
    return error
