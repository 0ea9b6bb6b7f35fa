"""Writing snapshots to S3: entries first, then the body, so that no body is ever unlisted."""

from __future__ import annotations

from contextlib import suppress
from uuid import uuid4

from sagaz_tiering.drivers.together import together
from sagaz_tiering.errors import ObjectStoreError, TierUnavailable
from sagaz_tiering.objects.s3.answers import FoundObject
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.bodies import SETTLED, OpenBucket
from sagaz_tiering.storage.s3.keys import SavedEntry
from sagaz_tiering.storage_class import StorageClass


async def save(bucket: OpenBucket, meta: SnapshotMeta, value: bytes, storage_class: StorageClass) -> None:
    """Store a snapshot, in place of an earlier save of it."""
    store, standard = bucket.store, StorageClass.STANDARD
    entry, key = SavedEntry.of(meta, uuid4().hex[:16]), s3_keys.data_key(meta.snapshot_id)
    entries = (store.replace(each, b"", storage_class=standard) for each in entry.keys)
    before, *_ = await together(_find(bucket, key), *entries)
    await store.replace(key, value, storage_class=storage_class, mark=entry.key)
    await _remove_replaced(bucket, before)


async def _find(bucket: OpenBucket, key: str) -> FoundObject | None:
    """What is there now, if we may ask: a role that can only write can save too."""
    with suppress(ObjectStoreError, TierUnavailable):
        return await bucket.store.find(key)
    return None


async def _remove_replaced(bucket: OpenBucket, before: FoundObject | None) -> None:
    """Remove the entries of the save that was replaced, unless it is so young that it may not have ended.

    A put whose answer was lost is sent again and may land after ours: it must find its entries. What stays is
    passed over by reads, and removed by them later.
    """
    entry = None if before is None else SavedEntry.parse(before.mark)
    if before is not None and entry is not None and bucket.is_older(before.info.modified_at, SETTLED):
        with suppress(ObjectStoreError, TierUnavailable):  # the snapshot is saved, this is housekeeping
            await bucket.store.delete(entry.keys)
