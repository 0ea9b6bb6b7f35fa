"""Stored bytes that are not what was written: told where they are the answer, skipped where they are one of many."""

from __future__ import annotations

from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from support.damage import WAYS, Change, altered
from support.snapshots import OTHER_SAGA, SAGA, ids_of, make, number, save_all
from support.stores import Place
from support.tiers import NOW

from sagaz_tiering.errors import CorruptRecord

SAVED = [make(at) for at in range(4)]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Change:
    """Each way to damage bytes."""
    found: Change = request.param
    return found


async def test_unreadable_record_is_an_error_where_it_is_the_answer(place: Place, way: Change) -> None:
    """By id, as the latest, at a time and by its step: never None, never an older one."""
    storage = await place.open()
    await save_all(storage, SAVED)
    await place.damage(number(3), way)
    with pytest.raises(CorruptRecord):
        await storage.get_snapshot(number(3))
    with pytest.raises(CorruptRecord):
        await storage.get_latest_snapshot(SAGA)
    with pytest.raises(CorruptRecord):
        await storage.get_latest_snapshot(SAGA, before_step="step_3")
    with pytest.raises(CorruptRecord):
        await storage.get_snapshot_at_time(SAGA, NOW)


async def test_unreadable_record_hides_no_other(place: Place, way: Change) -> None:
    """By id, at a time, in lists, limited ones too, and walks: the others are there; the log names the bad one."""
    storage = await place.open()
    await save_all(storage, [*SAVED, make(9, saga_id=OTHER_SAGA)])
    await place.damage(number(2), way)
    good = [SAVED[3], SAVED[1], SAVED[0]]
    for snapshot in good:
        assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot
        assert await storage.get_snapshot_at_time(SAGA, snapshot.created_at) == snapshot
    assert await storage.get_latest_snapshot(SAGA) == SAVED[3]
    with capture_logs() as logs:
        assert await storage.list_snapshots(SAGA) == good
    assert [(each["event"], each["snapshot_id"]) for each in logs] == [("snapshot.unreadable", str(number(2)))]
    assert await storage.list_snapshots(SAGA, limit=1) == good[:1]
    assert await storage.list_snapshots(SAGA, limit=2) == good[:2]
    assert [each async for each in storage.iter_snapshots(SAGA)] == good[::-1]
    assert [each.saga_id async for each in storage.iter_snapshots()] == [OTHER_SAGA, SAGA, SAGA, SAGA]
    assert [each async for each in storage.saga_ids()] == [OTHER_SAGA, SAGA]
    assert (await storage.health_check()).status in ("healthy", "degraded")


async def test_unreadable_record_can_be_deleted(place: Place, way: Change) -> None:
    """Then it is gone from every index."""
    storage = await place.open()
    await save_all(storage, SAVED)
    await place.damage(number(3), way)
    assert await storage.delete_snapshot(number(3)) is True
    assert await storage.delete_snapshot(number(3)) is False
    assert await storage.get_snapshot(number(3)) is None
    assert await ids_of(storage) == [number(0), number(1), number(2)]


async def test_unreadable_record_is_healed_by_a_save(place: Place, way: Change) -> None:
    """Also where the new one stands elsewhere."""
    storage = await place.open()
    await save_all(storage, SAVED)
    for new in (make(1, context={"healed": True}), make(1, created_at=NOW)):
        await place.damage(number(1), way)
        await storage.save_snapshot(new)
        assert await storage.get_snapshot(number(1)) == new
    assert await ids_of(storage) == [number(0), number(2), number(3), number(1)]


async def test_unreadable_record_is_removed_with_its_saga(place: Place, way: Change) -> None:
    """It counts as one of them."""
    storage = await place.open()
    await save_all(storage, SAVED)
    await place.damage(number(0), way)
    assert await storage.cleanup_saga(SAGA) == 4
    assert await storage.delete_snapshot(number(0)) is False
    assert await ids_of(storage) == []


async def test_unreadable_record_does_not_stop_the_removal_of_expired_ones(place: Place) -> None:
    """Those behind it go all the same."""
    storage = await place.open()
    await save_all(storage, [make(at, retention_until=NOW + timedelta(hours=1)) for at in range(3)] + [make(3)])
    await place.damage(number(1), altered)
    place.clock.advance(timedelta(hours=1))
    assert await storage.delete_expired_snapshots() in (2, 3)
    for at in (0, 2):
        assert await storage.delete_snapshot(number(at)) is False
    assert await storage.get_snapshot(number(3)) == make(3)
