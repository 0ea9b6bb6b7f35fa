"""What jobs spent on the object store, by day and kind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from sagaz_tiering.catalog.rows import Repository
from sagaz_tiering.drivers.postgresql.queries import load

_SQL = load(__package__, "spending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Requests and USD of one kind of work on one UTC day."""

    kind: str
    requests: int
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentOnDay:
    """Requests and USD of a UTC day."""

    day: date
    requests: int
    usd: float


class Spending(Repository):
    """The table `spending`."""

    async def spend(
        self, day: date, kind: str, requests: int, usd: float, *, most_requests: int | None, most_usd: float | None
    ) -> bool:
        """Count it, unless the day's total would be more than the limits (None: no limit); False if it was not.

        Processes that ask in the same instant may together exceed a limit by what they ask for.
        """
        counted = await self._db.fetchval(_SQL["spend"], day, kind, requests, usd, most_requests, most_usd)
        return counted is not None

    async def on(self, day: date) -> list[Spent]:
        """What was spent on a day, by kind."""
        return [Spent(**dict(row)) for row in await self._db.fetch(_SQL["spent_on"], day)]

    async def since(self, day: date) -> list[SpentOnDay]:
        """What was spent on each day from `day` on, the oldest first; days without are left out."""
        return [SpentOnDay(**dict(row)) for row in await self._db.fetch(_SQL["spent_since"], day)]
