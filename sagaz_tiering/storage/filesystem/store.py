"""Snapshots in a directory, one blocking call for each piece of a query: tree, indexes and documents together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar
from uuid import UUID

from sagaz_tiering.codec.value import Record
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.filesystem import record as form
from sagaz_tiering.storage.filesystem.errors import REFUSED
from sagaz_tiering.storage.filesystem.files import FileState
from sagaz_tiering.storage.filesystem.index import FileEntry, SagaIndexes, View
from sagaz_tiering.storage.filesystem.layout import GZIPPED, PLAIN, SUFFIXES, Layout, snapshot_name
from sagaz_tiering.storage.filesystem.locks import Locks
from sagaz_tiering.storage.filesystem.tree import SnapshotTree

_PAGE: Final = 100
_PAGE_BYTES: Final = 8 * 2**20

T = TypeVar("T")

Found = SagaSnapshot | CorruptRecord | None
"""What reading one file gave; None: it is gone."""

Unwanted = tuple[UUID, UUID | None, FileState | None]
"""A snapshot to remove, if it is in this saga, and its file is in this state (None: whatever that is)."""


class SnapshotFiles:
    """Blocking; raises OSError as the system does."""

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
        return None if found is None else self._decoded(found[1], found[0].saga_id, snapshot_id, found[0].suffix)

    def view(self, saga_id: UUID) -> View:
        """What a saga has, without the snapshots themselves."""
        self.tree.finish_moves()
        return self._indexes.view(saga_id)

    def of_views(self, saga_names: Iterable[str], pick: Callable[[View], Iterable[T]]) -> list[T]:
        """What `pick` takes from the views of these sagas."""
        return [picked for name in saga_names for picked in pick(self.view(UUID(name)))]

    def newest(self, saga_id: UUID, fits: Callable[[FileEntry], bool]) -> SagaSnapshot | None:
        """The newest snapshot that fits. Raises CorruptRecord if it cannot be read, or may be an unreadable one."""
        view = self.view(saga_id)
        for entry in reversed(view.entries):
            if fits(entry):
                found = self._read(saga_id, entry)
                if isinstance(found, CorruptRecord):
                    raise found
                # It may have been saved anew since.
                if found is not None and fits(FileEntry.of_snapshot(found, entry.suffix, entry.state)):
                    return found
        for error in view.unplaced.values():
            raise error
        return None

    def read(self, saga_id: UUID, entries: Iterable[FileEntry]) -> list[tuple[UUID, Found]]:
        """The snapshots of a page."""
        return [(entry.snapshot_id, self._read(saga_id, entry)) for entry in entries]

    def delete(self, unwanted: Iterable[Unwanted]) -> int:
        """Remove snapshots; how many were there."""
        removed, sagas = 0, set[UUID]()
        for snapshot_id, in_saga, state in unwanted:
            left = self.tree.delete(snapshot_id, in_saga=in_saga, unchanged=state)
            removed += bool(left)
            sagas |= left
        for saga_id in sagas:
            self._indexes.note(saga_id)
        return removed

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
        where = self.layout.saga(saga_id) / snapshot_name(snapshot_id, suffix)
        return form.read_snapshot(data, snapshot_id=snapshot_id, saga_id=saga_id, where=str(where))


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
