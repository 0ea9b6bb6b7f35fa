"""Due durable rows that no saga in Redis accounted for: it was down when they were saved, or lost them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from itertools import groupby
from uuid import UUID, uuid4

from sagaz_tiering.catalog.durable import ClaimedRow, Postponement
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import raw_length
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.hot.values import ClaimedSaga
from sagaz_tiering.jobs.age.due_hot import CHUNK_BYTES, Batch
from sagaz_tiering.jobs.age.frames import RETRY_UNREADABLE_US, chunks
from sagaz_tiering.jobs.age.keys import REQUEUE_AFTER_US, needs_key
from sagaz_tiering.jobs.claims import UNKNOWN, OpenClaims
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.foreign import durable_meta
from sagaz_tiering.jobs.packed import already_packed
from sagaz_tiering.jobs.saga_ends import SagaEnds, saga_ends
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
ROWS = 1000


async def batches(
    context: JobContext, open_claims: OpenClaims, held: Callable[[UUID], bool]
) -> AsyncGenerator[Batch, None]:
    """Claimed rows, until none is due. `held` tells what waits in an open pack of this run already."""
    durable, claim_ttl = context.catalog.durable, context.settings.jobs.claim_ttl
    token = f"{context.owner}/{uuid4().hex}"
    while not context.stopping.is_set():
        rows = await durable.claim_due(context.now, ROWS, claim_ttl)
        if not rows:
            return
        mine = await context.hot.queue.claim_these(sorted({row.saga_id for row in rows}), ttl=claim_ttl, token=token)
        metas = {
            row.snapshot_id: await durable_meta(context, row.snapshot_id, row.value, saga_id=row.saga_id)
            for row in rows
            if row.saga_id in mine
        }
        ends = await saga_ends(context, {meta.saga_id for meta in metas.values() if meta is not None})
        due = {key: meta for key, meta in metas.items() if meta is not None and _is_due(context, meta, ends)}
        rest = [row for row in rows if row.snapshot_id in metas and row.snapshot_id not in due]
        await durable.postpone([_postponement(context, row, metas[row.snapshot_id], ends) for row in rest])
        # The rows were read before their sagas were ours: another run may have packed them in between.
        safe = await already_packed(context, list(due.values()))
        todo = [
            row for row in rows if row.snapshot_id in due and row.snapshot_id not in safe and not held(row.snapshot_id)
        ]
        todo.sort(key=lambda row: row.saga_id)
        # What Redis has of these sagas is not looked at here, so their next due times there stay as they are.
        begun = open_claims.begin([ClaimedSaga(saga_id, token) for saga_id in mine], left=UNKNOWN)
        new = {claim.saga.saga_id: claim for claim in begun}
        todo = [row for row in todo if row.saga_id in new]
        for chunk in chunks(todo, lambda row: raw_length(row.value), CHUNK_BYTES):
            yield Batch(
                work=[(new[saga], [row.value for row in group]) for saga, group in groupby(chunk, lambda r: r.saga_id)]
            )
        yield Batch(work=[], complete=list(new.values()))


async def to_pack(context: JobContext, value: bytes) -> SnapshotMeta | None:
    """The meta of a value (or of its head) that is due; None for one that is not, or that cannot be read."""
    try:
        meta = read_meta(value)
    except CorruptRecord as exc:
        _log.error("snapshot.unreadable", tier="durable", error=str(exc))
        return None
    return meta if _is_due(context, meta, await saga_ends(context, [meta.saga_id])) else None


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
    return Postponement(
        snapshot_id=meta.snapshot_id,
        saved_us=meta.saved_us,
        due_us=context.now_us + REQUEUE_AFTER_US,
        expires_us=context.policies.expires_us(meta, ends.of(meta)),
    )


def _postponement(context: JobContext, row: ClaimedRow, meta: SnapshotMeta | None, ends: SagaEnds) -> Postponement:
    if meta is None:
        later = context.now_us + RETRY_UNREADABLE_US
        return Postponement(
            snapshot_id=row.snapshot_id, saved_us=to_micros(row.saved_at), due_us=later, expires_us=None
        )
    decision = context.policies.decide(meta, ends.of(meta), context.now_us)
    due_us = None if decision.expired else decision.due_us
    return Postponement(
        snapshot_id=row.snapshot_id, saved_us=meta.saved_us, due_us=due_us, expires_us=decision.expires_us
    )
