"""Finish deletions and erasures: they are committed in PostgreSQL first, then done in Redis, then vacuumed.

Only saves from before each goes; what was saved since stays. Each step can be repeated, also beside the process that
began it and works on.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from sagaz_tiering.catalog.erasures import VACUUM_COMMAND
from sagaz_tiering.clock import to_micros
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable
from sagaz_tiering.jobs.context import JobContext, Tally, pages
from sagaz_tiering.jobs.foreign import mended
from sagaz_tiering.logs import Logger

_log = Logger(__name__)
_BATCH = 1000
_HELD = 100
"""Sagas whose snapshots are looked up at once."""
_VACUUM_EVERY = timedelta(hours=1)
_VACUUM_TIMEOUT = timedelta(hours=1)


async def finish_deletions(context: JobContext, tally: Tally) -> None:
    """Have Redis follow every deletion and every erasure that PostgreSQL has."""
    catalog, hot = context.catalog, context.hot
    while saves := await catalog.locations.half_deleted(_BATCH):
        tally.add("deleted_hot", await hot.delete_many([(one, to_micros(until)) for one, until in saves]))
        await catalog.locations.gone_from_redis(saves)
    for erasure in await catalog.erasures.uncleared():
        await mended(context, [erasure.saga_id])
        tally.add("erased_hot", await catalog.erasures.clear(erasure, hot, context.now))


async def mark_holds(context: JobContext, *, unmarked: bool = False) -> None:
    """Have Redis know which sagas and snapshots are held, where it was away when a hold was placed or has lost it.

    Only where it was away (`unmarked`), or all.
    """
    fetch = partial(context.catalog.holds.held_sagas, limit=_HELD, unmarked=unmarked)
    async for sagas in pages(fetch, None, lambda saga_id: saga_id):
        await context.catalog.holds.mark(sagas, context.hot)


async def mark_new_holds(context: JobContext) -> None:
    """Those that Redis was away for; whatever job runs next, which may do without Redis."""
    try:
        await mark_holds(context, unmarked=True)
    except HotTierUnavailable as exc:
        _log.warning("hold.not_marked", error=str(exc), hint=exc.hint)


async def vacuum_is_due(context: JobContext) -> bool:
    """Whether something was erased since the last vacuum, and that was an hour ago."""
    return await context.catalog.erasures.unvacuumed(context.now, _VACUUM_EVERY)


async def vacuum_erased(context: JobContext, tally: Tally) -> None:
    """Give up PostgreSQL's dead rows of what was erased, at most once an hour; a refusal is told once an erasure."""
    erasures = context.catalog.erasures
    if not await vacuum_is_due(context):
        return
    try:
        refused = await erasures.vacuum(context.now, _VACUUM_TIMEOUT)
    except CatalogUnavailable as exc:
        tally.note(f"the vacuum after an erasure did not end: {exc}")
        _log.warning("erasure.not_vacuumed", error=str(exc))
        return
    if refused:
        tally.note(f"an erasure waits for a vacuum that the catalog's role may not do: {', '.join(refused)}")
        _log.warning("erasure.vacuum_refused", tables=refused, hint=VACUUM_COMMAND)
    else:
        tally.add("vacuumed")
