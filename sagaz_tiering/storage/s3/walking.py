"""Walking through all of `S3SnapshotStorage` in ascending order, a page in memory at a time.

S3 lists ascending and entries are newest first, so a saga is walked backwards: its entries are listed once to note
where each page begins, and then page by page from the last to the first. Most sagas are one page and listed once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

from sagaz_tiering.drivers.together import together
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.bodies import OpenBucket, take
from sagaz_tiering.storage.s3.keys import SavedEntry

_PAGE = 1000
_SAGAS_AT_ONCE = 16

Run = tuple[UUID, list[SavedEntry] | None]
"""The entries of one saga as listed; None where they are more than a page."""


async def saga_ids(bucket: OpenBucket, after: UUID | None) -> AsyncGenerator[UUID, None]:
    """Sagas with a live snapshot, ascending."""
    async with aclosing(_runs(bucket, after)) as runs:
        while batch := await take(runs, _SAGAS_AT_ONCE):
            alive = await together(*(_has_live(bucket, run) for run in batch))
            for (saga_id, _), is_alive in zip(batch, alive, strict=True):
                if is_alive:
                    yield saga_id


async def entries_of_all(bucket: OpenBucket, after: UUID | None) -> AsyncGenerator[SavedEntry, None]:
    """Entries of every saga, by saga, oldest first."""
    async with aclosing(_runs(bucket, after)) as runs:
        async for saga_id, entries in runs:
            if entries is not None:
                for entry in reversed(entries):
                    yield entry
                continue
            async with aclosing(entries_of(bucket, saga_id)) as many:
                async for entry in many:
                    yield entry


async def entries_of(bucket: OpenBucket, saga_id: UUID) -> AsyncGenerator[SavedEntry, None]:
    """Entries of one saga, oldest first."""
    prefix, ends = s3_keys.saga_prefix(saga_id), [""]
    page: list[SavedEntry] = []
    async with aclosing(bucket.entries(prefix)) as entries:
        async for entry in entries:
            page.append(entry)
            if len(page) == _PAGE:
                ends.append(entry.key)
                page = []
    for entry in reversed(page):
        yield entry
    while len(ends) > 1:
        last = ends.pop()
        for entry in reversed(await _page(bucket, prefix, ends[-1], last)):
            yield entry


async def ids_of(bucket: OpenBucket, saga_id: UUID) -> AsyncGenerator[UUID, None]:
    """Live snapshots of one saga, oldest first, archived ones too: no body is read."""
    now_us, last = bucket.now_us(), None
    async with aclosing(entries_of(bucket, saga_id)) as entries:
        async for entry in entries:
            # The entries of one that was saved again are neighbours, so it is told of once.
            if entry.snapshot_id != last and await _is_there(bucket, entry, now_us):
                last = entry.snapshot_id
                yield last


async def _page(bucket: OpenBucket, prefix: str, start_after: str, last: str) -> list[SavedEntry]:
    page: list[SavedEntry] = []
    async with aclosing(bucket.entries(prefix, start_after=start_after)) as entries:
        async for entry in entries:
            if entry.key > last:
                break
            page.append(entry)
    return page


async def _runs(bucket: OpenBucket, after: UUID | None) -> AsyncGenerator[Run, None]:
    """Sagas with what they have, from one listing; one that is larger than a page is skipped over."""
    start = "" if after is None else s3_keys.behind_saga(after)
    while True:
        run: list[SavedEntry] = []
        async with aclosing(bucket.entries(s3_keys.SAGAS, start_after=start)) as entries:
            async for entry in entries:
                if run and run[0].saga_id != entry.saga_id:
                    yield run[0].saga_id, run
                    run = []
                run.append(entry)
                if len(run) > _PAGE:
                    break
        if not run:
            return
        saga_id = run[0].saga_id
        if len(run) <= _PAGE:
            yield saga_id, run
            return
        yield saga_id, None
        start = s3_keys.behind_saga(saga_id)


async def _has_live(bucket: OpenBucket, run: Run) -> bool:
    saga_id, listed = run
    now_us = bucket.now_us()
    among = bucket.entries(s3_keys.saga_prefix(saga_id)) if listed is None else _each(listed)
    async with aclosing(among) as entries:
        async for entry in entries:
            if await _is_there(bucket, entry, now_us):
                return True
    return False


async def _is_there(bucket: OpenBucket, entry: SavedEntry, now_us: int) -> bool:
    """Whether the snapshot lives, and is where the entry says."""
    if not entry.is_live(now_us):
        return False
    body = await bucket.look(entry.snapshot_id)
    return body is not None and body.is_at(entry) and (body.entry or entry).is_live(now_us)


async def _each(entries: list[SavedEntry]) -> AsyncGenerator[SavedEntry, None]:
    for entry in entries:
        yield entry
