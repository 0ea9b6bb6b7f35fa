"""What a walk over a store found, in any order, read back in order: on disk, however much it is."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from sagaz_tiering.errors import ConfigError

T = TypeVar("T")

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


class Inventory:
    """Add, `settle`, then read. Lives in a temporary file that has no name (TMPDIR says where), so none is left."""

    def __init__(self) -> None:
        self._db: sqlite3.Connection | None = None
        # A cancelled call goes on in its thread: the next one waits for it here.
        self._lock = threading.Lock()

    async def open(self) -> None:
        """Make the file."""
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """Drop it."""
        await asyncio.to_thread(self._close)

    async def add(self, found: Sequence[FoundSnapshot], replays: Sequence[FoundReplay] = ()) -> None:
        """Note what was found; the same record may come twice. Raises ConfigError where the disk is full."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?)", found)
                db.executemany("INSERT INTO replay VALUES (?, ?, ?, ?)", replays)

        await self._run(work)

    async def settle(self, now_us: int) -> int:
        """Keep one record of each id, drop what has expired, sort the rest; how many had expired."""

        def work(db: sqlite3.Connection) -> int:
            with db:
                db.execute(_NEWEST_ONLY.format(table="found", id="snapshot_id"))
                db.execute(_NEWEST_ONLY.format(table="replay", id="replay_id"))
                expired = db.execute("DELETE FROM found WHERE retention_us <= ?", (now_us,)).rowcount
                db.executescript(_ORDER)
            return expired

        return await self._run(work)

    async def note(self, kind: str, key: bytes) -> bool:
        """Remember something about a record; whether it was not remembered before."""

        def work(db: sqlite3.Connection) -> bool:
            with db:
                return db.execute("INSERT OR IGNORE INTO noted VALUES (?, ?)", (kind, key)).rowcount > 0

        return await self._run(work)

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

    async def _rows(self, query: str, values: Iterable[object]) -> list[Any]:
        return await self._run(lambda db: db.execute(query, tuple(values)).fetchall())

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def locked() -> T:
            with self._lock:
                if self._db is None:
                    raise RuntimeError("the source was closed while it was read")
                return work(self._db)

        try:
            return await asyncio.to_thread(locked)
        except sqlite3.OperationalError as exc:
            raise ConfigError(
                f"the list of what was found cannot be kept on disk: {exc}",
                hint="make room, or set TMPDIR to a folder that has some (about 150 bytes per snapshot)",
            ) from exc

    def _open(self) -> None:
        with self._lock:
            # An empty name makes a database of its own in a file that is unlinked at once.
            self._db = sqlite3.connect("", check_same_thread=False)
            self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")

    def _close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None
