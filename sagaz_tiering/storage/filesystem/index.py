"""What is known of a saga's snapshots without reading them: `indexes/<saga id>.json`, checked against the directory.

    {"saga_id": .., "snapshots": [{"snapshot_id": .., "created_at": .., "step_index": .., "step_name": ..,
     "retention_until": .., "file": .., "seen": [inode, size, mtime in ns]}, ..], "checksum": ..}    newest first

An entry is believed while its file is as it was `seen`; other files are read. So an index may be missing, old, of
`sagaz` (which has no `seen`), altered or restored from a backup: a query answers the same, and writes it anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.errors import CorruptRecord, LocalStorageUnavailable
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.storage.filesystem import record as form
from sagaz_tiering.storage.filesystem.files import FileState, Folder, opened, opened_top
from sagaz_tiering.storage.filesystem.layout import SUFFIXES, Layout, snapshot_name, snapshot_of
from sagaz_tiering.storage.filesystem.locks import Lock, Locks

_log = Logger(__name__)

_UNSEEN: Final = FileState(0, 0, 0)
"""No file is like this."""


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


class SagaIndexes:
    """The indexes of one directory tree. `heal` is told of each snapshot that another program may have added."""

    def __init__(self, layout: Layout, locks: Locks, *, pretty: bool, heal: Callable[[UUID, UUID], None]) -> None:
        self._layout = layout
        self._locks = locks
        self._pretty = pretty
        self._heal = heal
        self._fresh: dict[UUID, dict[UUID, FileEntry]] = {}
        self._fresh_lock = threading.Lock()

    def view(self, saga_id: UUID) -> View:
        """What the saga has now; brings its index up to date if that is possible."""
        known = self._known(saga_id)
        view, news = self._look(saga_id, known)
        if news or len(known) != len(view.entries):
            with suppress(OSError, LocalStorageUnavailable), self._locks.tried(Lock.SAGA, saga_id) as free:
                if free:
                    for entry in news:
                        self._heal(entry.snapshot_id, saga_id)
                    self._refresh(saga_id, {entry.snapshot_id: entry for entry in news})
        return view

    def note(self, saga_id: UUID, *entries: FileEntry) -> None:
        """Bring the index up to date after a save (of `entries`) or a delete. A failure is logged: see the module.

        Saves of one saga that wait for each other write it together.
        """
        with self._fresh_lock:
            self._fresh.setdefault(saga_id, {}).update((entry.snapshot_id, entry) for entry in entries)
        try:
            with self._locks.held(Lock.SAGA, saga_id):
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
            self._heal(entry.snapshot_id, saga_id)
        if not view.entries and not view.unplaced:
            with opened_top(self._layout.indexes) as indexes:
                indexes.unlink(_name(saga_id))
            with suppress(OSError):  # not empty: a save beside us, or strangers
                os.rmdir(self._layout.saga(saga_id))
            return
        data = _to_bytes(view, pretty=self._pretty)
        with opened_top(self._layout.indexes) as indexes:
            # Not made durable: what power loss leaves of it does not match its checksum, or not the directory.
            indexes.replace(_name(saga_id), data, durable=False)

    def _look(self, saga_id: UUID, known: Mapping[UUID, FileEntry]) -> tuple[View, list[FileEntry]]:
        """The directory, with the help of what is `known`; and the entries that had to be read."""
        entries: dict[UUID, FileEntry] = {}
        unplaced: dict[UUID, CorruptRecord] = {}
        news: list[FileEntry] = []
        try:
            with opened(self._layout.saga(saga_id)) as folder:
                for snapshot_id, (suffix, state) in self._files(folder, known).items():
                    old = known.get(snapshot_id)
                    if old is not None and (old.suffix, old.state) == (suffix, state):
                        entries[snapshot_id] = old
                        continue
                    try:
                        entry = _read(folder, saga_id, snapshot_id, suffix, state)
                    except FileNotFoundError:
                        continue
                    except CorruptRecord as exc:
                        if old is None:
                            unplaced[snapshot_id] = exc
                            continue
                        entries[snapshot_id] = old._replace(suffix=suffix, state=state, damaged=True)
                        continue
                    entries[snapshot_id] = entry
                    news.append(entry)
        except (FileNotFoundError, NotADirectoryError):
            self._layout.check_present()
        ordered = sorted(entries.values(), key=lambda entry: entry.order_key)
        return View(saga_id=saga_id, entries=ordered, unplaced=unplaced), news

    def _files(self, folder: Folder, known: Iterable[UUID]) -> dict[UUID, tuple[str, FileState]]:
        """Suffix and state of each snapshot's file (the newest, where another program left two)."""
        found: dict[UUID, tuple[str, FileState]] = {}

        def add(snapshot_id: UUID, suffix: str, state: FileState) -> None:
            other = found.get(snapshot_id)
            if other is None or (other[1].mtime_ns, other[0]) < (state.mtime_ns, suffix):
                found[snapshot_id] = (suffix, state)

        others = []
        for name, state in folder.files():
            if (parts := snapshot_of(name)) is not None:
                add(*parts, state)
            else:
                others.append(name)
        self._locks.remove_left(folder, Lock.RECORD, others)
        for snapshot_id in known:
            # A directory that is changed while it is listed may hide what was there all the time.
            for suffix in SUFFIXES if snapshot_id not in found else ():
                if (seen := folder.state(snapshot_name(snapshot_id, suffix))) is not None:
                    add(snapshot_id, suffix, seen)
        return found

    def _known(self, saga_id: UUID) -> dict[UUID, FileEntry]:
        """What the index says; nothing if it is not one of ours."""
        try:
            with opened_top(self._layout.indexes) as indexes:
                fields = form.unsealed(indexes.read(_name(saga_id)), _name(saga_id))
            return {entry.snapshot_id: entry for entry in map(_from_item, fields["snapshots"])}
        except (FileNotFoundError, CorruptRecord, ValueError, TypeError, KeyError, AttributeError):
            return {}


def _name(saga_id: UUID) -> str:
    return f"{saga_id}.json"


def _read(folder: Folder, saga_id: UUID, snapshot_id: UUID, suffix: str, state: FileState) -> FileEntry:
    """Raises FileNotFoundError, CorruptRecord."""
    name = snapshot_name(snapshot_id, suffix)
    where = str(folder.path / name)
    snapshot = form.read_snapshot(folder.read(name), snapshot_id=snapshot_id, saga_id=saga_id, where=where)
    return FileEntry.of_snapshot(snapshot, suffix, state)


def _to_bytes(view: View, *, pretty: bool) -> bytes:
    items = [_to_item(entry) for entry in reversed(view.entries)]
    return form.sealed({"saga_id": str(view.saga_id), "snapshots": items}, pretty=pretty)


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
