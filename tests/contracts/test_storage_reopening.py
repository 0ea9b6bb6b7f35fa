"""Closed and opened again, with other options over old data; the same for every storage."""

from __future__ import annotations

from typing import Any

import pytest
from golden.samples import EVERY_TYPE
from support.exact import exactly
from support.payload import saga
from support.snapshots import BEGUN, SAGA, ids_of, make, number, replay, save_all
from support.stores import Ability, Place

from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

LARGE = {"text": "over and over " * 5_000}


async def test_closed_storage_opens_again_by_itself(storage: SnapshotStorage) -> None:
    """Closing twice does no harm, and the next call finds what was there."""
    await storage.close()
    for turn in range(3):
        await storage.save_snapshot(make(turn))
        await storage.save_replay_log(replay(turn))
        await storage.close()
        await storage.close()
        assert await ids_of(storage) == [number(at) for at in range(turn + 1)]
        assert await storage.get_replay_log(number(turn)) == replay(turn).to_dict()


@pytest.mark.needs(Ability.OUTLIVES)
async def test_another_storage_finds_everything(place: Place) -> None:
    """Snapshots and replay records of one that is closed."""
    async with place.opened() as storage:
        saved = await save_all(storage, saga(1))
        await storage.save_replay_log(replay(1, context_override=EVERY_TYPE))
    async with place.opened() as storage:
        assert await storage.list_snapshots(saved[0].saga_id) == saved[::-1]
        found = await storage.get_replay_log(number(1))
        assert found is not None
        assert exactly(found["context_override"]) == exactly(EVERY_TYPE)


@pytest.mark.needs(Ability.SETTINGS)
async def test_other_settings_read_replace_and_delete_old_data(place: Place) -> None:
    """From each way of writing to another one and back, small and large ones, every type."""
    for old, new in zip(place.settings, [*place.settings[1:], place.settings[0]], strict=True):
        await check_change(place, old, new)


async def check_change(place: Place, old: dict[str, Any], new: dict[str, Any]) -> None:
    contexts: list[dict[str, Any]] = [{}, LARGE, EVERY_TYPE, {"a": 1}]
    async with place.opened(**old) as storage:
        saved = await save_all(storage, [make(at, context=context) for at, context in enumerate(contexts)])
        await storage.save_replay_log(replay(1, context_override=LARGE))
    async with place.opened(**new) as storage:
        assert _exact(await storage.list_snapshots(SAGA)) == _exact(saved[::-1])
        assert (await storage.get_replay_log(number(1)) or {})["context_override"] == LARGE
        await save_all(storage, [make(1, created_at=BEGUN, context=LARGE | {"new": 1}), make(3, context={"b": 2})])
        assert await storage.delete_snapshot(number(2)) is True
        assert await ids_of(storage) == [number(0), number(1), number(3)]
        assert await storage.get_snapshot(number(3)) == make(3, context={"b": 2})
    async with place.opened(**old) as storage:
        assert await storage.get_snapshot(number(2)) is None
        assert await storage.get_snapshot(number(1)) == make(1, created_at=BEGUN, context=LARGE | {"new": 1})
        assert await ids_of(storage) == [number(0), number(1), number(3)]
        assert (await storage.health_check()).snapshot_count == 3
        assert await storage.cleanup_saga(SAGA) == 3
        assert (await storage.health_check()).snapshot_count == 0


def _exact(snapshots: list[SagaSnapshot]) -> list[Any]:
    return [(snapshot.snapshot_id, exactly(snapshot.context)) for snapshot in snapshots]
