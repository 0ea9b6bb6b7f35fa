"""Reconcile: a Redis that lost its past is made to agree with the catalog, and believed again.

From the moment when somebody finds that Redis is another one, or went back to an older state (`incarnation`), readers
ask PostgreSQL of everything. The order here, and what a crash after each step leaves:

1. what is being saved at that moment comes to its end
2. of every saga in Redis, by pages: what was forgotten or deleted goes, what packs hold in the same save or a newer one
   goes; of a Redis that was whole before deletions are remembered, or before it was ever met, all from then goes aside
   that PostgreSQL did not note; what stays and this catalog, being another one, was never told of is put into it
3. what was deleted since it was saved goes, whatever leads to it
4. what PostgreSQL has and Redis lacks, or has older, is put back, marks of legal holds too
                                                                         -> each step is repeated from its beginning
5. what Redis alone acknowledged and has not got any more is counted, and marked in Redis, so that reads say so
6. restores of which Redis lost something are under way again
7. one transaction: Redis is trusted, unless it changed again meanwhile  -> done, or all of it once more

A dry run does the same, without what would be gone from Redis by then (`_there`). Where Redis is trusted, a run costs
one look at each server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.hot_saves import HotSave, HotTierState
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import to_micros
from sagaz_tiering.jobs.context import JobContext, Tally, pages
from sagaz_tiering.jobs.mending import mark_holds, mend_due, mended
from sagaz_tiering.jobs.pack_objects import already_packed
from sagaz_tiering.jobs.put_back import all_rows, put_back, tell_untold, would_copy
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import in_pages
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
    """Count what a run would change, by the same steps; of a trusted Redis nothing, but for losses to accept."""
    if await foresee_trust(context, tally) and context.accept_lost:
        await _accept_lost(context, None, tally)


async def foresee_trust(context: JobContext, tally: Tally) -> bool:
    """For dry runs of jobs that believe Redis: whether it is trusted; counts what a reconciliation would do if not."""
    await context.incarnation.look()
    state = await context.catalog.hot_tier.state()
    if not state.trusted:
        tally.note(f"Redis is not trusted: {state.reason}")
        await _agree(await _begin(context, None, state, tally))
    return state.trusted


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Make Redis agree with the catalog, if it is not trusted; until it is, or the process is stopping."""
    while not context.stopping.is_set():
        await context.incarnation.look()
        state = await context.catalog.hot_tier.state()
        if state.trusted:
            if context.accept_lost:
                await _accept_lost(context, lease, tally)
            return
        await _agree(await _begin(context, lease, state, tally))
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


@dataclass(frozen=True, slots=True)
class _Pass:
    """One go through all steps. `lease` None: a dry run, which counts what they would do and does none of it.

    `since`: Redis has missed nothing before (None: it may have missed anything). `doubted_us`: what was saved before
    may have been deleted longer ago than is remembered. `packs_left`: packs were published since.
    """

    context: JobContext
    lease: Lease | None
    tally: Tally
    state: HotTierState
    since: datetime | None
    doubted_us: int | None
    packs_left: bool

    @property
    def looks_at_all(self) -> bool:
        """Whether every snapshot in Redis is looked at, or only those of which a deletion is known."""
        return self.packs_left or self.doubted_us is not None or self.state.reconciled_at is None


async def _begin(context: JobContext, lease: Lease | None, state: HotTierState, tally: Tally) -> _Pass:
    if lease is None:
        tally.add("quarantined", len(await context.hot.queue.broken_due()))
    else:
        await mend_due(context, tally)
        await mark_holds(context)
        await _saves_have_ended(context)
    since = None if state.good_at is None or state.reconciled_at is None else state.good_at - _MARGIN
    packs_left = await context.catalog.packs.any_evicted_since(since)
    return _Pass(context, lease, tally, state, since, _doubted_until_us(context, state), packs_left)


async def _agree(one: _Pass) -> None:
    context = one.context
    async for saga_ids in _sagas(one):
        some = saga_ids if one.looks_at_all else list(await context.catalog.erasures.forgotten(saga_ids))
        async for ids in context.hot.queue.members(some):
            saves = await context.hot.queue.saves(ids)
            leaving = await _leaving(one, saves.values())
            await _remove(one, leaving)
            if one.looks_at_all:
                left = list(set(saves.values()).difference(*leaving.values()))
                await tell_untold(context, left, one.tally, one.lease)
        if one.lease is not None:
            await context.hot.queue.requeue(saga_ids, expiring=False, at_us=context.now_us)
    await _remove_deleted(one)
    await _put_back(one)
    await _find_lost(one)
    await _restore_anew(one)


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


async def _sagas(one: _Pass) -> AsyncIterator[list[UUID]]:
    """Every saga in Redis, some twice, with indexes made anew where something else was in their place; dry, without
    those."""
    hot, stopping = one.context.hot, one.context.stopping
    async for some in in_pages((saga_id async for found in hot.saga_ids() for saga_id in found), _SAGAS):
        if stopping.is_set():
            return
        broken = [] if one.lease is not None else await hot.queue.broken_indexes(some)
        whole = [saga_id for saga_id in some if saga_id not in broken]
        yield whole if one.lease is None else await mended(one.context, some)


def _doubted_until_us(context: JobContext, state: HotTierState) -> int | None:
    """What was saved before may have been deleted longer ago than is remembered; None: nothing that Redis has.

    That is so in a Redis that was whole too long ago, or from before it was first met though another one was whole.
    """
    assert state.changed_at is not None  # it changed
    remembered = context.now - context.settings.jobs.tombstones
    is_old = state.reconciled_at is not None if state.good_at is None else state.good_at < remembered
    return to_micros(min(state.changed_at, remembered)) if is_old else None


_Leaving = dict[str, list[SnapshotMeta]]


async def _leaving(one: _Pass, saves: Iterable[SnapshotMeta]) -> _Leaving:
    """Of these saves in Redis, those that leave it, by why; each once."""
    catalog, now = one.context.catalog, one.context.now
    left = {save.snapshot_id: save for save in saves}
    dead = await catalog.locations.buried(list(left.values()))
    forgotten = await catalog.erasures.forgotten([left[each].saga_id for each in dead]) if dead else set()
    found: _Leaving = {"forgotten": [], "deleted": []}
    for each in dead:
        save = left.pop(each)
        found["forgotten" if save.saga_id in forgotten else "deleted"].append(save)
    if one.doubted_us is not None:
        # PostgreSQL does not vouch for these: nobody remembers whether they were deleted since.
        old = [save for save in left.values() if save.saved_us < one.doubted_us]
        vouched = await catalog.hot_saves.noted(old)
        vouched |= (await catalog.restores.pinned([save.snapshot_id for save in old], now)).keys()
        found["set_aside"] = [left.pop(save.snapshot_id) for save in old if save.snapshot_id not in vouched]
    if one.packs_left and (packed := await catalog.locations.packs_of(list(left))):
        pinned = await catalog.restores.pinned(sorted(packed), now)
        safe = await already_packed(one.context, [left[each] for each in packed if each not in pinned])
        found["left_to_packs"] = [left.pop(each) for each in safe]
    return found


async def _remove(one: _Pass, leaving: _Leaving) -> None:
    for why, saves in leaving.items():
        if one.lease is None or not saves:
            one.tally.add(why, len(saves))
        elif why == "set_aside":
            one.tally.add(why, await _set_aside(one, saves))
        else:
            one.tally.add(why, (await one.context.hot.queue.evict_claimed(saves, {}))[0])


async def _set_aside(one: _Pass, saves: Sequence[SnapshotMeta]) -> int:
    context, state = one.context, one.state
    prefix = f"{context.hot.keys.prefix}-aside-{state.changed_at:%Y%m%dT%H%M%S}"
    if moved := await context.hot.queue.set_aside(saves, prefix):
        when = "before it was first met" if state.good_at is None else f"at {state.good_at.isoformat()}"
        why = f"of a Redis that was whole {when}: they may have been deleted longer ago than deletions are remembered"
        await context.catalog.quarantine.record("hot_tier", prefix, why, context.now, budget=1)
        _log.error("hot_tier.set_aside", snapshots=moved, key_prefix=prefix, why=why)
    return moved


async def _remove_deleted(one: _Pass) -> None:
    """What was deleted since it was saved, also where no index leads to it."""
    if one.lease is None and one.looks_at_all:
        return  # counted already
    context, tombstones = one.context, one.context.catalog.locations.tombstones
    fetch = partial(tombstones, one.since, limit=_TOMBSTONES)
    async for ids in pages(fetch, _FIRST, lambda snapshot_id: snapshot_id, context.stopping):
        leaving = await _leaving(one, (await context.hot.queue.saves(ids)).values())
        await _remove(one, leaving if one.lease else {"deleted": leaving["deleted"]})


async def _there(one: _Pass, ids: Sequence[UUID]) -> dict[UUID, SnapshotMeta]:
    """Which saves of these Redis has, once all that leaves it has left."""
    there = await one.context.hot.queue.saves(ids)
    if one.lease is None:
        for gone in (await _leaving(one, there.values())).values():
            for save in gone:
                del there[save.snapshot_id]
    return there


async def _put_back(one: _Pass) -> None:
    if one.lease is not None:
        one.tally.add("put_back", await put_back(one.context, one.lease))
        return
    async for rows in all_rows(one.context):
        there = await _there(one, [row.snapshot_id for row in rows])
        one.tally.add("put_back", await would_copy(one.context, rows, there))


async def _find_lost(one: _Pass) -> None:
    context, found = one.context, 0
    async for page in _noted(context, stopping=context.stopping):
        there = await _there(one, [save.meta.snapshot_id for save in page])
        missing = [
            save
            for save in page
            if save.lost_at is not None
            or save.meta.snapshot_id not in there
            or there[save.meta.snapshot_id].saved_us < save.meta.saved_us
        ]
        if missing:
            found += await _mark_lost(one, missing)
    one.tally.add("lost", found)
    if found and one.lease is not None:
        metrics.HOT_SAVES_LOST.inc(found)
        _log.error("hot_tier.lost", snapshots=found, hint="reads of them raise SnapshotLost; see sagaz-tiering status")


async def _mark_lost(one: _Pass, missing: Sequence[HotSave]) -> int:
    """How many of these are lost and were not known to be; the others have expired, or PostgreSQL has them."""
    context, hot_saves = one.context, one.context.catalog.hot_saves
    gone = [save.meta for save in missing if save.expires_us is not None and save.expires_us <= context.now_us]
    asked = [save.meta.snapshot_id for save in missing if save.meta not in gone]
    packed = await context.catalog.locations.packs_of(asked)
    if packed:
        metas = [save.meta for save in missing if save.meta.snapshot_id in packed]
        # What is noted has no checksum: any save of that instant will do.
        safe = await already_packed(context, [meta._replace(saved_us=meta.saved_us - 1) for meta in metas])
        gone += [meta for meta in metas if meta.snapshot_id in safe]
    left = sorted(set(asked) - {meta.snapshot_id for meta in gone})
    if one.lease is None:
        lost = await hot_saves.only_there(left)
        if context.accept_lost:
            one.tally.add("accepted", len(lost))
            older = await context.catalog.durable.rows_of([save.meta.snapshot_id for save in lost])
            one.tally.add("put_back", await would_copy(context, older, {}))
        return sum(save.lost_at is None for save in lost)
    found = 0
    async with hot_saves.losing(left, one.lease, context.now) as (noted, lost):
        marked = await context.hot.queue.mark_lost([save.meta for save in noted])
        lost += [save for save, is_marked in zip(noted, marked, strict=True) if is_marked]
        found = sum(save.lost_at is None for save in lost)
    await hot_saves.drop(gone)
    return found


async def _restore_anew(one: _Pass) -> None:
    """What restores had brought back and Redis has not got any more is brought back again, by the job `restore`."""
    context, restores = one.context, one.context.catalog.restores
    for request in [*await restores.in_state("READY"), *await restores.in_state("RESTORING")]:
        after, packs = _FIRST, 0
        while request.into_hot and (ids := await restores.brought_back(request.restore_id, after, context.now, _PAGE)):
            if context.stopping.is_set():
                return
            there, after = await _there(one, ids), ids[-1]
            lost = [snapshot_id for snapshot_id in ids if snapshot_id not in there]
            if lost and one.lease is not None:
                packs += await restores.reopen(request.restore_id, lost, context.now, context.prices)
            else:
                packs += len(lost)
        if packs:
            one.tally.add("restored_anew")
            if one.lease is not None:
                _log.warning("restore.reopened", restore_id=str(request.restore_id), packs=packs)


async def _accept_lost(context: JobContext, lease: Lease | None, tally: Tally) -> None:
    """Somebody knows: what is lost is not looked for any more, reads answer without it.

    An older save that PostgreSQL has of it takes its place in Redis before that, as Redis is believed alone.
    """
    hot_saves, lost = context.catalog.hot_saves, 0
    async for page in _noted(context, only_lost=True):
        lost += len(page)
        if lease is not None:
            await context.hot.queue.evict_claimed([save.meta for save in page], {})
    if lost and lease is None:
        tally.add("accepted", lost)
        await _foresee_put_back(context, tally)
    elif lost and lease is not None:
        tally.add("put_back", await put_back(context, lease))
        async for page in _noted(context, only_lost=True):
            await hot_saves.accept(page, lease)
            tally.add("accepted", len(page))
            _log.warning("hot_tier.loss_accepted", snapshots=len(page))


def _noted(
    context: JobContext, *, only_lost: bool = False, stopping: asyncio.Event | None = None
) -> AsyncIterator[Sequence[HotSave]]:
    """What is noted as Redis' alone, a page at a time."""
    fetch = partial(context.catalog.hot_saves.page, limit=_NOTED, only_lost=only_lost)
    return pages(fetch, _FIRST, lambda save: save.meta.snapshot_id, stopping)


async def _foresee_put_back(context: JobContext, tally: Tally) -> None:
    """Count what is put back once the marks of what is lost have left Redis."""
    async for rows in all_rows(context):
        ids = [row.snapshot_id for row in rows]
        there = await context.hot.queue.saves(ids)
        lost = [save.meta for save in await context.catalog.hot_saves.only_there(ids) if save.lost_at is not None]
        for gone in await context.hot.queue.would_evict(lost):
            del there[gone.snapshot_id]
        tally.add("put_back", await would_copy(context, rows, there))
