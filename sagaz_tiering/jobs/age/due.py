"""What `age` reads: due snapshots of Redis, whole sagas at a time, then due rows that only PostgreSQL has.

A claimed saga is read in one piece with hundreds of others; one that is too large for that page by page, headers
first. Memory is bounded by the batch, whatever the backlog and however large a saga is. Of due durable rows come those
that no saga in Redis accounted for: it was down when they were saved, or lost them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from sagaz_tiering.catalog.durable import ClaimedRow, Postponement
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import raw_length, stands_for
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.hot.keys import member
from sagaz_tiering.hot.values import Gathered, IndexedHeader
from sagaz_tiering.jobs.age.frames import CHUNK_BYTES, RETRY_UNREADABLE_US, Batch, Work, raw_bytes
from sagaz_tiering.jobs.age.writes import REQUEUE_AFTER_US, AgeWrites, needs_key
from sagaz_tiering.jobs.claims import UNKNOWN, Claim, OpenClaims, SagaEnds, saga_ends
from sagaz_tiering.jobs.context import JobContext, chunks
from sagaz_tiering.jobs.foreign import Strange, meta_of, sort_out, strange_of
from sagaz_tiering.jobs.pack_objects import already_packed
from sagaz_tiering.logs import Logger
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)


@dataclass(frozen=True, slots=True)
class DueSnapshot:
    """A snapshot to pack, and its uncompressed size in bytes."""

    meta: SnapshotMeta
    raw_length: int


def plan(
    headers: Sequence[IndexedHeader], policies: PolicySet, ends: SagaEnds, now_us: int, claim: Claim
) -> list[DueSnapshot]:
    """Which of a saga's snapshots are to be packed; notes in `claim` when the others need a look. Pure."""
    due = []
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
        decision = policies.decide(meta, ends.of(meta), now_us)
        if decision.due and not decision.expired:
            claim.expire_at(decision.expires_us)
            due.append(DueSnapshot(meta, raw_length(header.head)))
        else:
            claim.expire_at(decision.expires_us)
            claim.look_at(None if decision.expired else decision.due_us)
    return due


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
            present, strange = _present(whole, claim, context.now_us)
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


def _present(whole: Gathered, claim: Claim, now_us: int) -> tuple[list[bytes], list[Strange]]:
    claim.left = whole.count
    present, gone, strange = sort_out(claim.saga.saga_id, whole)
    for snapshot_id in gone:
        _note_gone(snapshot_id, claim, now_us)
    return present, strange


async def _set_aside(context: JobContext, writes: AgeWrites, claim: Claim, strange: Sequence[Strange]) -> int:
    """Into quarantine with these; the saga is looked at again some day. How many."""
    claim.left -= await writes.set_aside(claim.saga.saga_id, strange)
    if not all(each.extra for each in strange):
        claim.look_at(context.now_us + RETRY_UNREADABLE_US)
    return len(strange)


def _note_gone(snapshot_id: UUID, claim: Claim, now_us: int) -> None:
    _log.error("snapshot.lost", snapshot_id=str(snapshot_id), tier="hot", error="its index names it, its value is gone")
    claim.look_at(now_us + RETRY_UNREADABLE_US)


def _same(claim: Claim, due: Sequence[DueSnapshot], values: Sequence[bytes | None]) -> list[bytes]:
    """Those values that are of the snapshots whose headers were due: others may have come into their places since."""
    saga, found = claim.saga.saga_id.bytes, []
    for item, value in zip(due, values, strict=True):
        place = member(item.meta.step_index, item.meta.snapshot_id)
        if value is not None and stands_for(value, saga, place):
            found.append(value)
    return found


async def _page_by_page(context: JobContext, writes: AgeWrites, claim: Claim) -> AsyncGenerator[Batch, None]:
    """A saga that is too large to be read at once. Snapshots that others evict meanwhile may hide some: it is looked
    at again then."""
    strange: list[Strange] = []
    async for headers in context.hot.headers(claim.saga.saga_id):
        strange += strange_of(claim.saga.saga_id, headers)
        due = plan(headers, context.policies, await saga_ends(context, [claim.saga.saga_id]), context.now_us, claim)
        for some in chunks(due, lambda item: item.raw_length, CHUNK_BYTES):
            ids = [item.meta.snapshot_id for item in some]
            values = await context.hot.fetch(claim.saga.saga_id, ids)
            claim.left -= values.count(None)
            yield Batch(work=[(claim, _same(claim, some, values))])
    quarantined = await _set_aside(context, writes, claim, strange) if strange else 0
    yield Batch(work=[], complete=[claim], sagas=1, strange=quarantined)


ROWS = 1000


async def durable_batches(
    context: JobContext, open_claims: OpenClaims, writes: AgeWrites, waiting: Callable[[UUID], bool]
) -> AsyncGenerator[Batch, None]:
    """Claimed rows, whole sagas, until none is due. `waiting` tells what waits in an open pack of this run already."""
    async for claimed in writes.rows(ROWS):
        rows = [row for row in claimed if not waiting(row.snapshot_id)]
        mine = {saga.saga_id: saga for saga in await writes.claim_these({row.saga_id for row in rows})}
        metas = {row.snapshot_id: await writes.durable_meta(row) for row in rows if row.saga_id in mine}
        ends = await saga_ends(context, {meta.saga_id for meta in metas.values() if meta is not None})
        due = {key: meta for key, meta in metas.items() if meta is not None and _is_due(context, meta, ends)}
        rest = [row for row in rows if row.snapshot_id in metas and row.snapshot_id not in due]
        await writes.postpone([_postponement(context, row, metas[row.snapshot_id], ends) for row in rest])
        # The rows were read before their sagas were ours: another run may have packed them in between.
        safe = await already_packed(context, list(due.values()))
        # What Redis has of these sagas is not looked at here, so their next due times there stay as they are.
        new = {claim.saga.saga_id: claim for claim in open_claims.begin(mine.values(), left=UNKNOWN)}
        todo = [
            row
            for row in sorted(rows, key=lambda row: row.saga_id)
            if row.snapshot_id in due and row.snapshot_id not in safe and row.saga_id in new
            if not waiting(row.snapshot_id)  # meanwhile it was put into one
        ]
        for chunk in chunks(todo, lambda row: raw_length(row.value), CHUNK_BYTES):
            yield Batch(
                work=[(new[saga], [row.value for row in group]) for saga, group in groupby(chunk, lambda r: r.saga_id)]
            )
        yield Batch(work=[], complete=list(new.values()))


def _is_due(context: JobContext, meta: SnapshotMeta, ends: SagaEnds) -> bool:
    decision = context.policies.decide(meta, ends.of(meta), context.now_us)
    return decision.due and not decision.expired


def waiting(
    context: JobContext, metas: Sequence[SnapshotMeta], keyless: set[UUID], ends: SagaEnds
) -> list[Postponement]:
    """Durable rows of sagas whose keys could not be had: they are looked at again later."""
    return [
        _later(context, meta, ends)
        for meta in metas
        if meta.saga_id in keyless and needs_key(context.policies.for_meta(meta, ends.of(meta)))
    ]


def kept(
    context: JobContext, metas: Sequence[SnapshotMeta], ids: Collection[UUID], ends: SagaEnds
) -> list[Postponement]:
    """Durable rows that stay beside what a pack has: they are looked at again later."""
    return [_later(context, meta, ends) for meta in metas if meta.snapshot_id in ids]


def _later(context: JobContext, meta: SnapshotMeta, ends: SagaEnds) -> Postponement:
    return Postponement.of(meta, context.now_us + REQUEUE_AFTER_US, context.policies.expires_us(meta, ends.of(meta)))


def _postponement(context: JobContext, row: ClaimedRow, meta: SnapshotMeta | None, ends: SagaEnds) -> Postponement:
    if meta is None:
        later = context.now_us + RETRY_UNREADABLE_US
        return Postponement(
            snapshot_id=row.snapshot_id, saved_us=to_micros(row.saved_at), due_us=later, expires_us=None
        )
    decision = context.policies.decide(meta, ends.of(meta), context.now_us)
    return Postponement.of(meta, None if decision.expired else decision.due_us, decision.expires_us)
