"""From a snapshot's id to its saga: one small file for each snapshot, and how a directory gets them afterwards.

A directory that `sagaz` wrote, or whose `ids/` was lost, gets all of them when it is opened. Until then (they were
removed meanwhile) and where that is not allowed, each look-up of an id without one looks into every saga's directory
for its name: no file is read, but it takes as long as there are sagas.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.storage.filesystem.files import FileState, make_folder, opened, opened_top
from sagaz_tiering.storage.filesystem.layout import SUFFIXES, Layout, canonical, snapshot_name, snapshot_of
from sagaz_tiering.storage.filesystem.locks import Lock, Locks


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

    def saga_of(self, snapshot_id: UUID) -> UUID | None:
        """The saga that may have the snapshot; None: no saga has it."""
        text = self._text(snapshot_id)
        if text is None and self._layout.complete.exists():
            return None
        return canonical(text or "") or self._searched(snapshot_id)  # power was lost while it was written

    def point(self, snapshot_id: UUID, saga_id: UUID, *, durable: bool = True) -> None:
        """Let a snapshot be looked for in a saga."""
        path = self._layout.pointers(snapshot_id)
        make_folder(path)
        with opened_top(path) as folder:
            # The text need not be durable: a pointer that power loss left empty makes its reader search.
            folder.replace(str(snapshot_id), f"{saga_id}\n".encode(), durable=False)
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

    def heal(self, snapshot_id: UUID, saga_id: UUID) -> None:
        """Point to a snapshot that is in a saga, unless it is pointed to (a pointer to nothing does not count)."""
        if self._leads_somewhere(snapshot_id):
            return
        with self._locks.held(Lock.RECORD, snapshot_id):
            if not self._leads_somewhere(snapshot_id) and self.copies(snapshot_id, [saga_id]):
                self.point(snapshot_id, saga_id, durable=False)

    def adopt(self, saga_names: Sequence[str]) -> None:
        """Make the missing pointers to the snapshots of these sagas."""
        for saga_id in map(UUID, saga_names):
            with suppress(FileNotFoundError, NotADirectoryError), opened(self._layout.saga(saga_id)) as folder:
                for snapshot_id in {parts[0] for file, _ in folder.files() if (parts := snapshot_of(file))}:
                    self.heal(snapshot_id, saga_id)

    def _text(self, snapshot_id: UUID) -> str | None:
        """None: there is no pointer."""
        try:
            with opened_top(self._layout.pointers(snapshot_id)) as folder:
                return folder.read(str(snapshot_id)).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        except CorruptRecord:
            return ""

    def _leads_somewhere(self, snapshot_id: UUID) -> bool:
        return bool(self.copies(snapshot_id, [canonical(self._text(snapshot_id) or "")]))

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
            names = [canonical(entry.name) for entry in entries]
        found = self.copies(snapshot_id, names)
        return found[-1].saga_id if found else None
