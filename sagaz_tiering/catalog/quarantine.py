"""What failed again and again, or cannot be: what jobs leave alone until somebody has looked at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import from_column, load, to_column

_SQL = load(__package__, "quarantine")
BUDGET = 5
"""Failures after which an item is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """`kind`: pack, object, snapshot or claim (of a pack that contradicts another).

    `state`: FAILING (tried again), QUARANTINED (left alone) or DROPPED.
    """

    kind: str
    item: str
    reason: str
    attempts: int
    state: str
    first_seen: datetime
    last_seen: datetime


class Quarantine(Repository):
    """The table `quarantine`."""

    async def record(self, kind: str, item: str, reason: str, now: datetime, *, budget: int = BUDGET) -> None:
        """It failed once more; after `budget` failures it is left alone."""
        await self._db.execute(_SQL["record"], kind, to_column(item), to_column(reason), now, budget)

    async def resolve(self, kind: str, item: str) -> bool:
        """It works; True if it was listed."""
        return await self._db.execute(_SQL["resolve"], kind, to_column(item)) > 0

    async def items(
        self, limit: int, *, dropped_too: bool = False, behind: tuple[datetime, str] | None = None
    ) -> list[Quarantined]:
        """The newest first; `behind` the one that was last seen then and is called that (`kind/item`)."""
        at, name = behind or (None, None)
        column = None if name is None else to_column(name)
        rows = await self._db.fetch(_SQL["items"], dropped_too, limit, at, column)
        return [of_row(Quarantined, row, "item", "reason") for row in rows]

    async def left_alone(self, kind: str, items: Sequence[str]) -> set[str]:
        """Of these, the ones that jobs do not touch."""
        rows = await self._db.fetch(_SQL["left_alone"], kind, list(map(to_column, items))) if items else []
        return {from_column(row["item"]) for row in rows}

    async def retry(self, item: str) -> bool:
        """Try it again; False if it is not listed."""
        return await self._db.execute(_SQL["set_state"], to_column(item), "FAILING") > 0

    async def drop(self, item: str) -> bool:
        """Do not report it any more; nothing is deleted. False if it is not listed."""
        return await self._db.execute(_SQL["set_state"], to_column(item), "DROPPED") > 0
