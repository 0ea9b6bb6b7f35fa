"""Snapshots out of S3: entries say which and in what order, each body has the last word on whether an entry is true.

All of them are walked through in ascending order, a page in memory at a time: S3 lists ascending and entries are newest
first, so a saga is walked backwards: its entries are listed once to note where each page begins, and then page by page
from the last to the first. Most sagas are one page and listed once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import UUID

from sagaz_tiering.drivers.together import together
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.answers import check_answer
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.bodies import Body, OpenBucket, batches, promise, take
from sagaz_tiering.storage.s3.keys import SavedEntry

_LISTED_AT_ONCE = 64
_WALKED_AT_ONCE = 16
_FIRST_PAGE = 10
_PAGE = 1000

Run = tuple[UUID, list[SavedEntry] | None]
"""The entries of one saga as listed; None where they are more than a page."""


async def one(bucket: OpenBucket, snapshot_id: UUID) -> SagaSnapshot | None:
    """One live snapshot: one GET."""
    body = await bucket.fetch(snapshot_id)
    if body is None or (body.entry is not None and not body.entry.is_live(bucket.now_us())):
        return None
    if body.is_archived:
        raise promise(bucket, [body])
    return await body.snapshot()


async def newest(
    bucket: OpenBucket,
    saga_id: UUID,
    limit: int,
    gaps: Gaps,
    *,
    not_after_us: int | None = None,
    step_name: str | None = None,
) -> list[SagaSnapshot]:
    """The newest `limit` live snapshots of a saga, at or before a time, of a step, newest first.

    Those that cannot be read, or are archived (with one promise for all), go to `gaps` and count.
    """
    start = "" if not_after_us is None else s3_keys.not_after(saga_id, not_after_us)
    first_page = limit + _FIRST_PAGE if step_name is None else 2**31
    step = None if step_name is None else s3_keys.step_hash(step_name)

    def is_asked(entry: SavedEntry) -> bool:
        in_time = not_after_us is None or entry.created_us <= not_after_us
        return in_time and step in (None, entry.step_hash) and entry.is_live(bucket.now_us())

    answer = _Newest(wanted=limit)
    moved: list[tuple[SavedEntry, Body]] = []
    listed = bucket.entries(s3_keys.saga_prefix(saga_id), start_after=start, first_page=first_page)
    async with aclosing(listed), aclosing(entry async for entry in listed if is_asked(entry)) as entries:
        while batch := await take(entries, min(answer.missing, _LISTED_AT_ONCE)):
            for entry, body in await bucket.bodies_of(batch):
                now_at = body.entry or entry
                if now_at.saga_id != saga_id or not is_asked(now_at):
                    continue
                # Saved again since it was listed, farther back than we are: it is told of where it is now.
                if now_at.place > entry.place:
                    moved.append((now_at, body))
                else:
                    await answer.take(now_at, body, step_name)
    for now_at, body in moved:
        await answer.take(now_at, body, step_name)
    told = answer.in_order()
    _add_archived(bucket, [body for body, found in told if found is None], gaps)
    readable = gaps.readable((body.snapshot_id, found) for body, found in told)
    for found in readable:
        check_answer(found, saga_id=saga_id, not_after_us=not_after_us)
    return readable


async def snapshots(
    bucket: OpenBucket, entries: AsyncGenerator[SavedEntry, None], gaps: Gaps
) -> AsyncGenerator[SagaSnapshot, None]:
    """The live snapshots of entries, in their order, a few at a time; what cannot be read goes to `gaps`.

    Raises SnapshotArchived where it comes to archived bytes.
    """
    last = None
    async with aclosing(batches(entries, _WALKED_AT_ONCE)) as listed:
        async for batch in listed:
            now_us = bucket.now_us()
            there = await bucket.bodies_of([entry for entry in batch if entry.is_live(now_us)])
            bodies = {
                body.snapshot_id: body
                for entry, body in there
                # The entries of one that was saved again are neighbours, so it is told of once.
                if body.is_at(entry) and (body.entry or entry).is_live(now_us) and body.snapshot_id != last
            }
            for body in bodies.values():
                last = body.snapshot_id
                if body.is_archived:
                    _add_archived(bucket, [each for each in bodies.values() if each.is_archived], gaps)
                    gaps.check()
                for found in gaps.readable([(last, await _decoded(body))]):
                    yield found


def _add_archived(bucket: OpenBucket, archived: Sequence[Body], gaps: Gaps) -> None:
    """Archived ones are what cannot be read now, too: all with one promise."""
    if archived:
        promised = promise(bucket, archived)
        for body in archived:
            gaps.add(body.snapshot_id, promised)


@dataclass(slots=True, kw_only=True)
class _Newest:
    """What a list has so far, each snapshot once: its place, its body, and what is in that if it can be read."""

    wanted: int
    placed: list[tuple[str, Body, SagaSnapshot | CorruptRecord | None]] = field(default_factory=list)
    seen: set[UUID] = field(default_factory=set)

    @property
    def missing(self) -> int:
        return self.wanted - len(self.placed)

    async def take(self, entry: SavedEntry, body: Body, step_name: str | None) -> None:
        """Take a body that is at `entry`, unless it was taken before."""
        if body.snapshot_id in self.seen:
            return
        self.seen.add(body.snapshot_id)
        found = None if body.is_archived else await _decoded(body)
        if step_name is None or not isinstance(found, SagaSnapshot) or found.step_name == step_name:
            self.placed.append((entry.place, body, found))

    def in_order(self) -> list[tuple[Body, SagaSnapshot | CorruptRecord | None]]:
        """Newest first, no more than wanted."""
        return [each[1:] for each in sorted(self.placed, key=lambda each: each[0])[: self.wanted]]


async def _decoded(body: Body) -> SagaSnapshot | CorruptRecord:
    """What is in a body that is not archived, or why it cannot be read."""
    await asyncio.sleep(0)  # others may want the event loop between two of many
    try:
        return await body.snapshot()
    except CorruptRecord as exc:
        return exc


async def saga_ids(bucket: OpenBucket, after: UUID | None) -> AsyncGenerator[UUID, None]:
    """Sagas with a live snapshot, ascending."""
    async with aclosing(batches(_runs(bucket, after), _WALKED_AT_ONCE)) as runs:
        async for batch in runs:
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
    for entry in listed or ():
        if await _is_there(bucket, entry, now_us):
            return True
    if listed is None:
        async with aclosing(bucket.entries(s3_keys.saga_prefix(saga_id))) as entries:
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
