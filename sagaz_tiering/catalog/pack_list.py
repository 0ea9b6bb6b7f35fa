"""Packs as people look at them: page by page, and what is in one."""

from __future__ import annotations

from typing import Any

from sagaz_tiering.catalog.rows import Repository
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.drivers.postgresql.text import from_column
from sagaz_tiering.terminal import plain

_SQL = load(__package__, "pack_list")
NEWEST = 2**31 - 1


class PackList(Repository):
    """`packs` and `frames`, to look at."""

    async def page(
        self, limit: int, before: int = NEWEST, *, storage_class: str | None = None, state: str | None = None
    ) -> list[dict[str, Any]]:
        """The newest first, before an id."""
        rows = await self._db.fetch(_SQL["page"], before, limit, storage_class, state)
        return [plain({**dict(row), "object_key": from_column(row["object_key"])}) for row in rows]

    async def one(self, pack_id: int) -> dict[str, Any] | None:
        """A pack by its id."""
        found = await self.page(1, pack_id + 1)
        return found[0] if found and found[0]["pack_id"] == pack_id else None

    async def frames(self, pack_id: int, limit: int, after: int = -1) -> list[dict[str, Any]]:
        """Its frames in order, after one: of which saga, where (bytes), how many snapshots are read from it."""
        return [plain(dict(row)) for row in await self._db.fetch(_SQL["frames"], pack_id, after, limit)]
