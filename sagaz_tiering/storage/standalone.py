"""What every storage does the same way: ids and limits are checked, reads measured, damage told with what is readable.

`StandaloneStorage` is the contract of `base` over a dozen primitives, which know their medium and nothing of this.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, ClassVar, ParamSpec, TypeVar
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec import typed_json
from sagaz_tiering.errors import CorruptRecord, SagazTieringError
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot, as_utc, as_uuid, replay_record
from sagaz_tiering.storage.answers import check_answer, checked_replay, text_ids_find_nothing
from sagaz_tiering.storage.base import Health, checked_limit
from sagaz_tiering.storage.reporting import Gaps, measured_read, reported_save

P = ParamSpec("P")
T = TypeVar("T")
ReplayRecord = dict[str, Any]
"""In the shape of `ReplayResult.to_dict`."""


@text_ids_find_nothing
class StandaloneStorage(ABC):
    """The methods of `SnapshotStorage`, of which a storage gives what is abstract here, `delete_expired_snapshots`,
    `get_storage_info`, and what opens and closes it. Primitives raise CorruptRecord for what cannot be read.
    """

    _kind: ClassVar[str]
    """In logs and metrics, and the `storage_type`."""

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store a snapshot (ours or any object with sagaz's attributes), durably; an id saved before is replaced.

        After an error it may be there wholly, also later, or not at all. Raises InvalidSnapshot where it would not
        come back equal.
        """
        with reported_save(snapshot, self._kind):
            await self._save(SagaSnapshot.of(snapshot))

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot by id. Raises CorruptRecord, as every read that has one snapshot for an answer."""
        wanted = as_uuid(snapshot_id, "snapshot_id")
        with measured_read(self._kind):
            found = await self._get(wanted)
            if found is not None:
                check_answer(found, snapshot_id=wanted)
            return found

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest snapshot of a saga; with `before_step`, the newest whose `step_name` equals it.

        Raises CorruptRecord if that one cannot be read, or if none is found beside one of which nothing is known.
        """
        return await self._measured_newest(as_uuid(saga_id, "saga_id"), before_step, None)

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live snapshot created at or before `timestamp` (aware; raises NaiveTimestamp)."""
        moment_us = to_micros(as_utc(timestamp, "timestamp"))
        return await self._measured_newest(as_uuid(saga_id, "saga_id"), None, moment_us)

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit` snapshots of a saga, newest first. Raises ValueError for a negative limit.

        Raises SnapshotArchived if any of them is archived (it names all that are), CorruptRecord if one cannot be read,
        or may be one of which nothing is known; the `readable` of either has the others.
        """
        wanted, saga, gaps = checked_limit(limit), as_uuid(saga_id, "saga_id"), Gaps(self._kind)
        if wanted == 0:
            return []
        with measured_read(self._kind):
            found = await self._list(saga, wanted, gaps)
            gaps.check(found)
        return found

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove one, expired, archived or unreadable ones too; False if there was none."""
        return await self._delete(as_uuid(snapshot_id, "snapshot_id"))

    async def cleanup_saga(self, saga_id: UUID | str) -> int:
        """Remove every snapshot of a saga; how many there were."""
        return await self._delete_saga(as_uuid(saga_id, "saga_id"))

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        async with aclosing(self._sagas(_start(after))) as sagas:
            async for saga_id in sagas:
                yield saga_id

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first; without `saga_id` of every saga behind `after`, by id.

        Raises SnapshotArchived where it comes to archived bytes, CorruptRecord at its end for what it could not read.
        """
        gaps = Gaps(self._kind)
        if saga_id is None:
            snapshots = self._walk_all(_start(after), gaps)
        else:
            snapshots = self._walk(as_uuid(saga_id, "saga_id"), gaps)
        async with aclosing(snapshots):
            async for snapshot in snapshots:
                yield snapshot
        gaps.check()

    async def save_replay_log(self, replay_result: ReplayResult) -> None:
        """Insert or replace the record of a replay (ours or sagaz's). Raises InvalidSnapshot, NotSerializable."""
        await self._save_replay(replay_record(replay_result))

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """The record of a replay in the shape of `ReplayResult.to_dict`, or None. Raises CorruptRecord."""
        wanted = as_uuid(replay_id, "replay_id")
        record = await self._replay(wanted)
        return None if record is None else checked_replay(record, replay_id=wanted)

    async def list_replays(self, original_saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """Records of replays of a saga, newest first. Raises ValueError for a negative limit.

        Raises CorruptRecord if one that may be of this saga cannot be read; its `readable` has the others.
        """
        wanted, saga, gaps = checked_limit(limit), as_uuid(original_saga_id, "original_saga_id"), Gaps(self._kind)
        found = await self._replays_of(saga, wanted, gaps)
        gaps.check(found)
        return found

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record, ascending by replay id, from behind `after` on. Raises where one cannot be read."""
        gaps = Gaps(self._kind)
        async with aclosing(self._replays(_start(after))) as records:
            async for replay_id, record in records:
                for each in gaps.readable([(replay_id, record)]):
                    yield each
                gaps.check()

    async def health_check(self) -> Health:
        """Whether it answers, how fast, and how much there is, expired snapshots that were not yet removed too."""
        began, details = time.monotonic(), dict[str, Any]()
        count, size, latency_ms = 0, 0, 0.0
        try:
            status = await self._status(details)
            latency_ms = (time.monotonic() - began) * 1000
            count, size = await self._totals(details)
        except SagazTieringError as exc:
            status, latency_ms = "unhealthy", (time.monotonic() - began) * 1000
            details |= {"error": str(exc), "hint": exc.hint}
        return Health(
            status=status, latency_ms=latency_ms, snapshot_count=count, total_size_bytes=size, details=details
        )

    @abstractmethod
    async def _save(self, snapshot: SagaSnapshot) -> None: ...

    @abstractmethod
    async def _get(self, snapshot_id: UUID) -> SagaSnapshot | None:
        """A live one."""

    @abstractmethod
    async def _newest(self, saga_id: UUID, step_name: str | None, not_after_us: int | None) -> SagaSnapshot | None:
        """The newest live one of a step, created by a time; each None: any."""

    @abstractmethod
    async def _list(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[SagaSnapshot]:
        """The newest, newest first; what cannot be read goes to `gaps` and counts."""

    @abstractmethod
    async def _delete(self, snapshot_id: UUID) -> bool: ...

    @abstractmethod
    async def _delete_saga(self, saga_id: UUID) -> int: ...

    @abstractmethod
    def _sagas(self, after: UUID | None) -> AsyncGenerator[UUID, None]: ...

    @abstractmethod
    def _walk(self, saga_id: UUID, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        """A saga's live ones, oldest first; what cannot be read goes to `gaps`."""

    async def _walk_all(self, after: UUID | None, gaps: Gaps) -> AsyncGenerator[SagaSnapshot, None]:
        """Those of every saga behind `after`."""
        async with aclosing(self._sagas(after)) as sagas:
            async for saga_id in sagas:
                async with aclosing(self._walk(saga_id, gaps)) as snapshots:
                    async for snapshot in snapshots:
                        yield snapshot

    @abstractmethod
    async def _save_replay(self, record: ReplayRecord) -> None: ...

    @abstractmethod
    async def _replay(self, replay_id: UUID) -> ReplayRecord | None: ...

    @abstractmethod
    async def _replays_of(self, saga_id: UUID, wanted: int, gaps: Gaps) -> list[ReplayRecord]:
        """The newest of a saga, newest first; what cannot be read goes to `gaps`."""

    @abstractmethod
    def _replays(self, after: UUID | None) -> AsyncGenerator[tuple[UUID, ReplayRecord | CorruptRecord], None]:
        """Ascending by id."""

    async def _status(self, details: dict[str, Any]) -> str:
        """Ask whether it works; `details` is to be filled."""
        return "healthy"

    @abstractmethod
    async def _totals(self, details: dict[str, Any]) -> tuple[int, int]:
        """Snapshots, and their bytes."""

    async def _measured_newest(
        self, saga_id: UUID, step_name: str | None, not_after_us: int | None
    ) -> SagaSnapshot | None:
        with measured_read(self._kind):
            found = await self._newest(saga_id, step_name, not_after_us)
            if found is not None:
                check_answer(found, saga_id=saga_id, step_name=step_name, not_after_us=not_after_us)
            return found


def _start(after: UUID | str | None) -> UUID | None:
    return None if after is None else as_uuid(after, "after")


def attempted(
    replay_id: UUID, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> tuple[UUID, T | CorruptRecord]:
    """What `read` gives, or why it cannot, with whose record it is."""
    try:
        return replay_id, read(*args, **kwargs)
    except CorruptRecord as exc:
        return replay_id, exc


def replay_bytes(record: dict[str, Any]) -> bytes:
    """A record as bytes: one byte for the encoding, then typed JSON. Raises NotSerializable."""
    encoding, body = typed_json.dumps(record, path="")
    return bytes([encoding]) + body


def replay_of_bytes(data: bytes) -> dict[str, Any]:
    """The record of `replay_bytes`. Raises CorruptRecord."""
    try:
        encoding = typed_json.Encoding(data[0])
    except (IndexError, ValueError) as exc:
        raise CorruptRecord("a stored replay record is empty or of an unknown encoding") from exc
    record = typed_json.loads(encoding, data[1:])
    if type(record) is not dict or "replay_id" not in record:
        raise CorruptRecord("a stored replay record is not one")
    return record
