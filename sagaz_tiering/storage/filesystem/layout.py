"""Where the files of a `FilesystemSnapshotStorage` are, and the names that count as ours.

    BASE/snapshots/<saga id>/<snapshot id>.json    or .json.gz: the snapshots; nothing else is truth
    BASE/indexes/<saga id>.json                    a saga's snapshots with their times, newest first (derived)
    BASE/replays/<replay id>.json                  replay records
    BASE/ids/                                      how a snapshot is found by its id alone, in files not for people:
        <xy>/<snapshot id>                         the id of its saga; xy is a checksum of the id
        moves/<snapshot id>                        a file changes its name or saga at this moment, see `filesystem_tree`
        replays/<saga id>/<replay id>              empty: this saga has this replay
        locks/                                     see `filesystem_locks`; never removed
        complete, replays-complete                 empty: every snapshot (replay) has its entry here

A temporary file is `.<id>.tmp` beside the file that it becomes. Whatever has another name, or is not a regular file
in a real directory, is not ours: it is neither read nor removed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from uuid import UUID

from sagaz_tiering.storage.filesystem.errors import gone
from sagaz_tiering.storage.filesystem.files import folder_names, opened_top
from sagaz_tiering.storage.filesystem.locks import Lock, stripe

PLAIN: Final = ".json"
GZIPPED: Final = ".json.gz"
SUFFIXES: Final = (PLAIN, GZIPPED, PLAIN)
"""Names to look at: a file that changes its suffix meanwhile is under the first one again."""

_UUID_CHARS: Final = 36
_SHARD_CHARS: Final = 2


class Layout:
    """The paths below one base directory."""

    def __init__(self, base: Path) -> None:
        self.base = base.absolute()
        self.snapshots = self.base / "snapshots"
        self.indexes = self.base / "indexes"
        self.replays = self.base / "replays"
        ids = self.base / "ids"
        self.ids = ids
        self.moves = ids / "moves"
        self.locks = ids / "locks"
        self.replays_of = ids / "replays"
        self.complete = ids / "complete"
        self.replays_complete = ids / "replays-complete"

    def make(self) -> None:
        """Make what is missing of the tree, private to this account."""
        for folder in (self.snapshots, self.indexes, self.replays, self.moves, self.locks, self.replays_of):
            if not folder.is_dir():
                for each in (self.snapshots.parent, folder.parent, folder):
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

    def written_in(self) -> list[tuple[Path, Lock]]:
        """Directories whose temporary files no query comes across, and what their writers lock."""
        shards = list(self.ids.glob("?" * _SHARD_CHARS))
        return [(self.indexes, Lock.SAGA), *((path, Lock.RECORD) for path in (*shards, self.replays))]

    def saga_names(self, after: str = "") -> list[str]:
        """Names of all saga directories behind `after`, ascending: the order of their ids."""
        return sorted(name for name in folder_names(self.snapshots) if name > after and canonical(name) is not None)


def snapshot_name(snapshot_id: UUID, suffix: str) -> str:
    """The name of a snapshot's file."""
    return f"{snapshot_id}{suffix}"


def temporary(uuid: UUID) -> str:
    """The name under which a file is written."""
    return f".{uuid}.tmp"


def snapshot_of(name: str) -> tuple[UUID, str] | None:
    """Snapshot id and suffix of a file name that is ours."""
    found = canonical(name[:_UUID_CHARS])
    suffix = name[_UUID_CHARS:]
    return (found, suffix) if found is not None and suffix in (PLAIN, GZIPPED) else None


def temporary_of(name: str) -> UUID | None:
    """The id in a temporary file's name."""
    if not (name.startswith(".") and name.endswith(".tmp")):
        return None
    return canonical(name[1:-4])


def canonical(name: str) -> UUID | None:
    """The id whose text is exactly this."""
    if len(name) != _UUID_CHARS:
        return None
    try:
        found = UUID(name)
    except ValueError:
        return None
    return found if str(found) == name else None
