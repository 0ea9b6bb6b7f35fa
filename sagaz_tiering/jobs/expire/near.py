"""What expires in Redis and PostgreSQL: hot copies with the durable rows of the same saves, then rows that are left.

All rows of a saga are looked at when the noted expiry of one has passed: a row notes the expiry that its saga had when
it was saved; the saga may have ended since under a shorter rule, of which its newest row tells, or Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from sagaz_tiering.catalog.durable import Postponement
from sagaz_tiering.catalog.hot_saves import HotSave
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import from_micros
from sagaz_tiering.config.units import micros
from sagaz_tiering.hot.layout import ClaimedSaga
from sagaz_tiering.jobs.claims import Claim, SagaEnds, ack, all_headers, claims, first_headers, nack, saga_ends
from sagaz_tiering.jobs.context import JobContext, Tally, batched, pages
from sagaz_tiering.jobs.mending import Strange, set_aside, strange_of
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_BATCHES_AT_ONCE = 2
_HOT_AT_ONCE = 2_000
"""Snapshots that go in one transaction, which a hold that is placed meanwhile waits for."""
_HELD_US = micros(timedelta(hours=1))
"""After so long a saga with held or unreadable snapshots is looked at again."""
_DURABLE_ROWS = 2_000
_BEGINNING = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))
_NOTED_AT_ONCE = 10_000


async def expire_hot(context: JobContext, lease: Lease, tally: Tally) -> None:
    """The expired hot copies of all sagas, and the durable rows of the same saves with them.

    Two batches are under way at a time, so that Redis works on one while this process reads the other.
    """
    batches, one_at_a_time = claims(context, expiring=True), asyncio.Lock()

    async def work() -> None:
        while True:
            async with one_at_a_time:
                claimed = await anext(batches, None)
            if claimed is None:
                return
            await _expire_batch(context, lease, claimed, tally)

    workers = [asyncio.create_task(work()) for _ in range(_BATCHES_AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _expire_batch(context: JobContext, lease: Lease, claimed: Sequence[ClaimedSaga], tally: Tally) -> None:
    open_claims = [Claim(saga) for saga in claimed]
    try:
        (expired, ends), ended = await _look(context, open_claims), set[UUID]()
        for some in batched(expired, _HOT_AT_ONCE):
            ended |= await _remove_hot(context, lease, some, ends, tally)
        await _expire_rows_of(context, lease, {meta.saga_id for _, meta in expired}, ends, tally)
        for claim in open_claims:
            claim.read = True
        await ack(context, [claim for claim in open_claims if claim.saga.saga_id not in ended])
    finally:
        await nack(context, [claim for claim in open_claims if not claim.read])


async def _look(context: JobContext, open_claims: Sequence[Claim]) -> tuple[list[tuple[Claim, SnapshotMeta]], SagaEnds]:
    """What has expired of these sagas, and where they end; notes when what has not needs a look again."""
    found: list[tuple[Claim, SnapshotMeta]] = []
    strange: dict[Claim, list[Strange]] = {claim: [] for claim in open_claims}
    by_saga = {claim.saga.saga_id: claim for claim in open_claims}
    first = await first_headers(context, by_saga)
    # In Redis first: what leaves it meanwhile is in the catalog by then.
    seen = {page.saga_id: page.end for page in first if page.is_all}
    ends, now_us, decide = await _noted_ends(context, by_saga, seen), context.now_us, context.policies.decide
    async for page in all_headers(context, first):
        claim = by_saga[page.saga_id]
        strange[claim] += strange_of(page.saga_id, page.headers)
        if unreadable := len(page.headers) - len(page.metas):
            claim.left += unreadable
            claim.expire_at(now_us + _HELD_US)
        for meta in page.metas:
            decision = decide(meta, ends.of(meta), now_us)
            if decision.expired:
                found.append((claim, meta))
            else:
                claim.left += 1
                claim.follow(decision)
    for claim, entries in strange.items():
        if entries:
            claim.left -= await set_aside(context, claim.saga.saga_id, entries)
    return found, ends


async def _remove_hot(
    context: JobContext, lease: Lease, expired: Sequence[tuple[Claim, SnapshotMeta]], ends: SagaEnds, tally: Tally
) -> set[UUID]:
    """Remove these unless held; the sagas of which Redis has nothing any more, and whose claim has ended with that."""
    metas = [meta for _, meta in expired]
    tokens = {claim.saga.saga_id: claim.saga.token for claim, _ in expired}
    async with context.catalog.durable.deleting_unheld(metas, lease, ends=ends.known) as (_, held):
        gone, ended = await context.hot.queue.evict_claimed([m for m in metas if m.snapshot_id not in held], tokens)
    tally.add("hot", gone)
    tally.add("held", len(held))
    for claim, meta in expired:
        if meta.snapshot_id in held:
            claim.left += 1
            claim.expire_at(context.now_us + _HELD_US)
    return ended


async def _noted_ends(
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
        rows, after = page
        yield rows


async def expire_durable(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Every saga in which a noted expiry has passed."""
    async for rows in expired_rows(context):
        await _expire_rows(context, lease, rows, await _noted_ends(context, {meta.saga_id for meta, _ in rows}), tally)


async def _expire_rows_of(
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
        await _remove_rows(context, lease, some, ends, tally)
    if later:
        await context.catalog.durable.postpone(later)


async def _remove_rows(
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
        ends = await _noted_ends(context, {save.meta.saga_id for save in page})
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
