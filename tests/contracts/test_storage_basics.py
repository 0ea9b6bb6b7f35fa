"""Save, get, list, replace and delete: the same for every storage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import sagaz.core.replay
from support.payload import saga
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, ids_of, make, number, save_all
from support.tiers import NOW

from sagaz_tiering.errors import InvalidSnapshot
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

ELSEWHERE: list[dict[str, Any]] = [
    {"created_at": BEGUN - timedelta(days=3)},
    {"created_at": BEGUN + timedelta(minutes=30)},
    {"step_index": -7, "step_name": "renamed"},
    {"step_index": 2**31 - 1},
    {"saga_id": OTHER_SAGA},
    {"saga_id": OTHER_SAGA, "created_at": BEGUN, "step_index": 0, "step_name": "renamed", "saga_name": "other"},
    {"status": "failed", "context": {"larger": "x" * 5000}, "external_refs": {"a": "b"}},
]


async def test_saved_snapshots_come_back(storage: SnapshotStorage) -> None:
    """By id, newest first, and as the latest."""
    snapshots = await save_all(storage, saga(1))
    for snapshot in snapshots:
        found = await storage.get_snapshot(snapshot.snapshot_id)
        assert found == snapshot
        assert type(found) is SagaSnapshot
    assert await storage.list_snapshots(snapshots[0].saga_id) == snapshots[::-1]
    assert await storage.get_latest_snapshot(snapshots[0].saga_id) == snapshots[-1]


async def test_what_was_never_saved_is_not_there(storage: SnapshotStorage) -> None:
    """None, an empty list, False or nothing, and no error; in an empty storage and in one that has something."""
    for _ in range(2):
        unknown = uuid4()
        assert await storage.get_snapshot(unknown) is None
        assert await storage.get_latest_snapshot(unknown) is None
        assert await storage.get_latest_snapshot(unknown, before_step="step_0") is None
        assert await storage.get_snapshot_at_time(unknown, NOW) is None
        assert await storage.list_snapshots(unknown) == []
        assert [each async for each in storage.iter_snapshots(unknown)] == []
        assert await storage.delete_snapshot(unknown) is False
        assert await storage.cleanup_saga(unknown) == 0
        assert await storage.delete_expired_snapshots() == 0
        await storage.save_snapshot(make())


async def test_resave_by_id_replaces_and_leaves_nothing_behind(storage: SnapshotStorage) -> None:
    """The newest save is the only one, for every query, wherever the old one stood; both may be of one instant."""
    for changes in ELSEWHERE:
        await check_resave(storage, changes)


async def check_resave(storage: SnapshotStorage, changes: dict[str, Any]) -> None:
    first, second, third = await save_all(storage, [make(each) for each in range(3)])
    moved = make(1, **changes)
    await storage.save_snapshot(moved)
    left = sorted((first, moved, third), key=lambda s: (s.created_at, s.step_index))
    for saga_id in (SAGA, OTHER_SAGA):
        assert await ids_of(storage, saga_id) == [s.snapshot_id for s in left if s.saga_id == saga_id]
    assert await storage.get_snapshot(second.snapshot_id) == moved
    of_old_step = await storage.get_latest_snapshot(SAGA, before_step=second.step_name)
    assert of_old_step == (moved if (moved.saga_id, moved.step_name) == (SAGA, second.step_name) else None)
    at_old_place = [s for s in left if s.saga_id == SAGA and s.created_at <= second.created_at][-1]
    assert await storage.get_snapshot_at_time(SAGA, second.created_at) == at_old_place
    assert (await storage.health_check()).snapshot_count == 3
    assert await storage.delete_snapshot(second.snapshot_id) is True
    assert await storage.get_snapshot(second.snapshot_id) is None
    assert await ids_of(storage) == [first.snapshot_id, third.snapshot_id]
    assert await ids_of(storage, OTHER_SAGA) == []
    assert await storage.cleanup_saga(SAGA) == 2


async def test_resave_many_times_keeps_one(storage: SnapshotStorage) -> None:
    """Back and forth between two sagas and times, the last save counts."""
    for turn in range(7):
        place = {"saga_id": OTHER_SAGA if turn % 2 else SAGA, "created_at": BEGUN + timedelta(minutes=turn % 3)}
        await storage.save_snapshot(make(1, context={"turn": turn}, **place))
    found = await storage.get_snapshot(number(1))
    assert found is not None
    assert found.context == {"turn": 6}
    assert await ids_of(storage, SAGA) == [number(1)]
    assert await ids_of(storage, OTHER_SAGA) == []


async def test_delete_removes_one_and_only_that(storage: SnapshotStorage) -> None:
    """True once, False afterwards; the others stay, and the id may be used again."""
    await save_all(storage, [make(each) for each in range(4)])
    assert await storage.delete_snapshot(number(3)) is True
    assert await storage.delete_snapshot(number(3)) is False
    assert await storage.delete_snapshot(number(1)) is True
    assert await storage.get_snapshot(number(3)) is None
    assert await storage.get_latest_snapshot(SAGA, before_step="step_3") is None
    assert await ids_of(storage) == [number(0), number(2)]
    await storage.save_snapshot(make(3))
    assert await ids_of(storage) == [number(0), number(2), number(3)]


async def test_cleanup_removes_a_saga_and_counts(storage: SnapshotStorage) -> None:
    """Every snapshot of that saga and none of another."""
    await save_all(storage, [make(each) for each in range(5)])
    other = make(9, saga_id=OTHER_SAGA)
    await storage.save_snapshot(other)
    assert await storage.cleanup_saga(SAGA) == 5
    assert await storage.cleanup_saga(SAGA) == 0
    assert await ids_of(storage) == []
    assert await storage.get_snapshot(number(2)) is None
    assert await ids_of(storage, OTHER_SAGA) == [other.snapshot_id]
    assert await storage.cleanup_saga(OTHER_SAGA) == 1
    assert [each async for each in storage.saga_ids()] == []


async def test_ids_are_accepted_as_text(storage: SnapshotStorage) -> None:
    """Every method takes the text of an id, however it is written."""
    forms: list[Callable[[UUID], str]] = [str, lambda uuid: uuid.hex, lambda uuid: str(uuid).upper()]
    for form in forms:
        first, second = await save_all(storage, [make(0), make(1)])
        saga_id, snapshot_id = form(SAGA), form(number(0))
        assert await storage.get_snapshot(snapshot_id) == first
        assert await storage.get_latest_snapshot(saga_id) == second
        assert await storage.get_latest_snapshot(saga_id, before_step="step_0") == first
        assert await storage.get_snapshot_at_time(saga_id, first.created_at) == first
        assert await storage.list_snapshots(saga_id) == [second, first]
        assert [each async for each in storage.iter_snapshots(saga_id)] == [first, second]
        assert await storage.delete_snapshot(snapshot_id) is True
        assert await storage.cleanup_saga(saga_id) == 1


async def test_the_engines_own_snapshots_are_accepted(storage: SnapshotStorage) -> None:
    """A snapshot of sagaz's class is stored, and comes back as ours with equal fields."""
    theirs = sagaz.core.replay.SagaSnapshot(
        snapshot_id=number(1),
        saga_id=SAGA,
        saga_name="order",
        step_name="pay",
        step_index=2,
        status="executing",
        context={"amount": 3},
        completed_steps=["check"],
        created_at=NOW,
        retention_until=NOW + timedelta(days=1),
        external_refs={"blob": "s3://b/k"},
    )
    await storage.save_snapshot(theirs)  # type: ignore[arg-type]  # duck typing is the point
    found = await storage.get_snapshot(number(1))
    assert type(found) is SagaSnapshot
    assert found.to_dict() == theirs.to_dict()


async def test_what_is_no_snapshot_is_refused(storage: SnapshotStorage) -> None:
    """With an error of ours, and nothing is stored."""
    thing: Any
    for thing in (None, {"snapshot_id": "x"}, SimpleNamespace(snapshot_id=uuid4())):
        with pytest.raises(InvalidSnapshot):
            await storage.save_snapshot(thing)
    assert [each async for each in storage.saga_ids()] == []
