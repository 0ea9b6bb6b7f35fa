"""Snapshots in a directory, one blocking call for each piece of a query: tree, indexes and documents together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import Record
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.filesystem import record as form
from sagaz_tiering.storage.filesystem.errors import FULL, REFUSED
from sagaz_tiering.storage.filesystem.index import FileEntry, SagaIndexes, View
from sagaz_tiering.storage.filesystem.layout import GZIPPED, PLAIN, SUFFIXES, Layout, snapshot_name
from sagaz_tiering.storage.filesystem.locks import Locks
from sagaz_tiering.storage.filesystem.tree import SnapshotTree

_PAGE: Final = 100
_PAGE_BYTES: Final = 8 * 2**20

Found = SagaSnapshot | CorruptRecord | None
"""What reading one file gave; None: it is gone."""


class SnapshotFiles:
    """Blocking; raises OSError as the system does, NotAdopted where `adopt` has to come first."""

    def __init__(self, layout: Layout, locks: Locks, *, compress: bool, pretty: bool) -> None:
        self.layout = layout
        self.tree = SnapshotTree(layout, locks)
        self._indexes = SagaIndexes(layout, locks, pretty=pretty, heal=self.tree.pointers.heal)
        self._compress = compress
        self._pretty = pretty

    def open(self) -> None:
        """Make the directories; where that is not allowed, one that is there can be read."""
        try:
            self.layout.make()
        except OSError as exc:
            if exc.errno not in REFUSED or not os.access(self.layout.snapshots, os.R_OK | os.X_OK):
                raise
        self.tree.pointers.unwritable = False

    def save(self, record: Record) -> None:
        """Store or replace."""
        meta, suffix = record.meta, GZIPPED if self._compress else PLAIN
        data = form.snapshot_document(record, pretty=self._pretty, compress=self._compress)
        state, left = self.tree.save(meta.snapshot_id, meta.saga_id, suffix, data)
        self._indexes.note(meta.saga_id, FileEntry.of(meta, suffix, state))
        for saga_id in left:
            self._indexes.note(saga_id)

    def get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        """Expired or not. Raises CorruptRecord."""
        found = self.tree.find(snapshot_id)
        if found is None:
            return None
        copy, data = found
        return self._decoded(data, copy.saga_id, snapshot_id, copy.suffix)

    def view(self, saga_id: UUID) -> View:
        """What a saga has, without the snapshots themselves."""
        self.tree.finish_moves()
        return self._indexes.view(saga_id)

    def newest(self, saga_id: UUID, fits: Callable[[FileEntry], bool]) -> SagaSnapshot | None:
        """The newest snapshot that fits. Raises CorruptRecord if it cannot be read, or may be an unreadable one."""
        view = self.view(saga_id)
        for entry in reversed(view.entries):
            if fits(entry):
                found = self._read(saga_id, entry)
                if isinstance(found, CorruptRecord):
                    raise found
                if found is not None and fits(_as_entry(found, entry)):
                    return found
        for error in view.unplaced.values():
            raise error
        return None

    def read(self, saga_id: UUID, entries: Iterable[FileEntry]) -> list[tuple[UUID, Found]]:
        """The snapshots of a page."""
        return [(entry.snapshot_id, self._read(saga_id, entry)) for entry in entries]

    def sagas_with(self, saga_names: Iterable[str], fits: Callable[[FileEntry], bool]) -> list[UUID]:
        """Which of these sagas have an entry that fits, or one of which nothing is known."""
        found = []
        for name in saga_names:
            view = self.view(UUID(name))
            if view.unplaced or any(map(fits, view.entries)):
                found.append(view.saga_id)
        return found

    def entries_in(self, saga_names: Iterable[str], fits: Callable[[FileEntry], bool]) -> list[tuple[UUID, FileEntry]]:
        """The entries of these sagas that fit."""
        views = map(self.view, map(UUID, saga_names))
        return [(view.saga_id, entry) for view in views for entry in view.entries if fits(entry)]

    def delete(self, snapshot_id: UUID) -> bool:
        """Whether there was one."""
        sagas = self.tree.delete(snapshot_id)
        for saga_id in sagas:
            self._indexes.note(saga_id)
        return bool(sagas)

    def delete_from(self, saga_id: UUID, snapshot_ids: Iterable[UUID]) -> int:
        """Remove these snapshots if they are in the saga; how many were."""
        removed = sum(bool(self.tree.delete(each, in_saga=saga_id)) for each in snapshot_ids)
        self._indexes.note(saga_id)
        return removed

    def delete_unchanged(self, found: Iterable[tuple[UUID, FileEntry]]) -> int:
        """Remove what was found if it was not saved anew since; how many were removed."""
        removed, sagas = 0, set()
        for saga_id, entry in found:
            if self.tree.delete(entry.snapshot_id, in_saga=saga_id, unchanged=entry.state):
                removed += 1
                sagas.add(saga_id)
        for saga_id in sagas:
            self._indexes.note(saga_id)
        return removed

    def if_writable(self, work: Callable[[], None]) -> bool:
        """Do what makes later calls faster; False if that is not possible here: then snapshots are searched for."""
        try:
            self.layout.make()
            work()
        except OSError as exc:
            if exc.errno not in REFUSED | FULL:
                raise
            self.tree.pointers.unwritable = True
            return False
        return True

    def _read(self, saga_id: UUID, entry: FileEntry) -> Found:
        """A save beside us may have changed the file's suffix since the entry was made."""
        for suffix in (entry.suffix, *SUFFIXES):
            try:
                data = self.tree.read(saga_id, entry.snapshot_id, suffix)
                if data is not None:
                    return self._decoded(data, saga_id, entry.snapshot_id, suffix)
            except CorruptRecord as exc:
                return exc
        return None

    def _decoded(self, data: bytes, saga_id: UUID, snapshot_id: UUID, suffix: str) -> SagaSnapshot:
        path: Path = self.layout.saga(saga_id) / snapshot_name(snapshot_id, suffix)
        return form.read_snapshot(data, snapshot_id=snapshot_id, saga_id=saga_id, where=str(path))


def pages(entries: Iterable[FileEntry]) -> Iterator[list[FileEntry]]:
    """So many entries at a time that their snapshots are no burden for the memory."""
    page: list[FileEntry] = []
    size = 0
    for entry in entries:
        if page and (len(page) == _PAGE or size + entry.state.size > _PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(entry)
        size += entry.state.size
    if page:
        yield page


def _as_entry(snapshot: SagaSnapshot, entry: FileEntry) -> FileEntry:
    """The entry of what was read: it may have been saved anew since."""
    until = snapshot.retention_until
    return entry._replace(
        created_us=to_micros(snapshot.created_at),
        step_index=snapshot.step_index,
        step_name=snapshot.step_name,
        retention_us=None if until is None else to_micros(until),
    )
