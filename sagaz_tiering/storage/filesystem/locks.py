"""Locks among threads and processes of one directory: `flock` on files that stay for ever.

A lock is released by the system when its owner dies. Each kind has 256 locks, shared by the ids of one checksum,
so that a hundred thousand sagas need no hundred thousand files.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

from sagaz_tiering.errors import LocalStorageUnavailable
from sagaz_tiering.storage.filesystem.files import Folder
from sagaz_tiering.storage.filesystem.layout import stripe, temporary_of

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST_PAUSE_S: Final = 0.0005
_LONGEST_PAUSE_S: Final = 0.004


class Lock(StrEnum):
    """What is locked. Who holds a RECORD's lock takes no other; who holds a SAGA's may take a RECORD's."""

    RECORD = "record"
    SAGA = "saga"


class Locks:
    """The locks of one directory tree. `wait`: how long a call waits for another's work to end."""

    def __init__(self, folder: Path, *, wait: timedelta) -> None:
        self._folder = folder
        self._wait_s = wait.total_seconds()
        self._threads: dict[str, threading.Lock] = {}

    @contextmanager
    def held(self, kind: Lock, uuid: UUID) -> Iterator[None]:
        """Alone among all threads and processes. Raises OSError, or LocalStorageUnavailable after the wait."""
        with self.tried(kind, uuid, wait_s=self._wait_s) as free:
            if not free:
                path = self._folder / f"{kind}-{stripe(uuid)}"
                raise LocalStorageUnavailable(
                    f"{path} was not free within {self._wait_s:g} s",
                    hint=f"another process works on the same record and does not end: `fuser {path}` names it",
                )
            yield

    @contextmanager
    def tried(self, kind: Lock, uuid: UUID, *, wait_s: float = 0) -> Iterator[bool]:
        """Yield whether the lock was free within `wait_s` seconds, and is ours now."""
        until = time.monotonic() + wait_s
        name = f"{kind}-{stripe(uuid)}"
        ours = self._threads.setdefault(name, threading.Lock())
        if not ours.acquire(timeout=wait_s):
            yield False
            return
        try:
            fd = os.open(self._folder / name, _FLAGS, 0o600)
            try:
                yield _locked(fd, until)
            finally:
                with suppress(OSError):  # closing is not enough: a process that was forked meanwhile has it open, too
                    fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)
        finally:
            ours.release()

    def remove_left(self, folder: Folder, kind: Lock, names: Iterable[str]) -> None:
        """Remove the temporary files among these unless their writers live, which have the lock then."""
        for name in names:
            if (left := temporary_of(name)) is not None:
                with suppress(OSError), self.tried(kind, left) as free:
                    if free:
                        folder.unlink(name)


def _locked(fd: int, until: float) -> bool:
    # A blocking flock has no deadline, and a process that was stopped holds its locks.
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            return True
