"""Reading a storage whole: order, starting points and changes meanwhile; the same for every storage."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID, uuid4

import pytest
from support.snapshots import BEGUN, SAGA, make, number, replay, save_all
from support.stores import Place

from sagaz_tiering.errors import InvalidSnapshot
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

ENDS = [UUID(int=0), UUID(int=1), UUID(int=2**128 - 1), UUID("0fffffff-ffff-4fff-bfff-ffffffffffff"), UUID(int=16**31)]


def several_sagas() -> list[SagaSnapshot]:
    """Two snapshots each of some sagas, the first and last ids that there are among them; shuffled."""
    shuffle = random.Random(5)
    ids = [*ENDS, *(UUID(int=shuffle.getrandbits(128)) for _ in range(5))]
    made = [make(at, saga_id=saga, snapshot_id=uuid4(), context={"saga": str(saga)}) for saga in ids for at in range(2)]
    shuffle.shuffle(made)
    return made


async def walk(storage: SnapshotStorage, after: UUID | str | None = None) -> list[SagaSnapshot]:
    return [each async for each in storage.iter_snapshots(after=after)]


async def sagas(storage: SnapshotStorage, after: UUID | str | None = None) -> list[UUID]:
    return [each async for each in storage.saga_ids(after=after)]


async def test_sagas_and_snapshots_come_in_order(storage: SnapshotStorage) -> None:
    """Sagas ascending by id, in each of them the oldest first."""
    saved = await save_all(storage, several_sagas())
    assert await sagas(storage) == sorted({snapshot.saga_id for snapshot in saved})
    assert await walk(storage) == sorted(saved, key=lambda s: (s.saga_id, s.created_at))
    assert [each async for each in storage.iter_snapshots(str(ENDS[2]))] == sorted(
        (s for s in saved if s.saga_id == ENDS[2]), key=lambda s: s.created_at
    )


async def test_after_starts_behind_an_id(storage: SnapshotStorage) -> None:
    """Behind one that is there, or where it would be; given as UUID or text."""
    saved = await save_all(storage, several_sagas())
    ordered = sorted({snapshot.saga_id for snapshot in saved})
    for at in (0, 1, 6, len(ordered) - 1):
        assert await sagas(storage, ordered[at]) == ordered[at + 1 :]
        assert await sagas(storage, str(ordered[at])) == ordered[at + 1 :]
    between = UUID(int=ordered[6].int + 1)
    assert await sagas(storage, between) == ordered[7:]
    assert [s.saga_id for s in await walk(storage, ordered[6])][::2] == ordered[7:]


async def test_empty_storage_has_nothing_to_walk(storage: SnapshotStorage) -> None:
    """No saga, no snapshot, no replay record."""
    assert await sagas(storage) == []
    assert await walk(storage) == []
    assert await walk(storage, uuid4()) == []
    assert [each async for each in storage.iter_replay_logs()] == []


async def test_more_than_a_page_is_walked_whole(place: Place) -> None:
    """Many snapshots of one saga, many sagas and many replay records, each exactly once."""
    storage = await place.open()
    count = place.crowd // 2
    await asyncio.gather(*(storage.save_snapshot(make(at)) for at in range(count)))
    assert [s.snapshot_id async for s in storage.iter_snapshots(SAGA)] == [number(at) for at in range(count)]
    others = [make(10_000 + at, saga_id=number(at), created_at=BEGUN) for at in range(count)]
    await asyncio.gather(*(storage.save_snapshot(snapshot) for snapshot in others))
    assert await sagas(storage) == [*(number(at) for at in range(count)), SAGA]
    records = [replay(at, original_saga_id=number(at % 7)) for at in range(count)]
    await asyncio.gather(*(storage.save_replay_log(record) for record in records))
    found = [UUID(record["replay_id"]) async for record in storage.iter_replay_logs()]
    assert found == [number(at) for at in range(count)]


async def test_what_is_walked_may_be_deleted(storage: SnapshotStorage) -> None:
    """Deleting each one as it comes misses none."""
    saved = await save_all(storage, several_sagas())
    met = []
    async for snapshot in storage.iter_snapshots():
        assert await storage.delete_snapshot(snapshot.snapshot_id) is True
        met.append(snapshot)
    assert met == sorted(saved, key=lambda s: (s.saga_id, s.created_at))
    assert await sagas(storage) == []


async def test_saving_meanwhile_disturbs_nothing(storage: SnapshotStorage) -> None:
    """What was there is met exactly once, whatever is saved before, behind and between."""
    saved = await save_all(storage, several_sagas())
    known = {snapshot.snapshot_id for snapshot in saved}
    met = []
    async for snapshot in storage.iter_snapshots():
        met.append(snapshot.snapshot_id)
        if snapshot.snapshot_id in known and snapshot.step_index == 0:
            for saga_id in (UUID(int=3), snapshot.saga_id, UUID(int=2**128 - 3)):
                await storage.save_snapshot(make(9, saga_id=saga_id, snapshot_id=uuid4(), context={}))
    assert len(met) == len(set(met))
    assert known <= set(met)


async def test_walk_may_be_left_early(storage: SnapshotStorage) -> None:
    """The storage is as usable as before, and closes."""
    saved = await save_all(storage, several_sagas())
    for _ in range(12):
        walking = storage.iter_snapshots()
        assert (await anext(walking)).saga_id == ENDS[0]
        await walking.aclose()  # type: ignore[attr-defined]  # an async generator
    assert len(await walk(storage)) == len(saved)


async def test_replay_records_come_by_id(storage: SnapshotStorage) -> None:
    """Ascending by replay id whatever their times are, from behind an id on."""
    ids = sorted([*ENDS, *(uuid4() for _ in range(15))])
    for at, replay_id in enumerate(reversed(ids)):
        await storage.save_replay_log(replay(at, replay_id=replay_id, original_saga_id=number(at % 3)))
    found = [UUID(record["replay_id"]) async for record in storage.iter_replay_logs()]
    assert found == ids
    for after in (ids[0], ids[9], ids[-1]):
        found = [UUID(record["replay_id"]) async for record in storage.iter_replay_logs(after=str(after))]
        assert found == ids[ids.index(after) + 1 :]


async def test_bad_starting_points_are_refused(storage: SnapshotStorage) -> None:
    """An error of ours, not an empty walk."""
    for walking in (
        storage.saga_ids(after="no-id"),
        storage.iter_snapshots("no-id"),
        storage.iter_snapshots(after="no-id"),
        storage.iter_replay_logs(after="no-id"),
    ):
        with pytest.raises(InvalidSnapshot):
            await anext(walking)
