"""Tables that one reading needs: on disk, so that memory does not grow with what they hold, and gone with it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Self, TypeVar

from sagaz_tiering.errors import ConfigError

T = TypeVar("T")
_PAGE = 5_000


class Scratch:
    """`open`, `run`, `close`. Lives in a temporary file that has no name (TMPDIR says where), so none is left."""

    def __init__(self, tables: str) -> None:
        """`tables` is the SQL that makes them."""
        self._tables = tables
        self._db: sqlite3.Connection | None = None
        # A cancelled call goes on in its thread: the next one waits for it here.
        self._lock = threading.Lock()

    async def open(self) -> None:
        """Make the file."""
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """Drop it."""
        await asyncio.to_thread(self._close)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` on a thread; a cursor that it returns is closed. Raises ConfigError where the disk is full,
        RuntimeError if it is not open.
        """
        try:
            return await asyncio.to_thread(self._locked, work)
        except sqlite3.OperationalError as exc:
            raise ConfigError(
                f"the list of what was found cannot be kept on disk: {exc}",
                hint="make room, or set TMPDIR to a folder that has some (about 150 bytes per snapshot)",
            ) from exc

    def _locked(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._db is None:
                raise RuntimeError("the source was closed while it was read")
            found = work(self._db)
            if isinstance(found, sqlite3.Cursor):
                found.close()  # freed on the caller's thread it would reset a statement that the next call is using
            return found

    def _open(self) -> None:
        with self._lock:
            # An empty name makes a database of its own in a file that is unlinked at once.
            self._db = sqlite3.connect("", check_same_thread=False)
            self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {self._tables}")

    def _close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None


class SortedIds(Scratch):
    """Ids in order, gathered in any order, for what a server can only give unordered (Redis SCAN).

    A set in a temporary file that goes with it: `async with SortedIds() as ids`.
    """

    def __init__(self) -> None:
        super().__init__("CREATE TABLE found (id BLOB PRIMARY KEY) WITHOUT ROWID")

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def add(self, ids: Iterable[bytes]) -> None:
        """Add ids; one that is there already stays once. Raises ConfigError where the disk is full."""
        found = [(each,) for each in ids]
        await self.run(lambda db: db.executemany("INSERT OR IGNORE INTO found VALUES (?)", found))

    async def ids(self) -> AsyncIterator[bytes]:
        """Every id, ascending."""
        query, last = "SELECT id FROM found WHERE id > ? ORDER BY id LIMIT ?", b""

        def page(db: sqlite3.Connection) -> list[bytes]:
            return [row[0] for row in db.execute(query, (last, _PAGE))]

        while found := await self.run(page):
            for each in found:
                yield each
            last = found[-1]
