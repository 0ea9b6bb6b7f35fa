"""Durable rows that expire, and sagas that went on after part of them was archived.

All rows of a saga are looked at when the noted expiry of one has passed: a row notes the expiry that its saga had when
it was saved; the saga may have ended since under a shorter rule, of which its newest row tells, or Redis.

Of a saga that went on the expiry of all that is archived is decided anew. The catalog marks those that it learnt of
(`sagas.changed`); of those that would lose something now Redis is asked, and nothing of them goes while it cannot be.
Dates get later; earlier only where `retention: policy` says so. A crash leaves a saga marked, and the next run decides
it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from sagaz_tiering.catalog.durable import Postponement
from sagaz_tiering.catalog.hot_saves import HotSave
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.sagas import Archived, NewDates
from sagaz_tiering.clock import from_micros
from sagaz_tiering.jobs.claims import SagaEnds, saga_ends
from sagaz_tiering.jobs.context import JobContext, Tally, batched, pages
from sagaz_tiering.policy import NOT_PROMISED, PolicySet, SagaEnd, latest
from sagaz_tiering.snapshot import SnapshotMeta

_DURABLE_ROWS = 2_000
_BEGINNING = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))
_NOTED_AT_ONCE = 10_000


async def noted_ends(
    context: JobContext, saga_ids: Iterable[UUID], seen: Mapping[UUID, SagaEnd | None] | None = None
) -> SagaEnds:
    """Where these sagas end; the catalog knows it from now on, also when the snapshot that says so is gone.

    `seen` as for `saga_ends`.
    """
    ends = await saga_ends(context, saga_ids, seen)
    if ends.ahead:
        await context.catalog.sagas.note(ends.ahead)
    return ends


async def expired_rows(context: JobContext) -> AsyncIterator[list[tuple[SnapshotMeta, int | None]]]:
    """Pages of the durable rows of sagas in which a noted expiry has passed, each row with its own."""
    after = _BEGINNING
    while not context.stopping.is_set():
        page = await context.catalog.durable.expired(context.now, after, _DURABLE_ROWS)
        if page is None:
            return
        yield page.rows
        after = page.last


async def expire_durable(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Every saga in which a noted expiry has passed."""
    async for rows in expired_rows(context):
        await _expire_rows(context, lease, rows, await noted_ends(context, {meta.saga_id for meta, _ in rows}), tally)


async def expire_rows_of(
    context: JobContext, lease: Lease, saga_ids: Iterable[UUID], ends: SagaEnds, tally: Tally
) -> None:
    """What is left of sagas that lost something in Redis: rows that Redis has no copy of."""
    ids = list(saga_ids)
    if ids and (rows := await context.catalog.durable.of_sagas(ids)):
        await _expire_rows(context, lease, rows, ends, tally)


async def _expire_rows(
    context: JobContext, lease: Lease, rows: Sequence[tuple[SnapshotMeta, int | None]], ends: SagaEnds, tally: Tally
) -> None:
    expired, later = [], []
    for meta, noted_us in rows:
        decision = context.policies.decide(meta, ends.of(meta), context.now_us)
        if decision.expired:
            expired.append(meta)
        elif noted_us is not None and noted_us <= context.now_us:
            later.append(Postponement.of(meta, decision.due_us, decision.expires_us))
    for some in batched(expired, _DURABLE_ROWS):
        await _remove(context, lease, some, ends, tally)
    if later:
        await context.catalog.durable.postpone(later)


async def _remove(
    context: JobContext, lease: Lease, metas: Sequence[SnapshotMeta], ends: SagaEnds, tally: Tally
) -> None:
    """Unless held; with their copies in Redis, should it not know yet that they expired."""
    async with context.catalog.durable.deleting_unheld(metas, lease, ends=ends.known) as (gone, held):
        left = [meta for meta in metas if meta.snapshot_id not in held]
        hot = await context.hot.owners([meta.snapshot_id for meta in left])
        copies = [meta for meta in left if meta.snapshot_id in hot]
        evicted = (await context.hot.queue.evict_claimed(copies, {}))[0] if copies else 0
    tally.add("hot", evicted)
    tally.add("durable", max(gone - evicted, 0))


async def expire_noted(context: JobContext, lease: Lease) -> None:
    """What is noted as Redis' alone, is not there and has expired, is gone: lost, or noted after it was removed."""
    hot_saves = context.catalog.hot_saves
    fetch = partial(hot_saves.ended, context.now, limit=_NOTED_AT_ONCE)
    async for page in pages(fetch, _BEGINNING, _place, context.stopping):
        there = await context.hot.queue.saves([save.meta.snapshot_id for save in page])
        # Of what is known to be lost Redis has the mark alone.
        missing = [save.meta for save in page if save.lost_at or not _has(there.get(save.meta.snapshot_id), save.meta)]
        ends = await noted_ends(context, {save.meta.saga_id for save in page})
        expired = [meta for meta in missing if context.policies.decide(meta, ends.of(meta), context.now_us).expired]
        async with context.catalog.durable.deleting_unheld(expired, lease, ends=ends.known) as (_, held):
            await context.hot.queue.evict_claimed([meta for meta in expired if meta.snapshot_id not in held], {})
        expiries = [(save.meta, context.policies.expires_us(save.meta, ends.of(save.meta))) for save in page]
        await hot_saves.postpone([(meta, us) for meta, us in expiries if us is None or us > context.now_us])


def _place(save: HotSave) -> tuple[datetime, UUID]:
    return from_micros(save.expires_us or 0), save.meta.snapshot_id


def _has(there: SnapshotMeta | None, noted: SnapshotMeta) -> bool:
    """Whether Redis has this save or a newer one: then it expires there."""
    return there is not None and there.saved_us >= noted.saved_us


_DECIDED_AT_ONCE = 200
_ASKED_AT_ONCE = 1_000
_FIRST = UUID(int=0)


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


async def changed(context: JobContext, lease: Lease | None) -> AsyncIterator[NewDates]:
    """What is decided of all that the catalog knows to have gone on, a page at a time; recorded with a `lease`."""
    after = _FIRST
    while not context.stopping.is_set() and (page := await context.catalog.sagas.changed(after, _DECIDED_AT_ONCE)):
        yield await _decided(context, lease, page, await _ahead(context, page))
        after = max(page)


async def went_on(context: JobContext, lease: Lease | None, pack: Pack) -> AsyncIterator[NewDates]:
    """The same of sagas that would lose something of a pack now, though by Redis they went on."""
    after, sagas = _FIRST, context.catalog.sagas
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
