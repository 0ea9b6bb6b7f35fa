"""Ids in order, gathered in any order: on disk, so that memory stays the same for millions of sagas.

For what a server can only give unordered (Redis SCAN).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Self

from sagaz_tiering.drivers.scratch import Scratch

_PAGE = 5_000
_TABLE = "CREATE TABLE found (id BLOB PRIMARY KEY) WITHOUT ROWID"


class SortedIds(Scratch):
    """A set of ids in a temporary file that goes with it. `async with SortedIds() as ids`."""

    def __init__(self) -> None:
        super().__init__(_TABLE)

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
        last, query = b"", "SELECT id FROM found WHERE id > ? ORDER BY id LIMIT ?"
        while page := await self._page(query, last):
            for each in page:
                yield each
            last = page[-1]

    async def _page(self, query: str, last: bytes) -> list[bytes]:
        return await self.run(lambda db: [row[0] for row in db.execute(query, (last, _PAGE))])
