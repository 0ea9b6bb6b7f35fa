"""Writing snapshots to S3: entries first, then the body, so that no body is ever unlisted."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from sagaz_tiering.errors import ObjectStoreError, TierUnavailable
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.keys import SavedEntry
from sagaz_tiering.storage.s3.reading import SETTLED, S3Reader, together
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from sagaz_tiering.objects.s3.records import FoundObject, S3RecordStore


class S3Saver:
    """Saves into one open store."""

    def __init__(self, store: S3RecordStore, reader: S3Reader, storage_class: StorageClass) -> None:
        self._store = store
        self._reader = reader
        self._class = storage_class

    async def save(self, meta: SnapshotMeta, value: bytes) -> None:
        """Store a snapshot, in place of an earlier save of it."""
        entry, key = SavedEntry.of(meta, uuid4().hex[:16]), s3_keys.data_key(meta.snapshot_id)
        before, *_ = await together(self._find(key), *(self._write_entry(each) for each in entry.keys))
        await self._store.replace(key, value, storage_class=self._class, mark=entry.key)
        await self._remove_replaced(before)

    async def _write_entry(self, key: str) -> None:
        await self._store.replace(key, b"", storage_class=StorageClass.STANDARD)

    async def _find(self, key: str) -> FoundObject | None:
        """What is there now, if we may ask: a role that can only write can save too."""
        with suppress(ObjectStoreError, TierUnavailable):
            return await self._store.find(key)
        return None

    async def _remove_replaced(self, before: FoundObject | None) -> None:
        """Remove the entries of the save that was replaced, unless it is so young that it may not have ended.

        A put whose answer was lost is sent again and may land after ours: it must find its entries. What stays is
        passed over by reads, and removed by them later.
        """
        entry = None if before is None else SavedEntry.parse(before.mark)
        if before is not None and entry is not None and self._reader.is_older(before.info.modified_at, SETTLED):
            with suppress(ObjectStoreError, TierUnavailable):  # the snapshot is saved, this is housekeeping
                await self._store.delete(entry.keys)
