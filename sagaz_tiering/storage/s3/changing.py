"""Writing snapshots to S3 and removing them: entries first, then the body, so that no body is ever unlisted; and
removed the body first, so that a crash leaves entries without a body and never the reverse.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from uuid import UUID, uuid4

from sagaz_tiering.drivers.together import together
from sagaz_tiering.errors import ObjectStoreError, TierUnavailable
from sagaz_tiering.objects.s3.answers import FoundObject
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.bodies import ABANDONED, SETTLED, Body, OpenBucket, batches
from sagaz_tiering.storage.s3.keys import SavedEntry
from sagaz_tiering.storage_class import StorageClass

_AT_ONCE = 200

Doomed = tuple[Body, list[str]]
"""A body and the keys of its entries."""


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


async def remove_one(bucket: OpenBucket, snapshot_id: UUID) -> bool:
    """Remove a snapshot, whatever its bytes are like; False if there was none. One that is saved anew stays."""
    body = await bucket.look(snapshot_id)
    if body is None:
        await bucket.store.check()  # HEAD answers the same for a bucket that is missing
        return False
    await bucket.store.delete_unchanged(body.found)
    if body.entry is not None:
        await _drop(bucket, await _keys_of(bucket, body.entry))
    return True


async def remove_saga(bucket: OpenBucket, saga_id: UUID) -> int:
    """Remove every snapshot of a saga; how many there were."""
    removed = 0
    async for batch in batches(bucket.entries(s3_keys.saga_prefix(saga_id)), _AT_ONCE):
        bodies = await _looked_up(bucket, [entry.snapshot_id for entry in batch])
        found = ((entry, bodies[entry.snapshot_id]) for entry in batch)
        true = {body.snapshot_id: (body, entry.keys) for entry, body in found if body and body.belongs_to(entry)}
        removed += await _remove(bucket, list(true.values()))
        await bucket.remove_untrue(batch, bodies, missing_for=SETTLED)
    return removed


async def remove_expired(bucket: OpenBucket) -> int:
    """Remove what has ended; how many."""
    removed = 0
    async for batch in batches(_ended(bucket, bucket.now_us()), _AT_ONCE):
        bodies = await _looked_up(bucket, [snapshot_id for snapshot_id, _, _ in batch])
        true, untrue = list[Doomed](), list[str]()
        for snapshot_id, key, listed_at in batch:
            body = bodies[snapshot_id]
            if body is not None and body.entry is not None and body.entry.has_expiry_key(key):
                true.append((body, [key, *await _keys_of(bucket, body.entry)]))
            elif bucket.is_older(listed_at, ABANDONED if body is None else SETTLED):
                untrue.append(key)
        removed += await _remove(bucket, true)
        await _drop(bucket, untrue)
    return removed


async def _ended(bucket: OpenBucket, now_us: int) -> AsyncGenerator[tuple[UUID, str, datetime], None]:
    """Expiry entries whose time has come, the oldest first: snapshot, key, and when it was written."""
    async with aclosing(bucket.store.list(s3_keys.EXPIRY)) as infos:
        async for info in infos:
            retention_us, snapshot_id = s3_keys.parse_expiry(info.key) or (None, None)
            if retention_us is None or snapshot_id is None:
                continue
            if retention_us > now_us:
                return
            yield snapshot_id, info.key, info.modified_at


async def _looked_up(bucket: OpenBucket, snapshot_ids: Sequence[UUID]) -> dict[UUID, Body | None]:
    ids = list(dict.fromkeys(snapshot_ids))
    return dict(zip(ids, await together(*(bucket.look(each) for each in ids)), strict=True))


async def _remove(bucket: OpenBucket, doomed: Sequence[Doomed]) -> int:
    """Remove bodies as they were found, then their entries; how many. What was saved anew meanwhile stays."""
    deletes = (bucket.store.delete_unchanged(body.found) for body, _ in doomed)
    results = await asyncio.gather(*deletes, return_exceptions=True)
    await _drop(bucket, [key for (_, keys), gone in zip(doomed, results, strict=True) if gone is True for key in keys])
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results.count(True)


async def _keys_of(bucket: OpenBucket, entry: SavedEntry) -> list[str]:
    """The keys of an entry; of one whose token is not known, all that it may have."""
    if entry.token:
        return entry.keys
    return [info.key for stem in entry.keys async for info in bucket.store.list(stem)]


async def _drop(bucket: OpenBucket, keys: Sequence[str]) -> None:
    failures = await bucket.store.delete(keys) if keys else []
    if failures:
        raise ObjectStoreError(
            f"{len(failures)} objects could not be removed from {bucket.store.url}, the first is"
            f" {failures[0].key}: {failures[0].reason}",
            hint="grant s3:DeleteObject (and s3:DeleteObjectVersion where the bucket keeps versions), then repeat",
        )
