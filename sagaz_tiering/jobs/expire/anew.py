"""Sagas that went on after part of them was archived: the expiry of all that is archived of them is decided anew.

The catalog marks those that it learnt of (`sagas.changed`); of those that would lose something now Redis is asked, and
nothing of them goes while it cannot be. Dates get later; earlier only where `retention: policy` says so. A crash leaves
a saga marked, and the next run decides it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.sagas import Archived, NewDates
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.policy import NOT_PROMISED, PolicySet, SagaEnd, latest

_DECIDED_AT_ONCE = 200
_ASKED_AT_ONCE = 1_000
FIRST = UUID(int=0)


def plan(seen: Mapping[UUID, SagaEnd], archived: Iterable[Archived], policies: PolicySet) -> NewDates:
    """What is to be recorded of these sagas, that end so. Pure; what is archived of one agrees afterwards."""
    archived = list(archived)
    kept: dict[UUID, int | None] = dict.fromkeys(seen, NOT_PROMISED)
    for one in archived:
        saga_id = one.meta.saga_id
        kept[saga_id] = latest(kept[saga_id], policies.promise_us(one.meta, seen[saga_id]))
    ends = {saga_id: end._replace(kept_us=kept[saga_id]) for saga_id, end in seen.items()}
    expiries = [(one, one.expires_us(policies, ends[one.meta.saga_id])) for one in archived]
    return NewDates(seen=seen, kept=kept, expiries=expiries)


async def decide(dates: AsyncIterator[NewDates]) -> None:
    """Have all of it decided, and recorded, before anything goes."""
    async for _ in dates:
        continue


async def changed(context: JobContext, lease: Lease | None) -> AsyncIterator[NewDates]:
    """What is decided of all that the catalog knows to have gone on, a page at a time; recorded with a `lease`."""
    after = FIRST
    while not context.stopping.is_set() and (page := await context.catalog.sagas.changed(after, _DECIDED_AT_ONCE)):
        yield await _decided(context, lease, page, await _ahead(context, page))
        after = max(page)


async def went_on(context: JobContext, lease: Lease | None, pack: Pack) -> AsyncIterator[NewDates]:
    """The same of sagas that would lose something of a pack now, though by Redis they went on."""
    after, sagas = FIRST, context.catalog.sagas
    while page := await sagas.losing(pack.pack_id, context.now, after, _ASKED_AT_ONCE):
        unknown = [saga_id for saga_id, end in page.items() if end is None]
        known = {saga_id: end for saga_id, end in page.items() if end is not None}
        if unknown:
            known.update(await sagas.ends(unknown))
        if ahead := await _ahead(context, known):
            if lease is not None and (new := ahead.keys() & set(unknown)):
                await sagas.take_in(new)
            yield await _decided(context, lease, {}, ahead)
        after = max(page)


async def _ahead(context: JobContext, known: Mapping[UUID, SagaEnd]) -> dict[UUID, SagaEnd]:
    """Of these sagas, those of which Redis has newer snapshots than are known. Raises HotTierUnavailable."""
    found = await context.hot.ends(list(known)) if known else {}
    return {
        saga_id: end._replace(kept_us=known[saga_id].kept_us)
        for saga_id, end in found.items()
        if end.order_key > known[saga_id].order_key
    }


async def _decided(
    context: JobContext, lease: Lease | None, known: Mapping[UUID, SagaEnd], ahead: Mapping[UUID, SagaEnd]
) -> NewDates:
    sagas, seen = context.catalog.sagas, {**known, **ahead}
    if lease is not None and ahead:
        await sagas.note(ahead)
    new = plan(seen, await sagas.archived(seen), context.policies)
    if lease is not None:
        await sagas.date_anew(new, lease)
    return new
