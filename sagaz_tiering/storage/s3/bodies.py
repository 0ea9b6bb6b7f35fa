"""What lies in the bucket of `S3SnapshotStorage`: bodies, and the entries that lead to them.

An entry is true if the body is there and was put by the same save. An entry without a body is left by a save or a
delete that did not finish, one whose body was put by another save by a snapshot that was saved again, before the
listing or since: the snapshot is where its body says. Both are removed once they are so old that no save can still be
under way (SETTLED, ABANDONED).
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from sagaz_tiering import errors
from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.codec.threaded import decode_value
from sagaz_tiering.codec.value import MAX_BODY_BYTES, read_meta
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.drivers.together import together
from sagaz_tiering.objects.s3.answers import FoundObject
from sagaz_tiering.objects.s3.store import S3RecordStore
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.storage.answers import check_answer
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.keys import SavedEntry

SETTLED = timedelta(days=1)
"""No save takes so long: an entry of this age that its body contradicts stays untrue."""

ABANDONED = timedelta(days=30)
"""A body that is missing may come back (an undelete, a replica that lags): its entries stay this long."""

_MOST_BYTES = MAX_BODY_BYTES + 2**20
"""No body that was saved is larger: names and header have far less than a megabyte."""

_RESTORE_DAYS = 7

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
    damage: errors.CorruptRecord | None = None

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
            raise self.damage or errors.CorruptRecord(f"snapshot {self.snapshot_id} has no bytes")
        decoded = await decode_value(self.value)
        check_answer(decoded, snapshot_id=self.snapshot_id, saga_id=None if self.entry is None else self.entry.saga_id)
        of_bytes = SavedEntry.of(SnapshotMeta.of(decoded, saved_us=0, body_crc=0), "")
        if not self.belongs_to(of_bytes):
            said = f"the object of snapshot {self.snapshot_id} holds another save than its mark tells of"
            raise errors.CorruptRecord(said)
        return decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBucket:
    """One open store, and what is needed to answer from it: the clock that says what has ended, prices of restores."""

    store: S3RecordStore
    clock: Clock
    prices: PriceList

    async def fetch(self, snapshot_id: UUID) -> Body | None:
        """The object of a snapshot with its bytes, where they are not archived."""
        key = s3_keys.data_key(snapshot_id)
        try:
            found, value = await self.store.fetch(key, most=_MOST_BYTES)
        except errors.ObjectNotFound:
            return None
        except errors.ObjectArchived:
            return await self._unread(snapshot_id)
        except errors.CorruptPack as exc:
            damage = errors.CorruptRecord(f"snapshot {snapshot_id}: {exc}")
            damage.__cause__ = exc
            return await self._unread(snapshot_id, damage)
        return Body(snapshot_id=snapshot_id, found=found, entry=_entry(snapshot_id, found, value), value=value)

    async def _unread(self, snapshot_id: UUID, damage: errors.CorruptRecord | None = None) -> Body | None:
        found = await self.store.find(s3_keys.data_key(snapshot_id))
        if found is None:
            return None
        return Body(snapshot_id=snapshot_id, found=found, entry=_entry(snapshot_id, found), damage=damage)

    async def look(self, snapshot_id: UUID) -> Body | None:
        """The object of a snapshot without its bytes: one HEAD, unless it lost its mark."""
        body = await self._unread(snapshot_id)
        return body if body is None or body.entry else await self.fetch(snapshot_id)

    async def entries(
        self, prefix: str, *, start_after: str = "", first_page: int = 2**31
    ) -> AsyncGenerator[SavedEntry, None]:
        """Entries under a prefix, in key order; passes over foreign keys."""
        listing = self.store.list(prefix, start_after=start_after, first_page=first_page)
        async with aclosing(listing) as infos:
            async for info in infos:
                if (entry := SavedEntry.parse(info.key, info.modified_at)) is not None:
                    yield entry

    async def bodies_of(self, entries: Sequence[SavedEntry]) -> list[tuple[SavedEntry, Body]]:
        """The bodies that are there, each with the entry that led to it; removes old untrue entries.

        A body may be of a later save than its entry: it was put since that was listed, or the entry is a leftover.
        """
        ids = list(dict.fromkeys(entry.snapshot_id for entry in entries))
        bodies = dict(zip(ids, await together(*(self.fetch(each) for each in ids)), strict=True))
        await self.remove_untrue(entries, bodies)
        return [(entry, body) for entry in entries if (body := bodies[entry.snapshot_id]) is not None]

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
            with suppress(errors.ObjectStoreError, errors.TierUnavailable):
                await self.store.delete(keys)

    def now_us(self) -> int:
        """The clock, in microseconds."""
        return to_micros(self.clock.now())

    def is_older(self, written_at: datetime | None, age: timedelta) -> bool:
        """By our clock against the store's: S3 refuses requests whose clock is a quarter of an hour off."""
        return written_at is not None and self.clock.now() - written_at > age


async def take(source: AsyncIterator[T], count: int) -> list[T]:
    """The next `count` items, fewer at the end."""
    items: list[T] = []
    while len(items) < count:
        try:
            items.append(await anext(source))
        except StopAsyncIteration:
            break
    return items


async def batches(source: AsyncGenerator[T, None], size: int) -> AsyncGenerator[list[T], None]:
    """All items, `size` at a time; the source is closed with this, which who may leave early closes."""
    async with aclosing(source):
        while batch := await take(source, size):
            yield batch


def _entry(snapshot_id: UUID, found: FoundObject, value: bytes = b"") -> SavedEntry | None:
    """What the mark says, or the header where the mark was lost on the way through other tools."""
    entry = SavedEntry.parse(found.mark)
    if entry is None:
        with suppress(errors.CorruptRecord):
            entry = SavedEntry.of(read_meta(value), "")
    return entry if entry is not None and entry.snapshot_id == snapshot_id else None


def promise(bucket: OpenBucket, bodies: Sequence[Body]) -> errors.SnapshotArchived:
    """The error that names all of these snapshots, with a command that works as it is for the first."""
    infos, options = [body.found.info for body in bodies], bucket.store.calls.options
    more = f" (and so for {len(infos) - 1} more objects)" if len(infos) > 1 else ""
    endpoint = f" --endpoint-url {shlex.quote(options.settings.endpoint_url)}" if options.settings.endpoint_url else ""
    key = f"{options.prefix}/{infos[0].key}".lstrip("/")
    storage_class, size = infos[0].storage_class, sum(info.size for info in infos) // len(infos)
    return errors.SnapshotArchived(
        storage_class=storage_class.value,
        snapshot_ids=[body.snapshot_id for body in bodies],
        object_keys=[info.key for info in infos],
        options=bucket.prices.restore_options(storage_class, size, len(infos), days=_RESTORE_DAYS),
        how_to_restore=(
            f"aws s3api restore-object{endpoint} --bucket {options.bucket} --key {shlex.quote(key)}"
            f" --restore-request 'Days={_RESTORE_DAYS},GlacierJobParameters={{Tier=Standard}}'{more};"
            " reads work once it is readable"
        ),
    )
