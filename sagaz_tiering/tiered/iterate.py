"""Everything in all tiers, one saga after the other, in bounded memory: what transfer and backup read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from uuid import UUID

from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.replays import Replay
from sagaz_tiering.errors import SnapshotArchived, Unreadable
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.answers import checked_replay
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.tiered.read import Reader
from sagaz_tiering.tiered.sorted_ids import SortedIds

_PAGE = 1_000
_BODIES = 100
_KIND = "tiered"


async def saga_ids(hot: HotTier, catalog: Catalog, after: UUID | None) -> AsyncIterator[UUID]:
    """Sagas that some tier has something of, ascending; all of that may have expired.

    Redis is walked first: a snapshot on its way into a pack is in PostgreSQL before it leaves Redis.
    """
    async with SortedIds() as sorted_ids:
        async for found in hot.saga_ids():
            await sorted_ids.add(saga.bytes for saga in found if after is None or saga > after)
        in_redis = sorted_ids.ids()
        waiting = await anext(in_redis, None)
        async for saga in _in_postgresql(catalog, after):
            while waiting is not None and waiting < saga.bytes:
                yield UUID(bytes=waiting)
                waiting = await anext(in_redis, None)
            if waiting == saga.bytes:
                waiting = await anext(in_redis, None)
            yield saga
        while waiting is not None:
            yield UUID(bytes=waiting)
            waiting = await anext(in_redis, None)


async def _in_postgresql(catalog: Catalog, after: UUID | None) -> AsyncIterator[UUID]:
    while page := await catalog.locations.saga_ids(after, _PAGE):
        for saga in page:
            yield saga
        after = page[-1]


async def snapshots(reader: Reader, sagas: AsyncIterator[UUID]) -> AsyncIterator[SagaSnapshot]:
    """The live snapshots of these sagas, oldest first, a page of bodies at a time.

    Raises SnapshotArchived where it comes to archived bytes, and at the end Unreadable for what it passed over.
    """
    gaps = Gaps(_KIND)
    async for saga_id in sagas:
        copies = (await reader.timeline(saga_id))[::-1]
        for start in range(0, len(copies), _BODIES):
            try:
                found: Sequence[SagaSnapshot] = await reader.load(copies[start : start + _BODIES])
            except Unreadable as exc:
                gaps.update(exc)
                if isinstance(exc, SnapshotArchived):
                    raise gaps.attach(exc, exc.readable) from None
                found = exc.readable
            for snapshot in found:
                yield snapshot
    gaps.check()


async def each(saga_ids: Iterable[UUID]) -> AsyncIterator[UUID]:
    """These."""
    for saga_id in saga_ids:
        yield saga_id


async def replay_log(catalog: Catalog, replay_id: UUID) -> Replay | None:
    """One record. Raises CorruptRecord."""
    found = await catalog.replays.get(replay_id)
    return None if found is None else checked_replay(found, replay_id=replay_id)


async def replays_of(catalog: Catalog, saga_id: UUID, limit: int) -> list[Replay]:
    """Records of a saga, newest first. Raises CorruptRecord with those that can be read."""
    gaps = Gaps(_KIND)
    records = gaps.readable(await catalog.replays.of_saga(saga_id, limit))
    found = [checked_replay(record, saga_id=saga_id) for record in records]
    gaps.check(found)
    return found


async def replay_logs(catalog: Catalog, after: UUID | None) -> AsyncIterator[Replay]:
    """Every replay record, ascending by replay id. Raises CorruptRecord where one cannot be read."""
    gaps = Gaps(_KIND)
    while page := await catalog.replays.page(after, _PAGE):
        for found in page:
            for record in gaps.readable([found]):
                yield record
            gaps.check()
        after = page[-1][0]
