"""The real `sagaz` engine on every storage: what it captures, replays and looks back at."""

from __future__ import annotations

import logging
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog
from sagaz.core import replay as engine
from sagaz.core.replay.saga_replay import SagaReplay
from sagaz.core.replay.time_travel import SagaTimeTravel
from support.snapshots import save_failures
from support.stores import Place

import sagaz_tiering
from examples.shop import OrderSaga
from sagaz_tiering.errors import NoSuchSnapshot
from sagaz_tiering.sagaz_engine.replay import ReplayFailed, replay
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

GOOD = {"amount": Decimal("49.90"), "card": "good"}
BAD = {**GOOD, "card": "expired"}
STEPS = ["reserve_stock", "charge_card", "book_parcel"]


async def run(storage: Any, order: dict[str, Any], config: Any = None) -> OrderSaga:
    """One saga, executed to its end, good or bad."""
    saga = OrderSaga(order, storage, config)
    await saga.build()
    await saga.execute()
    return saga


def add_policies(config: Path, policies: str) -> None:
    """To a file that has none."""
    config.write_text(f"{config.read_text()}policies: {policies}\n")


@pytest.fixture(autouse=True)
def _virtual_time_is_now(place: Place) -> None:
    """The engine stamps snapshots with the real time."""
    place.clock.advance(engine.datetime.now(engine.UTC) - place.clock.now())


@pytest.mark.parametrize("package", [sagaz_tiering, engine], ids=["ours", "theirs"])
@pytest.mark.parametrize(
    ("strategy", "captured"),
    [
        ("BEFORE_EACH_STEP", STEPS),
        ("AFTER_EACH_STEP", [*STEPS, "__completed__"]),
        ("ON_COMPLETION", ["__completed__"]),
        ("ON_FAILURE", []),
        ("MANUAL", []),
    ],
)
async def test_strategy_captures_what_the_engine_promises(
    storage: SnapshotStorage, strategy: str, captured: list[str], package: Any
) -> None:
    """With the configuration classes of either package; sagaz 1.5.0 captures nothing on failure."""
    config = package.ReplayConfig(enable_snapshots=True, snapshot_strategy=package.SnapshotStrategy[strategy])
    saga = await run(storage, GOOD, config)
    found = (await storage.list_snapshots(saga.saga_id))[::-1]
    assert [snapshot.step_name for snapshot in found] == captured
    assert all(snapshot.context["amount"] == Decimal("49.90") for snapshot in found)
    assert all(snapshot.retention_until - snapshot.created_at > timedelta(days=29) for snapshot in found)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_replay_resumes_at_the_checkpoint_with_a_corrected_context(
    storage: SnapshotStorage, asynchronous: bool
) -> None:
    """By sagaz's own SagaReplay, with a factory of either kind."""
    saga = await run(storage, BAD)
    made: list[OrderSaga] = []

    def make(_name: str) -> OrderSaga:
        made.append(OrderSaga(storage=storage))
        return made[-1]

    async def make_later(name: str) -> OrderSaga:
        return make(name)

    replays = SagaReplay(
        saga_id=UUID(saga.saga_id), snapshot_storage=storage, saga_factory=make_later if asynchronous else make
    )
    result = await replays.from_checkpoint("charge_card", context_override={"card": "good"})
    assert result.replay_status == "success"
    assert made[0].context.get("amount") == Decimal("49.90")
    resumed = [s.step_name for s in await storage.list_snapshots(result.new_saga_id)]
    assert resumed == ["book_parcel", "charge_card"]
    assert [record["replay_id"] for record in await replays.get_replay_history()] == [str(result.replay_id)]
    assert len(await replays.list_available_checkpoints()) == 2


async def test_dry_run_reads_and_executes_nothing(storage: SnapshotStorage) -> None:
    """It is noted in the replay log all the same."""
    saga = await run(storage, BAD)
    result = await replay(storage, UUID(saga.saga_id), "charge_card", factory=None, dry_run=True)
    assert result.replay_status == "success"
    assert await storage.list_snapshots(result.new_saga_id) == []
    assert (await storage.get_replay_log(result.replay_id))["replay_status"] == "success"


async def test_replay_log_keeps_the_override(storage: SnapshotStorage) -> None:
    """The engine drops it; `replay` does not, also where the saga fails again."""
    saga_id = UUID((await run(storage, BAD)).saga_id)
    made = [OrderSaga(storage=storage), OrderSaga(storage=storage)]
    good = await replay(storage, saga_id, "charge_card", factory=lambda _: made.pop(), override={"card": "good"})
    bad = await replay(storage, saga_id, "charge_card", factory=lambda _: made.pop(), override={"amount": Decimal(1)})
    assert (good.replay_status, bad.replay_status) == ("success", "failed")
    records = await storage.list_replays(saga_id)
    assert {record["replay_id"]: record["context_override"] for record in records} == {
        str(good.replay_id): {"card": "good"},
        str(bad.replay_id): {"amount": Decimal(1)},
    }


async def test_replay_from_a_step_that_was_never_reached_says_so(storage: SnapshotStorage) -> None:
    """And a factory that raises is a failed replay, not a crash."""
    saga_id = UUID((await run(storage, BAD)).saga_id)
    with pytest.raises(NoSuchSnapshot):
        await replay(storage, saga_id, "book_parcel", factory=lambda _: OrderSaga())
    with pytest.raises(ReplayFailed, match="division"):
        await replay(storage, saga_id, "charge_card", factory=lambda _: 1 // 0)


async def test_time_travel_finds_each_state(storage: SnapshotStorage) -> None:
    """By sagaz's own SagaTimeTravel."""
    saga = await run(storage, GOOD)
    travel = SagaTimeTravel(saga_id=UUID(saga.saga_id), snapshot_storage=storage)
    changes = await travel.list_state_changes()
    assert [change.current_step for change in changes] == STEPS
    for change in changes:
        assert (await travel.get_state_at(change.timestamp)).current_step == change.current_step
    assert await travel.get_context_at(changes[-1].timestamp, key="card") == "good"
    assert await travel.get_state_at(changes[0].timestamp - timedelta(microseconds=1)) is None


async def test_execute_from_snapshot_takes_ours(storage: SnapshotStorage) -> None:
    """The engine reads attributes of what we return."""
    saga = await run(storage, BAD)
    snapshot = await storage.get_latest_snapshot(saga.saga_id, before_step="charge_card")
    assert type(snapshot) is SagaSnapshot
    again = OrderSaga(storage=storage)
    await again.build()
    assert (await again.execute_from_snapshot(snapshot, {"card": "good"})).success


async def test_failing_save_is_seen_although_the_engine_goes_on(
    storage: SnapshotStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """Each in the metrics, and in the log once for the saga: the engine has a line of its own for every step."""
    before = save_failures("NotSerializable")
    with structlog.testing.capture_logs() as logged, caplog.at_level(logging.CRITICAL):
        saga = await run(storage, {**GOOD, "socket": object()})
    assert saga.status.value == "completed"
    assert save_failures("NotSerializable") - before == len(STEPS)
    seen = [line for line in logged if line["event"] == "snapshot.save_failed"]
    assert [line["saga_id"] for line in seen] == [saga.saga_id]


async def test_replay_from_the_cold_tier(place: Place) -> None:
    """A saga whose snapshots are in a pack is replayed as if they were hot."""
    if place.kind != "tiered":
        pytest.skip("one tier only")
    from sagaz_tiering.app.runtime import open_runtime, read_config
    from sagaz_tiering.jobs import run_job

    add_policies(Path(place.options["config"]), "[{name: all, move: [{to: STANDARD_IA, after: 7d}]}]")
    storage = await place.open()
    saga_id = UUID((await run(storage, BAD)).saga_id)
    place.clock.advance(timedelta(days=20))
    async with open_runtime(read_config(place.options["config"]), clock=place.clock) as runtime:
        report = await run_job("age", runtime.job_context())
    assert report.counts["archived"] == 2
    cold = OrderSaga(storage=storage)
    result = await replay(storage, saga_id, "charge_card", factory=lambda _: cold, override={"card": "good"})
    assert result.replay_status == "success"
