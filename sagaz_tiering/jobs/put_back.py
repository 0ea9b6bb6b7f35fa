"""Durable copies that Redis lacks, or has in an older save, are put into it, so that readers may trust it alone again.

A row is held while it is copied: who removes it waits, and removes the copy after that. A crash repeats copies, which
changes nothing; a newer save in Redis stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sagaz_tiering.catalog.durable import DurableRow
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import to_micros
from sagaz_tiering.jobs.age.frames import chunks
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.jobs.foreign import durable_meta
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

T = TypeVar("T")
_ROWS = 5_000
_FIRST = UUID(int=0)
_COPIED_BYTES = 4 * 2**20
_COPIED_ROWS = 200
_AT_ONCE = 16


async def backfill(context: JobContext, lease: Lease) -> int:
    """Copy what was saved while Redis was down, then end the fallback; how many rows.

    A row that Redis refuses since the snapshot was deleted is about to go, or was to go by a delete that failed: it
    stays a fallback row, so that readers ask for it, until Redis has forgotten the delete.
    """
    durable, copied = context.catalog.durable, 0
    async for rows in fallback_rows(context):
        done, _refused = await _copy(context, lease, rows)
        await durable.clear_fallback(done)
        copied += len(done)
    await durable.end_fallback()
    return copied


async def put_back(context: JobContext, lease: Lease) -> int:
    """Copy every durable row that Redis does not have in this save or a newer one; how many.

    What Redis refuses is a fallback row from now on, for the reason above.
    """
    copied = 0
    async for rows in all_rows(context):
        there = await context.hot.identity.saves([row.snapshot_id for row in rows])
        done, refused = await _copy(context, lease, lacking(rows, there))
        if refused:
            await context.catalog.durable.mark_fallback(refused)
        copied += len(done)
    return copied


def fallback_rows(context: JobContext) -> AsyncIterator[list[DurableRow]]:
    """What was saved while Redis was down, a page at a time."""
    return _pages(context, context.catalog.durable.fallback_rows)


def all_rows(context: JobContext) -> AsyncIterator[list[DurableRow]]:
    """Every durable row, a page at a time."""
    return _pages(context, context.catalog.durable.page)


async def _pages(
    context: JobContext, fetch: Callable[[UUID, int], Awaitable[list[DurableRow]]]
) -> AsyncIterator[list[DurableRow]]:
    after = _FIRST
    while not context.stopping.is_set() and (rows := await fetch(after, _ROWS)):
        yield rows
        after = rows[-1].snapshot_id


def lacking(rows: Sequence[DurableRow], there: Mapping[UUID, SnapshotMeta]) -> list[DurableRow]:
    """Of these rows, the ones that Redis does not have in this save or a newer one, when it has what is `there`."""
    return [
        row for row in rows if row.snapshot_id not in there or there[row.snapshot_id].saved_us < to_micros(row.saved_at)
    ]


async def would_copy(context: JobContext, rows: Sequence[DurableRow], there: Mapping[UUID, SnapshotMeta]) -> int:
    """How many of these `put_back` would copy, if Redis had what is `there`: it refuses what was deleted (dry runs)."""
    missing = lacking(rows, there)
    deleted_us = await context.hot.identity.deleted_us([row.snapshot_id for row in missing])
    return sum(to_micros(row.saved_at) > deleted_us.get(row.snapshot_id, -1) for row in missing)


async def would_refill(context: JobContext, rows: Sequence[DurableRow]) -> int:
    """How many of these `backfill` would find in Redis, or copy (dry runs)."""
    there = await context.hot.identity.saves([row.snapshot_id for row in rows])
    return len(rows) - len(lacking(rows, there)) + await would_copy(context, rows, there)


def copied(items: Sequence[T], size: Callable[[T], int]) -> list[list[T]]:
    """Values of these sizes in bytes, as many together as are copied between Redis and PostgreSQL at once."""
    return chunks(items, lambda item: max(size(item), _COPIED_BYTES // _COPIED_ROWS), _COPIED_BYTES)


_Rows = list[tuple[UUID, datetime]]


async def _copy(context: JobContext, lease: Lease, rows: Sequence[DurableRow]) -> tuple[_Rows, _Rows]:
    """Those that are in Redis now in this save or a newer one, and those that it refuses."""
    done: dict[bool, _Rows] = {True: [], False: []}
    for chunk in copied(rows, lambda row: row.byte_length):
        async with context.catalog.durable.keeping([row.snapshot_id for row in chunk], lease) as kept:
            for start in range(0, len(kept), _AT_ONCE):
                some = kept[start : start + _AT_ONCE]
                taken = await asyncio.gather(*(_save(context, snapshot_id, value) for snapshot_id, _, value in some))
                for (snapshot_id, saved_at, _), is_there in zip(some, taken, strict=True):
                    if is_there is not None:
                        done[is_there].append((snapshot_id, saved_at))
    return done[True], done[False]


async def _save(context: JobContext, snapshot_id: UUID, value: bytes) -> bool | None:
    """Whether it is there now; None for what cannot be read, or is of another snapshot."""
    meta = await durable_meta(context, snapshot_id, value)
    if meta is None:
        return None
    decision = context.policies.decide(meta, SagaEnd.of(meta), context.now_us)  # whoever looks at it knows better
    refused = await context.hot.save(meta, value, due_us=decision.due_us, expires_us=decision.expires_us)
    return refused is None or not (refused.deleted or refused.foreign)
