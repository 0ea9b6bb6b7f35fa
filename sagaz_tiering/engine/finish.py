"""Finish what a process left half done: deletions and erasures are committed in PostgreSQL first, then done in Redis.

Only saves from before each goes; what was saved since stays. Each step can be repeated, also beside the process that
began it and works on.
"""

from __future__ import annotations

from sagaz_tiering.clock import to_micros
from sagaz_tiering.engine.job import JobContext, Tally

_BATCH = 1000


async def finish_deletions(context: JobContext, tally: Tally) -> None:
    """Have Redis follow every deletion and every erasure that PostgreSQL has."""
    catalog, hot = context.catalog, context.hot
    while saves := await catalog.locations.half_deleted(_BATCH):
        tally.add("deleted_hot", await hot.delete_many([(one, to_micros(until)) for one, until in saves]))
        await catalog.locations.gone_from_redis(saves)
    for erasure in await catalog.erasures.uncleared():
        tally.add("erased_hot", await catalog.erasures.clear(erasure, hot, context.now))
