"""The contract of a snapshot storage: what the engine calls, plus lifecycle."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol, Self, runtime_checkable
from uuid import UUID

from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot


@runtime_checkable
class SnapshotStorage(Protocol):
    """Ten methods of the `sagaz` engine and a lifecycle. Ids are accepted as UUID or text.

    Order everywhere is (created_at, step_index, snapshot_id). `None` and `[]` mean "does not exist or expired",
    never "could not ask": that raises an error of `sagaz_tiering.errors`.
    """

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store; a snapshot with the same id is replaced. Raises InvalidSnapshot, TierUnavailable."""

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot."""

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest of a saga; with `before_step`, the newest whose `step_name` equals it."""

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live one created at or before an aware time."""

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit`, newest first."""

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove one; False if there was none."""

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many."""

    async def save_replay_log(self, result: ReplayResult) -> None:
        """Insert or replace a replay record."""

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """One replay record."""

    async def list_replays(self, saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """A saga's replay records, newest first."""

    async def close(self) -> None:
        """Release what was opened."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...
