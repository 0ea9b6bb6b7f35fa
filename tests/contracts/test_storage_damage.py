"""Stored bytes that are not what was written: told where they are the answer, skipped where they are one of many."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from support.damage import WAYS, Change
from support.snapshots import ids_of, make, number, save_all
from support.stores import Place, in_time
from support.tiers import NOW

from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot

HOUR = timedelta(hours=1)


def ways() -> Iterator[tuple[Change, UUID, list[SagaSnapshot]]]:
    """Each way to damage bytes, with a saga of its own and four snapshots of it."""
    for at, way in enumerate(WAYS):
        saga_id = number(100 * at)
        yield way, saga_id, [make(each, snapshot_id=number(100 * at + each), saga_id=saga_id) for each in range(4)]


async def test_unreadable_record_is_an_error_where_it_is_the_answer(place: Place) -> None:
    """By id, as the latest, at a time and by its step: never None, never an older one."""
    storage = await place.open()
    for way, saga_id, saved in ways():
        await save_all(storage, saved)
        bad = saved[3]
        await place.damage(bad.snapshot_id, way)
        with pytest.raises(CorruptRecord):
            await storage.get_snapshot(bad.snapshot_id)
        with pytest.raises(CorruptRecord):
            await storage.get_latest_snapshot(saga_id)
        with pytest.raises(CorruptRecord):
            await storage.get_latest_snapshot(saga_id, before_step=bad.step_name)
        with pytest.raises(CorruptRecord):
            await storage.get_snapshot_at_time(saga_id, NOW)


async def test_unreadable_record_hides_no_other(place: Place) -> None:
    """By id, at a time, in lists, limited ones too, and walks: the others are there; the log names the bad one."""
    storage = await place.open()
    walk: list[SagaSnapshot] = []
    for way, saga_id, saved in ways():
        await save_all(storage, saved)
        bad = saved[2]
        await place.damage(bad.snapshot_id, way)
        good = [saved[3], saved[1], saved[0]]
        for snapshot in good:
            assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot
            assert await storage.get_snapshot_at_time(saga_id, snapshot.created_at) == snapshot
        assert await storage.get_latest_snapshot(saga_id) == good[0]
        with capture_logs() as logs:
            assert await storage.list_snapshots(saga_id) == good
        assert [(each["event"], each["snapshot_id"]) for each in logs] == [
            ("snapshot.unreadable", str(bad.snapshot_id))
        ]
        for limit in (1, 2, 3):
            assert await storage.list_snapshots(saga_id, limit=limit) == good[:limit]
        assert [each async for each in storage.iter_snapshots(saga_id)] == good[::-1]
        walk += good[::-1]
    assert [each async for each in storage.iter_snapshots()] == walk
    assert len([each async for each in storage.saga_ids()]) == len(WAYS)
    assert (await storage.health_check()).status in ("healthy", "degraded")


async def test_unreadable_record_can_be_deleted(place: Place) -> None:
    """Then it is gone from every index."""
    storage = await place.open()
    for way, saga_id, saved in ways():
        await save_all(storage, saved)
        bad = saved[3].snapshot_id
        await place.damage(bad, way)
        assert await storage.delete_snapshot(bad) is True
        assert await storage.delete_snapshot(bad) is False
        assert await storage.get_snapshot(bad) is None
        assert await ids_of(storage, saga_id) == [snapshot.snapshot_id for snapshot in saved[:3]]


async def test_unreadable_record_is_healed_by_a_save(place: Place) -> None:
    """Also where the new one stands elsewhere."""
    storage = await place.open()
    for way, saga_id, saved in ways():
        await save_all(storage, saved)
        bad = {"snapshot_id": saved[1].snapshot_id, "saga_id": saga_id}
        for new in (make(1, context={"healed": True}, **bad), make(1, created_at=NOW, **bad)):
            await place.damage(new.snapshot_id, way)
            await storage.save_snapshot(new)
            assert await storage.get_snapshot(new.snapshot_id) == new
        assert await ids_of(storage, saga_id) == [saved[at].snapshot_id for at in (0, 2, 3, 1)]


async def test_unreadable_record_is_removed_with_its_saga(place: Place) -> None:
    """It counts as one of them."""
    storage = await place.open()
    for way, saga_id, saved in ways():
        await save_all(storage, saved)
        await place.damage(saved[0].snapshot_id, way)
        assert await storage.cleanup_saga(saga_id) == 4
        assert await storage.delete_snapshot(saved[0].snapshot_id) is False
        assert await ids_of(storage, saga_id) == []


async def test_unreadable_record_does_not_stop_the_removal_of_expired_ones(place: Place) -> None:
    """Those before and behind it go all the same, and live ones stay."""
    storage = await place.open()
    for at, (way, saga_id, saved) in enumerate(ways()):
        ending = [make(each, snapshot_id=saved[each].snapshot_id, retention_until=NOW + HOUR) for each in range(3)]
        await save_all(storage, [*ending, saved[3]])
        await place.damage(saved[1].snapshot_id, way)
        place.clock.advance(HOUR if at == 0 else timedelta(0))
        assert await in_time(storage.delete_expired_snapshots()) >= 2
        for gone in (saved[0], saved[2]):
            assert await storage.delete_snapshot(gone.snapshot_id) is False
        assert await ids_of(storage, saga_id) == [saved[3].snapshot_id]
