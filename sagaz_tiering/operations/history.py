"""The history as one document: what was where over time, what came and what it cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.totals import HOUR
from sagaz_tiering.terminal import plain

_POINTS = 120
"""At most about so many points: a terminal is not wider, and two years have 17,520 hours."""


async def history(catalog: Catalog, since: datetime, now: datetime) -> dict[str, Any]:
    """From `since` to now: `points` (the last hour of each step), snapshots that `came` into each storage class, and
    what was spent on requests `by_day`. Raises CatalogUnavailable.
    """
    begin = since.replace(minute=0, second=0, microsecond=0)
    step = max(HOUR, timedelta(hours=-(-int((now - begin) / HOUR) // _POINTS)))
    return {
        "since": begin.isoformat(),
        "until": now.isoformat(),
        "step_hours": step // HOUR,
        "points": plain(await catalog.totals.hours(begin, step)),
        "came": await catalog.totals.came(begin),
        "spent": [
            {"day": each.day.isoformat(), "requests": each.requests, "usd": each.usd}
            for each in await catalog.spending.since(begin.date())
        ],
    }
