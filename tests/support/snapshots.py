"""Small snapshots with every field to choose, for tests in which the fields matter."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.snapshot import ReplayResult, ReplayStatus, SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage
from support.tiers import NOW

SAGA = UUID("c0ffee00-0000-4000-8000-000000000001")
OTHER_SAGA = UUID("beefee00-0000-4000-8000-000000000002")
BEGUN = NOW - timedelta(hours=1)
"""When snapshot 0 was taken; each further one a minute later."""


def number(value: int) -> UUID:
    """An id that sorts by `value`."""
    return UUID(int=0xA0000000_0000_4000_8000_000000000000 + value)


def make(at: int = 0, **fields: Any) -> SagaSnapshot:
    """Snapshot `at` of a saga, with other fields where given."""
    values: dict[str, Any] = {
        "snapshot_id": number(at),
        "saga_id": SAGA,
        "saga_name": "order",
        "step_name": f"step_{at}",
        "step_index": at,
        "status": "executing",
        "context": {"order": f"O-{at}", "lines": [{"sku": "A1", "price": 9.99}]},
        "completed_steps": [f"step_{each}" for each in range(min(at, 5))],
        "created_at": BEGUN + timedelta(minutes=at),
    }
    return SagaSnapshot(**{**values, **fields})


def replay(at: int = 0, **fields: Any) -> ReplayResult:
    """Replay record `at` of a saga, with other fields where given."""
    values: dict[str, Any] = {
        "replay_id": number(at),
        "original_saga_id": SAGA,
        "new_saga_id": OTHER_SAGA,
        "checkpoint_step": "step_1",
        "replay_status": ReplayStatus.SUCCESS,
        "created_at": BEGUN + timedelta(minutes=at),
    }
    return ReplayResult(**{**values, **fields})


async def save_all(storage: SnapshotStorage, snapshots: Iterable[SagaSnapshot]) -> list[SagaSnapshot]:
    """Save one after the other; what was saved."""
    saved = list(snapshots)
    for snapshot in saved:
        await storage.save_snapshot(snapshot)
    return saved


async def ids_of(storage: SnapshotStorage, saga_id: UUID = SAGA) -> list[UUID]:
    """Ids of a saga's snapshots, oldest first, after checking that every way to list them says the same."""
    listed = await storage.list_snapshots(saga_id, 2**40)
    walked = [snapshot async for snapshot in storage.iter_snapshots(saga_id)]
    assert walked == listed[::-1]
    assert await storage.get_latest_snapshot(saga_id) == (listed[0] if listed else None)
    assert (saga_id in [each async for each in storage.saga_ids()]) == bool(listed)
    return [snapshot.snapshot_id for snapshot in walked]


def save_failures(reason: str) -> float:
    """How many saves the metric says have failed for it."""
    return metrics.REGISTRY.get_sample_value("sagaz_tiering_save_failures_total", {"reason": reason}) or 0.0
