"""Where the files of a `FilesystemSnapshotStorage` are, and the names that count as ours.

    BASE/snapshots/<saga id>/<snapshot id>.json    or .json.gz: the snapshots; nothing else is truth
    BASE/indexes/<saga id>.json                    a saga's snapshots with their times, newest first (derived)
    BASE/replays/<replay id>.json                  replay records
    BASE/ids/                                      how a snapshot is found by its id alone, in files not for people:
        <xy>/<snapshot id>                         the id of its saga; xy is a checksum of the id
        moves/<snapshot id>                        a file changes its name or saga at this moment, see `tree`
        replays/<saga id>/<replay id>              empty: this saga has this replay
        locks/                                     see `locks`; never removed
        complete, replays-complete                 empty: every snapshot (replay) has its entry here

A temporary file is `.<id>.tmp` beside the file that it becomes. Whatever has another name, or is not a regular file
in a real directory, is not ours: it is neither read nor removed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from uuid import UUID
from zlib import crc32

from sagaz_tiering.storage.filesystem.errors import gone
from sagaz_tiering.storage.filesystem.files import opened_top

PLAIN: Final = ".json"
GZIPPED: Final = ".json.gz"
SUFFIXES: Final = (PLAIN, GZIPPED, PLAIN)
"""Names to look at: a file that changes its suffix meanwhile is under the first one again."""

_UUID_CHARS: Final = 36
_SHARDS: Final = "??"


class Layout:
    """The paths below one base directory."""

    def __init__(self, base: Path) -> None:
        self.base = base.absolute()
        self.snapshots = self.base / "snapshots"
        self.indexes = self.base / "indexes"
        self.replays = self.base / "replays"
        self.ids = self.base / "ids"
        self.moves = self.ids / "moves"
        self.locks = self.ids / "locks"
        self.replays_of = self.ids / "replays"
        self.complete = self.ids / "complete"
        self.replays_complete = self.ids / "replays-complete"

    def make(self) -> None:
        """Make what is missing of the tree, private to this account."""
        for folder in (self.snapshots, self.indexes, self.replays, self.moves, self.locks, self.replays_of):
            if not folder.is_dir():
                for each in (self.base, folder.parent, folder):
                    os.makedirs(each, 0o700, exist_ok=True)
                with opened_top(folder.parent) as parent:
                    parent.sync()

    def prepare(self) -> None:
        """Before a change: see that the tree is there, and make what someone removed of the derived part."""
        self.check_present()
        if not self.locks.is_dir():
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


def temporary_of(name: str) -> UUID | None:
    """The id in a temporary file's name."""
    return canonical(name[1:-4]) if name.startswith(".") and name.endswith(".tmp") else None


def canonical(name: str) -> UUID | None:
    """The id whose text is exactly this."""
    try:
        found = UUID(name) if len(name) == _UUID_CHARS else None
    except ValueError:
        return None
    return found if str(found) == name else None
