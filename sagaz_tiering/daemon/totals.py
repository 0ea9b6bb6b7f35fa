"""The store's totals in the metrics, looked at now and then, never for a scrape; and each hour's row of the history."""

from __future__ import annotations

import asyncio
from datetime import datetime

from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import JobContext
from sagaz_tiering.logs import Logger
from sagaz_tiering.operations.totals import look, note_hour

_log = Logger(__name__)
LOOK_EVERY_S = 30.0


class TotalsKeeper:
    """Looks, tells the metrics, and writes the history when an hour is over."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._noted: datetime | None = None

    async def keep(self) -> None:
        """For ever. A server that is away is told by its pings; what it said last stays."""
        while True:
            try:
                await self.once()
            except SagazTieringError as exc:
                _log.info("totals.not_looked_at", error=str(exc))
            await asyncio.sleep(LOOK_EVERY_S)

    async def once(self) -> None:
        """One look. Raises CatalogUnavailable."""
        totals = await look(self._context)
        hour = totals.at.replace(minute=0, second=0, microsecond=0)
        if hour != self._noted:
            await note_hour(self._context, totals)
            self._noted = hour
