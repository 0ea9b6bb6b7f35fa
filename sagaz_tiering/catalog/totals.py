"""How much is where and what waits, in one statement each, and the hourly history of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import orjson

from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.storage_class import StorageClass

_SQL = load(__package__, "totals")
KEPT = timedelta(days=731)
"""So long the history is kept."""
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdTotal:
    """Packs of a class; `packed` counts what is dead in them too, `came` what came since the last row."""

    storage_class: StorageClass
    retiring: bool
    packs: int
    bytes: int
    snapshots: int
    packed: int
    undersized: int
    came: int
    newest_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWork:
    """So many of something wait, the oldest since then: quarantine (kind, state), restore (state), late_restore, hold,
    journal, erasure (packs), changed_saga, due (durable copies; not counted here), many_values (sagas that have more
    values of an attribute, the kind, than they are found by)."""

    what: str
    kind: str
    state: str
    number: int | None
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one tier has of one storage class. None: not known without counting one by one (snapshots in Redis), or not
    ours to price.

    `tier`: hot, durable, cold or retiring (packs that nothing needs any more, billed until they are deleted).
    """

    tier: str
    storage_class: str = ""
    snapshots: int | None = None
    packs: int | None = None
    bytes: int
    usd_per_month: float | None = None
    came: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """The row of an hour."""

    hour: datetime
    holdings: tuple[Holding, ...]


class CatalogTotals(Repository):
    """Aggregates over `packs` and what waits; the table `history`."""

    async def cold(self, undersized_below: int, hour: datetime) -> list[ColdTotal]:
        """Packs by class; `came` counts up to `hour`."""
        rows = await self._db.fetch(_SQL["cold"], undersized_below, hour)
        return [of_row(ColdTotal, row) for row in rows]

    async def open_work(self, now: datetime) -> list[OpenWork]:
        """What waits for somebody."""
        return [OpenWork(**dict(row)) for row in await self._db.fetch(_SQL["open_work"], now)]

    async def note_hour(self, hour: datetime, holdings: Sequence[Holding]) -> bool:
        """Write the row of an hour; False where another process has."""
        document = orjson.dumps([asdict(each) for each in holdings]).decode()
        return await self._db.execute(_SQL["note_hour"], hour, document, hour - KEPT) == 1

    async def hours(self, since: datetime, step: timedelta) -> list[Hour]:
        """The last row of each `step` since then, the oldest first."""
        return [
            Hour(hour=row["hour"], holdings=tuple(Holding(**each) for each in orjson.loads(row["holdings"])))
            for row in await self._db.fetch(_SQL["hours"], since, step)
        ]

    async def came(self, since: datetime) -> dict[str, int]:
        """Snapshots that came into each storage class since then."""
        return {row["storage_class"]: row["came"] for row in await self._db.fetch(_SQL["came"], since)}
