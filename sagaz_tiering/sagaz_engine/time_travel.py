"""What state a saga was in, over sagas of any length: the engine's own time travel sees the newest hundred snapshots.

The answers are sagaz's `HistoricalState`, so code that calls `SagaTimeTravel` goes on as it is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sagaz_tiering.errors import MissingDependencyError
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage


async def state_at(storage: SnapshotStorage, saga_id: UUID | str, timestamp: datetime) -> Any | None:
    """The `HistoricalState` of a saga at an instant (aware); None before its first snapshot.

    Raises what `get_snapshot_at_time` raises, SnapshotArchived included.
    """
    found = await storage.get_snapshot_at_time(saga_id, timestamp)
    return None if found is None else _state(found, timestamp)


async def state_changes(
    storage: SnapshotStorage,
    saga_id: UUID | str,
    *,
    after: datetime | None = None,
    before: datetime | None = None,
    limit: int = 100,
) -> list[Any]:
    """The first `limit` states within that time (ends included), oldest first. Raises what the storage raises."""
    found: list[Any] = []
    async for snapshot in storage.iter_snapshots(saga_id):
        if len(found) >= limit or (before is not None and snapshot.created_at > before):
            break
        if after is None or snapshot.created_at >= after:
            found.append(_state(snapshot, snapshot.created_at))
    return found


def _state(snapshot: SagaSnapshot, timestamp: datetime) -> Any:
    try:
        from sagaz.core.replay.time_travel import HistoricalState  # type: ignore[import-untyped]  # it ships no types
    except ImportError as exc:
        raise MissingDependencyError("sagaz", "time travel") from exc
    return HistoricalState(
        saga_id=snapshot.saga_id,
        saga_name=snapshot.saga_name,
        timestamp=timestamp,
        status=snapshot.status,
        context=dict(snapshot.context),
        completed_steps=list(snapshot.completed_steps),
        current_step=snapshot.step_name,
        step_index=snapshot.step_index,
    )
