"""What `age` reads: due snapshots of Redis, whole sagas at a time, then due rows that only PostgreSQL has.

A claimed saga is read in one piece with hundreds of others; one that is too large for that page by page, headers
first. Memory is bounded by the batch, whatever the backlog and however large a saga is. Of due durable rows come those
that no saga in Redis accounted for: it was down when they were saved, or lost them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from itertools import groupby
from uuid import UUID

from sagaz_tiering.catalog.durable import ClaimedRow, Postponement
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import raw_length, stands_for
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.hot.keys import member
from sagaz_tiering.hot.values import IndexedHeader
from sagaz_tiering.jobs.age.frames import CHUNK_BYTES, RETRY_UNREADABLE_US, Batch, Work, raw_bytes
from sagaz_tiering.jobs.age.writes import REQUEUE_AFTER_US, AgeWrites
from sagaz_tiering.jobs.claims import UNKNOWN, Claim, OpenClaims, SagaEnds, saga_ends
from sagaz_tiering.jobs.context import JobContext, chunks
from sagaz_tiering.jobs.foreign import Strange, durable_meta, meta_of, set_aside, sort_out, strange_of
from sagaz_tiering.jobs.pack_objects import already_packed
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
ROWS = 1000


async def hot_batches(context: JobContext, open_claims: OpenClaims, writes: AgeWrites) -> AsyncGenerator[Batch, None]:
    """Claimed sagas with their values, until none is due. `open_claims` are those under way; new ones are added."""
    async for claimed in writes.sagas():
        new = open_claims.begin(claimed)
        found = await context.hot.queue.gather([claim.saga.saga_id for claim in new])
        small: list[Work] = []
        large: list[Claim] = []
        quarantined = 0
        for claim, whole in zip(new, found, strict=True):
            if whole is None:
                large.append(claim)
                continue
            present, gone, strange = sort_out(claim.saga.saga_id, whole)
            claim.left = whole.count
            for snapshot_id in gone:
                _note_gone(snapshot_id, claim, context.now_us)
            small.append((claim, present))
            if strange:
                quarantined += await _set_aside(context, writes, claim, strange)
        if quarantined:
            yield Batch(work=[], strange=quarantined)
        for work in chunks(small, raw_bytes, CHUNK_BYTES):
            sagas = sum(bool(values) for _, values in work)
            yield Batch(work=work, complete=[claim for claim, _ in work], sagas=sagas)
        for claim in large:
            async for batch in _page_by_page(context, writes, claim):
                yield batch


async def _page_by_page(context: JobContext, writes: AgeWrites, claim: Claim) -> AsyncGenerator[Batch, None]:
    """A saga that is too large to be read at once. Snapshots that others evict meanwhile may hide some: it is looked
    at again then."""
    strange: list[Strange] = []
    saga_id = claim.saga.saga_id
    async for headers in context.hot.headers(saga_id):
        strange += strange_of(saga_id, headers)
        due = _due_of(context, headers, await saga_ends(context, [saga_id]), claim)
        for some in chunks(due, lambda item: item[1], CHUNK_BYTES):
            values = await context.hot.fetch(saga_id, [meta.snapshot_id for meta, _ in some])
            claim.left -= values.count(None)
            # Others may have come into their places since the headers were read.
            places = [member(meta.step_index, meta.snapshot_id) for meta, _ in some]
            found = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
            yield Batch(work=[(claim, [value for value, place in found if stands_for(value, saga_id.bytes, place)])])
    quarantined = await _set_aside(context, writes, claim, strange)
    yield Batch(work=[], complete=[claim], sagas=1, strange=quarantined)


def _due_of(
    context: JobContext, headers: Sequence[IndexedHeader], ends: SagaEnds, claim: Claim
) -> list[tuple[SnapshotMeta, int]]:
    """Which of a saga's snapshots are to be packed, and their uncompressed sizes in bytes; notes in `claim` when the
    others need a look."""
    due, now_us = [], context.now_us
    for header in headers:
        claim.left += 1
        if not header.is_ours():
            continue
        if header.head is None:
            _note_gone(header.snapshot_id, claim, now_us)
            continue
        try:
            meta = meta_of(claim.saga.saga_id, header)
        except CorruptRecord as exc:
            _log.error("snapshot.unreadable", snapshot_id=str(header.snapshot_id), tier="hot", error=str(exc))
            claim.look_at(now_us + RETRY_UNREADABLE_US)
            continue
        decision = context.policies.decide(meta, ends.of(meta), now_us)
        if decision.due and not decision.expired:
            claim.expire_at(decision.expires_us)
            due.append((meta, raw_length(header.head)))
        else:
            claim.follow(decision)
    return due


async def _set_aside(context: JobContext, writes: AgeWrites, claim: Claim, strange: Sequence[Strange]) -> int:
    """Into quarantine with these; the saga is looked at again some day. How many."""
    claim.left -= await set_aside(context, claim.saga.saga_id, strange, dry=writes.dry)
    if not all(each.extra for each in strange):
        claim.look_at(context.now_us + RETRY_UNREADABLE_US)
    return len(strange)


def _note_gone(snapshot_id: UUID, claim: Claim, now_us: int) -> None:
    _log.error("snapshot.lost", snapshot_id=str(snapshot_id), tier="hot", error="its index names it, its value is gone")
    claim.look_at(now_us + RETRY_UNREADABLE_US)


async def durable_batches(
    context: JobContext, open_claims: OpenClaims, writes: AgeWrites, waiting: Callable[[UUID], bool]
) -> AsyncGenerator[Batch, None]:
    """Claimed rows, whole sagas, until none is due. `waiting` tells what waits in an open pack of this run already."""
    async for claimed in writes.rows(ROWS):
        rows = {row.snapshot_id: row for row in claimed if not waiting(row.snapshot_id)}
        mine = {saga.saga_id: saga for saga in await writes.claim_these({row.saga_id for row in rows.values()})}
        due, rest = await _sorted(context, [row for row in rows.values() if row.saga_id in mine], dry=writes.dry)
        await writes.postpone(rest)
        # The rows were read before their sagas were ours: another run may have packed them in between.
        safe = await already_packed(context, due)
        # What Redis has of these sagas is not looked at here, so their next due times there stay as they are.
        new = {claim.saga.saga_id: claim for claim in open_claims.begin(mine.values(), left=UNKNOWN)}
        todo = [
            rows[meta.snapshot_id]
            for meta in sorted(due, key=lambda meta: meta.saga_id)
            if meta.snapshot_id not in safe and meta.saga_id in new
            if not waiting(meta.snapshot_id)  # meanwhile it was put into one
        ]
        for chunk in chunks(todo, lambda row: raw_length(row.value), CHUNK_BYTES):
            yield Batch(
                work=[(new[saga], [row.value for row in group]) for saga, group in groupby(chunk, lambda r: r.saga_id)]
            )
        yield Batch(work=[], complete=list(new.values()))


async def _sorted(
    context: JobContext, rows: Iterable[ClaimedRow], *, dry: bool
) -> tuple[list[SnapshotMeta], list[Postponement]]:
    """Those that are due, and when the others are looked at again."""
    due, rest, metas = list[SnapshotMeta](), list[Postponement](), list[SnapshotMeta]()
    for row in rows:
        meta = await durable_meta(context, row.snapshot_id, row.value, saga_id=row.saga_id, dry=dry)
        if meta is not None:
            metas.append(meta)
            continue
        due_us, saved_us = context.now_us + RETRY_UNREADABLE_US, to_micros(row.saved_at)
        rest.append(Postponement(snapshot_id=row.snapshot_id, saved_us=saved_us, due_us=due_us, expires_us=None))
    ends = await saga_ends(context, {meta.saga_id for meta in metas})
    for meta in metas:
        decision = context.policies.decide(meta, ends.of(meta), context.now_us)
        if decision.due and not decision.expired:
            due.append(meta)
        else:
            rest.append(Postponement.of(meta, None if decision.expired else decision.due_us, decision.expires_us))
    return due, rest


def later(context: JobContext, metas: Iterable[SnapshotMeta], ends: SagaEnds) -> list[Postponement]:
    """Durable rows that stay though they are due: they are looked at again."""
    due_us, expires_us = context.now_us + REQUEUE_AFTER_US, context.policies.expires_us
    return [Postponement.of(meta, due_us, expires_us(meta, ends.of(meta))) for meta in metas]
