"""The journal: what happened that the packs do not tell, on its way to the bucket.

An entry is written in the transaction of what it tells, and copied to the bucket by the jobs; with PostgreSQL gone,
`catalog rebuild` reads it there. Kinds: `hold`, `release`, `delete`, `forget`, and for the
record `keys_created`, `key_destroyed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from sagaz_tiering.catalog.rows import Repository
from sagaz_tiering.drivers.postgresql.pool import Connection
from sagaz_tiering.drivers.postgresql.queries import load

_SQL = load(__package__, "journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One thing that happened."""

    number: int
    at: datetime
    kind: str
    body: dict[str, Any]


class Journal(Repository):
    """The table `journal`."""

    async def any_unpublished(self) -> bool:
        """Whether the bucket lacks entries."""
        return bool(await self._db.fetchval(_SQL["any_unpublished"]))

    async def unpublished(self, limit: int) -> list[JournalEntry]:
        """The oldest entries that the bucket lacks and that have their number."""
        rows = await self._db.fetch(_SQL["unpublished"], limit)
        return [JournalEntry(**{**dict(row), "body": orjson.loads(row["body"])}) for row in rows]

    async def published(self, numbers: Sequence[int], now: datetime) -> None:
        """These are in the bucket."""
        await self._db.execute(_SQL["published"], list(numbers), now)

    async def prune(self, before: datetime) -> int:
        """Forget what has been in the bucket for long."""
        return await self._db.execute(_SQL["prune"], before)


async def note(conn: Connection, kind: str, body: Mapping[str, Any], now: datetime) -> None:
    """Add an entry in the transaction of what it tells; `body` holds JSON values, UUIDs and times."""
    await conn.execute(_SQL["append"], now, kind, orjson.dumps(dict(body), default=str).decode())
