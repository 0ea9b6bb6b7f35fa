"""What a walk over a store found, in any order, read back in order: on disk, however much it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from sagaz_tiering.drivers.scratch import Scratch

_TABLES: Final = """
    CREATE TABLE found (
        saga_id BLOB, created_us INTEGER, step_index INTEGER, snapshot_id BLOB,
        retention_us INTEGER, written INTEGER, size INTEGER, key BLOB
    );
    CREATE TABLE replay (replay_id BLOB, written INTEGER, size INTEGER, key BLOB);
    CREATE TABLE noted (kind TEXT, key BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""
# Indexes are made when everything is in: sorting once is many times faster than inserting random ids in order.
_NEWEST_ONLY: Final = """
    DELETE FROM {table} WHERE rowid IN (
        SELECT rowid FROM (
            SELECT rowid, row_number() OVER (PARTITION BY {id} ORDER BY written DESC, rowid DESC) AS place FROM {table}
        ) WHERE place > 1
    )
"""
_ORDER: Final = """
    CREATE INDEX found_in_order ON found (saga_id, created_us, step_index, snapshot_id, retention_us);
    CREATE INDEX replay_in_order ON replay (replay_id);
"""
_COLUMNS: Final = "saga_id, created_us, step_index, snapshot_id, retention_us, written, size, key"


class FoundSnapshot(NamedTuple):
    """Where one snapshot is. `written`: of several records with one id the one with the highest counts.

    `size` in bytes, as JSON; `key` is what the source finds the record by.
    """

    saga_id: bytes
    created_us: int
    step_index: int
    snapshot_id: bytes
    retention_us: int | None
    written: int
    size: int
    key: bytes

    @property
    def place(self) -> tuple[bytes, int, int, bytes]:
        """What the order is by."""
        return self[:4]


class FoundReplay(NamedTuple):
    """Where one replay record is."""

    replay_id: bytes
    written: int
    size: int
    key: bytes


class Inventory(Scratch):
    """Add, `settle`, then read."""

    def __init__(self) -> None:
        super().__init__(_TABLES)

    async def add(self, found: Sequence[FoundSnapshot], replays: Sequence[FoundReplay] = ()) -> None:
        """Note what was found; the same record may come twice. Raises ConfigError where the disk is full."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?)", found)
                db.executemany("INSERT INTO replay VALUES (?, ?, ?, ?)", replays)

        await self.run(work)

    async def settle(self, now_us: int) -> int:
        """Keep one record of each id, drop what has expired, sort the rest; how many had expired."""

        def work(db: sqlite3.Connection) -> int:
            with db:
                db.execute(_NEWEST_ONLY.format(table="found", id="snapshot_id"))
                db.execute(_NEWEST_ONLY.format(table="replay", id="replay_id"))
                expired = db.execute("DELETE FROM found WHERE retention_us <= ?", (now_us,)).rowcount
                db.executescript(_ORDER)
            return expired

        return await self.run(work)

    async def note(self, kind: str, key: bytes) -> bool:
        """Remember something about a record; whether it was not remembered before."""

        def work(db: sqlite3.Connection) -> bool:
            with db:
                return db.execute("INSERT OR IGNORE INTO noted VALUES (?, ?)", (kind, key)).rowcount > 0

        return await self.run(work)

    async def sagas(self, after: bytes, now_us: int, limit: int) -> list[UUID]:
        """Sagas behind `after` with a live snapshot, ascending."""
        query = """
            SELECT DISTINCT saga_id FROM found
            WHERE saga_id > ? AND (retention_us IS NULL OR retention_us > ?) ORDER BY saga_id LIMIT ?
        """
        return [UUID(bytes=saga) for (saga,) in await self._rows(query, (after, now_us, limit))]

    async def of_all(self, after: tuple[bytes, int, int, bytes], limit: int) -> list[FoundSnapshot]:
        """Snapshots of all sagas behind a place, in order."""
        query = f"""
            SELECT {_COLUMNS} FROM found WHERE (saga_id, created_us, step_index, snapshot_id) > (?, ?, ?, ?)
            ORDER BY saga_id, created_us, step_index, snapshot_id LIMIT ?
        """
        return [FoundSnapshot(*row) for row in await self._rows(query, (*after, limit))]

    async def of_saga(self, after: tuple[bytes, int, int, bytes], limit: int) -> list[FoundSnapshot]:
        """Snapshots of the saga in `after` behind that place, in order."""
        query = f"""
            SELECT {_COLUMNS} FROM found WHERE saga_id = ? AND (created_us, step_index, snapshot_id) > (?, ?, ?)
            ORDER BY created_us, step_index, snapshot_id LIMIT ?
        """
        return [FoundSnapshot(*row) for row in await self._rows(query, (*after, limit))]

    async def replays(self, after: bytes, limit: int) -> list[FoundReplay]:
        """Replay records behind an id, ascending."""
        query = "SELECT replay_id, written, size, key FROM replay WHERE replay_id > ? ORDER BY replay_id LIMIT ?"
        return [FoundReplay(*row) for row in await self._rows(query, (after, limit))]

    async def _rows(self, query: str, values: tuple[object, ...]) -> list[Any]:
        return await self.run(lambda db: db.execute(query, values).fetchall())
