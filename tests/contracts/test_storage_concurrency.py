"""Many callers at once: nobody fails, nothing is lost, one pool; the same for every storage."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, ids_of, make, number, replay
from support.stores import Ability, Place, until

from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

CALLERS = 200
"""More than any storage has connections."""


def many(count: int) -> list[SagaSnapshot]:
    """Snapshots of one saga a second apart, in any order."""
    made = [make(at, created_at=BEGUN + timedelta(seconds=at)) for at in range(count)]
    random.Random(7).shuffle(made)
    return made


async def test_many_saves_of_one_saga_at_once(place: Place) -> None:
    """Every one of them is there, by id and in the list, in order."""
    storage = await place.open()
    snapshots = many(place.crowd)
    await asyncio.gather(*(storage.save_snapshot(snapshot) for snapshot in snapshots))
    assert await ids_of(storage) == [number(at) for at in range(place.crowd)]
    found = await asyncio.gather(*(storage.get_snapshot(snapshot.snapshot_id) for snapshot in snapshots))
    assert found == snapshots
    assert (await storage.health_check()).snapshot_count == place.crowd


async def test_many_saves_of_many_sagas_at_once(place: Place) -> None:
    """Every saga has its own, and no other's."""
    storage = await place.open()
    snapshots = [make(at, saga_id=number(10_000 + at)) for at in range(place.crowd)]
    await asyncio.gather(*(storage.save_snapshot(snapshot) for snapshot in snapshots))
    assert [snapshot async for snapshot in storage.iter_snapshots()] == snapshots
    latest = await asyncio.gather(*(storage.get_latest_snapshot(snapshot.saga_id) for snapshot in snapshots))
    assert latest == snapshots


async def test_many_saves_of_one_id_at_once_leave_one(place: Place) -> None:
    """One of them, wherever it moved; it is the only one listed."""
    storage = await place.open()
    versions = [
        make(1, saga_id=(SAGA, OTHER_SAGA)[at % 2], created_at=BEGUN + timedelta(seconds=at % 5), context={"at": at})
        for at in range(60)
    ]

    async def save(version: SagaSnapshot) -> None:
        place.clock.advance(timedelta(microseconds=1))
        await storage.save_snapshot(version)

    await asyncio.gather(*(save(version) for version in versions))
    left = await storage.get_snapshot(number(1))
    assert left in versions
    assert [snapshot async for snapshot in storage.iter_snapshots()] == [left]
    assert await ids_of(storage, SAGA) + await ids_of(storage, OTHER_SAGA) == [number(1)]


async def test_readers_and_deleters_beside_savers(storage: SnapshotStorage) -> None:
    """Nobody sees an error or a list out of order; afterwards every view agrees."""
    snapshots = many(30)

    async def save_and_delete(snapshot: SagaSnapshot) -> None:
        await storage.save_snapshot(snapshot)
        if snapshot.step_index % 3 == 0:
            assert await storage.delete_snapshot(snapshot.snapshot_id) is True

    async def read() -> None:
        listed = await storage.list_snapshots(SAGA)
        assert [s.created_at for s in listed] == sorted((s.created_at for s in listed), reverse=True)
        assert all(each in snapshots for each in listed)
        walked = [s.created_at async for s in storage.iter_snapshots(SAGA)]
        assert walked == sorted(walked)
        await storage.get_latest_snapshot(SAGA)

    await asyncio.gather(*(save_and_delete(snapshot) for snapshot in snapshots), *(read() for _ in range(10)))
    assert await ids_of(storage) == [number(at) for at in range(30) if at % 3]


async def test_many_replay_records_at_once(storage: SnapshotStorage) -> None:
    """Every one is there; of one id, one."""
    results = [replay(at % 40, initiated_by=f"caller {at // 40}") for at in range(80)]
    await asyncio.gather(*(storage.save_replay_log(result) for result in results))
    listed = await storage.list_replays(SAGA)
    assert [record["replay_id"] for record in listed] == [str(number(at)) for at in range(39, -1, -1)]


async def test_cancelled_saves_harm_nobody(storage: SnapshotStorage) -> None:
    """Those beside them are saved, each cancelled one is wholly there or not at all, and the storage goes on."""
    snapshots = many(40)
    tasks = [asyncio.create_task(storage.save_snapshot(snapshot)) for snapshot in snapshots]
    for turn, task in enumerate(tasks[::2]):
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    saved = [s for s, result in zip(snapshots, results, strict=True) if result is None]
    there = [s for s in snapshots if await storage.get_snapshot(s.snapshot_id) is not None]
    assert {s.snapshot_id for s in saved} <= {s.snapshot_id for s in there}
    assert sorted(await ids_of(storage)) == sorted(s.snapshot_id for s in there)
    await asyncio.gather(*(storage.save_snapshot(snapshot) for snapshot in snapshots))
    assert len(await ids_of(storage)) == 40


async def test_first_use_by_many_at_once(place: Place) -> None:
    """A storage that nobody used yet serves all of them."""
    for _ in range(2):
        async with place.opened() as storage:
            await asyncio.gather(*(storage.get_snapshot(number(at)) for at in range(30)))
            await asyncio.gather(*(storage.save_snapshot(make(at)) for at in range(30)))
            assert len(await ids_of(storage)) == 30


@pytest.mark.needs(Ability.SERVER)
async def test_first_use_by_many_at_once_opens_one_pool(gated_place: Place) -> None:
    """Callers beyond its connections wait for one; closed, it leaves none open; used again, it opens again."""
    gates = gated_place.gates
    async with gated_place.opened() as storage:
        await asyncio.gather(*(storage.list_snapshots(number(at)) for at in range(CALLERS)))
        await asyncio.gather(*(storage.save_snapshot(make(at)) for at in range(CALLERS // 4)))
        # A gate sees a moment late that a connection ended; a pool for each caller would make hundreds.
        assert 0 < sum(gate.most for gate in gates) <= gated_place.connections + 8
    await until(lambda: all(gate.inside == 0 for gate in gates), "every connection is closed")
