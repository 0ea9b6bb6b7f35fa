"""Durable rows and Redis: each value gets the header that a save of today would give it, where it has another.

Without a lease it is a dry run: the same is read, decided and counted, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sagaz_tiering.attributes import Attributes
from sagaz_tiering.catalog.durable import DurableRow
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.reindexing import Reindexing
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import dictionary_id, snapshot_id
from sagaz_tiering.codec.value import attributed, decode_value, read_header
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.jobs.age.frames import CHUNK_BYTES, chunks
from sagaz_tiering.jobs.attributes import column_of
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.foreign import durable_meta, readable_metas, sort_out
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_ROWS: Final = 5_000
_SAGAS: Final = 64

Change = tuple[SnapshotMeta, bytes, bytes]
"""A save with its attributes as they should be, its value's header as it is, and its value as it should be."""


async def durable_rows(context: JobContext, lease: Lease | None, run: Reindexing, tally: Tally) -> None:
    """Every durable row that was saved before the run began, by id, from where an earlier one stopped."""
    after = run.durable_after
    while after is not None and not context.stopping.is_set():
        rows = await context.catalog.durable.page(after, _ROWS)
        old = [row for row in rows if row.saved_at < run.began_at]
        for some in chunks(old, lambda row: row.byte_length, CHUNK_BYTES):
            await _durable(context, lease, some, tally)
        after = rows[-1].snapshot_id if rows else None
        if lease is not None:
            await context.catalog.reindexed.durable_done(run.revision, after)


async def redis(context: JobContext, lease: Lease | None, run: Reindexing, tally: Tally) -> None:
    """Everything in Redis that was saved before the run began; what was stopped begins anew."""
    before_us = to_micros(run.began_at)
    async for saga_ids in context.hot.saga_ids():
        for start in range(0, len(saga_ids), _SAGAS):
            some = saga_ids[start : start + _SAGAS]
            for saga_id, whole in zip(some, await context.hot.queue.gather(some), strict=True):
                if whole is not None:
                    await _hot(context, lease, sort_out(saga_id, whole)[0], before_us, tally)
                    continue
                async for headers in context.hot.headers(saga_id):
                    for header in headers:
                        values = await context.hot.fetch(saga_id, [header.snapshot_id])
                        await _hot(context, lease, [value for value in values if value is not None], before_us, tally)
        if context.stopping.is_set():
            return
    if lease is not None:
        await context.catalog.reindexed.hot_done(run.revision)


async def _durable(context: JobContext, lease: Lease | None, rows: Sequence[DurableRow], tally: Tally) -> None:
    found = await context.catalog.reindexed.durable_values([row.snapshot_id for row in rows])
    readable = [value for one, _, value in found if await durable_meta(context, one, value) is not None]
    changes = await _changes(context, readable)
    tally.add("durable", len(readable))
    if lease is None:
        tally.add("durable_changed", len(changes))
    elif changes:
        done = await context.catalog.reindexed.set_durable([(meta, value) for meta, _, value in changes], lease)
        tally.add("durable_changed", done)
        await _look_again(context, [meta for meta, _, _ in changes])


async def _hot(context: JobContext, lease: Lease | None, values: Sequence[bytes], before_us: int, tally: Tally) -> None:
    metas = {meta.snapshot_id: meta for meta in readable_metas(values) if meta.saved_us < before_us}
    old = [value for value in values if snapshot_id(value) in metas]
    changes = await _changes(context, old)
    tally.add("hot", len(old))
    if lease is None:
        tally.add("hot_changed", len(changes))
        return
    if changes:
        headers = [(meta, header, value[: read_header(value).length]) for meta, header, value in changes]
        tally.add("hot_changed", await context.hot.queue.put_headers(headers))
        await _look_again(context, [meta for meta, _, _ in changes])
    # Also where a run that was killed had put the header only.
    metas |= {meta.snapshot_id: meta for meta, _, _ in changes}
    if metas:
        await context.catalog.reindexed.set_hot(list(metas.values()), lease)


async def _changes(context: JobContext, values: Sequence[bytes]) -> list[Change]:
    """Of these values, those that should have other attributes."""
    known = await context.dictionaries.need(*set(map(dictionary_id, values)))
    size = sum(map(len, values))
    return await context.compute(size, _compared, context.in_force.attributes, values, known)


def _compared(attributes: Attributes, values: Sequence[bytes], known: Mapping[bytes, Dictionary]) -> list[Change]:
    found = []
    for value in values:
        try:
            header = read_header(value)
            column = column_of(attributes, decode_value(value, header, known))
        except CorruptRecord as exc:
            _log.error("snapshot.unreadable", error=str(exc))
            continue
        if column != header.meta.attributes:
            meta = header.meta._replace(attributes=column)
            found.append((meta, value[: header.length], attributed(value, header, column)))
    return found


async def _look_again(context: JobContext, metas: Sequence[SnapshotMeta]) -> None:
    """Other rules may hold for these sagas now."""
    if context.policies.ruling_attributes:
        sagas = sorted({meta.saga_id for meta in metas})
        for expiring in (False, True):
            await context.hot.queue.requeue(sagas, expiring=expiring)
