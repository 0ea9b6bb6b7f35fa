"""Snapshots out of S3: entries say which and in what order, each body has the last word on whether an entry is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import UUID

from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.answers import check_answer
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.bodies import Body, OpenBucket, promise, take
from sagaz_tiering.storage.s3.keys import SavedEntry

_LISTED_AT_ONCE = 64
_WALKED_AT_ONCE = 16
_FIRST_PAGE = 10


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
    answer = _Newest(wanted=limit)
    moved: list[tuple[SavedEntry, Body]] = []
    async with aclosing(_live_entries(bucket, saga_id, start, first_page, step_name)) as entries:
        while answer.missing > 0:
            batch = await take(entries, min(answer.missing, _LISTED_AT_ONCE))
            if not batch:
                break
            for entry, body in await bucket.bodies_of(batch):
                now_at = body.entry or entry
                if now_at.saga_id != saga_id or not _is_asked(now_at, bucket.now_us(), not_after_us, step_name):
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
    bucket: OpenBucket, entries: AsyncIterator[SavedEntry], gaps: Gaps
) -> AsyncGenerator[SagaSnapshot, None]:
    """The live snapshots of entries, in their order, a few at a time; what cannot be read goes to `gaps`.

    Raises SnapshotArchived where it comes to archived bytes.
    """
    last = None
    while batch := await take(entries, _WALKED_AT_ONCE):
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


async def _live_entries(
    bucket: OpenBucket, saga_id: UUID, start_after: str, first_page: int, step_name: str | None
) -> AsyncGenerator[SavedEntry, None]:
    now_us = bucket.now_us()
    step = None if step_name is None else s3_keys.step_hash(step_name)
    prefix = s3_keys.saga_prefix(saga_id)
    async with aclosing(bucket.entries(prefix, start_after=start_after, first_page=first_page)) as entries:
        async for entry in entries:
            if entry.is_live(now_us) and (step is None or entry.step_hash == step):
                yield entry


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


def _is_asked(entry: SavedEntry, now_us: int, not_after_us: int | None, step_name: str | None) -> bool:
    if not entry.is_live(now_us) or (not_after_us is not None and entry.created_us > not_after_us):
        return False
    return step_name is None or entry.step_hash == s3_keys.step_hash(step_name)


async def _decoded(body: Body) -> SagaSnapshot | CorruptRecord:
    """What is in a body that is not archived, or why it cannot be read."""
    await asyncio.sleep(0)  # others may want the event loop between two of many
    try:
        return await body.snapshot()
    except CorruptRecord as exc:
        return exc
