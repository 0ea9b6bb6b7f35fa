"""Everything in all tiers, one saga after the other, in bounded memory: what transfer and backup read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from sagaz_tiering.catalog import Catalog
from sagaz_tiering.clock import Clock
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.spool import Spool
from sagaz_tiering.storage.hot import HotTier
from sagaz_tiering.tiered.reading import Reader

_PAGE = 1_000
_BODIES = 100


async def saga_ids(hot: HotTier, catalog: Catalog, clock: Clock, after: UUID | None) -> AsyncIterator[UUID]:
    """Sagas that some tier has something of, ascending; of those in Redis alone all may have expired.

    Redis is walked first: a snapshot on its way into a pack is in PostgreSQL before it leaves Redis.
    """
    async with Spool() as spool:
        async for found in hot.saga_ids():
            await spool.add((saga.bytes, b"") for saga in found if after is None or saga > after)
        in_redis = spool.keys()
        waiting = await anext(in_redis, None)
        async for saga in _in_postgresql(catalog, clock, after):
            while waiting is not None and waiting < saga.bytes:
                yield UUID(bytes=waiting)
                waiting = await anext(in_redis, None)
            if waiting == saga.bytes:
                waiting = await anext(in_redis, None)
            yield saga
        while waiting is not None:
            yield UUID(bytes=waiting)
            waiting = await anext(in_redis, None)


async def _in_postgresql(catalog: Catalog, clock: Clock, after: UUID | None) -> AsyncIterator[UUID]:
    while page := await catalog.locations.saga_ids(after, clock.now(), _PAGE):
        for saga in page:
            yield saga
        after = page[-1]


async def snapshots_of(reader: Reader, saga_id: UUID) -> AsyncIterator[SagaSnapshot]:
    """The live snapshots of a saga, oldest first, a page of bodies at a time."""
    copies = (await reader.timeline(saga_id))[::-1]
    for start in range(0, len(copies), _BODIES):
        for snapshot in await reader.load_readable(copies[start : start + _BODIES]):
            yield snapshot


async def replay_logs(catalog: Catalog, after: UUID | None) -> AsyncIterator[dict[str, Any]]:
    """Every replay record, ascending by replay id."""
    while page := await catalog.replays.page(after, _PAGE):
        for record in page:
            yield record
        after = UUID(page[-1]["replay_id"])
