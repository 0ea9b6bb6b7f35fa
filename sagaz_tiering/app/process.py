"""The process that jobs run in: how often garbage is looked for, what is given back, who goes first, what it reads."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from contextlib import suppress
from typing import Any, Final

from sagaz_tiering.logs import Logger

_COLLECTED: Final = (50_000, 20, 100)
"""When Python looks for garbage in cycles: a job holds a pack's hundred thousand tuples, and goes through them for
nothing each time."""
_ABANDONED: Final = "unexpected connection_lost() call"
_log = Logger(__name__)
_M_ARENA_MAX, _M_TRIM_THRESHOLD = -8, -1  # malloc.h


def tune_process() -> None:
    """For a process that is ours alone, never for an application that uses the library."""
    gc.set_threshold(*_COLLECTED)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own takes twice the memory for an export
    # glibc keeps what threads free, each for itself: a job, which hands megabytes around, would hold it twice.
    with suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * 1024)


def ignore_abandoned_connects() -> None:
    """Of the running event loop, in a process that is ours alone: asyncpg, cancelled in the moment in which the server
    takes a connection, leaves a future behind whose exception nobody can ask for, and asyncio would tell of it.
    """
    asyncio.get_running_loop().set_exception_handler(_unless_abandoned)


def _unless_abandoned(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    exc = context.get("exception")
    if not (isinstance(exc, ConnectionError) and "future" in context and str(exc) == _ABANDONED):
        loop.default_exception_handler(context)


async def readable(file: int) -> None:
    """Wait until there is something to read, or nothing will ever be. Raises PermissionError where one cannot wait."""
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(file, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(file)


def yield_to_others(niceness: int) -> None:
    """Let applications and servers on the same machine go first: `niceness` as the kernel counts it, 0 to 19.

    For every thread of this process, and what it starts from now on; never less than it was started with.
    """
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):
            _yield_to_others(thread, niceness)


def _yield_to_others(thread: int, niceness: int) -> None:
    if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
        try:
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
        except PermissionError:  # a sandbox such as systemd's, whose `Nice=` counts then
            _log.debug("process.nice_refused", niceness=niceness)
