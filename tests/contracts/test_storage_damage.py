"""Stored bytes that are not what was written, or another snapshot's: told, and never given or left out silently."""

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
from sagaz_tiering.storage.base import SnapshotStorage

pytestmark = pytest.mark.guarantee("G13")

HOUR = timedelta(hours=1)


def ways() -> Iterator[tuple[Change, UUID, list[SagaSnapshot]]]:
    """Each way to damage bytes, with a saga of its own and four snapshots of it."""
    for at, way in enumerate(WAYS):
        saga_id = number(100 * at)
        yield way, saga_id, [make(each, snapshot_id=number(100 * at + each), saga_id=saga_id) for each in range(4)]


async def limited(storage: SnapshotStorage, saga_id: UUID, limit: int) -> tuple[list[SagaSnapshot], set[UUID]]:
    """A list of so many: what it gives, and what it could not read."""
    try:
        return await storage.list_snapshots(saga_id, limit=limit), set()
    except CorruptRecord as exc:
        return list(exc.readable), set(exc.unreadable)


async def walked(storage: SnapshotStorage, saga_id: UUID | None) -> tuple[list[SagaSnapshot], set[UUID]]:
    """What a walk gives before it says at its end what it could not read."""
    found: list[SagaSnapshot] = []
    try:
        async for snapshot in storage.iter_snapshots(saga_id):
            found.append(snapshot)
    except CorruptRecord as exc:
        return found, set(exc.unreadable)
    return found, set()


@pytest.mark.guarantee("G13")
@pytest.mark.parametrize("of_saga", [number(7), number(8)], ids=["sibling", "other saga"])
async def test_value_of_another_snapshot_is_never_the_answer(place: Place, of_saga: UUID) -> None:
    """Another snapshot's bytes under an id: every read of it names both, the rest is as it was."""
    storage, saga_id = await place.open(), number(7)
    saved = [make(at, saga_id=saga_id) for at in range(3)]
    other = make(9, saga_id=of_saga, created_at=NOW - 2 * HOUR)
    await save_all(storage, [other, *saved])
    bad, taken = saved[2], list[bytes]()

    def copied(data: bytes) -> bytes:
        taken.append(data)
        return data

    await place.damage(other.snapshot_id, copied)
    await place.damage(bad.snapshot_id, lambda _: taken[-1])
    for ask in (
        storage.get_snapshot(bad.snapshot_id),
        storage.get_latest_snapshot(saga_id),
        storage.get_latest_snapshot(saga_id, before_step=bad.step_name),
        storage.get_snapshot_at_time(saga_id, NOW),
    ):
        with pytest.raises(CorruptRecord, match=str(other.snapshot_id)) as caught:
            await ask
        assert str(bad.snapshot_id) in str(caught.value)
    with pytest.raises(CorruptRecord) as listed:
        await storage.list_snapshots(saga_id)
    rest = saved[1::-1] + ([other] if of_saga == saga_id else [])
    assert (listed.value.readable, set(listed.value.unreadable)) == (tuple(rest), {bad.snapshot_id})
    assert await walked(storage, saga_id) == (rest[::-1], {bad.snapshot_id})
    for snapshot in (*saved[:2], other):
        assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot


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


@pytest.mark.guarantee("G2")
async def test_unreadable_record_hides_no_other(place: Place) -> None:
    """By id and at a time the others are there; lists and walks tell of the bad one and give the others with that."""
    storage = await place.open()
    walk: list[SagaSnapshot] = []
    damaged: set[UUID] = set()
    for way, saga_id, saved in ways():
        await save_all(storage, saved)
        bad = saved[2]
        await place.damage(bad.snapshot_id, way)
        good = [saved[3], saved[1], saved[0]]
        for snapshot in good:
            assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot
            assert await storage.get_snapshot_at_time(saga_id, snapshot.created_at) == snapshot
        assert await storage.get_latest_snapshot(saga_id) == good[0]
        with capture_logs() as logs, pytest.raises(CorruptRecord, match=str(bad.snapshot_id)) as listed:
            await storage.list_snapshots(saga_id)
        assert (listed.value.readable, set(listed.value.unreadable)) == (tuple(good), {bad.snapshot_id})
        assert [(each["event"], each["snapshot_id"]) for each in logs] == [
            ("snapshot.unreadable", str(bad.snapshot_id))
        ]
        assert await limited(storage, saga_id, 2) == (good[:1], {bad.snapshot_id})
        assert await limited(storage, saga_id, 3) == (good[:2], {bad.snapshot_id})
        newest, told = await limited(storage, saga_id, 1)
        assert newest == good[:1]
        assert told <= {bad.snapshot_id}  # only where nothing is known of when it was made
        assert await walked(storage, saga_id) == (good[::-1], {bad.snapshot_id})
        walk += good[::-1]
        damaged.add(bad.snapshot_id)
    assert await walked(storage, None) == (walk, damaged)
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
