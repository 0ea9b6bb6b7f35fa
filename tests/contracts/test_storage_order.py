"""Time travel: exact order, exact times, limits; the same for every storage."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sagaz.core.replay
from support.snapshots import BEGUN, SAGA, ids_of, make, number, save_all
from support.tiers import NOW

from sagaz_tiering.errors import InvalidSnapshot, NaiveTimestamp
from sagaz_tiering.snapshot import MAX_TIME, MIN_TIME, SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

pytestmark = pytest.mark.guarantee("G5")

MICROSECOND = timedelta(microseconds=1)
EXTREMES = (-(2**31), -1, 0, 1, 9, 10, 2**31 - 1)


def key(snapshot: SagaSnapshot) -> tuple[datetime, int, int]:
    return (snapshot.created_at, snapshot.step_index, snapshot.snapshot_id.int)


def shuffled() -> list[SagaSnapshot]:
    """Ties of time, of time and step, neighbours by a microsecond, at both ends of what time there is."""
    fields: list[dict[str, Any]] = []
    for moment in (BEGUN, BEGUN + MICROSECOND, BEGUN - MICROSECOND):
        fields += [{"created_at": moment, "step_index": step} for step in (*EXTREMES, 5, 5, 5)]
    for moment in (MIN_TIME, MIN_TIME + MICROSECOND, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)):
        fields.append({"created_at": moment})
    fields += [{"created_at": MAX_TIME - MICROSECOND}, {"created_at": MAX_TIME - 2 * MICROSECOND}]
    shuffle = random.Random(3)
    ids = shuffle.sample(range(1000), len(fields))
    snapshots = [
        make(0, snapshot_id=number(at), context={"at": at}, **each) for at, each in zip(ids, fields, strict=True)
    ]
    shuffle.shuffle(snapshots)
    return snapshots


async def test_order_is_exact_whatever_the_order_of_saving(storage: SnapshotStorage) -> None:
    """By time to the microsecond, then step as a number, then id; in every query."""
    saved = sorted(await save_all(storage, shuffled()), key=key)
    assert await storage.list_snapshots(SAGA) == saved[::-1]
    assert await ids_of(storage) == [snapshot.snapshot_id for snapshot in saved]
    for limit in (1, 7, len(saved) - 1):
        assert await storage.list_snapshots(SAGA, limit) == saved[::-1][:limit]


async def test_at_time_is_exact_to_the_microsecond(storage: SnapshotStorage) -> None:
    """The last in order of those at or before the time, at each time there is and right before it."""
    saved = sorted(await save_all(storage, shuffled()), key=key)
    for before, snapshot in pairwise(saved):
        if before.created_at == snapshot.created_at:
            continue
        assert await storage.get_snapshot_at_time(SAGA, snapshot.created_at - MICROSECOND) == before
        last = [each for each in saved if each.created_at == snapshot.created_at][-1]
        assert await storage.get_snapshot_at_time(SAGA, snapshot.created_at) == last
    assert await storage.get_snapshot_at_time(SAGA, MAX_TIME - MICROSECOND) == saved[-1]


async def test_at_time_before_the_first_is_none(storage: SnapshotStorage) -> None:
    """A microsecond before the first there is nothing."""
    await save_all(storage, [make(0), make(1)])
    assert await storage.get_snapshot_at_time(SAGA, BEGUN - MICROSECOND) is None
    assert await storage.get_snapshot_at_time(SAGA, BEGUN) == make(0)


async def test_before_step_finds_the_newest_of_exactly_that_step(storage: SnapshotStorage) -> None:
    """By equal name only: case, blanks and emptiness count; None means any."""
    names = ["pay", "", "pay", "Pay", "pay ", "prüfen", "p%y", "nul\0", "\ud800"]
    saved = await save_all(storage, [make(at, step_name=name) for at, name in enumerate(names)])
    for name in names:
        newest = [snapshot for snapshot in saved if snapshot.step_name == name][-1]
        assert await storage.get_latest_snapshot(SAGA, before_step=name) == newest
    assert await storage.get_latest_snapshot(SAGA, "pay") == saved[2]
    for name in ("pa", "p_y", "*", "nul", "nobody"):
        assert await storage.get_latest_snapshot(SAGA, before_step=name) is None
    assert await storage.get_latest_snapshot(SAGA, None) == saved[-1]


async def test_offsets_other_than_utc_are_instants(storage: SnapshotStorage) -> None:
    """Order and search go by the instant; what comes back is the same instant in UTC."""
    kathmandu, honolulu = timezone(timedelta(hours=5, minutes=45)), ZoneInfo("Pacific/Honolulu")
    moments = [BEGUN.astimezone(kathmandu), BEGUN + MICROSECOND, (BEGUN + 2 * MICROSECOND).astimezone(honolulu)]
    until = (NOW + timedelta(days=9)).astimezone(honolulu)
    saved = await save_all(
        storage, [make(at, step_index=0, created_at=each, retention_until=until) for at, each in enumerate(moments)]
    )
    assert await ids_of(storage) == [number(0), number(1), number(2)]
    for snapshot, moment in zip(saved, moments, strict=True):
        for asked in (moment, moment.astimezone(kathmandu), moment.astimezone(honolulu), moment.astimezone(UTC)):
            assert await storage.get_snapshot_at_time(SAGA, asked) == snapshot
        found = await storage.get_snapshot(snapshot.snapshot_id)
        assert found is not None
        assert found.created_at == moment
        assert found.created_at.tzinfo is UTC
        assert found.retention_until == until
        assert found.retention_until.tzinfo is UTC


async def test_naive_times_in_a_snapshot_are_refused(storage: SnapshotStorage) -> None:
    """A time without a zone is refused at save with the field's name and what to pass instead."""
    fields = {name: getattr(make(1), name) for name in SagaSnapshot.__dataclass_fields__}
    for field in ("created_at", "retention_until"):
        theirs = sagaz.core.replay.SagaSnapshot(**fields | {field: datetime(2026, 3, 1, 12)})  # noqa: DTZ001
        with pytest.raises(NaiveTimestamp, match=field) as caught:
            await storage.save_snapshot(theirs)  # type: ignore[arg-type]  # sagaz's own
        assert "aware" in caught.value.hint
    assert await ids_of(storage) == []


async def test_naive_times_in_a_search_are_refused(storage: SnapshotStorage) -> None:
    """And what is not a time at all."""
    await storage.save_snapshot(make(0))
    with pytest.raises(NaiveTimestamp, match="timestamp") as caught:
        await storage.get_snapshot_at_time(SAGA, datetime(2026, 3, 1, 12))  # noqa: DTZ001
    assert "aware" in caught.value.hint
    for text in ("0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00"):
        with pytest.raises(InvalidSnapshot, match="timestamp must be between 1700 and 2255"):
            await storage.get_snapshot_at_time(SAGA, datetime.fromisoformat(text))
    for wrong in ("2026-03-01T00:00:00Z", 1_772_400_000, None):
        with pytest.raises(InvalidSnapshot, match="timestamp"):
            await storage.get_snapshot_at_time(SAGA, wrong)  # type: ignore[arg-type]  # on purpose


async def test_limits_are_taken_as_they_are(storage: SnapshotStorage) -> None:
    """Zero is none, huge is all; what is negative or no whole number is an error that says so, in both lists."""
    saved = await save_all(storage, [make(at) for at in range(9)])
    for limit in (0, 1, 8, 9, 10, 2**31, 2**63, 10**30):
        assert await storage.list_snapshots(SAGA, limit) == saved[::-1][:limit]
    assert await storage.list_snapshots(SAGA, limit=2) == saved[:6:-1]
    for negative in (-1, -(10**30)):
        for ask in (storage.list_snapshots, storage.list_replays):
            with pytest.raises(ValueError, match="limit must not be negative"):
                await ask(SAGA, limit=negative)
    for wrong in ("10", 1.5, True, None, float("inf")):
        for ask in (storage.list_snapshots, storage.list_replays):
            with pytest.raises(TypeError, match="limit must be a whole number"):
                await ask(SAGA, limit=wrong)  # type: ignore[arg-type]  # on purpose


async def test_default_limit_is_a_hundred(storage: SnapshotStorage) -> None:
    """The newest hundred of a few more."""
    saved = [make(at) for at in range(102)]
    await asyncio.gather(*(storage.save_snapshot(snapshot) for snapshot in saved))
    assert await storage.list_snapshots(SAGA) == saved[:1:-1]
