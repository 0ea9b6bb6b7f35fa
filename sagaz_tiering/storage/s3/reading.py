"""Snapshots out of S3: entries say which and in what order, each body has the last word on whether an entry is true.

An entry is true if the body is there and was put by the same save. An entry without a body is left by a save or a
delete that did not finish, one whose body was put by another save by a snapshot that was saved again, before the
listing or since: the snapshot is where its body says. Both are removed once they are so old that no save can still be
under way (SETTLED, ABANDONED).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.codec.threaded import decode_value
from sagaz_tiering.codec.value import MAX_BODY_BYTES, read_meta
from sagaz_tiering.costs import PriceList
from sagaz_tiering.errors import (
    CorruptPack,
    CorruptRecord,
    ObjectArchived,
    ObjectNotFound,
    ObjectStoreError,
    TierUnavailable,
)
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.storage.answers import check_answer
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.archived import promise
from sagaz_tiering.storage.s3.keys import SavedEntry

if TYPE_CHECKING:
    from sagaz_tiering.objects.s3.options import S3Options
    from sagaz_tiering.objects.s3.records import FoundObject, S3RecordStore

SETTLED = timedelta(days=1)
"""No save takes so long: an entry of this age that its body contradicts stays untrue."""

ABANDONED = timedelta(days=30)
"""A body that is missing may come back (an undelete, a replica that lags): its entries stay this long."""

_MOST_BYTES = MAX_BODY_BYTES + 2**20
"""No body that was saved is larger: names and header have far less than a megabyte."""

_LISTED_AT_ONCE = 64
_WALKED_AT_ONCE = 16
_FIRST_PAGE = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The object of one snapshot. `entry`: what it says of itself, None where it cannot be told.

    `value` is None where the bytes are archived or were not asked for, `damage` is why they cannot be read.
    """

    snapshot_id: UUID
    found: FoundObject
    entry: SavedEntry | None
    value: bytes | None = None
    damage: CorruptRecord | None = None

    def belongs_to(self, entry: SavedEntry) -> bool:
        """Whether `entry` is true; the benefit of the doubt where the body does not tell."""
        return self.entry is None or self.entry.is_same_save(entry)

    def is_at(self, entry: SavedEntry) -> bool:
        """Whether the snapshot is where `entry` says, though it may have been saved again since that was listed."""
        return self.entry is None or self.entry.place == entry.place

    @property
    def is_archived(self) -> bool:
        """Whether its bytes were asked for and must be restored first."""
        return self.value is None and self.damage is None

    async def snapshot(self) -> SagaSnapshot:
        """Decoded. Raises CorruptRecord."""
        if self.damage is not None or self.value is None:
            raise self.damage or CorruptRecord(f"snapshot {self.snapshot_id} has no bytes")
        decoded = await decode_value(self.value)
        check_answer(decoded, snapshot_id=self.snapshot_id)
        if self.entry is not None:
            self._check_marked(decoded, self.entry)
        return decoded

    def _check_marked(self, decoded: SagaSnapshot, entry: SavedEntry) -> None:
        """Raise CorruptRecord unless the bytes are of the save that the object's mark tells of."""
        check_answer(decoded, saga_id=entry.saga_id)
        of_bytes = SavedEntry.of(SnapshotMeta.of(decoded, saved_us=0, body_crc=0), "")
        if not of_bytes.is_same_save(entry):
            raise CorruptRecord(f"the object of snapshot {self.snapshot_id} holds another save than its mark tells of")


class S3Reader:
    """Answers every query of snapshots from one open store."""

    def __init__(self, store: S3RecordStore, options: S3Options, clock: Clock, prices: PriceList) -> None:
        self._store = store
        self._options = options
        self._clock = clock
        self._prices = prices

    async def get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        """One live snapshot: one GET."""
        body = await self.fetch(snapshot_id)
        if body is None or (body.entry is not None and not body.entry.is_live(self.now_us())):
            return None
        if body.is_archived:
            raise promise([body.snapshot_id], [body.found.info], self._options, self._prices)
        return await body.snapshot()

    async def newest(
        self,
        saga_id: UUID,
        limit: int,
        *,
        not_after_us: int | None = None,
        step_name: str | None = None,
    ) -> list[SagaSnapshot]:
        """The newest `limit` live snapshots of a saga, at or before a time, of a step, newest first.

        Raises SnapshotArchived naming all of these that are archived, or CorruptRecord; either has the others with it.
        """
        start = "" if not_after_us is None else s3_keys.not_after(saga_id, not_after_us)
        first_page = limit + _FIRST_PAGE if step_name is None else 2**31
        answer = _Newest(wanted=limit)
        moved: list[tuple[SavedEntry, Body]] = []
        async with aclosing(self._live_entries(saga_id, start, first_page, step_name)) as entries:
            while answer.missing > 0:
                batch = await take(entries, min(answer.missing, _LISTED_AT_ONCE))
                if not batch:
                    break
                for entry, body in await self._bodies_of(batch):
                    now_at = body.entry or entry
                    if now_at.saga_id != saga_id or not _is_asked(now_at, self.now_us(), not_after_us, step_name):
                        continue
                    # Saved again since it was listed, farther back than we are: it is told of where it is now.
                    if now_at.place > entry.place:
                        moved.append((now_at, body))
                    else:
                        await answer.take(now_at, body, step_name)
        for now_at, body in moved:
            await answer.take(now_at, body, step_name)
        return self._told_of(answer, saga_id, not_after_us)

    def _told_of(self, answer: _Newest, saga_id: UUID, not_after_us: int | None) -> list[SagaSnapshot]:
        """Raises SnapshotArchived, CorruptRecord."""
        gaps, found, archived = Gaps("s3"), list[SagaSnapshot](), list[Body]()
        for _, body, each in answer.in_order():
            if each is None:
                archived.append(body)
            elif isinstance(each, CorruptRecord):
                gaps.add(body.snapshot_id, each)
            else:
                check_answer(each, saga_id=saga_id, not_after_us=not_after_us)
                found.append(each)
        self._told(archived, gaps)
        gaps.check(found)
        return found

    def _told(self, archived: Sequence[Body], gaps: Gaps) -> None:
        """Archived ones are what cannot be read now, too: all with one promise."""
        if archived:
            promised = promise(
                [body.snapshot_id for body in archived],
                [body.found.info for body in archived],
                self._options,
                self._prices,
            )
            for body in archived:
                gaps.add(body.snapshot_id, promised)

    async def snapshots(self, entries: AsyncIterator[SavedEntry]) -> AsyncIterator[SagaSnapshot]:
        """The live snapshots of entries, in their order, a few at a time.

        Raises SnapshotArchived where it comes to archived bytes, and CorruptRecord at its end for what it could not
        read on the way.
        """
        gaps, last = Gaps("s3"), None
        while batch := await take(entries, _WALKED_AT_ONCE):
            now_us = self.now_us()
            there = await self._bodies_of([entry for entry in batch if entry.is_live(now_us)])
            bodies = {
                body.snapshot_id: body
                for entry, body in there
                # The entries of one that was saved again are neighbours, so it is told of once.
                if body.is_at(entry) and (body.entry or entry).is_live(now_us) and body.snapshot_id != last
            }
            for body in bodies.values():
                last = body.snapshot_id
                if body.is_archived:
                    self._told([each for each in bodies.values() if each.is_archived], gaps)
                    gaps.check()
                found = await _decoded(body)
                if isinstance(found, CorruptRecord):
                    gaps.add(body.snapshot_id, found)
                else:
                    yield found
        gaps.check()

    async def _bodies_of(self, entries: Sequence[SavedEntry]) -> list[tuple[SavedEntry, Body]]:
        """The bodies that are there, each with the entry that led to it; removes old untrue entries.

        A body may be of a later save than its entry: it was put since that was listed, or the entry is a leftover.
        """
        ids = list(dict.fromkeys(entry.snapshot_id for entry in entries))
        bodies = dict(zip(ids, await together(*(self.fetch(each) for each in ids)), strict=True))
        await self.remove_untrue(entries, bodies)
        return [(entry, body) for entry in entries if (body := bodies[entry.snapshot_id]) is not None]

    async def fetch(self, snapshot_id: UUID) -> Body | None:
        """The object of a snapshot with its bytes, where they are not archived."""
        key = s3_keys.data_key(snapshot_id)
        try:
            found, value = await self._store.fetch(key, most=_MOST_BYTES)
        except ObjectNotFound:
            return None
        except ObjectArchived:
            return await self._unread(snapshot_id, None)
        except CorruptPack as exc:
            damage = CorruptRecord(f"snapshot {snapshot_id}: {exc}")
            damage.__cause__ = exc
            return await self._unread(snapshot_id, damage)
        return Body(snapshot_id=snapshot_id, found=found, entry=_entry(snapshot_id, found, value), value=value)

    async def _unread(self, snapshot_id: UUID, damage: CorruptRecord | None) -> Body | None:
        found = await self._store.find(s3_keys.data_key(snapshot_id))
        if found is None:
            return None
        return Body(snapshot_id=snapshot_id, found=found, entry=_entry(snapshot_id, found), damage=damage)

    async def look(self, snapshot_id: UUID) -> Body | None:
        """The object of a snapshot without its bytes: one HEAD, unless it lost its mark."""
        found = await self._store.find(s3_keys.data_key(snapshot_id))
        if found is None:
            return None
        entry = _entry(snapshot_id, found)
        return Body(snapshot_id=snapshot_id, found=found, entry=entry) if entry else await self.fetch(snapshot_id)

    async def entries(
        self, prefix: str, *, start_after: str = "", first_page: int = 2**31
    ) -> AsyncGenerator[SavedEntry, None]:
        """Entries under a prefix, in key order; passes over foreign keys."""
        listing = self._store.list(prefix, start_after=start_after, first_page=first_page)
        async with aclosing(listing) as infos:
            async for info in infos:
                if (entry := SavedEntry.parse(info.key, info.modified_at)) is not None:
                    yield entry

    def now_us(self) -> int:
        """The clock, in microseconds."""
        return to_micros(self._clock.now())

    def is_older(self, written_at: datetime | None, age: timedelta) -> bool:
        """By our clock against the store's: S3 refuses requests whose clock is a quarter of an hour off."""
        return written_at is not None and self._clock.now() - written_at > age

    async def remove_untrue(
        self, entries: Sequence[SavedEntry], bodies: dict[UUID, Body | None], *, missing_for: timedelta = ABANDONED
    ) -> None:
        """Remove those entries that are untrue for so long that they stay so."""
        keys: list[str] = []
        for entry in entries:
            body = bodies[entry.snapshot_id]
            if body is None or not body.belongs_to(entry):
                age = missing_for if body is None else SETTLED
                keys += entry.keys if self.is_older(entry.listed_at, age) else ()
        if keys:
            # Housekeeping by the way: the read has its answer, whoever reads next may remove them.
            with suppress(ObjectStoreError, TierUnavailable):
                await self._store.delete(keys)

    async def _live_entries(
        self, saga_id: UUID, start_after: str, first_page: int, step_name: str | None
    ) -> AsyncGenerator[SavedEntry, None]:
        now_us = self.now_us()
        step = None if step_name is None else s3_keys.step_hash(step_name)
        prefix = s3_keys.saga_prefix(saga_id)
        async with aclosing(self.entries(prefix, start_after=start_after, first_page=first_page)) as entries:
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

    def in_order(self) -> list[tuple[str, Body, SagaSnapshot | CorruptRecord | None]]:
        """Newest first, no more than wanted."""
        return sorted(self.placed, key=lambda each: each[0])[: self.wanted]


def _is_asked(entry: SavedEntry, now_us: int, not_after_us: int | None, step_name: str | None) -> bool:
    if not entry.is_live(now_us) or (not_after_us is not None and entry.created_us > not_after_us):
        return False
    return step_name is None or entry.step_hash == s3_keys.step_hash(step_name)


async def take(source: AsyncIterator[T], count: int) -> list[T]:
    """The next `count` items, fewer at the end."""
    items: list[T] = []
    while len(items) < count:
        try:
            items.append(await anext(source))
        except StopAsyncIteration:
            break
    return items


async def together(*steps: Any) -> list[Any]:
    """What all of them give; the first error once all have ended."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def _decoded(body: Body) -> SagaSnapshot | CorruptRecord:
    """What is in a body that is not archived, or why it cannot be read."""
    await asyncio.sleep(0)  # others may want the event loop between two of many
    try:
        return await body.snapshot()
    except CorruptRecord as exc:
        return exc


def _entry(snapshot_id: UUID, found: FoundObject, value: bytes = b"") -> SavedEntry | None:
    """What the mark says, or the header where the mark was lost on the way through other tools."""
    entry = SavedEntry.parse(found.mark)
    if entry is None:
        with suppress(CorruptRecord):
            entry = SavedEntry.of(read_meta(value), "")
    return entry if entry is not None and entry.snapshot_id == snapshot_id else None
