"""Real sagas of both of sagaz's engines, captured from outside."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sagaz
from sagaz.core.replay.saga_replay import SagaReplay
from sagaz.core.saga import Saga as ExecutedSaga
from structlog.testing import capture_logs

from sagaz_tiering import InMemorySnapshotStorage, ReplayConfig, SagaSnapshot, SnapshotStrategy, capture, saga_uuid
from sagaz_tiering.errors import ConfigError, HotTierUnavailable
from sagaz_tiering.logs import Repeated
from sagaz_tiering.sagaz_engine import capture as capturing
from sagaz_tiering.sagaz_engine.replay import replay
from sagaz_tiering.sagaz_engine.time_travel import state_at, state_changes

STEPS = ("reserve", "charge", "ship")


def config(strategy: SnapshotStrategy, **changes: Any) -> ReplayConfig:
    """What is captured when."""
    return ReplayConfig(enable_snapshots=True, snapshot_strategy=strategy, **changes)


async def executed(*, dag: bool, fail: str = "", stuck: bool = False, **how: Any) -> ExecutedSaga:
    """A saga of three steps; with `dag`, the last two run at once after the first."""
    saga = ExecutedSaga(name="order", retry_backoff_base=0.0, **how)
    saga.context.set("order", "A-17")

    def action(name: str) -> Any:
        async def act(context: Any) -> dict[str, Any]:
            await asyncio.sleep(0)
            if name == fail:
                raise RuntimeError(f"{name} failed")
            context.set(f"did {name}", True)
            return {"of": name}

        return act

    async def undo(_result: Any, context: Any) -> None:
        if stuck:
            raise RuntimeError("cannot be undone")
        context.set("undone", True)

    for name in STEPS:
        needs = None if not dag else set() if name == "reserve" else {"reserve"}
        await saga.add_step(name, action(name), undo, max_retries=0, dependencies=needs)
    return saga


class Declared(sagaz.Saga):
    """The same with decorators."""

    saga_name = "order"
    fails = ""

    @sagaz.action("reserve")
    async def reserve(self, ctx: dict[str, Any]) -> dict[str, Any]:
        return self.did("reserve")

    @sagaz.compensate("reserve")
    async def release(self, ctx: dict[str, Any]) -> None:
        ctx["undone"] = True

    @sagaz.action("charge", depends_on=["reserve"])
    async def charge(self, ctx: dict[str, Any]) -> dict[str, Any]:
        return self.did("charge")

    @sagaz.action("ship", depends_on=["reserve"])
    async def ship(self, ctx: dict[str, Any]) -> dict[str, Any]:
        return self.did("ship")

    def did(self, name: str) -> dict[str, Any]:
        """A step's work."""
        if name == self.fails:
            raise RuntimeError(f"{name} failed")
        return {f"did {name}": True}


async def captured(storage: InMemorySnapshotStorage, saga_id: Any) -> list[tuple[str, str]]:
    """(step, status) of what was captured, oldest first."""
    return [(s.step_name, s.status) for s in reversed(await storage.list_snapshots(saga_uuid(saga_id)))]


def wanted(strategy: SnapshotStrategy, fail: str, end: str) -> list[tuple[str, str]]:
    """What each strategy captures of a saga whose steps run one after the other."""
    begun = list(STEPS[: STEPS.index(fail) + 1] if fail else STEPS)
    done = begun[:-1] if fail else begun
    steps = {
        SnapshotStrategy.BEFORE_EACH_STEP: [(name, "executing") for name in begun],
        SnapshotStrategy.AFTER_EACH_STEP: [(name, "executing") for name in done],
        SnapshotStrategy.ON_FAILURE: [(fail, "compensating")] if fail else [],
    }
    return [*steps.get(strategy, []), (f"__{end}__", end)]


@pytest.mark.parametrize("strategy", list(SnapshotStrategy))
@pytest.mark.parametrize(("fail", "stuck"), [("", False), ("charge", False), ("charge", True), ("ship", False)])
async def test_capture_of_an_executed_saga_takes_each_strategy_and_the_end(
    strategy: SnapshotStrategy, fail: str, stuck: bool
) -> None:
    """One step after the other: what each strategy promises, and how it ended."""
    storage = InMemorySnapshotStorage()
    saga = await executed(dag=False, fail=fail, stuck=stuck)
    capture(saga, storage, config(strategy))
    result = await saga.execute()
    end = "completed" if not fail else "failed" if stuck else "rolled_back"
    assert result.status.value == end
    assert await captured(storage, saga.saga_id) == wanted(strategy, fail, end)


@pytest.mark.parametrize("strategy", list(SnapshotStrategy))
@pytest.mark.parametrize("fail", ["", "charge"])
@pytest.mark.parametrize("kind", ["executed", "declared"])
async def test_capture_of_parallel_steps_takes_each_strategy_and_the_end(
    strategy: SnapshotStrategy, fail: str, kind: str
) -> None:
    """Steps with dependencies, of which the engine itself captures nothing."""
    storage = InMemorySnapshotStorage()
    if kind == "executed":
        saga: Any = await executed(dag=True, fail=fail)
        capture(saga, storage, config(strategy))
        await saga.execute()
        saga_id = saga.saga_id
    else:
        saga, saga_id = Declared(), str(uuid4())
        saga.fails = fail
        capture(saga, storage, config(strategy))
        try:
            await saga.run({"order": "A-17"}, saga_id)
        except RuntimeError:
            assert fail
    found = await captured(storage, saga_id)
    end = "rolled_back" if fail else "completed"
    assert found[-1] == (f"__{end}__", end)
    expected = {
        SnapshotStrategy.BEFORE_EACH_STEP: {("reserve", "executing"), ("charge", "executing"), ("ship", "executing")},
        SnapshotStrategy.AFTER_EACH_STEP: {(s, "executing") for s in STEPS if s != fail},
        SnapshotStrategy.ON_FAILURE: {(fail, "compensating")} if fail else set(),
    }.get(strategy, set())
    assert set(found[:-1]) == expected
    assert len(found) == len(expected) + 1


@pytest.mark.parametrize("kind", ["executed", "declared"])
async def test_capture_of_the_end_does_not_count_what_was_undone(kind: str) -> None:
    """Who resumes from there does these steps again."""
    storage = InMemorySnapshotStorage()
    saga: Any = await executed(dag=False, fail="charge") if kind == "executed" else Declared()
    saga.fails = "charge"
    capture(saga, storage, config(SnapshotStrategy.ON_FAILURE))
    saga_id = saga.saga_id if kind == "executed" else str(uuid4())
    if kind == "executed":
        await saga.execute()
    else:
        with pytest.raises(RuntimeError):
            await saga.run({}, saga_id)
    end, failure = await storage.list_snapshots(saga_id)
    assert "reserve" in failure.completed_steps
    assert "reserve" not in end.completed_steps


async def test_capture_takes_the_context_of_that_instant() -> None:
    """After a step its result is in; before it, it is not; what later steps change does not show."""
    storage = InMemorySnapshotStorage()
    saga = await executed(dag=False)
    saga.context.set("items", [])
    capture(saga, storage, config(SnapshotStrategy.AFTER_EACH_STEP))
    first = saga.steps[0].action

    async def grow(context: Any) -> Any:
        context.get("items").append("x")
        return await first(context)

    saga.steps[0].action = saga.steps[1].action = grow
    await saga.execute()
    states = list(reversed(await storage.list_snapshots(saga.saga_id)))
    assert [len(state.context["items"]) for state in states] == [1, 2, 2, 2]
    assert states[0].context["reserve"] == {"of": "reserve"}
    assert "charge" not in states[0].context
    assert [state.completed_steps for state in states] == [["reserve"], ["reserve", "charge"], list(STEPS), list(STEPS)]
    assert [state.step_index for state in states] == [0, 1, 2, 3]


async def test_capture_replaces_the_engines_own() -> None:
    """A saga that was given a storage is captured once, with the retention that its configuration says."""
    storage, settings = InMemorySnapshotStorage(), config(SnapshotStrategy.AFTER_EACH_STEP, retention_days=7)
    saga = await executed(dag=False, replay_config=settings, snapshot_storage=storage)
    capture(saga)
    await saga.execute()
    found = await storage.list_snapshots(saga.saga_id)
    assert len(found) == len(STEPS) + 1
    assert all(s.retention_until and s.retention_until - s.created_at < timedelta(days=8) for s in found)


async def test_capture_without_configuration_leaves_the_end_to_policies() -> None:
    """Nothing expires after a number of days that nobody wrote down."""
    storage = InMemorySnapshotStorage()
    saga = await executed(dag=False)
    capture(saga, storage)
    await saga.execute()
    assert [s.retention_until for s in await storage.list_snapshots(saga.saga_id)] == [None] * 4


async def test_capture_keeps_at_most_so_many_snapshots_of_a_saga() -> None:
    """`max_snapshots_per_saga` of sagaz's configuration: the newest stay, the end among them."""
    storage = InMemorySnapshotStorage()
    saga = await executed(dag=False)
    capture(saga, storage, config(SnapshotStrategy.AFTER_EACH_STEP, max_snapshots_per_saga=2))
    await saga.execute()
    assert await captured(storage, saga.saga_id) == [("ship", "executing"), ("__completed__", "completed")]


async def test_capture_maps_ids_that_are_no_uuids_and_keeps_their_text() -> None:
    """An order number as saga id: always the same UUID, and the text is in every snapshot."""
    storage, saga = InMemorySnapshotStorage(), Declared()
    capture(saga, storage)
    await saga.run({}, "order-2026-17")
    (state, *_) = await storage.list_snapshots(saga_uuid("order-2026-17"))
    assert state.external_refs == {"saga_id": "order-2026-17"}
    assert saga_uuid("order-2026-17") == UUID("f809d94d-7657-5005-99d8-cbf184835a66")


class Away(InMemorySnapshotStorage):
    """Nothing can be saved."""

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        raise HotTierUnavailable("Redis is away")


async def test_capture_that_cannot_save_is_logged_and_breaks_no_saga(monkeypatch: pytest.MonkeyPatch) -> None:
    """The business goes on, and the log says what is missing."""
    monkeypatch.setattr(capturing, "_outage", Repeated())
    saga = await executed(dag=True)
    capture(saga, Away())
    with capture_logs() as logs:
        assert (await saga.execute()).success
    (failed,) = [entry for entry in logs if entry["event"] == "capture.failed"]  # once, not with every step
    assert "Redis is away" in failed["error"]


async def test_capture_saves_beside_a_step_that_did_its_work() -> None:
    """A slow storage may not make the engine believe that a step which charged a card has timed out."""

    class Slow(InMemorySnapshotStorage):
        async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
            await slow.wait()
            await super().save_snapshot(snapshot)

    slow, storage = asyncio.Event(), Slow()
    saga = ExecutedSaga(name="order")

    async def charge(_context: Any) -> str:
        asyncio.get_running_loop().call_later(0.3, slow.set)
        return "charged"

    await saga.add_step("charge", charge, timeout=0.1, max_retries=0)
    capture(saga, storage)
    assert (await saga.execute()).success
    assert await captured(storage, saga.saga_id) == [("charge", "executing"), ("__completed__", "completed")]


async def test_capture_goes_on_in_a_replay() -> None:
    """A saga resumed by the engine from a captured checkpoint is captured as well."""
    storage = InMemorySnapshotStorage()
    saga = await executed(dag=False, fail="charge")
    capture(saga, storage, config(SnapshotStrategy.BEFORE_EACH_STEP))
    await saga.execute()

    async def again(_name: str) -> Any:
        made = await executed(dag=False)
        return capture(made, storage, config(SnapshotStrategy.AFTER_EACH_STEP)).saga

    replay = SagaReplay(saga_id=UUID(saga.saga_id), snapshot_storage=storage, saga_factory=again)
    result = await replay.from_checkpoint("charge")
    states = list(reversed(await storage.list_snapshots(result.new_saga_id)))
    assert [state.step_name for state in states] == ["charge", "ship", "__completed__"]
    assert states[-1].completed_steps == list(STEPS)


class Ordered(sagaz.Saga):
    """Steps whose names do not follow their order; the last one fails while the context says so."""

    saga_name = "order"

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def did(self, name: str) -> dict[str, Any]:
        """A step's work."""
        self.ran.append(name)
        return {f"did {name}": True}

    @sagaz.action("reserve")
    async def reserve(self, ctx: dict[str, Any]) -> dict[str, Any]:
        return self.did("reserve")

    @sagaz.compensate("reserve")
    async def release(self, ctx: dict[str, Any]) -> None:
        self.ran.append("release")

    @sagaz.action("charge", depends_on=["reserve"])
    async def charge(self, ctx: dict[str, Any]) -> dict[str, Any]:
        return self.did("charge")

    @sagaz.action("announce", depends_on=["charge"])
    async def announce(self, ctx: dict[str, Any]) -> dict[str, Any]:
        if ctx.get("fails"):
            raise RuntimeError("nobody listens")
        return self.did("announce")


async def test_capture_of_declared_steps_counts_them_as_they_run() -> None:
    """`sagaz` lists them by name: `step_index` says which was first all the same."""
    storage, saga = InMemorySnapshotStorage(), Ordered()
    capture(saga, storage)
    await saga.run({}, saga_id="A-17")
    taken = reversed(await storage.list_snapshots(saga_uuid("A-17")))
    assert [(s.step_index, s.step_name) for s in taken] == [
        (0, "reserve"),
        (1, "charge"),
        (2, "announce"),
        (3, "__completed__"),
    ]


@pytest.mark.parametrize("fails", [False, True])
async def test_declared_saga_is_replayed(fails: bool) -> None:
    """The engine resumes only its other kind: here what was completed is skipped, and undone if it fails again."""
    storage, saga, again = InMemorySnapshotStorage(), Ordered(), Ordered()
    capture(saga, storage)
    with pytest.raises(RuntimeError, match="nobody listens"):
        await saga.run({"fails": True}, saga_id="A-17")
    result = await replay(
        storage,
        saga_uuid("A-17"),
        "charge",
        factory=lambda _name: capture(again, storage).saga,
        override={"fails": fails},
    )
    assert result.replay_status.value == ("failed" if fails else "success")
    assert again.ran == (["release"] if fails else ["announce"])
    (log,) = await storage.list_replays(saga_uuid("A-17"))
    states = list(reversed(await storage.list_snapshots(UUID(str(log["new_saga_id"])))))
    end = ("__rolled_back__", ["charge"]) if fails else ("__completed__", ["reserve", "charge", "announce"])
    assert (states[-1].step_name, states[-1].completed_steps) == end
    assert [s.step_name for s in states[:-1]] == ([] if fails else ["announce"])


async def test_capture_takes_one_by_hand() -> None:
    """Under MANUAL an application decides; before the saga runs there is nothing to take."""
    storage = InMemorySnapshotStorage()
    saga = await executed(dag=False)
    made = capture(saga, storage, config(SnapshotStrategy.MANUAL))
    with pytest.raises(ConfigError):
        await made.snapshot("too early")
    second = saga.steps[1].action

    async def noted(context: Any) -> Any:
        await made.snapshot("before the bank")
        return await second(context)

    saga.steps[1].action = noted
    await saga.execute()
    assert await captured(storage, saga.saga_id) == [("before the bank", "executing"), ("__completed__", "completed")]


def test_capture_refuses_what_is_no_saga() -> None:
    """Neither a dictionary nor a saga without a storage."""
    with pytest.raises(ConfigError, match="no saga"):
        capture({}, InMemorySnapshotStorage())
    with pytest.raises(ConfigError, match="no storage"):
        capture(Declared())


async def test_time_travel_sees_more_than_a_hundred_snapshots() -> None:
    """The engine looks at the newest hundred and answers None for what was before."""
    storage = InMemorySnapshotStorage()
    saga = ExecutedSaga(name="long")
    for number in range(120):
        await saga.add_step(f"step {number}", lambda _context, n=number: n, max_retries=0)
    capture(saga, storage)
    await saga.execute()
    changes = await state_changes(storage, saga.saga_id, limit=500)
    assert [state.current_step for state in changes] == [*(f"step {n}" for n in range(120)), "__completed__"]
    early = await state_at(storage, saga.saga_id, changes[3].timestamp)
    assert early is not None
    assert early.to_dict() == changes[3].to_dict()
    within = await state_changes(storage, saga.saga_id, after=changes[5].timestamp, before=changes[7].timestamp)
    assert [state.current_step for state in within] == ["step 5", "step 6", "step 7"]
