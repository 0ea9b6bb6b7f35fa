"""Looking at real processes and files, and short talks with real servers."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from pathlib import Path

import asyncpg
import psutil
import redis.asyncio

DEADLINE_S = 300


async def sql(url: str, statement: str) -> object:
    """The first value that PostgreSQL answers."""
    connection = await asyncpg.connect(url, timeout=120, command_timeout=120)
    try:
        return await connection.fetchval(statement)
    finally:
        connection.terminate()


async def redis_do(url: str, *command: str) -> object:
    """What Redis answers to one command."""
    async with redis.asyncio.Redis.from_url(url, socket_timeout=120) as client:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type for it


def wait_until_gone(pids: set[int]) -> None:
    """Fail unless all the processes end within the deadline."""
    until = time.monotonic() + DEADLINE_S
    while left := {pid for pid in pids if is_alive(pid)}:
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that init has not collected yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def files_with(folder: Path, words: list[str]) -> list[Path]:
    """The files anywhere below that contain one of the words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(word.encode() in path.read_bytes() for word in words)]


def send(pids: set[int], number: signal.Signals) -> None:
    """Send a signal to those that still live (a PostgreSQL connection may just have ended)."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def words_of(pid: int) -> str:
    """Command line and environment of a process; empty if it has ended by now."""
    try:
        process = psutil.Process(pid)
        return " ".join([*process.cmdline(), *process.environ().values()])
    except psutil.NoSuchProcess:
        return ""


def mode_of(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def processes_below(pid: int) -> set[int]:
    """Children of a process and theirs; none if it has ended by now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return set()


def assert_private(folder: Path) -> None:
    """Fail unless nobody else may look into it, or at any file below."""
    for path in [folder, *folder.rglob("*")]:
        assert mode_of(path) & 0o077 == 0, f"{path}: {mode_of(path):o}"
