"""Snapshots out of packs: frames fetched once each, a few at a time, archived ones answered with the promise."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from sagaz_tiering.catalog.locations import FramePlace, Located
from sagaz_tiering.codec import Record
from sagaz_tiering.dictionaries.shelf import Dictionaries
from sagaz_tiering.errors import CorruptPack, ObjectArchived, ObjectNotFound, SnapshotArchived
from sagaz_tiering.keyring import Keyring
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.pack.reader import PackReader
from sagaz_tiering.prices import PriceList

_AT_ONCE = 8


class ColdTier:
    """Reads archived snapshots by their places."""

    def __init__(self, objects: ObjectStore, prices: PriceList, keys: Keyring, dictionaries: Dictionaries) -> None:
        self._objects = objects
        self._prices = prices
        self._keys = keys
        self._reader = PackReader(objects, dictionaries)

    async def read(self, located: Sequence[Located]) -> dict[UUID, Record]:
        """The records of these archived snapshots, by id; one GET a frame.

        Raises SnapshotArchived naming all of these that are archived, ColdTierUnavailable, CorruptPack, and of
        encrypted ones ErasedData where the key is gone (archived or not), MasterKeyUnavailable.
        """
        wanted: dict[FramePlace, list[UUID]] = {}
        for item in located:
            if item.place is not None:
                wanted.setdefault(item.place, []).append(item.ref.snapshot_id)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def fetch(place: FramePlace) -> list[Record] | None:
            async with gate:
                key = await self._keys.for_frame(encrypted=place.encrypted, wrapped=place.key)
                try:
                    return await self._reader.frame(place.object_key, place.offset, place.length, frame_key=key)
                except ObjectArchived:
                    return None

        try:
            frames = await asyncio.gather(*(fetch(place) for place in wanted))
        except ObjectNotFound as exc:
            raise CorruptPack(
                f"the catalog names an object that the store does not have: {exc}",
                hint="someone deleted it behind our back; restore it from a bucket version or backup",
            ) from exc
        archived = [place for place, frame in zip(wanted, frames, strict=True) if frame is None]
        if archived:
            raise self._promise(archived, [i for place in archived for i in wanted[place]])
        # A frame may hold an older save of a snapshot whose place is in another frame: each id counts in its own.
        records = {
            record.meta.snapshot_id: record
            for (_, ids), frame in zip(wanted.items(), frames, strict=True)
            for record in frame or ()
            if record.meta.snapshot_id in ids
        }
        missing = [i for ids in wanted.values() for i in ids if i not in records]
        if missing:
            raise CorruptPack(f"frames do not hold the snapshots that the catalog says: {missing[0]}")
        return records

    def _promise(self, places: Sequence[FramePlace], snapshot_ids: Sequence[UUID]) -> SnapshotArchived:
        storage_class = places[0].storage_class
        sizes = {place.object_key: place.object_size for place in places}
        keys, size = sorted(sizes), sum(sizes.values()) // len(sizes)
        return SnapshotArchived(
            storage_class=storage_class.value,
            snapshot_ids=snapshot_ids,
            object_keys=keys,
            options=self._prices.restore_options(storage_class, size, len(keys)),
            how_to_restore=_how_to_restore(snapshot_ids),
        )


def _how_to_restore(snapshot_ids: Sequence[UUID]) -> str:
    """A command that works as it is, for the first few."""
    named = " ".join(f"--snapshot {snapshot_id}" for snapshot_id in snapshot_ids[:3])
    more = f" (and {len(snapshot_ids) - 3} more; or name the saga)" if len(snapshot_ids) > 3 else ""
    return f"sagaz-tiering restore {named}{more}, or storage.restore(...); reads work once it is ready"
