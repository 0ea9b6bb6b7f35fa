"""Processes beside this one for the length of a run: Python's lock lets a process use one core.

A worker (`worker_process`) is given the configuration and the job on its standard input, works on the same backlog by
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
from typing import Final

import orjson
import structlog

from sagaz_tiering.engine.job import Tally
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.settings import TieringConfig

_log = structlog.get_logger(__name__)

LENGTH: Final = struct.Struct(">I")
"""In front of what a worker is given."""

MOST_BY_DEFAULT: Final = 4
_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_PROCESS_BYTES: Final = 200 * 2**20
_LONGEST_LINE: Final = 2**20


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


class Workers:
    """Starts them. `config` gives the configuration that this process was opened with."""

    def __init__(self, config: Callable[[], TieringConfig]) -> None:
        self._config = config

    @property
    def processes(self) -> int:
        """How many work on a large backlog, this one included."""
        return process_count(self._config().jobs.processes)

    @asynccontextmanager
    async def share(self, job: str, stopping: asyncio.Event, tally: Tally, policies: PolicySet) -> AsyncIterator[None]:
        """Have workers do the same job meanwhile; leaves when they are done, or told to stop by an error here.

        What they did is added to `tally` as they do it. One that fails is logged and noted: what it left is due still.
        """
        enough = asyncio.Event()
        # The servers that this process has open, and the policies of this run, whatever was reloaded since.
        given = pickle.dumps((job, self._config().model_copy(update={"policies": tuple(policies.policies)})))
        children = [asyncio.create_task(self._child(job, given, enough, tally)) for _ in range(self.processes - 1)]
        telling = asyncio.create_task(_pass_on(stopping, enough))
        try:
            yield
        except BaseException:
            enough.set()
            raise
        finally:
            await asyncio.gather(*children)
            telling.cancel()

    async def _child(self, job: str, given: bytes, enough: asyncio.Event, tally: Tally) -> None:
        try:
            error = await self._run(given, enough, tally)
        except (OSError, ValueError) as exc:  # it cannot be started, or says what is not for us
            error = f"{type(exc).__name__}: {exc}"
        if error is not None:
            _log.warning("worker.failed", job=job, error=error)
            tally.note(f"a worker process stopped early: {error}")

    async def _run(self, given: bytes, enough: asyncio.Event, tally: Tally) -> str | None:
        """From its start to its end; what stopped it before that."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "sagaz_tiering.worker_process"),
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
        except BaseException:
            with suppress(ProcessLookupError):
                process.terminate()
            raise
        finally:
            ending.cancel()
        return error or (f"exit code {code}" if code else None)


async def _pass_on(stopping: asyncio.Event, enough: asyncio.Event) -> None:
    await stopping.wait()
    enough.set()


async def _end_input(stdin: asyncio.StreamWriter, given: bytes, enough: asyncio.Event) -> None:
    with suppress(ConnectionError):  # it is gone, which its output tells
        stdin.write(given)
        await stdin.drain()
        await enough.wait()
        stdin.close()


async def _listen(stdout: asyncio.StreamReader, tally: Tally) -> str | None:
    """Until the worker says no more; what stopped it, or None if it came to its end."""
    error: str | None = "it ended without a word"
    async for line in stdout:
        said = orjson.loads(line)
        for kind, number in said.get("counts", {}).items():
            tally.add(kind, number)
        for note in said.get("notes", []):
            tally.note(note)
        if "error" in said:
            error = said["error"]
    return error
