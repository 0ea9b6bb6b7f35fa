"""What Redis alone has, and the catalog was never told of, since it is another one than the one that was.

A catalog that was rebuilt from the bucket, or put back from a dump, knows nothing of it: nothing would find it before
it is packed or its saga is saved again, and nobody could tell that Redis lost it. What was to be durable is put into
PostgreSQL again: it was acknowledged so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from sagaz_tiering.catalog.hot_saves import Found
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import Header, read_header, read_meta
from sagaz_tiering.errors import CorruptRecord, ObjectStoreError, TierUnavailable
from sagaz_tiering.hot.keys import member
from sagaz_tiering.hot.values import check_indexed
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.dictionary_copies import keep
from sagaz_tiering.jobs.packed import InPacks, compared_with_packs
from sagaz_tiering.jobs.put_back import copied
from sagaz_tiering.policy import Durability, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_AT_ONCE: Final = 1_000


async def tell_untold(context: JobContext, saves: Sequence[SnapshotMeta], tally: Tally, lease: Lease | None) -> None:
    """Of these saves in Redis, as pointers tell of them, those that PostgreSQL knows nothing of: it is given the ones
    that are to be durable, and the others are noted. `lease` None: a dry run. Raises LeaseLost."""
    unknown, packs = await _unknown(context, saves)
    for start in range(0, len(unknown), _AT_ONCE):
        some = unknown[start : start + _AT_ONCE]
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
    for save, head in zip(saves, await context.hot.identity.heads(saves), strict=True):
        with suppress(CorruptRecord):  # whoever reads it is told
            header = read_header(head)
            check_indexed(header.meta, save.saga_id, member(save.step_index, save.snapshot_id), save.created_us)
            if header.meta.saved_us == save.saved_us:
                found.append(header)
    return found


async def _to_be_durable(context: JobContext, headers: Sequence[Header], packs: InPacks) -> list[Header]:
    """Those whose policy says so, and that PostgreSQL would take; none that hides what a pack may have newer."""
    wanted = [
        header
        for header in headers
        if context.policies.decide(header.meta, SagaEnd.of(header.meta), context.now_us).rule.durability
        is Durability.DURABLE
    ]
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
