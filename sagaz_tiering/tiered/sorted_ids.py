"""Pairs that come in any order, read back in order: on disk, so that memory does not grow with their number.

For what a server can only give unordered (Redis SCAN, a bucket listed by another key).
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Self

_PAGE = 5_000


class SortedIds:
    """A set of (key, detail) pairs of bytes in a temporary file that goes with it. `async with SortedIds() as ids`."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._db: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._close)

    async def add(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Add pairs; one that is there already stays once."""
        await asyncio.to_thread(self._add, list(pairs))

    async def keys(self, *, after: bytes = b"") -> AsyncIterator[bytes]:
        """Every distinct key behind `after`, ascending."""
        last = after
        while page := await asyncio.to_thread(
            self._rows, "SELECT DISTINCT key FROM pair WHERE key > ? ORDER BY key LIMIT ?", (last, _PAGE)
        ):
            for (key,) in page:
                yield key
            last = page[-1][0]

    async def details(self, key: bytes) -> AsyncIterator[bytes]:
        """The details of one key, ascending."""
        last = b""
        query = "SELECT detail FROM pair WHERE key = ? AND detail > ? ORDER BY detail LIMIT ?"
        while page := await asyncio.to_thread(self._rows, query, (key, last, _PAGE)):
            for (detail,) in page:
                yield detail
            last = page[-1][0]

    def _open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sagaz-tiering-")
        self._db = sqlite3.connect(Path(self._folder.name, "sorted-ids.sqlite"), check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE pair (key BLOB, detail BLOB, PRIMARY KEY (key, detail)) WITHOUT ROWID")

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._db = self._folder = None

    def _add(self, pairs: list[tuple[bytes, bytes]]) -> None:
        with self._opened() as db:
            db.executemany("INSERT OR IGNORE INTO pair VALUES (?, ?)", pairs)

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[bytes, ...]]:
        return self._opened().execute(query, values).fetchall()

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the set is closed; use `async with`")
        return self._db
