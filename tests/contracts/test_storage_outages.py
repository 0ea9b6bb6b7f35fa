"""A place that cannot be asked: errors of ours with their cause, and all is well once it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.snapshots import SAGA, ids_of, make, number, replay, save_all
from support.stores import Ability, Place
from support.tiers import NOW

from sagaz_tiering.storage.base import SnapshotStorage

pytestmark = pytest.mark.needs(Ability.PLACE)


async def first(walk: AsyncIterator[Any]) -> Any:
    return await anext(walk)


CALLS: dict[str, Callable[[SnapshotStorage], Awaitable[Any]]] = {
    "save": lambda storage: storage.save_snapshot(make(7)),
    "get": lambda storage: storage.get_snapshot(number(1)),
    "latest": lambda storage: storage.get_latest_snapshot(SAGA),
    "by-step": lambda storage: storage.get_latest_snapshot(SAGA, before_step="step_1"),
    "at-time": lambda storage: storage.get_snapshot_at_time(SAGA, NOW),
    "list": lambda storage: storage.list_snapshots(SAGA),
    "delete": lambda storage: storage.delete_snapshot(number(1)),
    "cleanup": lambda storage: storage.cleanup_saga(SAGA),
    "expire": lambda storage: storage.delete_expired_snapshots(),
    "save-replay": lambda storage: storage.save_replay_log(replay(7)),
    "get-replay": lambda storage: storage.get_replay_log(number(1)),
    "list-replays": lambda storage: storage.list_replays(SAGA),
    "sagas": lambda storage: first(storage.saga_ids()),
    "walk": lambda storage: first(storage.iter_snapshots()),
    "walk-saga": lambda storage: first(storage.iter_snapshots(SAGA)),
    "walk-replays": lambda storage: first(storage.iter_replay_logs()),
}


async def check_every_call_fails(place: Place, storage: SnapshotStorage) -> None:
    """Alone and all at once: with our error for this storage, the driver's behind it, what to do, and no secret."""
    with pytest.raises(place.unavailable):
        await storage.get_snapshot(number(1))
    results = await asyncio.gather(*(call(storage) for call in CALLS.values()), return_exceptions=True)
    for name, error in zip(CALLS, results, strict=True):
        assert isinstance(error, place.unavailable), f"{name}: {error!r}"
        assert error.__cause__ is not None or not place.gates, name  # a folder that is gone is no driver's error
        assert error.hint, name
        for secret in place.secrets:
            assert secret not in f"{error} {error.hint}", name


async def test_first_use_of_a_place_that_is_away_fails_and_heals(gated_place: Place) -> None:
    """Every call fails alike; then the same storage works."""
    await gated_place.cut()
    async with gated_place.opened() as storage:
        await check_every_call_fails(gated_place, storage)
        await gated_place.mend()
        await save_all(storage, [make(0), make(1)])
        assert await ids_of(storage) == [number(0), number(1)]


async def test_place_that_goes_away_and_comes_back(gated_place: Place) -> None:
    """Meanwhile every call fails; afterwards everything is there, without opening anew."""
    async with gated_place.opened() as storage:
        await save_all(storage, [make(0), make(1)])
        await storage.save_replay_log(replay(1))
        await gated_place.cut()
        await check_every_call_fails(gated_place, storage)
        await gated_place.mend()
        assert await storage.get_snapshot(number(1)) == make(1)
        assert await storage.get_replay_log(number(1)) == replay(1).to_dict()
        await storage.save_snapshot(make(2))
        assert await ids_of(storage) == [number(0), number(1), number(2)]


async def test_failed_save_is_in_the_log(gated_place: Place) -> None:
    """The engine swallows the error, so the log names snapshot and saga."""
    await gated_place.cut()
    async with gated_place.opened() as storage:
        with capture_logs() as logs, pytest.raises(gated_place.unavailable):
            await storage.save_snapshot(make(7))
    [line] = [each for each in logs if each["event"] == "snapshot.save_failed"]
    assert (line["snapshot_id"], line["saga_id"]) == (str(number(7)), str(SAGA))


async def test_health_of_a_place_that_is_away(gated_place: Place) -> None:
    """It says so and why, raises nothing, shows no secret, and is well again afterwards."""
    async with gated_place.opened() as storage:
        for _ in range(2):
            await gated_place.cut()
            health = await storage.health_check()
            assert health.status == "unhealthy"
            assert health.details
            for secret in gated_place.secrets:
                assert secret not in str(health.to_dict())
            await gated_place.mend()
            assert (await storage.health_check()).status == "healthy"
