"""Due durable rows that no saga in Redis accounted for: it was down when they were saved, or lost them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from itertools import groupby
from uuid import UUID

from sagaz_tiering.catalog.durable import ClaimedRow, Postponement
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import raw_length
from sagaz_tiering.jobs.age.frames import CHUNK_BYTES, RETRY_UNREADABLE_US, Batch, chunks
from sagaz_tiering.jobs.age.keys import REQUEUE_AFTER_US, needs_key
from sagaz_tiering.jobs.age.writes import AgeWrites
from sagaz_tiering.jobs.claims import UNKNOWN, OpenClaims
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.packed import already_packed
from sagaz_tiering.jobs.saga_ends import SagaEnds, saga_ends
from sagaz_tiering.snapshot import SnapshotMeta

ROWS = 1000


async def batches(
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
