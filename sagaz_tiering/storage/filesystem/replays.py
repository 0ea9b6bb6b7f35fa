"""Replay records as files: `replays/<replay id>.json`, and which of them are a saga's.

A save writes `.<id>.tmp` and fsyncs it, then makes the empty file `ids/replays/<saga id>/<replay id>`, then renames
the record to its name. A crash leaves a temporary file, or an entry for a record that is not there or is another
saga's: who lists looks into the record, so such an entry says nothing. Records are not compressed. Where another
program wrote records, and entries cannot be made, lists read all records.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.storage.filesystem import record as form
from sagaz_tiering.storage.filesystem.files import make_folder, opened_top
from sagaz_tiering.storage.filesystem.layout import PLAIN, Layout, Lock, canonical
from sagaz_tiering.storage.standalone import ReplayRecord, attempted


class ReplayFiles:
    """The replay records of one directory tree. Blocking; raises OSError as the system does."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def save(self, replay_id: UUID, saga_id: UUID, data: bytes) -> None:
        """Insert or replace."""
        self._layout.prepare()
        with (
            self._layout.locks.held(Lock.RECORD, replay_id),
            opened_top(self._layout.replays) as folder,
            folder.replacing(_name(replay_id), data, durable=True),
        ):
            self._enter(replay_id, saga_id, durable=True)

    def get(self, replay_id: UUID) -> ReplayRecord | None:
        """One record. Raises CorruptRecord."""
        try:
            with opened_top(self._layout.replays) as folder:
                data = folder.read(_name(replay_id))
        except FileNotFoundError:
            self._layout.check_present()
            return None
        return form.read_replay(data, replay_id=replay_id, where=str(self._layout.replays / _name(replay_id)))

    def read(self, replay_ids: Sequence[UUID]) -> list[tuple[UUID, ReplayRecord | CorruptRecord | None]]:
        """A page of records; None for what is gone."""
        return [attempted(replay_id, self.get, replay_id) for replay_id in replay_ids]

    def ids(self, after: UUID | None = None, *, tidy: bool = True) -> list[UUID]:
        """Of all records, ascending, from behind `after` on; removes what crashes left, if that is to be tidied up."""
        with opened_top(self._layout.replays) as folder:
            names = [name for name, _ in folder.files()]
            self._layout.locks.remove_left(folder, Lock.RECORD, names if tidy else ())
        found = [canonical(name.removesuffix(PLAIN)) for name in names if name.endswith(PLAIN)]
        return sorted(each for each in found if each is not None and (after is None or each > after))

    def ids_of(self, saga_id: UUID) -> list[UUID]:
        """Of the records that may be a saga's."""
        if not self._layout.replays_complete.exists():
            return self.ids()
        try:
            with opened_top(self._layout.replays_of / str(saga_id)) as folder:
                return [found for name, _ in folder.files() if (found := canonical(name)) is not None]
        except FileNotFoundError:
            self._layout.check_present()
            return []

    def adopt(self, replay_ids: Sequence[UUID]) -> None:
        """Make the missing entries of these records."""
        for replay_id, record in self.read(replay_ids):
            if isinstance(record, dict):
                self._enter(replay_id, UUID(record["original_saga_id"]), durable=False)

    def _enter(self, replay_id: UUID, saga_id: UUID, *, durable: bool) -> None:
        path = self._layout.replays_of / str(saga_id)
        make_folder(path)
        with opened_top(path) as folder:
            if folder.state(str(replay_id)) is None:
                folder.touch(str(replay_id))
                if durable:
                    folder.sync()


def order_key(record: ReplayRecord) -> tuple[datetime, UUID]:
    """Ascending by time."""
    return datetime.fromisoformat(record["created_at"]), UUID(record["replay_id"])


def _name(replay_id: UUID) -> str:
    return f"{replay_id}{PLAIN}"
