"""Where the files of a `FilesystemSnapshotStorage` are, the names that count as ours, and the locks on them.

    BASE/snapshots/<saga id>/<snapshot id>.json    or .json.gz: the snapshots; nothing else is truth
    BASE/indexes/<saga id>.json                    a saga's snapshots with their times, newest first (derived)
    BASE/replays/<replay id>.json                  replay records
    BASE/ids/                                      how a snapshot is found by its id alone, in files not for people:
        <xy>/<snapshot id>                         the id of its saga; xy is a checksum of the id
        moves/<snapshot id>                        a file changes its name or saga at this moment, see `tree`
        replays/<saga id>/<replay id>              empty: this saga has this replay
        locks/                                     see `Locks`; never removed
        complete, replays-complete                 empty: every snapshot (replay) has its entry here

A temporary file is `.<id>.tmp` beside the file that it becomes. Whatever has another name, or is not a regular file
in a real directory, is not ours: it is neither read nor removed.
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
from zlib import crc32

from sagaz_tiering.errors import LocalStorageUnavailable
from sagaz_tiering.storage.filesystem.files import Folder, gone, opened_top

PLAIN: Final = ".json"
GZIPPED: Final = ".json.gz"
SUFFIXES: Final = (PLAIN, GZIPPED, PLAIN)
"""Names to look at: a file that changes its suffix meanwhile is under the first one again."""

_UUID_CHARS: Final = 36
_SHARDS: Final = "??"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST_PAUSE_S: Final = 0.0005
_LONGEST_PAUSE_S: Final = 0.004


class Layout:
    """The paths below one base directory, and its locks; `wait`: how long a call waits for another's work to end."""

    def __init__(self, base: Path, *, wait: timedelta) -> None:
        self.base = base.absolute()
        self.snapshots = self.base / "snapshots"
        self.indexes = self.base / "indexes"
        self.replays = self.base / "replays"
        self.ids = self.base / "ids"
        self.moves = self.ids / "moves"
        self.locks = Locks(self.ids / "locks", wait=wait)
        self.replays_of = self.ids / "replays"
        self.complete = self.ids / "complete"
        self.replays_complete = self.ids / "replays-complete"

    def make(self) -> None:
        """Make what is missing of the tree, private to this account."""
        for folder in (self.snapshots, self.indexes, self.replays, self.moves, self.locks.folder, self.replays_of):
            if not folder.is_dir():
                for each in (self.base, folder.parent, folder):
                    os.makedirs(each, 0o700, exist_ok=True)
                with opened_top(folder.parent) as parent:
                    parent.sync()

    def prepare(self) -> None:
        """Before a change: see that the tree is there, and make what someone removed of the derived part."""
        self.check_present()
        if not self.locks.folder.is_dir():
            self.make()

    def check_present(self) -> None:
        """Raise LocalStorageUnavailable if the tree is gone: an unmounted volume must not look like an empty one."""
        if not self.snapshots.is_dir():
            raise gone(self.snapshots)

    def saga(self, saga_id: UUID) -> Path:
        """The directory of a saga's snapshots."""
        return self.snapshots / str(saga_id)

    def pointers(self, snapshot_id: UUID) -> Path:
        """The directory of a snapshot's pointer."""
        return self.ids / stripe(snapshot_id)

    def swept(self) -> list[Path]:
        """Directories whose temporary files no query comes across."""
        return [self.indexes, self.replays, *self.ids.glob(_SHARDS)]

    def saga_names(self, after: str = "") -> list[str]:
        """Names of all saga directories behind `after`, ascending: the order of their ids."""
        with os.scandir(self.snapshots) as entries:
            folders = [entry.name for entry in entries if entry.name > after and entry.is_dir(follow_symlinks=False)]
        return sorted(name for name in folders if canonical(name) is not None)

    def is_complete(self) -> bool:
        """Whether every snapshot and replay has its entry below `ids/`."""
        return self.complete.exists() and self.replays_complete.exists()

    def say_complete(self) -> None:
        """Say so by empty files, once all entries are durable."""
        for each in (*self.ids.iterdir(), *self.replays_of.iterdir()):
            if each.is_dir():
                with opened_top(each) as opened:
                    opened.sync()
        for flag in (self.complete, self.replays_complete):
            flag.touch(mode=0o600)
        with opened_top(self.ids) as ids:
            ids.sync()


def stripe(uuid: UUID) -> str:
    """Two hex digits that spread ids of every version evenly."""
    return f"{crc32(uuid.bytes) & 0xFF:02x}"


def snapshot_name(snapshot_id: UUID, suffix: str) -> str:
    """The name of a snapshot's file."""
    return f"{snapshot_id}{suffix}"


def snapshot_of(name: str) -> tuple[UUID, str] | None:
    """Snapshot id and suffix of a file name that is ours."""
    found = canonical(name[:_UUID_CHARS])
    suffix = name[_UUID_CHARS:]
    return (found, suffix) if found is not None and suffix in (PLAIN, GZIPPED) else None


def canonical(name: str) -> UUID | None:
    """The id whose text is exactly this."""
    try:
        found = UUID(name) if len(name) == _UUID_CHARS else None
    except ValueError:
        return None
    return found if str(found) == name else None


class Lock(StrEnum):
    """What is locked. Who holds a RECORD's lock takes no other; who holds a SAGA's may take a RECORD's."""

    RECORD = "record"
    SAGA = "saga"


class Locks:
    """Locks among threads and processes of one tree: `flock` on files that stay for ever.

    The system releases one when its owner dies. Each kind has 256 locks, shared by the ids of one checksum, so that a
    hundred thousand sagas need no hundred thousand files.
    """

    def __init__(self, folder: Path, *, wait: timedelta) -> None:
        self.folder = folder
        self._wait_s = wait.total_seconds()
        self._threads: dict[str, threading.Lock] = {}

    @contextmanager
    def held(self, kind: Lock, uuid: UUID) -> Iterator[None]:
        """Alone among all threads and processes. Raises OSError, or LocalStorageUnavailable after the wait."""
        with self.tried(kind, uuid, wait_s=self._wait_s) as free:
            if not free:
                path = self.folder / f"{kind}-{stripe(uuid)}"
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
            fd = os.open(self.folder / name, _FLAGS, 0o600)
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
            left = canonical(name[1:-4]) if name.startswith(".") and name.endswith(".tmp") else None
            if left is not None:
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
