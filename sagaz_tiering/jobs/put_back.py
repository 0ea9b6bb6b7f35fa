"""What one of Redis and PostgreSQL lacks is copied from the other.

Durable copies that Redis lacks, or has in an older save, are put into it, so that readers may trust it alone again. A
row is held while it is copied: who removes it waits, and removes the copy after that. A crash repeats copies, which
changes nothing; a newer save in Redis stays.

What Redis alone has, and the catalog was never told of, since it is another one than the one that was: a catalog that
was rebuilt from the bucket, or put back from a dump, knows nothing of it: nothing would find it before it is packed or
its saga is saved again, and nobody could tell that Redis lost it. What was to be durable is put into PostgreSQL again:
it was acknowledged so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from sagaz_tiering.catalog.durable import DurableRow
from sagaz_tiering.catalog.hot_saves import Found
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import Header, read_header, read_meta
from sagaz_tiering.errors import CorruptRecord, ObjectStoreError, TierUnavailable
from sagaz_tiering.hot.layout import check_indexed, member
from sagaz_tiering.jobs.context import JobContext, Tally, batched, chunks, pages
from sagaz_tiering.jobs.dictionary_copies import keep
from sagaz_tiering.jobs.mending import durable_meta
from sagaz_tiering.jobs.pack_objects import InPacks, compared_with_packs
from sagaz_tiering.policy import Durability, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

T = TypeVar("T")
_ROWS = 5_000
_FIRST = UUID(int=0)
_COPIED_BYTES = 4 * 2**20
_COPIED_ROWS = 200
_AT_ONCE = 16
_TOLD_AT_ONCE: Final = 1_000


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
        there = await context.hot.queue.saves([row.snapshot_id for row in rows])
        done, refused = await _copy(context, lease, lacking(rows, there))
        if refused:
            await context.catalog.durable.mark_fallback(refused)
        copied += len(done)
    return copied


def fallback_rows(context: JobContext) -> AsyncIterator[Sequence[DurableRow]]:
    """What was saved while Redis was down, a page at a time."""
    fetch = partial(context.catalog.durable.fallback_rows, limit=_ROWS)
    return pages(fetch, _FIRST, lambda row: row.snapshot_id, context.stopping)


def all_rows(context: JobContext) -> AsyncIterator[Sequence[DurableRow]]:
    """Every durable row, a page at a time."""
    fetch = partial(context.catalog.durable.page, limit=_ROWS)
    return pages(fetch, _FIRST, lambda row: row.snapshot_id, context.stopping)


def lacking(rows: Sequence[DurableRow], there: Mapping[UUID, SnapshotMeta]) -> list[DurableRow]:
    """Of these rows, the ones that Redis does not have in this save or a newer one, when it has what is `there`."""
    return [
        row for row in rows if row.snapshot_id not in there or there[row.snapshot_id].saved_us < to_micros(row.saved_at)
    ]


async def would_copy(context: JobContext, rows: Sequence[DurableRow], there: Mapping[UUID, SnapshotMeta]) -> int:
    """How many of these `put_back` would copy, if Redis had what is `there`: it refuses what was deleted (dry runs)."""
    missing = lacking(rows, there)
    deleted_us = await context.hot.queue.deleted_us([row.snapshot_id for row in missing])
    return sum(to_micros(row.saved_at) > deleted_us.get(row.snapshot_id, -1) for row in missing)


async def would_refill(context: JobContext, rows: Sequence[DurableRow]) -> int:
    """How many of these `backfill` would find in Redis, or copy (dry runs)."""
    there = await context.hot.queue.saves([row.snapshot_id for row in rows])
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
            for some in batched(kept, _AT_ONCE):
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


async def tell_untold(context: JobContext, saves: Sequence[SnapshotMeta], tally: Tally, lease: Lease | None) -> None:
    """Of these saves in Redis, as pointers tell of them, those that PostgreSQL knows nothing of: it is given the ones
    that are to be durable, and the others are noted. `lease` None: a dry run. Raises LeaseLost."""
    unknown, packs = await _unknown(context, saves)
    for some in batched(unknown, _TOLD_AT_ONCE):
        headers = await _headers(context, some)
        durable = await _readable(context, await _to_be_durable(context, headers, packs), dry=lease is None)
        if lease is not None:
            durable = await _make_durable(context, durable, packs, lease)
            done = {header.meta.snapshot_id for header in durable}
            await _note(context, [header.meta for header in headers if header.meta.snapshot_id not in done])
        tally.add("made_durable", len(durable))
        tally.add("noted", len(some) - len(durable))


async def _unknown(context: JobContext, saves: Sequence[SnapshotMeta]) -> tuple[list[SnapshotMeta], InPacks]:
    """Those that PostgreSQL knows nothing of, and what packs have of them."""
    catalog, ids = context.catalog, [save.snapshot_id for save in saves]
    known = {(row.snapshot_id, to_micros(row.saved_at)) for row in await catalog.durable.rows_of(ids)}
    left = [save for save in saves if (save.snapshot_id, save.saved_us) not in known]
    noted = await catalog.hot_saves.noted(left)
    left = [save for save in left if save.snapshot_id not in noted]
    packs = await compared_with_packs(context, left)
    return [save for save in left if save.snapshot_id not in packs.safe], packs


async def _headers(context: JobContext, saves: Sequence[SnapshotMeta]) -> list[Header]:
    """What Redis has before the bodies of these saves."""
    found: list[Header] = []
    for save, head in zip(saves, await context.hot.queue.heads(saves), strict=True):
        with suppress(CorruptRecord):  # whoever reads it is told
            header = read_header(head)
            check_indexed(header.meta, save.saga_id, member(save.step_index, save.snapshot_id), save.created_us)
            if header.meta.saved_us == save.saved_us:
                found.append(header)
    return found


async def _to_be_durable(context: JobContext, headers: Sequence[Header], packs: InPacks) -> list[Header]:
    """Those whose policy says so, and that PostgreSQL would take; none that hides what a pack may have newer."""
    decide, now_us = context.policies.decide, context.now_us
    rules = [decide(header.meta, SagaEnd.of(header.meta), now_us).rule for header in headers]
    wanted = [header for header, rule in zip(headers, rules, strict=True) if rule.durability is Durability.DURABLE]
    blocked = packs.places.keys() - packs.older.keys()
    blocked |= await context.catalog.durable.blocked([header.meta for header in wanted]) if wanted else set()
    return [header for header in wanted if header.meta.snapshot_id not in blocked]


async def _readable(context: JobContext, headers: Sequence[Header], *, dry: bool) -> list[Header]:
    """Those that can be read without Redis: dictionaries of them that it alone has are put into bucket and catalog."""
    wanted, there = {header.dictionary_id for header in headers} - {None}, set[bytes | None]([None])
    digests = await context.catalog.dictionaries.digests() if wanted else set()
    for dictionary_id in wanted:
        with suppress(TierUnavailable, ObjectStoreError):  # then these are noted
            for found in (await context.dictionaries.need(dictionary_id)).values():
                if found.digest not in digests and not dry:
                    await keep(context, [found])
                there.add(found.id)
    return [header for header in headers if header.dictionary_id in there]


async def _make_durable(context: JobContext, headers: Sequence[Header], packs: InPacks, lease: Lease) -> list[Header]:
    """Copy what Redis has of these to PostgreSQL; those that are there now."""
    done: set[UUID] = set()
    for chunk in copied(headers, lambda header: header.raw_length):
        values = await asyncio.gather(*(context.hot.get(header.meta.snapshot_id) for header in chunk))
        found: list[Found] = []
        for header, value in zip(chunk, values, strict=True):
            with suppress(CorruptRecord):  # as above
                if isinstance(value, bytes) and read_meta(value) == header.meta:
                    decision = context.policies.decide(header.meta, SagaEnd.of(header.meta), context.now_us)
                    due_us, expires_us = decision.due_us, decision.expires_us
                    older = packs.older.get(header.meta.snapshot_id)
                    found.append(
                        Found(meta=header.meta, value=value, due_us=due_us, expires_us=expires_us, older_in=older)
                    )
        if found:
            done |= await context.catalog.hot_saves.make_durable(found, lease)
    return [header for header in headers if header.meta.snapshot_id in done]


async def _note(context: JobContext, metas: Sequence[SnapshotMeta]) -> None:
    if metas:
        expiries_us = [context.policies.expires_us(meta, SagaEnd.of(meta)) for meta in metas]
        await context.catalog.hot_saves.note_each(metas, expiries_us)
