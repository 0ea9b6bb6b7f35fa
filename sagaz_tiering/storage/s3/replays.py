"""Replay records in S3: the record is the truth, a zero-byte entry under its saga lists it.

The entry is written first. It follows from the record alone, so saving a record again writes the same one; where the
saga or the time changed, the record tells that the old entry is not its own, and the entry is passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.drivers.together import together
from sagaz_tiering.errors import CorruptPack, CorruptRecord, ObjectNotFound
from sagaz_tiering.objects.s3.store import S3RecordStore
from sagaz_tiering.storage.answers import checked_replay
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.bodies import batches, take
from sagaz_tiering.storage.standalone import ReplayRecord, replay_bytes, replay_of_bytes
from sagaz_tiering.storage_class import StorageClass

_AT_ONCE = 16


async def save(store: S3RecordStore, record: ReplayRecord) -> None:
    """Insert or replace; always in STANDARD, since nobody waits hours for an audit log."""
    data = await asyncio.to_thread(replay_bytes, record)
    await store.replace(_entry_key(record), b"", storage_class=StorageClass.STANDARD)
    key = s3_keys.replay_key(UUID(record["replay_id"]))
    await store.replace(key, data, storage_class=StorageClass.STANDARD)


async def get(store: S3RecordStore, replay_id: UUID) -> ReplayRecord | None:
    """One record. Raises CorruptRecord."""
    try:
        data = await store.get(s3_keys.replay_key(replay_id))
    except ObjectNotFound:
        return None
    except CorruptPack as exc:
        raise CorruptRecord(f"replay {replay_id}: {exc}") from exc
    record = await asyncio.to_thread(replay_of_bytes, data)
    try:
        checked_replay(record, replay_id=replay_id)
        _entry_key(record)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise CorruptRecord(f"the object of replay {replay_id} is not a replay record: {exc!r}") from exc
    return record


async def of_saga(store: S3RecordStore, saga_id: UUID, limit: int, gaps: Gaps) -> list[ReplayRecord]:
    """The newest `limit` of a saga, newest first; what cannot be read goes to `gaps` and counts."""
    found = list[ReplayRecord]()
    keys = _keys(store, s3_keys.replayed_prefix(saga_id), s3_keys.parse_replayed, first_page=limit + 1)
    async with aclosing(keys):
        while batch := await take(keys, min(max(0, limit - len(found) - len(gaps)), _AT_ONCE)):
            read = await together(*(_tried(store, replay_id) for _, replay_id in batch))
            for (key, _), (replay_id, record) in zip(batch, read, strict=True):
                if not isinstance(record, dict) or _entry_key(record) == key:
                    found += gaps.readable([(replay_id, record)])
    return found


async def ascending(
    store: S3RecordStore, after: UUID | None
) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
    """Every record by id, or why it cannot be read."""
    start = "" if after is None else s3_keys.replay_key(after)
    keys = _keys(store, s3_keys.REPLAYS, s3_keys.parse_replay, start_after=start)
    async with aclosing(batches(keys, _AT_ONCE)) as listed:
        async for batch in listed:
            for replay_id, record in await together(*(_tried(store, replay_id) for _, replay_id in batch)):
                if record is not None:
                    yield replay_id, record


async def _tried(store: S3RecordStore, replay_id: UUID) -> tuple[UUID, ReplayRecord | CorruptRecord | None]:
    try:
        return replay_id, await get(store, replay_id)
    except CorruptRecord as exc:
        return replay_id, exc


async def _keys(
    store: S3RecordStore, prefix: str, parse: Callable[[str], UUID | None], **listing: Any
) -> AsyncGenerator[tuple[str, UUID], None]:
    """The keys under a prefix that name a replay."""
    async with aclosing(store.list(prefix, **listing)) as infos:
        async for info in infos:
            if (replay_id := parse(info.key)) is not None:
                yield info.key, replay_id


def _entry_key(record: ReplayRecord) -> str:
    created_us = to_micros(datetime.fromisoformat(record["created_at"]))
    return s3_keys.replayed_key(UUID(record["original_saga_id"]), created_us, UUID(record["replay_id"]))
