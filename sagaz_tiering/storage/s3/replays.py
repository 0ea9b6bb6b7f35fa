"""Replay records in S3: the record is the truth, a zero-byte entry under its saga lists it.

The entry is written first. It follows from the record alone, so saving a record again writes the same one; where the
saga or the time changed, the record tells that the old entry is not its own, and the entry is passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.errors import CorruptPack, CorruptRecord, ObjectNotFound
from sagaz_tiering.storage import replay_records as replay_log
from sagaz_tiering.storage.answers import checked_replay
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.storage.s3 import keys as s3_keys
from sagaz_tiering.storage.s3.reading import take, together
from sagaz_tiering.storage_class import StorageClass

if TYPE_CHECKING:
    from sagaz_tiering.objects.s3.records import S3RecordStore

_AT_ONCE = 16

Listed = tuple[str, UUID]
"""The key that named a replay, and the replay."""


class S3Replays:
    """Replay records of one open store; always in STANDARD, since nobody waits hours for an audit log."""

    def __init__(self, store: S3RecordStore) -> None:
        self._store = store

    async def save(self, result: Any) -> None:
        """Insert or replace. Raises InvalidSnapshot."""
        record = replay_log.as_record(result)
        data = await asyncio.to_thread(replay_log.to_bytes, record)
        await self._store.replace(_entry_key(record), b"", storage_class=StorageClass.STANDARD)
        key = s3_keys.replay_key(UUID(record["replay_id"]))
        await self._store.replace(key, data, storage_class=StorageClass.STANDARD)

    async def get(self, replay_id: UUID) -> dict[str, Any] | None:
        """One record. Raises CorruptRecord."""
        try:
            data = await self._store.get(s3_keys.replay_key(replay_id))
        except ObjectNotFound:
            return None
        except CorruptPack as exc:
            raise CorruptRecord(f"replay {replay_id}: {exc}") from exc
        record = await asyncio.to_thread(replay_log.from_bytes, data)
        try:
            checked_replay(record, replay_id=replay_id)
            _entry_key(record)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise CorruptRecord(f"the object of replay {replay_id} is not a replay record: {exc!r}") from exc
        return record

    async def of_saga(self, saga_id: UUID, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` of a saga, newest first. Raises CorruptRecord with those that can be read."""
        found, gaps = list[dict[str, Any]](), Gaps("s3")
        async with aclosing(self._entries(saga_id, limit)) as entries:
            while missing := max(0, limit - len(found) - len(gaps)):
                batch = await take(entries, min(missing, _AT_ONCE))
                if not batch:
                    break
                records = await self._read([replay_id for _, replay_id in batch])
                for (key, _), (replay_id, record) in zip(batch, records, strict=True):
                    if isinstance(record, CorruptRecord):
                        gaps.add(replay_id, record)
                    elif record is not None and _entry_key(record) == key:
                        found.append(record)
        gaps.check(found)
        return found

    async def all(self, after: UUID | None) -> AsyncIterator[dict[str, Any]]:
        """Every record, ascending by id. Raises CorruptRecord where one cannot be read."""
        gaps = Gaps("s3")
        start = "" if after is None else s3_keys.replay_key(after)
        async with aclosing(self._ids(start)) as ids:
            while batch := await take(ids, _AT_ONCE):
                for replay_id, record in await self._read(batch):
                    if isinstance(record, CorruptRecord):
                        gaps.add(replay_id, record)
                        gaps.check()
                    elif record is not None:
                        yield record

    async def _read(self, replay_ids: Sequence[UUID]) -> list[tuple[UUID, dict[str, Any] | CorruptRecord | None]]:
        async def read(replay_id: UUID) -> tuple[UUID, dict[str, Any] | CorruptRecord | None]:
            try:
                return replay_id, await self.get(replay_id)
            except CorruptRecord as exc:
                return replay_id, exc

        return await together(*(read(replay_id) for replay_id in replay_ids))

    async def _entries(self, saga_id: UUID, limit: int) -> AsyncGenerator[Listed, None]:
        async with aclosing(self._store.list(s3_keys.replayed_prefix(saga_id), first_page=limit + 1)) as infos:
            async for info in infos:
                if (replay_id := s3_keys.parse_replayed(info.key)) is not None:
                    yield info.key, replay_id

    async def _ids(self, start_after: str) -> AsyncGenerator[UUID, None]:
        async with aclosing(self._store.list(s3_keys.REPLAYS, start_after=start_after)) as infos:
            async for info in infos:
                if (replay_id := s3_keys.parse_replay(info.key)) is not None:
                    yield replay_id


def _entry_key(record: dict[str, Any]) -> str:
    created_us = to_micros(datetime.fromisoformat(record["created_at"]))
    return s3_keys.replayed_key(UUID(record["original_saga_id"]), created_us, UUID(record["replay_id"]))
