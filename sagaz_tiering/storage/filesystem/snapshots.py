"""Snapshots in a directory, one blocking call for each piece of a query: tree, indexes and documents together.

What is known of a saga's snapshots without reading them is in `indexes/<saga id>.json`, checked against the directory:

    {"saga_id": .., "snapshots": [{"snapshot_id": .., "created_at": .., "step_index": .., "step_name": ..,
     "retention_until": .., "file": .., "seen": [inode, size, mtime in ns]}, ..], "checksum": ..}    newest first

An entry is believed while its file is as it was `seen`; other files are read. So an index may be missing, old, of
`sagaz` (which has no `seen`), altered or restored from a backup: a query answers the same, and writes it anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.codec.value import Record
from sagaz_tiering.errors import CorruptRecord, LocalStorageUnavailable
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.storage.filesystem import record as form
from sagaz_tiering.storage.filesystem.files import REFUSED, FileState, Folder, opened, opened_top
from sagaz_tiering.storage.filesystem.layout import GZIPPED, PLAIN, SUFFIXES, Layout, Lock, snapshot_name, snapshot_of
from sagaz_tiering.storage.filesystem.tree import SnapshotTree

_log = Logger(__name__)

_PAGE: Final = 100
_PAGE_BYTES: Final = 8 * 2**20
_UNSEEN: Final = FileState(0, 0, 0)
"""No file is like this."""

T = TypeVar("T")

Found = SagaSnapshot | CorruptRecord | None
"""What reading one file gave; None: it is gone."""

Unwanted = tuple[UUID, UUID | None, FileState | None]
"""A snapshot to remove, if it is in this saga, and its file is in this state (None: whatever that is)."""


class FileEntry(NamedTuple):
    """One snapshot: its file, and what is asked of it without reading that. Times in microseconds since 1970 UTC.

    `damaged`: the file cannot be read, and this is what the index said of it before.
    """

    snapshot_id: UUID
    suffix: str
    state: FileState
    created_us: int
    step_index: int
    step_name: str
    retention_us: int | None
    damaged: bool = False

    @property
    def order_key(self) -> tuple[int, int, int]:
        """Ascending time-travel order."""
        return (self.created_us, self.step_index, self.snapshot_id.int)

    @classmethod
    def of(cls, meta: SnapshotMeta, suffix: str, state: FileState) -> FileEntry:
        return cls(meta.snapshot_id, suffix, state, meta.created_us, meta.step_index, meta.step_name, meta.retention_us)

    @classmethod
    def of_snapshot(cls, snapshot: SagaSnapshot, suffix: str, state: FileState) -> FileEntry:
        return cls.of(SnapshotMeta.of(snapshot, saved_us=0, body_crc=0), suffix, state)

    def is_live(self, now_us: int) -> bool:
        """Whether its retention has not passed."""
        return self.retention_us is None or now_us < self.retention_us


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A saga's snapshots, oldest first; and those of which nothing is known, since their files cannot be read."""

    saga_id: UUID
    entries: list[FileEntry]
    unplaced: dict[UUID, CorruptRecord]


class SnapshotFiles:
    """Blocking; raises OSError as the system does."""

    def __init__(self, layout: Layout, *, compress: bool, pretty: bool) -> None:
        self.tree = SnapshotTree(layout)
        self._layout = layout
        self._compress = compress
        self._pretty = pretty
        self._fresh: dict[UUID, dict[UUID, FileEntry]] = {}
        self._fresh_lock = threading.Lock()

    def open(self) -> None:
        """Make the directories; where that is not allowed, one that is there can be read."""
        try:
            self._layout.make()
        except OSError as exc:
            if exc.errno not in REFUSED or not os.access(self._layout.snapshots, os.R_OK | os.X_OK):
                raise

    def save(self, record: Record) -> None:
        """Store or replace."""
        meta, suffix = record.meta, GZIPPED if self._compress else PLAIN
        data = form.snapshot_document(record, pretty=self._pretty, compress=self._compress)
        state, left = self.tree.save(meta.snapshot_id, meta.saga_id, suffix, data)
        self._note(meta.saga_id, FileEntry.of(meta, suffix, state))
        for saga_id in left:
            self._note(saga_id)

    def get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        """Expired or not. Raises CorruptRecord."""
        found = self.tree.find(snapshot_id)
        return None if found is None else self._decoded(found[1], found[0].saga_id, snapshot_id, found[0].suffix)

    def view(self, saga_id: UUID) -> View:
        """What a saga has, without the snapshots themselves; brings its index up to date if that is possible."""
        self.tree.finish_moves()
        known = self._known(saga_id)
        view, news = self._look(saga_id, known)
        if news or len(known) != len(view.entries):
            with suppress(OSError, LocalStorageUnavailable), self._layout.locks.tried(Lock.SAGA, saga_id) as free:
                if free:
                    for entry in news:
                        self.tree.heal(entry.snapshot_id, saga_id)
                    self._refresh(saga_id, {entry.snapshot_id: entry for entry in news})
        return view

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
            self._note(saga_id)
        return removed

    def _note(self, saga_id: UUID, *entries: FileEntry) -> None:
        """Bring the index up to date after a save (of `entries`) or a delete. A failure is logged: see the module.

        Saves of one saga that wait for each other write it together.
        """
        with self._fresh_lock:
            self._fresh.setdefault(saga_id, {}).update((entry.snapshot_id, entry) for entry in entries)
        try:
            with self._layout.locks.held(Lock.SAGA, saga_id):
                with self._fresh_lock:
                    fresh = self._fresh.pop(saga_id, None)
                if fresh is not None:
                    self._refresh(saga_id, fresh)
        except (OSError, LocalStorageUnavailable) as exc:
            _log.warning("saga_index.left_old", saga_id=str(saga_id), base_path=str(self._layout.base), error=str(exc))

    def _refresh(self, saga_id: UUID, fresh: dict[UUID, FileEntry]) -> None:
        """With the saga's lock: write the index, or remove it with a saga that has nothing."""
        known = self._known(saga_id)
        view, news = self._look(saga_id, known | fresh)
        for entry in news:
            self.tree.heal(entry.snapshot_id, saga_id)
        if not view.entries and not view.unplaced:
            with opened_top(self._layout.indexes) as indexes:
                indexes.unlink(f"{saga_id}{PLAIN}")
            with suppress(OSError):  # not empty: a save beside us, or strangers
                os.rmdir(self._layout.saga(saga_id))
            return
        items = [_to_item(entry) for entry in reversed(view.entries)]
        data = form.sealed({"saga_id": str(saga_id), "snapshots": items}, pretty=self._pretty)
        with opened_top(self._layout.indexes) as indexes:
            # Not made durable: what power loss leaves of it does not match its checksum, or not the directory.
            indexes.replace(f"{saga_id}{PLAIN}", data, durable=False)

    def _look(self, saga_id: UUID, known: Mapping[UUID, FileEntry]) -> tuple[View, list[FileEntry]]:
        """The directory, with the help of what is `known`; and the entries that had to be read."""
        entries, news = list[FileEntry](), list[FileEntry]()
        unplaced: dict[UUID, CorruptRecord] = {}
        try:
            with opened(self._layout.saga(saga_id)) as folder:
                for snapshot_id, (suffix, state) in self._listed(folder, known).items():
                    old = known.get(snapshot_id)
                    if old is not None and (old.suffix, old.state) == (suffix, state):
                        entries.append(old)
                        continue
                    try:
                        data = folder.read(snapshot_name(snapshot_id, suffix))
                        snapshot = self._decoded(data, saga_id, snapshot_id, suffix)
                    except FileNotFoundError:
                        continue
                    except CorruptRecord as exc:
                        if old is None:
                            unplaced[snapshot_id] = exc
                        else:
                            entries.append(old._replace(suffix=suffix, state=state, damaged=True))
                        continue
                    news.append(FileEntry.of_snapshot(snapshot, suffix, state))
        except (FileNotFoundError, NotADirectoryError):
            self._layout.check_present()
        ordered = sorted((*entries, *news), key=lambda entry: entry.order_key)
        return View(saga_id=saga_id, entries=ordered, unplaced=unplaced), news

    def _listed(self, folder: Folder, known: Iterable[UUID]) -> dict[UUID, tuple[str, FileState]]:
        """Suffix and state of each snapshot's file (the newest, where another program left two)."""
        seen, others = list[tuple[UUID, str, FileState]](), list[str]()
        for name, state in folder.files():
            if (parts := snapshot_of(name)) is not None:
                seen.append((*parts, state))
            else:
                others.append(name)
        self._layout.locks.remove_left(folder, Lock.RECORD, others)
        # A directory that is changed while it is listed may hide what was there all the time.
        hidden = set(known) - {snapshot_id for snapshot_id, _, _ in seen}
        looked = ((each, suffix, folder.state(snapshot_name(each, suffix))) for each in hidden for suffix in SUFFIXES)
        seen += [(each, suffix, state) for each, suffix, state in looked if state is not None]
        seen.sort(key=lambda each: (each[2].mtime_ns, each[1]))
        return {snapshot_id: (suffix, state) for snapshot_id, suffix, state in seen}

    def _known(self, saga_id: UUID) -> dict[UUID, FileEntry]:
        """What the index says; nothing if it is not one of ours."""
        try:
            with opened_top(self._layout.indexes) as indexes:
                fields = form.unsealed(indexes.read(f"{saga_id}{PLAIN}"), f"{saga_id}{PLAIN}")
            return {entry.snapshot_id: entry for entry in map(_from_item, fields["snapshots"])}
        except (FileNotFoundError, CorruptRecord, ValueError, TypeError, KeyError, AttributeError):
            return {}

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
        where = self._layout.saga(saga_id) / snapshot_name(snapshot_id, suffix)
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


def _to_item(entry: FileEntry) -> dict[str, Any]:
    until = entry.retention_us
    return {
        "snapshot_id": str(entry.snapshot_id),
        "created_at": from_micros(entry.created_us).isoformat(),
        "step_index": entry.step_index,
        "step_name": entry.step_name,
        "retention_until": None if until is None else from_micros(until).isoformat(),
        "file": snapshot_name(entry.snapshot_id, entry.suffix),
        "seen": list(_UNSEEN if entry.damaged else entry.state),
    }


def _from_item(item: Mapping[str, Any]) -> FileEntry:
    snapshot_id, suffix = snapshot_of(item["file"]) or (None, "")
    if snapshot_id is None:
        raise ValueError("not a snapshot's file")
    until = item["retention_until"]
    return FileEntry(
        snapshot_id=snapshot_id,
        suffix=suffix,
        state=FileState(*item["seen"]),
        created_us=to_micros(form.moment(item["created_at"])),
        step_index=item["step_index"],
        step_name=item["step_name"],
        retention_us=None if until is None else to_micros(form.moment(until)),
    )
