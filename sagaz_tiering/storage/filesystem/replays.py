"""Replay records as files: `replays/<replay id>.json`, and which of them are a saga's.

A save writes `.<id>.tmp` and fsyncs it, then makes the empty file `ids/replays/<saga id>/<replay id>`, then renames
the record to its name. A crash leaves a temporary file, or an entry for a record that is not there or is another
saga's: who lists looks into the record, so such an entry says nothing. Records are not compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.storage.filesystem import record as form
from sagaz_tiering.storage.filesystem.files import make_folder, opened_top, read_bytes
from sagaz_tiering.storage.filesystem.layout import PLAIN, Layout, canonical, temporary, temporary_of
from sagaz_tiering.storage.filesystem.locks import Lock, Locks, remove_left

Replay = dict[str, Any]


class ReplayFiles:
    """The replay records of one directory tree. Blocking; raises OSError as the system does."""

    def __init__(self, layout: Layout, locks: Locks) -> None:
        self._layout = layout
        self._locks = locks

    def save(self, replay_id: UUID, saga_id: UUID, data: bytes) -> None:
        """Insert or replace."""
        self._layout.prepare()
        with self._locks.held(Lock.RECORD, replay_id), opened_top(self._layout.replays) as folder:
            temp = temporary(replay_id)
            folder.write(temp, data, durable=True)
            try:
                self._enter(replay_id, saga_id, durable=True)
                folder.rename(temp, _name(replay_id))
            except BaseException:
                with suppress(OSError):
                    folder.unlink(temp)
                raise
            folder.sync()

    def get(self, replay_id: UUID) -> Replay | None:
        """One record. Raises CorruptRecord."""
        try:
            with opened_top(self._layout.replays) as folder:
                data = read_bytes(folder, _name(replay_id))
        except FileNotFoundError:
            self._layout.check_present()
            return None
        return form.read_replay(data, replay_id=replay_id, where=str(self._layout.replays / _name(replay_id)))

    def read(self, replay_ids: Sequence[UUID]) -> list[tuple[UUID, Replay | CorruptRecord | None]]:
        """A page of records; None for what is gone."""
        found: list[tuple[UUID, Replay | CorruptRecord | None]] = []
        for replay_id in replay_ids:
            try:
                found.append((replay_id, self.get(replay_id)))
            except CorruptRecord as exc:
                found.append((replay_id, exc))
        return found

    def count(self) -> int:
        """How many records there are; changes nothing."""
        with opened_top(self._layout.replays) as folder:
            return sum(
                name.endswith(PLAIN) and canonical(name.removesuffix(PLAIN)) is not None for name, _ in folder.files()
            )

    def ids(self, after: UUID | None = None) -> list[UUID]:
        """Of all records, ascending, from behind `after` on; removes what crashes left."""
        found = []
        with opened_top(self._layout.replays) as folder:
            for name, _ in folder.files():
                replay_id = canonical(name.removesuffix(PLAIN)) if name.endswith(PLAIN) else None
                if replay_id is not None and (after is None or replay_id > after):
                    found.append(replay_id)
                elif (left := temporary_of(name)) is not None:
                    remove_left(self._locks, folder, Lock.RECORD, left, name)
        return sorted(found)

    def ids_of(self, saga_id: UUID) -> list[UUID]:
        """Of the records that may be a saga's."""
        if not self.is_complete():
            return self.ids()
        try:
            with opened_top(self._layout.replays_of / str(saga_id)) as folder:
                return [found for name, _ in folder.files() if (found := canonical(name)) is not None]
        except FileNotFoundError:
            self._layout.check_present()
            return []

    def is_complete(self) -> bool:
        """Whether every record has its entry."""
        return self._layout.replays_complete.exists()

    def adopt(self, replay_ids: Sequence[UUID]) -> None:
        """Make the entries of records that another program wrote."""
        for replay_id in replay_ids:
            with suppress(CorruptRecord):
                record = self.get(replay_id)
                if record is not None:
                    self._enter(replay_id, UUID(record["original_saga_id"]), durable=False)

    def complete(self) -> None:
        """Say that every record has its entry, once these are durable."""
        for folder in [self._layout.replays_of, *self._layout.replays_of.iterdir()]:
            with suppress(NotADirectoryError), opened_top(folder) as each:
                each.sync()
        self._layout.replays_complete.touch(mode=0o600)
        with opened_top(self._layout.ids) as ids:
            ids.sync()

    def _enter(self, replay_id: UUID, saga_id: UUID, *, durable: bool) -> None:
        path = self._layout.replays_of / str(saga_id)
        make_folder(path)
        with opened_top(path) as folder:
            if folder.state(str(replay_id)) is None:
                folder.write(str(replay_id), b"", durable=False)
                if durable:
                    folder.sync()


def order_key(record: Replay) -> tuple[datetime, UUID]:
    """Ascending by time."""
    return datetime.fromisoformat(record["created_at"]), UUID(record["replay_id"])


def _name(replay_id: UUID) -> str:
    return f"{replay_id}{PLAIN}"
