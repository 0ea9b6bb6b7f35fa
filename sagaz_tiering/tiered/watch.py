"""What a reader must know before it trusts Redis alone, looked up at most once a second.

Redis may miss something (a save that found it down is in PostgreSQL only), and other processes may move
snapshots earlier than this one's policies say. Both are announced in PostgreSQL at least `SPILL_NOTICE` before
they matter, so what was seen less than that ago holds. While PostgreSQL is down nobody can announce anything,
so the last knowledge holds on.
"""

from __future__ import annotations

import time
from datetime import timedelta

from sagaz_tiering.catalog.durable import SPILL_NOTICE
from sagaz_tiering.catalog.history import History
from sagaz_tiering.errors import CatalogUnavailable
from sagaz_tiering.units import micros

_FRESH_SECONDS = SPILL_NOTICE.total_seconds() * 0.8


class Watch:
    """Answers how far Redis alone may be trusted."""

    def __init__(self, history: History, first_after: timedelta | None) -> None:
        self._history = history
        self._first_after = first_after
        self._spilled = True
        self._seen_at: float | None = None

    def follow(self, first_after: timedelta | None) -> None:
        """This process has other policies now; `first_after` is the age of their youngest move."""
        self._first_after = first_after
        self._seen_at = None

    async def horizon_us(self, now_us: int) -> int | None:
        """Redis has every snapshot created after this instant; None: it cannot be trusted alone at all.

        Raises CatalogUnavailable if PostgreSQL is down and was not asked once since the start.
        """
        if self._seen_at is None or time.monotonic() - self._seen_at > _FRESH_SECONDS:
            await self._look()
        if self._spilled:
            return None
        return -(2**62) if self._first_after is None else now_us - micros(self._first_after)

    async def _look(self) -> None:
        asked_at = time.monotonic()
        try:
            spilled, first_after = await self._history.watch()
        except CatalogUnavailable:
            if self._seen_at is None:
                raise
            return
        self._seen_at, self._spilled = asked_at, spilled
        if first_after is not None and (self._first_after is None or first_after < self._first_after):
            self._first_after = first_after
