"""Retention: what is past it is gone at once for every reader, and its bytes on request; the same for every storage."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, ids_of, make, number, save_all
from support.stores import Ability, Place
from support.tiers import NOW

from sagaz_tiering.snapshot import MAX_TIME, SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

pytestmark = pytest.mark.guarantee("G3")

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


async def seen(storage: SnapshotStorage, snapshot: SagaSnapshot) -> set[bool]:
    """What each way to read says about whether it is there; it must be the newest of its saga."""
    saga_id = snapshot.saga_id
    return {
        await storage.get_snapshot(snapshot.snapshot_id) == snapshot,
        await storage.get_latest_snapshot(saga_id) == snapshot,
        await storage.get_latest_snapshot(saga_id, before_step=snapshot.step_name) == snapshot,
        await storage.get_snapshot_at_time(saga_id, NOW + 999 * HOUR) == snapshot,
        snapshot in await storage.list_snapshots(saga_id),
        await storage.list_snapshots(saga_id, limit=1) == [snapshot],
        snapshot in [each async for each in storage.iter_snapshots(saga_id)],
        snapshot in [each async for each in storage.iter_snapshots()],
    }


async def sagas(storage: SnapshotStorage) -> list[UUID]:
    return [each async for each in storage.saga_ids()]


async def test_expired_is_invisible_from_the_instant_on(place: Place) -> None:
    """A microsecond before it is there by every query, at the instant by none; no job need run."""
    storage = await place.open()
    snapshot = make(5, retention_until=NOW + HOUR)
    await save_all(storage, [snapshot])
    assert await seen(storage, snapshot) == {True}
    place.clock.advance(HOUR - MICROSECOND)
    assert await seen(storage, snapshot) == {True}
    place.clock.advance(MICROSECOND)
    assert await seen(storage, snapshot) == {False}
    assert await sagas(storage) == []


async def test_expired_can_still_be_deleted(place: Place) -> None:
    """Once, by its id; and a saga's cleanup takes it along."""
    storage = await place.open()
    await save_all(storage, [make(at, retention_until=NOW + HOUR) for at in range(3)])
    place.clock.advance(2 * HOUR)
    assert await storage.delete_snapshot(number(1)) is True
    assert await storage.delete_snapshot(number(1)) is False
    await storage.cleanup_saga(SAGA)
    assert await storage.delete_snapshot(number(0)) is False
    assert await storage.delete_expired_snapshots() == 0


async def test_expired_ones_do_not_stand_before_live_ones(place: Place) -> None:
    """Latest, at-time, by step and a limited list answer with what is live behind them."""
    storage = await place.open()
    live = await save_all(storage, [make(at, step_name="pay") for at in range(3)])
    await save_all(storage, [make(at, step_name="pay", retention_until=NOW + HOUR) for at in range(3, 6)])
    place.clock.advance(HOUR)
    assert await storage.get_latest_snapshot(SAGA) == live[-1]
    assert await storage.get_latest_snapshot(SAGA, before_step="pay") == live[-1]
    assert await storage.get_snapshot_at_time(SAGA, make(5).created_at) == live[-1]
    assert await storage.get_snapshot_at_time(SAGA, make(1).created_at) == live[1]
    assert await storage.list_snapshots(SAGA, limit=2) == [live[2], live[1]]
    assert await ids_of(storage) == [snapshot.snapshot_id for snapshot in live]


async def test_at_time_ignores_expired_ones_in_between(place: Place) -> None:
    """Older ones may expire later than newer ones."""
    storage = await place.open()
    saved = await save_all(
        storage, [make(at, retention_until=None if at % 2 == 0 else NOW + at * HOUR) for at in range(6)]
    )
    place.clock.advance(3 * HOUR)
    for at, newest_live in enumerate([0, 0, 2, 2, 4, 5]):
        assert await storage.get_snapshot_at_time(SAGA, saved[at].created_at) == saved[newest_live]


async def test_delete_expired_removes_and_counts_snapshots(place: Place) -> None:
    """Each once, in every saga; what is live stays; a second run finds nothing."""
    storage = await place.open()
    kept = [make(0), make(1, retention_until=NOW + 9 * HOUR), make(2, retention_until=MAX_TIME - MICROSECOND)]
    gone = [make(at, saga_id=saga, retention_until=NOW + HOUR) for at, saga in ((3, SAGA), (4, SAGA), (5, OTHER_SAGA))]
    await save_all(storage, kept + gone)
    assert await storage.delete_expired_snapshots() == 0
    place.clock.advance(HOUR)
    assert await storage.delete_expired_snapshots() == 3
    assert await storage.delete_expired_snapshots() == 0
    for snapshot in gone:
        assert await storage.delete_snapshot(snapshot.snapshot_id) is False
    assert await ids_of(storage) == [snapshot.snapshot_id for snapshot in kept]
    assert await sagas(storage) == [SAGA]


async def test_saved_when_already_expired_is_invisible(storage: SnapshotStorage) -> None:
    """It is taken, never shown, and removed with the others."""
    snapshot = make(1, retention_until=BEGUN)
    await save_all(storage, [snapshot])
    assert await seen(storage, snapshot) == {False}
    assert await sagas(storage) == []
    await storage.save_snapshot(make(2, retention_until=NOW))
    assert await storage.delete_expired_snapshots() == 2


async def test_resave_with_another_retention_counts(place: Place) -> None:
    """Prolonged, lifted or shortened: only the last one, also for the removal of what is expired."""
    storage = await place.open()
    await save_all(storage, [make(at, retention_until=NOW + HOUR) for at in range(2)] + [make(2)])
    prolonged = make(0, retention_until=NOW + 5 * HOUR)
    lifted, shortened = make(1), make(2, retention_until=NOW + HOUR)
    await save_all(storage, [prolonged, lifted, shortened])
    place.clock.advance(2 * HOUR)
    assert await ids_of(storage) == [number(0), number(1)]
    assert await storage.delete_expired_snapshots() == 1
    assert await storage.get_snapshot(number(0)) == prolonged
    assert await storage.get_snapshot(number(1)) == lifted
    place.clock.advance(3 * HOUR)
    assert await ids_of(storage) == [number(1)]


async def test_resave_revives_what_had_expired(place: Place) -> None:
    """An expired snapshot that is saved anew is as live as any."""
    storage = await place.open()
    await storage.save_snapshot(make(1, retention_until=NOW + HOUR))
    place.clock.advance(2 * HOUR)
    revived = make(1, retention_until=NOW + 3 * HOUR)
    await storage.save_snapshot(revived)
    assert await seen(storage, revived) == {True}
    assert await storage.delete_expired_snapshots() == 0
    assert await seen(storage, revived) == {True}


@pytest.mark.needs(Ability.OUTLIVES)
async def test_expired_stays_expired_for_whoever_opens_it_later(place: Place) -> None:
    """Another storage over the same data sees neither more nor less."""
    storage = await place.open()
    await save_all(storage, [make(0), make(1, retention_until=NOW + HOUR)])
    place.clock.advance(HOUR)
    storage = await place.open()
    assert await ids_of(storage) == [number(0)]
    assert await storage.delete_expired_snapshots() == 1
