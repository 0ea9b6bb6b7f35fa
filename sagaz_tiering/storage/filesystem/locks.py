"""Locks among threads and processes of one directory: `flock` on files that stay for ever.

A lock is released by the system when its owner dies. Each kind has 256 locks, shared by the ids of one checksum,
so that a hundred thousand sagas need no hundred thousand files.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID
from zlib import crc32

from sagaz_tiering.errors import LocalStorageUnavailable
from sagaz_tiering.storage.filesystem.files import Folder

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_PAUSES_S: Final = (0.0005, 0.001, 0.002, 0.004)


class Lock(StrEnum):
    """What is locked. Who holds a RECORD's lock takes no other; who holds a SAGA's may take a RECORD's."""

    RECORD = "record"
    SAGA = "saga"


def stripe(uuid: UUID) -> str:
    """Two hex digits that spread ids of every version evenly."""
    return f"{crc32(uuid.bytes) & 0xFF:02x}"


class Locks:
    """The locks of one directory tree. `wait`: how long a call waits for another's work to end."""

    def __init__(self, folder: Path, *, wait: timedelta) -> None:
        self._folder = folder
        self._wait = wait
        self._threads: dict[str, threading.Lock] = {}

    @contextmanager
    def held(self, kind: Lock, uuid: UUID) -> Iterator[None]:
        """Alone among all threads and processes. Raises OSError, or LocalStorageUnavailable after the wait."""
        until = time.monotonic() + self._wait.total_seconds()
        name = f"{kind}-{stripe(uuid)}"
        ours = self._threads.setdefault(name, threading.Lock())
        if not ours.acquire(timeout=self._wait.total_seconds()):
            raise self._late(name)
        try:
            fd = os.open(self._folder / name, _FLAGS, 0o600)
            try:
                self._lock(fd, name, until)
                yield
            finally:
                _release(fd)
        finally:
            ours.release()

    @contextmanager
    def tried(self, kind: Lock, uuid: UUID) -> Iterator[bool]:
        """Yield whether the lock was free and is ours now."""
        name = f"{kind}-{stripe(uuid)}"
        ours = self._threads.setdefault(name, threading.Lock())
        if not ours.acquire(blocking=False):
            yield False
            return
        try:
            fd = os.open(self._folder / name, _FLAGS, 0o600)
            try:
                yield _is_free(fd)
            finally:
                _release(fd)
        finally:
            ours.release()

    def _lock(self, fd: int, name: str, until: float) -> None:
        # A blocking flock has no deadline, and a process that was stopped holds its locks.
        attempt = 0
        while not _is_free(fd):
            if time.monotonic() > until:
                raise self._late(name)
            time.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1

    def _late(self, name: str) -> LocalStorageUnavailable:
        return LocalStorageUnavailable(
            f"{self._folder / name} was not free within {self._wait.total_seconds():g} s",
            hint=f"another process works on the same record and does not end: `fuser {self._folder / name}` names it",
        )


def remove_left(locks: Locks, folder: Folder, kind: Lock, uuid: UUID, name: str) -> None:
    """Remove a temporary file unless its writer lives, which has the lock then."""
    with suppress(OSError), locks.tried(kind, uuid) as free:
        if free:
            folder.unlink(name)


def _release(fd: int) -> None:
    """Closing it is not enough: a process that was forked meanwhile has it open, too."""
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
