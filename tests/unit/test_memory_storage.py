"""What only the storage in memory promises; the rest is in the contract suite."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from support.snapshots import BEGUN, SAGA, make, number, replay, save_all
from support.tiers import NOW

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.memory import InMemorySnapshotStorage


def empty() -> dict[str, object]:
    return InMemorySnapshotStorage().get_storage_info()


def test_constructor_needs_nothing() -> None:
    """`InMemorySnapshotStorage()` works, and what there is to give is given by name."""
    parameters = inspect.signature(InMemorySnapshotStorage).parameters.values()
    assert [each.name for each in parameters] == ["clock", "on_unsupported"]
    assert {each.kind for each in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert empty() == {
        "storage_type": "memory",
        "total_sagas": 0,
        "total_snapshots": 0,
        "total_replays": 0,
        "total_size_bytes": 0,
        "total_size_mb": 0.0,
    }


async def test_two_storages_share_nothing() -> None:
    """What one holds, another does not."""
    one, other = InMemorySnapshotStorage(), InMemorySnapshotStorage()
    await one.save_snapshot(make(1))
    assert await other.get_snapshot(number(1)) is None


async def test_what_has_ended_and_replays_of_a_saga_are_found_without_looking_at_all() -> None:
    """However much there is beside them."""

    class NotWalked(dict[Any, Any]):
        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("all of them are looked at")

        items = values = __iter__  # type: ignore[assignment]  # nobody gets that far

    storage = InMemorySnapshotStorage(clock=VirtualClock(NOW))
    ended = make(3, created_at=NOW - timedelta(days=9), retention_until=NOW - timedelta(days=1))
    await save_all(storage, [make(1), make(2, saga_id=number(7)), ended])
    for at in range(3):
        await storage.save_replay_log(replay(at, original_saga_id=number(7 + at // 2)))
    await storage.save_replay_log(replay(1, original_saga_id=number(8)))
    storage._snapshots, storage._replay_records = NotWalked(storage._snapshots), NotWalked(storage._replay_records)
    assert [len(await storage.list_replays(number(of))) for of in (6, 7, 8)] == [0, 1, 2]
    assert await storage.delete_expired_snapshots() == 1
    assert await storage.delete_expired_snapshots() == 0


async def test_information_counts_what_is_held() -> None:
    """Sagas, snapshots, replay records and bytes; a replaced or deleted snapshot no longer counts."""
    storage = InMemorySnapshotStorage()
    await save_all(storage, [make(1), make(2, saga_id=number(7), context={"text": "x" * 2**20})])
    await storage.save_replay_log(replay(1))
    info = storage.get_storage_info()
    assert (info["total_sagas"], info["total_snapshots"], info["total_replays"]) == (2, 2, 1)
    assert 2**20 < info["total_size_bytes"] < 2**20 + 2000
    assert info["total_size_mb"] == 1.0
    assert (await storage.health_check()).total_size_bytes == info["total_size_bytes"]
    await storage.save_snapshot(make(2, saga_id=number(7), context={}))
    assert storage.get_storage_info()["total_size_bytes"] < 2000
    await storage.delete_snapshot(number(1))
    await storage.delete_snapshot(number(2))
    assert storage.get_storage_info() == empty() | {"total_replays": 1}


async def test_what_is_saved_anew_while_others_expire_stays() -> None:
    """An expiry of many gives the event loop its turn; what is saved with a later end by then is not expired."""
    clock = VirtualClock(NOW)
    storage, ended = InMemorySnapshotStorage(clock=clock), NOW + timedelta(hours=1)
    await save_all(storage, [make(each, retention_until=ended) for each in range(1, 201)])
    clock.advance(timedelta(hours=2))
    expiry = asyncio.create_task(storage.delete_expired_snapshots())
    await asyncio.sleep(0)
    await storage.save_snapshot(make(200, retention_until=NOW + timedelta(days=9)))
    assert await expiry == 199
    assert await storage.get_snapshot(number(200)) is not None


async def test_what_is_saved_under_another_saga_while_its_saga_goes_stays() -> None:
    """Removing a large saga removes what is of it, not what has become another's meanwhile."""
    storage = InMemorySnapshotStorage()
    await save_all(storage, [make(each) for each in range(1, 201)])
    removal = asyncio.create_task(storage.cleanup_saga(SAGA))
    await asyncio.sleep(0)
    await storage.save_snapshot(make(200, saga_id=number(7)))
    assert await removal == 199
    assert await storage.get_snapshot(number(200)) is not None


async def test_another_thread_that_forgets_everything_waits_for_a_look() -> None:
    """`clear` comes before a look at several lists or after it, never in the middle."""
    clearing: list[threading.Thread] = []

    class Watched(VirtualClock):
        """Asked in the middle of a look, whether a snapshot has ended."""

        def now(self) -> datetime:
            if clearing and not clearing[0].ident:
                clearing[0].start()
                clearing[0].join(0.2)
            return super().now()

    storage = InMemorySnapshotStorage(clock=Watched(NOW))
    await save_all(storage, [make(each, retention_until=NOW + timedelta(hours=1)) for each in (1, 2, 3)])
    clearing.append(threading.Thread(target=storage.clear))
    assert len(await storage.list_snapshots(SAGA)) == 3
    clearing[0].join()
    assert storage.get_storage_info()["total_snapshots"] == 0


async def test_clear_forgets_everything() -> None:
    """Snapshots, replay records and every index."""
    storage = InMemorySnapshotStorage()
    await save_all(storage, [make(1), make(2, retention_until=NOW)])
    await storage.save_replay_log(replay(1))
    storage.clear()
    assert storage.get_storage_info() == empty()
    assert await storage.get_replay_log(number(1)) is None
    assert await storage.delete_expired_snapshots() == 0
    await storage.save_snapshot(make(2))
    assert await storage.list_snapshots(SAGA) == [make(2)]


async def test_indexes_agree_with_a_plain_dict_over_any_history() -> None:
    """Random saves, moves, deletions and expiries: order, counts and expiry are those of a sorted dict."""
    shuffle, clock = random.Random(11), VirtualClock(NOW)
    storage, model = InMemorySnapshotStorage(clock=clock), dict[int, SagaSnapshot]()
    for turn in range(1500):
        at = shuffle.randrange(40)
        if shuffle.random() < 0.2:
            assert await storage.delete_snapshot(number(at)) == (model.pop(at, None) is not None)
        elif shuffle.random() < 0.05:
            ended = [each for each, s in model.items() if s.retention_until and s.retention_until <= clock.now()]
            assert await storage.delete_expired_snapshots() == len(ended)
            for each in ended:
                del model[each]
        else:
            until = shuffle.choice([None, clock.now() + timedelta(hours=shuffle.randrange(-1, 3))])
            moment = BEGUN + timedelta(seconds=shuffle.randrange(5))
            model[at] = make(
                at, saga_id=number(shuffle.randrange(3)), created_at=moment, retention_until=until, context={"t": turn}
            )
            await storage.save_snapshot(model[at])
        clock.advance(timedelta(minutes=shuffle.randrange(3)))
        live = [s for s in model.values() if s.retention_until is None or clock.now() < s.retention_until]
        live.sort(key=lambda s: (s.saga_id, s.created_at, s.step_index, s.snapshot_id))
        if turn % 25 == 0:
            assert [snapshot async for snapshot in storage.iter_snapshots()] == live
            assert storage.get_storage_info()["total_snapshots"] == len(model)
    for saga in range(3):
        await storage.cleanup_saga(number(saga))
    assert storage.get_storage_info() == empty()
