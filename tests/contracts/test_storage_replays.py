"""Replay records: one shape and one set of rules in every storage."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import sagaz.core.replay
from golden.samples import EVERY_TYPE
from support.exact import exactly
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, make, number, replay
from support.tiers import NOW

from sagaz_tiering.errors import InvalidSnapshot, NaiveTimestamp, NotSerializable
from sagaz_tiering.snapshot import ReplayResult, ReplayStatus, Tier
from sagaz_tiering.storage.base import SnapshotStorage

KEYS = [
    "replay_id",
    "original_saga_id",
    "new_saga_id",
    "checkpoint_step",
    "replay_status",
    "initiated_by",
    "context_override",
    "error_message",
    "created_at",
    "completed_at",
]


async def save(storage: SnapshotStorage, *results: ReplayResult) -> None:
    for result in results:
        await storage.save_replay_log(result)


async def replay_ids(storage: SnapshotStorage, saga_id: UUID = SAGA, limit: int = 100) -> list[UUID]:
    return [UUID(record["replay_id"]) for record in await storage.list_replays(saga_id, limit)]


async def test_record_has_the_same_keys_and_values_everywhere(storage: SnapshotStorage) -> None:
    """A full and a bare record are what `ReplayResult.to_dict` says, by every query."""
    full = replay(
        1,
        replay_status=ReplayStatus.FAILED,
        initiated_by="Jürgen",
        context_override={"amount": 5, "note": None},
        error_message="no such step",
        completed_at=NOW.replace(microsecond=123_456),
    )
    for result in (full, replay(2)):
        await save(storage, result)
        found = await storage.get_replay_log(result.replay_id)
        assert found is not None
        assert sorted(found) == sorted(KEYS)
        assert found == result.to_dict()
        assert type(found["replay_status"]) is str
        assert (await storage.list_replays(SAGA))[0] == found
        assert found in [record async for record in storage.iter_replay_logs()]
        assert await storage.get_replay_log(str(result.replay_id)) == found


async def test_resave_replaces(storage: SnapshotStorage) -> None:
    """Also where it moves to another time or another saga: the old place is gone."""
    await save(storage, replay(1, replay_status=ReplayStatus.RUNNING), replay(2), replay(3))
    done = replay(1, created_at=BEGUN + timedelta(minutes=30), completed_at=NOW, error_message="late")
    await save(storage, done)
    assert await storage.get_replay_log(number(1)) == done.to_dict()
    assert await replay_ids(storage) == [number(1), number(3), number(2)]
    moved = replay(1, original_saga_id=OTHER_SAGA)
    await save(storage, moved)
    assert await storage.get_replay_log(number(1)) == moved.to_dict()
    assert await replay_ids(storage) == [number(3), number(2)]
    assert await replay_ids(storage, OTHER_SAGA) == [number(1)]
    assert len([record async for record in storage.iter_replay_logs()]) == 3


async def test_empty_override_is_not_none(storage: SnapshotStorage) -> None:
    """A replay with nothing overridden and one that overrides with nothing differ, also after a re-save."""
    for override in ({}, None, {}, {"a": None}, None):
        await save(storage, replay(1, context_override=override))
        found = await storage.get_replay_log(number(1))
        assert found is not None
        assert exactly(found["context_override"]) == exactly(override)
        assert (await storage.list_replays(SAGA))[0]["context_override"] == override


async def test_override_comes_back_exactly(storage: SnapshotStorage) -> None:
    """Every type, and no later change by the caller."""
    override = dict(EVERY_TYPE)
    before = exactly(override)
    await save(storage, replay(1, context_override=override))
    override["added"] = 1
    for _ in range(2):
        found = await storage.get_replay_log(number(1))
        assert found is not None
        assert exactly(found["context_override"]) == before
        found["context_override"].clear()
        [listed] = await storage.list_replays(SAGA)
        assert exactly(listed["context_override"]) == before
        listed["context_override"].clear()


async def test_override_that_would_not_come_back_is_refused(storage: SnapshotStorage) -> None:
    """With its path, and the record before it stays."""
    await save(storage, replay(1))
    with pytest.raises(NotSerializable, match=r"context_override\.thing"):
        await save(storage, replay(1, context_override={"thing": object()}))
    assert await storage.get_replay_log(number(1)) == replay(1).to_dict()


async def test_newest_come_first_up_to_a_limit(storage: SnapshotStorage) -> None:
    """By time, then id; only those of the saga; the limit means what it means for snapshots."""
    moments = [BEGUN, BEGUN, BEGUN + timedelta(microseconds=1), BEGUN - timedelta(days=400), BEGUN]
    results = [replay(at, created_at=moment) for at, moment in enumerate(moments)]
    await save(storage, *results, replay(99, original_saga_id=OTHER_SAGA))
    newest = [number(at) for at in (2, 4, 1, 0, 3)]
    assert await replay_ids(storage) == newest
    for limit in (0, 1, 3, 5, 6, 2**31, 10**30):
        assert await replay_ids(storage, limit=limit) == newest[:limit]
    with pytest.raises(ValueError, match="limit"):
        await storage.list_replays(SAGA, limit=-1)
    assert await storage.list_replays(uuid4()) == []
    assert await storage.list_replays(str(OTHER_SAGA)) == [replay(99, original_saga_id=OTHER_SAGA).to_dict()]


async def test_the_engines_own_results_are_accepted(storage: SnapshotStorage) -> None:
    """A ReplayResult of sagaz is stored as it says itself, in each of its states."""
    theirs = sagaz.core.replay.ReplayResult(
        replay_id=number(1),
        original_saga_id=SAGA,
        new_saga_id=uuid4(),
        checkpoint_step="pay",
        replay_status=sagaz.core.replay.ReplayStatus.PENDING,
        context_override={"amount": 5},
    )
    await storage.save_replay_log(theirs)  # type: ignore[arg-type]  # duck typing is the point
    assert await storage.get_replay_log(number(1)) == theirs.to_dict() | {"context_override": {"amount": 5}}
    theirs.mark_failed("it broke")
    await storage.save_replay_log(theirs)  # type: ignore[arg-type]  # the same
    found = await storage.get_replay_log(number(1))
    assert found is not None
    assert (found["replay_status"], found["error_message"]) == ("failed", "it broke")
    assert theirs.completed_at is not None
    assert found["completed_at"] == theirs.completed_at.isoformat()


async def test_every_text_comes_back(storage: SnapshotStorage) -> None:
    """As step, initiator and error."""
    for text in ("", "nul\0", "half \ud800", "🚚" * 2_500, "a'b\"c\\"):
        result = replay(1, checkpoint_step=text, initiated_by=text, error_message=text)
        await save(storage, result)
        assert await storage.get_replay_log(number(1)) == result.to_dict()
        assert await storage.list_replays(SAGA) == [result.to_dict()]


async def test_values_of_other_types_are_exact_or_refused(storage: SnapshotStorage) -> None:
    """Never quietly another value, and the same as `to_dict` has."""
    for field in ("checkpoint_step", "initiated_by", "error_message", "context_override"):
        for value in (number(7), NOW, Tier.HOT):
            result = replay(1, **{field: value})
            assert result.to_dict()[field] is value
            try:
                await save(storage, result)
            except InvalidSnapshot:
                continue
            found = await storage.get_replay_log(number(1))
            assert found is not None
            assert (type(found[field]), found[field]) == (type(value), value)


async def test_times_with_other_offsets_are_kept_in_utc(storage: SnapshotStorage) -> None:
    """And ordered by instant."""
    east = timezone(timedelta(hours=9))
    await save(storage, replay(1, created_at=BEGUN.astimezone(east), completed_at=NOW.astimezone(east)), replay(2))
    found = await storage.get_replay_log(number(1))
    assert found is not None
    assert (found["created_at"], found["completed_at"]) == (BEGUN.isoformat(), NOW.isoformat())
    assert await replay_ids(storage) == [number(2), number(1)]


async def test_naive_times_are_refused(storage: SnapshotStorage) -> None:
    """With the field's name."""
    for field in ("created_at", "completed_at"):
        with pytest.raises(NaiveTimestamp, match=field):
            await save(storage, replay(1, **{field: datetime(2026, 3, 1)}))  # noqa: DTZ001
    assert await storage.get_replay_log(number(1)) is None


async def test_unknown_and_bad_ids(storage: SnapshotStorage) -> None:
    """None for an id that nobody used, an error for what is not one, a refusal for what is not a result."""
    bad: Any
    assert await storage.get_replay_log(uuid4()) is None
    for bad in (7, None, b"x" * 16):
        with pytest.raises(InvalidSnapshot):
            await storage.get_replay_log(bad)
        with pytest.raises(InvalidSnapshot):
            await storage.list_replays(bad)
    for bad in (None, {"replay_id": "x"}, SimpleNamespace(replay_id=uuid4())):
        with pytest.raises(InvalidSnapshot):
            await storage.save_replay_log(bad)


async def test_snapshots_and_replays_do_not_touch_each_other(storage: SnapshotStorage) -> None:
    """A saga's cleanup leaves its audit log; a replay's id may be a snapshot's."""
    await storage.save_snapshot(make(1))
    await save(storage, replay(1))
    assert await storage.get_snapshot(number(1)) == make(1)
    assert await storage.cleanup_saga(SAGA) == 1
    assert await storage.get_replay_log(number(1)) == replay(1).to_dict()
    assert [each async for each in storage.saga_ids()] == []
