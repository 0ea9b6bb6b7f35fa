"""Several processes on one store, and a process that is killed while it saves; for every storage that outlives one."""

from __future__ import annotations

import random
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from support.saver import CONTESTED_ID, SAGAS, WORKERS, acknowledged, contested_of, snapshot_of, start_saver
from support.snapshots import ids_of
from support.stores import Ability, Place, until

from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

pytestmark = pytest.mark.needs(Ability.OUTLIVES)


async def listed(storage: SnapshotStorage) -> list[SagaSnapshot]:
    """Everything that any index names, after checking that nothing is named twice and that all views agree."""
    walked = [snapshot async for snapshot in storage.iter_snapshots()]
    assert len({snapshot.snapshot_id for snapshot in walked}) == len(walked)
    assert {snapshot.saga_id for snapshot in walked} <= set(SAGAS)
    by_saga = [snapshot_id for saga_id in SAGAS for snapshot_id in await ids_of(storage, saga_id)]
    assert [snapshot.snapshot_id for snapshot in walked] == by_saga
    return walked


async def check_saved(storage: SnapshotStorage, seed: str, acks: Path) -> list[SagaSnapshot]:
    """Acknowledged saves are there as saved; the next one of a worker is, wholly, or is not; there are no others."""
    there = []
    for worker, last in acknowledged(acks).items():
        for first in range(0, last + 4, 2):
            versions = [snapshot_of(seed, worker, first), snapshot_of(seed, worker, first + 1)]
            found = await storage.get_snapshot(versions[0].snapshot_id)
            if last > first:
                assert found == versions[1]
            elif last == first:
                assert found in versions
            elif last == first - 1:
                assert found in (None, versions[0])
            else:
                assert found is None
            there += [] if found is None else [found]
    return there


async def ended(*processes: BaseProcess) -> None:
    """Wait until they end well."""
    await until(lambda: all(process.exitcode is not None for process in processes), "the savers end")
    assert [process.exitcode for process in processes] == [0] * len(processes)


async def test_kill_while_saving_leaves_nothing_unlisted_or_torn(place: Place, tmp_path: Path) -> None:
    """Whenever it comes: what is found by id is listed, what is listed is found by id, and all of it is whole."""
    expected: list[SagaSnapshot] = []
    for turn in range(place.rounds):
        seed, acks = f"round {turn}", tmp_path / f"acks-{turn}"
        process = start_saver(place.name, place.options, seed=seed, acks=acks)
        enough = random.randint(1, 3 * place.rounds)
        await until(lambda acks=acks, enough=enough: max(acknowledged(acks).values()) >= enough, "it saves")  # type: ignore[misc]
        process.kill()
        process.join()
        async with place.opened() as storage:
            expected += await check_saved(storage, seed, acks)
            found = await listed(storage)
        assert sorted(found, key=_by_id) == sorted(expected, key=_by_id)
    async with place.opened() as storage:
        for snapshot in expected:
            assert await storage.delete_snapshot(snapshot.snapshot_id) is True
        assert await listed(storage) == []
        assert (await storage.health_check()).snapshot_count == 0


async def test_two_processes_and_this_one_save_into_the_same_sagas(place: Place, tmp_path: Path) -> None:
    """Everything that any of them saved is there."""
    turns, seeds = 2 * place.rounds, ["one", "two"]
    savers = [start_saver(place.name, place.options, seed=seed, acks=tmp_path / seed, turns=turns) for seed in seeds]
    storage = await place.open()
    for turn in range(turns):
        for worker in range(WORKERS):
            await storage.save_snapshot(snapshot_of("here", worker, turn))
    await ended(*savers)
    expected = [
        snapshot_of(seed, worker, turn)
        for seed in (*seeds, "here")
        for worker in range(WORKERS)
        for turn in range(1, turns, 2)
    ]
    assert sorted(await listed(storage), key=_by_id) == sorted(expected, key=_by_id)
    for snapshot in expected:
        assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def test_two_processes_that_save_one_id_leave_one(place: Place, tmp_path: Path) -> None:
    """One of the last saves of either, in one saga; then it can be replaced and deleted like any."""
    turns, seeds = 2 * place.rounds, ["one", "two"]
    savers = [
        start_saver(place.name, place.options, seed=seed, acks=tmp_path / seed, turns=turns, contest=True)
        for seed in seeds
    ]
    storage = await place.open()
    await ended(*savers)
    left = await storage.get_snapshot(CONTESTED_ID)
    assert left in [contested_of(seed, turn) for seed in seeds for turn in range(turns)]
    assert [each for each in await listed(storage) if each.snapshot_id == CONTESTED_ID] == [left]
    place.clock.advance(timedelta(hours=1))
    await storage.save_snapshot(contested_of("here", 1))
    assert [each for each in await listed(storage) if each.snapshot_id == CONTESTED_ID] == [contested_of("here", 1)]
    assert await storage.delete_snapshot(CONTESTED_ID) is True
    assert len(await listed(storage)) == len(seeds) * WORKERS * turns // 2


async def test_what_one_deletes_is_gone_for_the_other(place: Place) -> None:
    """Two storages over one store keep nothing to themselves."""
    one, other = await place.open(), await place.open()
    first, second = snapshot_of("here", 0, 0), snapshot_of("here", 1, 0)
    await one.save_snapshot(first)
    assert await other.get_snapshot(first.snapshot_id) == first
    await other.save_snapshot(second)
    assert len(await listed(one)) == 2
    assert await one.delete_snapshot(first.snapshot_id) is True
    assert await other.get_snapshot(first.snapshot_id) is None
    assert await other.delete_snapshot(first.snapshot_id) is False
    assert await other.cleanup_saga(second.saga_id) == 1
    assert await listed(one) == []


def _by_id(snapshot: SagaSnapshot) -> int:
    return snapshot.snapshot_id.int
