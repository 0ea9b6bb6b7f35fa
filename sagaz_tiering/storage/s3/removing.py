"""Removing snapshots from S3: the body first, so that a crash leaves entries without a body and never the reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sagaz_tiering.drivers.together import together
from sagaz_tiering.errors import ObjectStoreError
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.bodies import ABANDONED, SETTLED, Body, OpenBucket, take
from sagaz_tiering.storage.s3.keys import SavedEntry

_AT_ONCE = 200

Doomed = tuple[Body, list[str]]
"""A body and the keys of its entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """An expiry entry whose time has come."""

    key: str
    snapshot_id: UUID
    listed_at: datetime


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
    async with aclosing(bucket.entries(s3_keys.saga_prefix(saga_id))) as entries:
        while batch := await take(entries, _AT_ONCE):
            bodies = await _looked_up(bucket, [entry.snapshot_id for entry in batch])
            removed += await _remove(bucket, _true(batch, bodies))
            await bucket.remove_untrue(batch, bodies, missing_for=SETTLED)
    return removed


async def remove_expired(bucket: OpenBucket) -> int:
    """Remove what has ended; how many."""
    removed = 0
    async with aclosing(_ended(bucket, bucket.now_us())) as ended:
        while batch := await take(ended, _AT_ONCE):
            bodies = await _looked_up(bucket, [each.snapshot_id for each in batch])
            true, untrue = list[Doomed](), list[str]()
            for each in batch:
                body = bodies[each.snapshot_id]
                if body is not None and body.entry is not None and body.entry.has_expiry_key(each.key):
                    true.append((body, [each.key, *await _keys_of(bucket, body.entry)]))
                elif bucket.is_older(each.listed_at, ABANDONED if body is None else SETTLED):
                    untrue.append(each.key)
            removed += await _remove(bucket, true)
            await _drop(bucket, untrue)
    return removed


async def _ended(bucket: OpenBucket, now_us: int) -> AsyncGenerator[_Ended, None]:
    """Expiry entries whose time has come, the oldest first."""
    async with aclosing(bucket.store.list(s3_keys.EXPIRY)) as infos:
        async for info in infos:
            parsed = s3_keys.parse_expiry(info.key)
            if parsed is None:
                continue
            if parsed[0] > now_us:
                return
            yield _Ended(key=info.key, snapshot_id=parsed[1], listed_at=info.modified_at)


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


def _true(entries: Sequence[SavedEntry], bodies: dict[UUID, Body | None]) -> list[Doomed]:
    """One for each body that is there and belongs to one of the entries."""
    found: dict[UUID, Doomed] = {}
    for entry in entries:
        body = bodies[entry.snapshot_id]
        if body is not None and body.belongs_to(entry):
            found[entry.snapshot_id] = (body, entry.keys)
    return list(found.values())
