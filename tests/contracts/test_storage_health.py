"""What a storage tells about itself; the same for every storage."""

from __future__ import annotations

import json

import pytest
from support.payload import snapshots
from support.snapshots import make, number, replay, save_all
from support.stores import Ability, Place

from sagaz_tiering.storage.base import Health, SnapshotStorage


def checked(health: Health) -> Health:
    """Of the right types and ready for JSON."""
    assert type(health.status) is str
    assert health.latency_ms >= 0
    assert type(health.snapshot_count) is int
    assert type(health.total_size_bytes) is int
    document = json.loads(json.dumps(health.to_dict()))
    assert list(document) == ["status", "latency_ms", "snapshot_count", "total_size_bytes", "details"]
    return health


async def test_empty_storage_is_healthy(storage: SnapshotStorage) -> None:
    """With nothing in it, also when it was never used."""
    health = checked(await storage.health_check())
    assert (health.status, health.snapshot_count) == ("healthy", 0)
    assert health.total_size_bytes >= 0


async def test_full_storage_counts_what_it_holds(storage: SnapshotStorage) -> None:
    """Snapshots and about their bytes; replay records are not snapshots; what is deleted no longer counts."""
    saved = await save_all(storage, snapshots(8))
    await storage.save_replay_log(replay(1))
    full = checked(await storage.health_check())
    assert (full.status, full.snapshot_count) == ("healthy", len(saved))
    assert full.total_size_bytes > 20_000
    for snapshot in saved[5:]:
        await storage.delete_snapshot(snapshot.snapshot_id)
    assert (await storage.health_check()).snapshot_count == 5


async def test_resave_counts_once(storage: SnapshotStorage) -> None:
    """Also where the saga is another one."""
    await save_all(storage, [make(1), make(1, context={}), make(1, saga_id=number(77))])
    assert (await storage.health_check()).snapshot_count == 1


async def test_storage_info_says_what_it_is(place: Place) -> None:
    """Its kind and options, ready for JSON, before and after use, with no secret; it is not a coroutine."""
    async with place.opened() as storage:
        for _ in range(2):
            info = storage.get_storage_info()
            assert info["storage_type"] == place.kind
            shown = json.dumps(info)
            for secret in place.secrets:
                assert secret not in shown
                assert secret not in repr(storage)
            await storage.save_snapshot(make(1))


@pytest.mark.needs(Ability.SERVER)
async def test_storage_info_asks_no_server(gated_place: Place) -> None:
    """It answers when there is none."""
    await gated_place.cut()
    async with gated_place.opened() as storage:
        assert storage.get_storage_info()["storage_type"] == gated_place.kind
    assert sum(gate.opened for gate in gated_place.gates) == 0
