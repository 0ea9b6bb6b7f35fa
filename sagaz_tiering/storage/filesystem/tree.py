"""How `FilesystemSnapshotStorage` changes its directory: what is written in which order, and what a crash leaves.

The snapshot files are the only truth. Indexes and pointers are derived from them, and whatever a crash, another
program or a restored backup makes of those is noticed and put right by who reads next. Names: `layout`.

**Save**, alone with the snapshot's lock among all processes:

1. write `snapshots/<saga>/.<id>.tmp` and fsync it   crash: a temporary file, which the next reader of the saga removes
2. point from the id to the saga, fsync the name     crash: a pointer to nothing, the same as none
3. rename the file to `<id>.json`, fsync the name    crash: saved, but not in the saga's index
4. write the saga's index                            (with the saga's lock, after the snapshot's is released)

A reader of the saga takes the names from the directory and uses the index only for files that are as they were when
it was written, so an index that misses something costs time, not answers. A failure in 1 to 3 (full disk, no
permission) leaves the version that was there before; one in 4 is logged and nothing else.

**Save where the file's name changes** (another saga, or compression switched on or off), instead of 2 and 3:

2. write `ids/moves/<id>`: old name and new name     crash: no file of the new name, so nothing has happened
3. rename the file to its new name                   crash: both files are there; whoever looks for the snapshot, or
4. point to the new saga, remove the old file        lists any saga, finds the move and does 4 and 5
5. remove `ids/moves/<id>`

**Delete**: remove the file, fsync; remove the pointer (crash: a pointer to nothing); write the index, or remove it
with the saga's directory if nothing is left (crash: an index of what is gone, which no reader believes).

From a snapshot's id to its saga leads a pointer, one small file for each. A directory that `sagaz` wrote, or whose
`ids/` was lost, gets all of them when it is opened. Until then (they were removed meanwhile) and where that is not
allowed, each look-up of an id without one looks into every saga's directory for its name: no file is read, but it takes
as long as there are sagas. A program that adds files beside us is seen by all queries of a saga at once, and by id
after the first of them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.storage.filesystem.files import FULL, REFUSED, FileState, Folder, make_folder, opened, opened_top
from sagaz_tiering.storage.filesystem.layout import SUFFIXES, Layout, Lock, canonical, snapshot_name, snapshot_of

_ATTEMPTS: Final = 100
"""How often a save makes the saga's directory anew when deletes keep removing it as empty."""

_NOWHERE: Final = (UUID(int=0), "")
_Place = tuple[UUID, str]
"""Saga and suffix of a snapshot's file."""


class FileCopy(NamedTuple):
    """A snapshot's file."""

    saga_id: UUID
    suffix: str
    state: FileState


class SnapshotTree:
    """The snapshot files of one directory tree. Blocking; raises OSError as the system does."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def save(self, snapshot_id: UUID, saga_id: UUID, suffix: str, data: bytes) -> tuple[FileState, set[UUID]]:
        """Store or replace; the new file's state, and the sagas that it was taken from."""
        for _ in range(_ATTEMPTS):
            self._layout.prepare()
            try:
                make_folder(self._layout.saga(saga_id))
                with opened(self._layout.saga(saga_id)) as folder, self._layout.locks.held(Lock.RECORD, snapshot_id):
                    return self._save(folder, (saga_id, suffix), snapshot_id, data)
            except FileNotFoundError:  # a delete beside us removed the directory as empty
                continue
        raise OSError(errno.EBUSY, "the directory vanished again and again", str(self._layout.saga(saga_id)))

    def find(self, snapshot_id: UUID) -> tuple[FileCopy, bytes] | None:
        """A snapshot's file and its bytes."""
        if not self._is_moving(snapshot_id):
            if found := self._look(snapshot_id):
                return found
            self._layout.check_present()
            if self._saga_of(snapshot_id) is None and not self._is_moving(snapshot_id):
                return None
        with self._settled(snapshot_id):  # someone is at work on it, or a crash left a move or a pointer to nothing
            return self._look(snapshot_id)

    def read(self, saga_id: UUID, snapshot_id: UUID, suffix: str) -> bytes | None:
        """The bytes of one file; None if it is not there. Raises CorruptRecord if the disk cannot read it."""
        try:
            with opened(self._layout.saga(saga_id)) as folder:
                return folder.read(snapshot_name(snapshot_id, suffix))
        except (FileNotFoundError, NotADirectoryError):
            self._layout.check_present()
            return None

    def delete(self, snapshot_id: UUID, *, in_saga: UUID | None, unchanged: FileState | None) -> set[UUID]:
        """Remove a snapshot's files; the sagas that had it.

        `in_saga`: only if it is in this saga; `unchanged`: only if its file still is in this state.
        """
        self._layout.prepare()
        with self._layout.locks.held(Lock.RECORD, snapshot_id):
            self._finish_move(snapshot_id)
            pointed = self._saga_of(snapshot_id)
            found = self._copies(snapshot_id, [pointed, in_saga])
            if found and (in_saga not in (None, found[-1].saga_id) or unchanged not in (None, found[-1].state)):
                return set()
            self._remove(snapshot_id, found)
            if pointed is not None:
                with suppress(FileNotFoundError), opened_top(self._layout.pointers(snapshot_id)) as pointers:
                    pointers.unlink(str(snapshot_id))
        return {copy.saga_id for copy in found}

    def finish_moves(self) -> None:
        """Bring every move that a crash interrupted to its end; waits for those that are under way."""
        with suppress(FileNotFoundError), opened_top(self._layout.moves) as folder:
            if names := [name for name, _ in folder.files()]:
                self._layout.locks.remove_left(folder, Lock.RECORD, names)
                for snapshot_id in filter(None, map(canonical, names)):
                    with self._settled(snapshot_id):
                        pass

    def sweep(self, path: Path) -> None:
        """Remove the temporary files that dead processes left in one of `Layout.swept`."""
        kind = Lock.SAGA if path == self._layout.indexes else Lock.RECORD
        with suppress(FileNotFoundError, NotADirectoryError), opened_top(path) as folder:
            self._layout.locks.remove_left(folder, kind, [name for name, _ in folder.files() if name.startswith(".")])

    def totals(self, saga_names: Sequence[str]) -> tuple[int, int, int]:
        """How many of these sagas have snapshots, how many these are, expired ones too, and their size in bytes."""
        sagas = snapshots = size = 0
        for name in saga_names:
            with suppress(FileNotFoundError, NotADirectoryError), opened(self._layout.snapshots / name) as folder:
                files = [(parts[0], state.size) for file, state in folder.files() if (parts := snapshot_of(file))]
                sagas += bool(files)
                snapshots += len({snapshot_id for snapshot_id, _ in files})
                size += sum(each for _, each in files)
        return sagas, snapshots, size

    def heal(self, snapshot_id: UUID, saga_id: UUID) -> None:
        """Point to a snapshot that is in a saga, unless it is pointed to (a pointer to nothing does not count)."""
        if self._leads_somewhere(snapshot_id):
            return
        with self._layout.locks.held(Lock.RECORD, snapshot_id):
            if not self._leads_somewhere(snapshot_id) and self._copies(snapshot_id, [saga_id]):
                self._point(snapshot_id, saga_id, durable=False)

    def adopt(self, saga_names: Sequence[str]) -> None:
        """Make the missing pointers to the snapshots of these sagas."""
        for saga_id in map(UUID, saga_names):
            with suppress(FileNotFoundError, NotADirectoryError), opened(self._layout.saga(saga_id)) as folder:
                for snapshot_id in {parts[0] for file, _ in folder.files() if (parts := snapshot_of(file))}:
                    self.heal(snapshot_id, saga_id)

    def _save(self, folder: Folder, new: _Place, snapshot_id: UUID, data: bytes) -> tuple[FileState, set[UUID]]:
        self._finish_move(snapshot_id)
        pointed = self._saga_of(snapshot_id)
        with folder.replacing(snapshot_name(snapshot_id, new[1]), data, durable=True) as state:
            found = self._copies(snapshot_id, [pointed, new[0]])
            self._remove(snapshot_id, found[:-1])
            old = found[-1][:2] if found else new
            if old != new:
                self._note_move(snapshot_id, old, new)
            elif pointed != new[0]:
                self._point(snapshot_id, new[0])
        if old != new:
            self._finish_move(snapshot_id)
        return state, {copy.saga_id for copy in found} - {new[0]}

    def _look(self, snapshot_id: UUID) -> tuple[FileCopy, bytes] | None:
        for copy in reversed(self._copies(snapshot_id, [self._saga_of(snapshot_id)])):
            data = self.read(copy.saga_id, snapshot_id, copy.suffix)
            if data is not None:
                return copy, data
        return None

    def _saga_of(self, snapshot_id: UUID) -> UUID | None:
        """The saga that may have the snapshot; None: no saga has it."""
        text = self._pointer(snapshot_id)
        if text is None and self._layout.complete.exists():
            return None
        found = canonical(text or "")
        if found is None:  # there is none, or power was lost while it was written
            with os.scandir(self._layout.snapshots) as entries:
                names = [canonical(entry.name) for entry in entries]
            copies = self._copies(snapshot_id, names)
            return copies[-1].saga_id if copies else None
        return found

    def _pointer(self, snapshot_id: UUID) -> str | None:
        """What it says; None: there is no pointer."""
        try:
            with opened_top(self._layout.pointers(snapshot_id)) as folder:
                return folder.read(str(snapshot_id)).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        except CorruptRecord:
            return ""

    def _leads_somewhere(self, snapshot_id: UUID) -> bool:
        return bool(self._copies(snapshot_id, [canonical(self._pointer(snapshot_id) or "")]))

    def _point(self, snapshot_id: UUID, saga_id: UUID, *, durable: bool = True) -> None:
        """With the snapshot's lock: let it be looked for in a saga."""
        path = self._layout.pointers(snapshot_id)
        make_folder(path)
        with opened_top(path) as folder:
            # The text need not be durable: a pointer that power loss left empty makes its reader search.
            folder.replace(str(snapshot_id), f"{saga_id}\n".encode(), durable=False)
            if durable:
                folder.sync()

    def _copies(self, snapshot_id: UUID, sagas: Sequence[UUID | None]) -> list[FileCopy]:
        """The files of a snapshot in these sagas, oldest first. More than one only after another program's work."""
        found = list[FileCopy]()
        for saga_id in dict.fromkeys(filter(None, sagas)):
            with suppress(FileNotFoundError, NotADirectoryError), opened(self._layout.saga(saga_id)) as folder:
                states: dict[str, FileState] = {}
                for suffix in SUFFIXES:
                    if suffix not in states and (state := folder.state(snapshot_name(snapshot_id, suffix))) is not None:
                        states[suffix] = state
                found += [FileCopy(saga_id, suffix, state) for suffix, state in states.items()]
        return sorted(found, key=lambda copy: (copy.state.mtime_ns, copy.suffix))

    def _remove(self, snapshot_id: UUID, places: Sequence[FileCopy | _Place]) -> None:
        for saga_id, suffix, *_ in places:
            with suppress(FileNotFoundError), opened(self._layout.saga(saga_id)) as folder:
                if folder.unlink(snapshot_name(snapshot_id, suffix)):
                    folder.sync()

    @contextmanager
    def _settled(self, snapshot_id: UUID) -> Iterator[None]:
        """With the snapshot's lock, and no move of it left; who may not write takes what there is."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._layout.locks.held(Lock.RECORD, snapshot_id))
                self._finish_move(snapshot_id)
            except OSError as exc:
                if exc.errno not in REFUSED | FULL:
                    raise
            yield

    def _is_moving(self, snapshot_id: UUID) -> bool:
        with suppress(FileNotFoundError), opened_top(self._layout.moves) as folder:
            return folder.state(str(snapshot_id)) is not None
        return False

    def _note_move(self, snapshot_id: UUID, old: _Place, new: _Place) -> None:
        move = {key: [str(saga_id), suffix] for key, (saga_id, suffix) in (("old", old), ("new", new))}
        with opened_top(self._layout.moves) as folder:
            folder.replace(str(snapshot_id), orjson.dumps(move), durable=True)

    def _finish_move(self, snapshot_id: UUID) -> None:
        """With the snapshot's lock: the new file is there, or nothing has happened."""
        if not self._is_moving(snapshot_id):
            return
        with opened_top(self._layout.moves) as folder:
            old, new = _move_in(folder.read(str(snapshot_id)))
            if old != new and any(each[:2] == new for each in self._copies(snapshot_id, [new[0]])):
                self._point(snapshot_id, new[0])
                self._remove(snapshot_id, [old])
            folder.unlink(str(snapshot_id))


def _move_in(data: bytes) -> tuple[_Place, _Place]:
    """Old and new place of a move; twice the same for what is not one (nobody else's file may be removed by it)."""
    try:
        move = orjson.loads(data)
        old, new = ((UUID(saga_id), str(suffix)) for saga_id, suffix in (move["old"], move["new"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return _NOWHERE, _NOWHERE
    return (old, new) if {old[1], new[1]} <= set(SUFFIXES) else (_NOWHERE, _NOWHERE)
