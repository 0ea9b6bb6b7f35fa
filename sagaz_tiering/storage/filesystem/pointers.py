"""From a snapshot's id to its saga: one small file for each snapshot, and how a directory gets them afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering.storage.filesystem.files import FileState, make_folder, opened, opened_top
from sagaz_tiering.storage.filesystem.layout import SUFFIXES, Layout, canonical, snapshot_name, snapshot_of, temporary
from sagaz_tiering.storage.filesystem.locks import Lock, Locks


class NotAdopted(Exception):
    """Snapshots without a pointer may be in the directory: another program wrote it. Adopt it, then ask again."""


class FileCopy(NamedTuple):
    """A snapshot's file."""

    saga_id: UUID
    suffix: str
    state: FileState


class Pointers:
    """The pointers of one directory tree. Changes are made by who holds the snapshot's lock."""

    def __init__(self, layout: Layout, locks: Locks) -> None:
        self._layout = layout
        self._locks = locks
        self.unwritable = False
        """Pointers cannot be made here: snapshots are searched for in every saga's directory."""

    def saga_of(self, snapshot_id: UUID) -> UUID | None:
        """The saga that may have the snapshot; None: no saga has it. Raises NotAdopted."""
        try:
            with opened_top(self._layout.pointers(snapshot_id)) as folder:
                text = folder.read(str(snapshot_id)).decode("ascii", "replace").strip()
        except FileNotFoundError:
            if not self.is_complete() and not self.unwritable:
                raise NotAdopted from None
            return self._searched(snapshot_id) if self.unwritable else None
        return canonical(text) or self._searched(snapshot_id)  # power was lost while it was written

    def point(self, snapshot_id: UUID, saga_id: UUID, *, durable: bool = True) -> None:
        """Let a snapshot be looked for in a saga."""
        path = self._layout.pointers(snapshot_id)
        make_folder(path)
        with opened_top(path) as folder:
            # The text need not be durable: a pointer that power loss left empty makes its reader search.
            folder.replace(str(snapshot_id), f"{saga_id}\n".encode(), temporary=temporary(snapshot_id), durable=False)
            if durable:
                folder.sync()

    def forget(self, snapshot_id: UUID) -> None:
        """Remove the pointer of a snapshot that is gone."""
        with suppress(FileNotFoundError), opened_top(self._layout.pointers(snapshot_id)) as folder:
            folder.unlink(str(snapshot_id))

    def copies(self, snapshot_id: UUID, sagas: Sequence[UUID | None]) -> list[FileCopy]:
        """The files of a snapshot in these sagas, oldest first. More than one only after another program's work."""
        found = [copy for saga in dict.fromkeys(sagas) if saga is not None for copy in self._in(saga, snapshot_id)]
        return sorted(found, key=lambda copy: (copy.state.mtime_ns, copy.suffix))

    def is_complete(self) -> bool:
        """Whether every snapshot has a pointer."""
        return self._layout.complete.exists()

    def adopt(self, saga_names: Sequence[str]) -> None:
        """Make the missing pointers to the snapshots of these sagas."""
        for name in saga_names:
            saga_id = UUID(name)
            with suppress(FileNotFoundError, NotADirectoryError), opened(self._layout.saga(saga_id)) as folder:
                for snapshot_id in {parts[0] for file, _ in folder.files() if (parts := snapshot_of(file))}:
                    self.heal(snapshot_id, saga_id)

    def heal(self, snapshot_id: UUID, saga_id: UUID) -> None:
        """Point to a snapshot that is in a saga, unless it is pointed to (a pointer to nothing does not count)."""
        if self._leads_somewhere(snapshot_id):
            return
        with self._locks.held(Lock.RECORD, snapshot_id):
            if not self._leads_somewhere(snapshot_id) and self.copies(snapshot_id, [saga_id]):
                self.point(snapshot_id, saga_id, durable=False)

    def complete(self) -> None:
        """Say that every snapshot has a pointer, once they are durable."""
        for folder in self._layout.ids.iterdir():
            if folder.is_dir():
                with opened_top(folder) as each:
                    each.sync()
        self._layout.complete.touch(mode=0o600)
        with opened_top(self._layout.ids) as ids:
            ids.sync()

    def _leads_somewhere(self, snapshot_id: UUID) -> bool:
        try:
            with opened_top(self._layout.pointers(snapshot_id)) as folder:
                saga_id = canonical(folder.read(str(snapshot_id)).decode("ascii", "replace").strip())
        except FileNotFoundError:
            return False
        return bool(self.copies(snapshot_id, [saga_id]))

    def _in(self, saga_id: UUID, snapshot_id: UUID) -> Iterator[FileCopy]:
        with suppress(FileNotFoundError, NotADirectoryError), opened(self._layout.saga(saga_id)) as folder:
            seen: set[str] = set()
            for suffix in SUFFIXES:
                state = None if suffix in seen else folder.state(snapshot_name(snapshot_id, suffix))
                if state is not None:
                    seen.add(suffix)
                    yield FileCopy(saga_id, suffix, state)

    def _searched(self, snapshot_id: UUID) -> UUID | None:
        """The saga that has the snapshot, by looking into all."""
        with os.scandir(self._layout.snapshots) as entries:
            names = (canonical(entry.name) for entry in entries)
            found = [saga for saga in names if saga is not None and any(self._in(saga, snapshot_id))]
        newest = self.copies(snapshot_id, found)
        return newest[-1].saga_id if newest else None
