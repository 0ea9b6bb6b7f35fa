"""Reconcile: a Redis that lost its past is made to agree with the catalog, and believed again.

From the moment when somebody finds that Redis is another one, or went back to an older state (`incarnation`), readers
ask PostgreSQL of everything. The order here, and what a crash after each step leaves:

1. what is being saved at that moment comes to its end
2. of every saga in Redis: what was forgotten goes, what packs hold in the same save or a newer one goes; of a Redis
   that was whole before deletions are remembered, or before it was ever met, all from then goes aside that PostgreSQL
   did not note
3. what was deleted since it was saved goes
4. what PostgreSQL has and Redis lacks, or has older, is put back, marks of legal holds too
                                                                         -> each step is repeated from its beginning
5. what Redis alone acknowledged and has not got any more is counted, and marked in Redis, so that reads say so
6. restores of which Redis lost something are under way again
7. one transaction: Redis is trusted, unless it changed again meanwhile  -> done, or all of it once more

Memory is bounded by a page. Where Redis is trusted, a run costs one look at each server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.hot_saves import HotSave
from sagaz_tiering.catalog.hot_tier import HotTierState
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import to_micros
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.finish import mark_holds
from sagaz_tiering.jobs.foreign import mend_due, mended
from sagaz_tiering.jobs.packed import already_packed
from sagaz_tiering.jobs.put_back import lacking, put_back
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
LEASE = "reconcile"
_SAGAS = 500
_TOMBSTONES = 5_000
_PAGE = 5_000
_NOTED = 1_000
_FIRST = UUID(int=0)
_MARGIN = timedelta(minutes=5)
"""Clocks differ, and what is noted of a time is noted a little later."""
_BEGIN_S = 0.1
"""From when a statement sees the catalog until it has a number."""
_SETTLE_S = 10.0
_SETTLE_STEP_S = 0.02


async def preview(context: JobContext, tally: Tally) -> None:
    """Count what Redis lacks; nothing where it is trusted."""
    await context.incarnation.look()
    state = await context.catalog.hot_tier.state()
    if state.trusted:
        return
    tally.note(f"Redis is not trusted: {state.reason}")
    after = _FIRST
    while rows := await context.catalog.durable.page(after, _PAGE):
        tally.add("put_back", len(await lacking(context, rows)))
        after = rows[-1].snapshot_id


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Make Redis agree with the catalog, if it is not trusted; until it is, or the process is stopping."""
    while not context.stopping.is_set():
        await context.incarnation.look()
        state = await context.catalog.hot_tier.state()
        if state.trusted:
            if context.accept_lost:
                await _accept_lost(context, lease, tally)
            return
        await _agree(context, lease, state, tally)
        if context.stopping.is_set():
            return
        look = await context.incarnation.look()
        if look.changes == state.changes and await context.catalog.hot_tier.trust(state.changes, lease, context.now):
            await context.incarnation.look()  # which notes in Redis that it is whole
            _log.info("hot_tier.reconciled", reason=state.reason, **tally.counts)
        else:
            tally.add("begun_anew")


async def ensure_trusted(context: JobContext, tally: Tally) -> bool:
    """For jobs that believe Redis: whether it is trusted, after a reconciliation where that is needed.

    False where another process is at it, or this one is stopping.
    """
    await context.incarnation.look()
    if (await context.catalog.hot_tier.state()).trusted:
        return True
    async with context.catalog.leases.hold(LEASE, context.owner, context.settings.jobs.lease_ttl) as lease:
        if lease is None:
            tally.note("Redis is not trusted yet, another process reconciles it: sagas in Redis wait for the next run")
            return False
        await run(context, lease, tally)
    return not context.stopping.is_set()


async def _agree(context: JobContext, lease: Lease, state: HotTierState, tally: Tally) -> None:
    await mend_due(context, tally)
    await mark_holds(context)
    await _saves_have_ended(context)
    since = None if state.good_at is None else state.good_at - _MARGIN
    packs_left = await context.catalog.packs.any_evicted_since(since)
    doubted_us = _doubted_until_us(context, state)
    async for saga_ids in _sagas(context):
        await _forget(context, saga_ids, tally)
        if doubted_us is not None:
            await _set_aside(context, saga_ids, state, doubted_us, tally)
        if packs_left:
            await _leave_to_packs(context, saga_ids, tally)
        await context.hot.identity.be_looked_at(saga_ids, context.now_us)
    await _remove_deleted(context, since, tally)
    tally.add("put_back", await put_back(context, lease))
    await _find_lost(context, lease, tally)
    await _restore_anew(context, tally)


async def _saves_have_ended(context: JobContext) -> None:
    """A save that Redis took and forgot may be on its way into PostgreSQL: it is waited for, so that it is seen.

    One that gets there later sees that Redis changed, and is saved there again before it is acknowledged.
    """
    catalog, waited = context.catalog.hot_tier, 0.0
    await asyncio.sleep(_BEGIN_S)
    begun = await catalog.transactions_begun()
    while waited < _SETTLE_S and not context.stopping.is_set() and await catalog.transactions_ended() < begun:
        await asyncio.sleep(_SETTLE_STEP_S)
        waited += _SETTLE_STEP_S


async def _sagas(context: JobContext) -> AsyncIterator[list[UUID]]:
    """Every saga in Redis, some twice."""
    batch: list[UUID] = []
    async for found in context.hot.saga_ids():
        batch += found
        while len(batch) >= _SAGAS:
            if context.stopping.is_set():
                return
            yield await mended(context, batch[:_SAGAS])
            del batch[:_SAGAS]
    if batch:
        yield await mended(context, batch)


async def _forget(context: JobContext, saga_ids: Sequence[UUID], tally: Tally) -> None:
    forgotten = await context.catalog.erasures.forgotten(saga_ids)
    if not forgotten:
        return
    async for ids in context.hot.identity.members(list(forgotten)):
        saves = (await context.hot.identity.saves(ids)).values()
        dead = await context.catalog.locations.buried(list(saves))
        tally.add("forgotten", await _evict(context, [save for save in saves if save.snapshot_id in dead]))


def _doubted_until_us(context: JobContext, state: HotTierState) -> int | None:
    """What was saved before may have been deleted longer ago than is remembered; None: nothing that Redis has.

    That is so in a Redis that was whole too long ago, or from before it was first met though another one was whole.
    """
    assert state.changed_at is not None  # it changed
    remembered = context.now - context.settings.jobs.tombstones
    is_old = state.reconciled_at is not None if state.good_at is None else state.good_at < remembered
    return to_micros(min(state.changed_at, remembered)) if is_old else None


async def _set_aside(
    context: JobContext, saga_ids: Sequence[UUID], state: HotTierState, until_us: int, tally: Tally
) -> None:
    """What was saved before and PostgreSQL does not vouch for: nobody remembers whether it was deleted since."""
    prefix, moved = f"{context.hot.keys.prefix}-aside-{state.changed_at:%Y%m%dT%H%M%S}", 0
    async for ids in context.hot.identity.members(saga_ids):
        old = [save for save in (await context.hot.identity.saves(ids)).values() if save.saved_us < until_us]
        vouched = await context.catalog.hot_saves.noted(old)
        vouched |= (await context.catalog.restores.pinned([save.snapshot_id for save in old], context.now)).keys()
        moved += await context.hot.identity.set_aside([save for save in old if save.snapshot_id not in vouched], prefix)
    tally.add("set_aside", moved)
    if moved:
        when = "before it was first met" if state.good_at is None else f"at {state.good_at.isoformat()}"
        why = f"of a Redis that was whole {when}: they may have been deleted longer ago than deletions are remembered"
        await context.catalog.quarantine.record("hot_tier", prefix, why, context.now, budget=1)
        _log.error("hot_tier.set_aside", snapshots=moved, key_prefix=prefix, why=why)


async def _leave_to_packs(context: JobContext, saga_ids: Sequence[UUID], tally: Tally) -> None:
    async for ids in context.hot.identity.members(saga_ids):
        packed = await context.catalog.locations.packs_of(ids)
        if not packed:
            continue
        pinned = await context.catalog.restores.pinned(sorted(packed), context.now)
        saves = list((await context.hot.identity.saves(sorted(packed.keys() - pinned.keys()))).values())
        safe = await already_packed(context, saves)
        tally.add("left_to_packs", await _evict(context, [save for save in saves if save.snapshot_id in safe]))


async def _remove_deleted(context: JobContext, since: datetime | None, tally: Tally) -> None:
    after = _FIRST
    while ids := await context.catalog.locations.tombstones(since, after, _TOMBSTONES):
        saves = list((await context.hot.identity.saves(ids)).values())
        dead = await context.catalog.locations.buried(saves)
        tally.add("deleted", await _evict(context, [save for save in saves if save.snapshot_id in dead]))
        after = ids[-1]
        if context.stopping.is_set():
            return


async def _evict(context: JobContext, saves: Sequence[SnapshotMeta]) -> int:
    if not saves:
        return 0
    gone, _ended = await context.hot.queue.evict_claimed(saves, {})
    return gone


async def _find_lost(context: JobContext, lease: Lease, tally: Tally) -> None:
    hot_saves, after, found = context.catalog.hot_saves, _FIRST, 0
    while not context.stopping.is_set() and (page := await hot_saves.page(after, _NOTED)):
        there = await context.hot.identity.saves([save.meta.snapshot_id for save in page])
        missing = [
            save
            for save in page
            if save.lost_at is not None
            or save.meta.snapshot_id not in there
            or there[save.meta.snapshot_id].saved_us < save.meta.saved_us
        ]
        if missing:
            found += await _mark_lost(context, lease, missing)
        after = page[-1].meta.snapshot_id
    tally.add("lost", found)
    if found:
        metrics.HOT_SAVES_LOST.inc(found)
        _log.error("hot_tier.lost", snapshots=found, hint="reads of them raise SnapshotLost; see sagaz-tiering status")


async def _mark_lost(context: JobContext, lease: Lease, missing: Sequence[HotSave]) -> int:
    """How many of these are lost and were not known to be; the others have expired, or PostgreSQL has them."""
    hot_saves = context.catalog.hot_saves
    gone = [save.meta for save in missing if save.expires_us is not None and save.expires_us <= context.now_us]
    asked = [save.meta.snapshot_id for save in missing if save.meta not in gone]
    packed = await context.catalog.locations.packs_of(asked)
    if packed:
        metas = [save.meta for save in missing if save.meta.snapshot_id in packed]
        # What is noted has no checksum: any save of that instant will do.
        safe = await already_packed(context, [meta._replace(saved_us=meta.saved_us - 1) for meta in metas])
        gone += [meta for meta in metas if meta.snapshot_id in safe]
    left = sorted(set(asked) - {meta.snapshot_id for meta in gone})
    found = 0
    async with hot_saves.losing(left, lease, context.now) as (noted, lost):
        marked = await context.hot.identity.mark_lost([save.meta for save in noted])
        lost += [save for save, is_marked in zip(noted, marked, strict=True) if is_marked]
        found = sum(save.lost_at is None for save in lost)
    await hot_saves.drop(gone)
    return found


async def _restore_anew(context: JobContext, tally: Tally) -> None:
    """What restores had brought back and Redis has not got any more is brought back again, by the job `restore`."""
    restores = context.catalog.restores
    for request in [*await restores.in_state("READY"), *await restores.in_state("RESTORING")]:
        after, packs = _FIRST, 0
        while request.into_hot and (ids := await restores.brought_back(request.restore_id, after, context.now, _PAGE)):
            if context.stopping.is_set():
                return
            there, after = await context.hot.identity.saves(ids), ids[-1]
            lost = [snapshot_id for snapshot_id in ids if snapshot_id not in there]
            packs += await restores.reopen(request.restore_id, lost, context.now, context.prices) if lost else 0
        if packs:
            tally.add("restored_anew")
            _log.warning("restore.reopened", restore_id=str(request.restore_id), packs=packs)


async def _accept_lost(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Somebody knows: what is lost is not looked for any more, reads answer without it.

    An older save that PostgreSQL has of it takes its place in Redis before that, as Redis is believed alone.
    """
    hot_saves, after = context.catalog.hot_saves, _FIRST
    while page := await hot_saves.page(after, _NOTED, only_lost=True):
        await _evict(context, [save.meta for save in page])
        after = page[-1].meta.snapshot_id
    if after == _FIRST:
        return
    tally.add("put_back", await put_back(context, lease))
    while page := await hot_saves.page(_FIRST, _NOTED, only_lost=True):
        await hot_saves.accept(page, lease)
        tally.add("accepted", len(page))
        _log.warning("hot_tier.loss_accepted", snapshots=len(page))
