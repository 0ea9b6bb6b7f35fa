"""Snapshots of sagas of the `sagaz` engine, taken from outside: every strategy, parallel steps, and always the end.

The engine's own capture takes nothing under ON_FAILURE, nothing of sagas whose steps have dependencies, and never the
end of a saga that failed. `capture(saga, storage)` attaches to either of its two kinds of saga and takes its place:

    saga = capture(OrderSaga(), storage).saga

What is captured, by strategy (`ReplayConfig.snapshot_strategy`), each with the context as it was then:

    BEFORE_EACH_STEP  before a step's action runs for the first time
    AFTER_EACH_STEP   once a step's action has returned, its result included
    ON_FAILURE        when a step has failed for good, before anything is compensated: status `compensating`
    ON_COMPLETION, MANUAL   nothing in between (`Capture.snapshot` takes one by hand)
    all               the end: step `__completed__`, `__rolled_back__` or `__failed__`, with that status; steps that
                      were undone are not among its completed ones

A snapshot that cannot be saved never breaks the saga: it is logged, and counted by the storage.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any, Final, Protocol
from uuid import UUID, uuid4, uuid5

from sagaz_tiering.clock import Clock, SystemClock
from sagaz_tiering.errors import ConfigError, SagazTieringError, TierUnavailable, UnexpectedFailure
from sagaz_tiering.logs import Logger, Repeated
from sagaz_tiering.snapshot import ReplayConfig, SagaSnapshot, SnapshotStrategy

_log = Logger(__name__)

SAGA_IDS: Final = UUID("5a6a2a00-7ae1-4b1d-9a0e-0c0ffee00001")
"""The namespace of saga ids that are no UUIDs."""
COMPLETED: Final = "__{}_completed"
COMPENSATED: Final = "__{}_compensated"
STUCK: Final = "__{}_compensation_error"
"""What `sagaz.Saga` notes of a step in the context, and nowhere else."""
_INSTANT: Final = timedelta(microseconds=1)


def saga_uuid(saga_id: UUID | str) -> UUID:
    """The id under which the snapshots of a saga are stored: its own if it is a UUID, else one made of the text."""
    if isinstance(saga_id, UUID):
        return saga_id
    try:
        return UUID(saga_id)
    except ValueError:
        return uuid5(SAGA_IDS, saga_id)


def hint_of_saga_id(text: str) -> str:
    """For whoever gives that text where the UUID of a saga is asked for."""
    return f"if it is the id that the saga was run with: it is stored under {saga_uuid(text)}"


class SavesSnapshots(Protocol):
    """What of a storage is needed."""

    async def save_snapshot(self, snapshot: Any, /) -> None: ...
    async def delete_snapshot(self, snapshot_id: Any, /) -> bool: ...


class Capture:
    """Snapshots of one saga (one object; it may run several times). `capture` makes it."""

    def __init__(self, saga: Any, storage: SavesSnapshots, config: ReplayConfig | None, clock: Clock) -> None:
        self.saga = saga
        self.storage, self.config, self.clock = storage, config, clock
        self.run: Run | None = None
        """The run that is under way, or the last one."""

    async def snapshot(self, step_name: str) -> UUID:
        """Take one by hand, now; its id. Raises ConfigError before the saga runs, and what the storage raises."""
        if self.run is None:
            raise ConfigError("the saga has not begun to run", hint="take snapshots by hand from within its steps")
        taken = self.run.take(step_name)
        await self.storage.save_snapshot(taken)
        await self.run.saved(taken.snapshot_id)
        return taken.snapshot_id


class Run:
    """One run of a saga: what its steps did, and the snapshots of it; `context` gives the saga's data at any time."""

    def __init__(
        self, made: Capture, saga_id: UUID | str, name: str, steps: list[str], context: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._storage, self._clock, config = made.storage, made.clock, made.config
        self._strategy = SnapshotStrategy.AFTER_EACH_STEP if config is None else config.snapshot_strategy
        self._most = None if config is None else config.max_snapshots_per_saga
        self._retention = None if config is None else config.get_retention_until
        self._given_id, self._saga_id, self._name = str(saga_id), saga_uuid(saga_id), name
        self.steps, self._context = steps, context
        self.completed: list[str] = []
        self._entered: set[str] = set()
        self._failed: dict[str, SagaSnapshot] = {}
        self._kept: deque[UUID] = deque()
        self._saving: list[asyncio.Task[None]] = []
        self._last = self._clock.now() - timedelta(days=1)

    def take(
        self, step_name: str, *, status: str = "executing", result: Mapping[str, Any] | None = None
    ) -> SagaSnapshot:
        """The saga as it is at this instant, with `result` in its context; later than every one taken before."""
        self._last = max(self._clock.now(), self._last + _INSTANT)
        data = {**self._context(), **(result or {})}
        index = self.steps.index(step_name) if step_name in self.steps else len(self.steps)
        return SagaSnapshot(
            snapshot_id=uuid4(),
            saga_id=self._saga_id,
            saga_name=self._name,
            step_name=step_name,
            step_index=index,
            status=status,
            context=_copied(data),
            completed_steps=list(self.completed),
            created_at=self._last,
            retention_until=None if self._retention is None else self._retention(),
            external_refs={} if self._given_id == str(self._saga_id) else {"saga_id": self._given_id},
        )

    async def enter(self, step_name: str) -> None:
        """A step is about to run; returns when that is saved, if it is to be, and what was taken before."""
        first = step_name not in self._entered
        self._entered.add(step_name)
        if first and self._strategy == SnapshotStrategy.BEFORE_EACH_STEP:
            self._save_soon(self.take(step_name))
        await self.flush()

    def leave(self, step_name: str, result: Mapping[str, Any] | None = None) -> None:
        """A step has ended well. It is saved beside the saga: no time-out of a step that did its work may hit that."""
        if step_name not in self.completed:
            self.completed.append(step_name)
        self._failed.pop(step_name, None)
        if self._strategy == SnapshotStrategy.AFTER_EACH_STEP:
            self._save_soon(self.take(step_name, result=result))

    def fail(self, step_name: str) -> None:
        """A step has failed, perhaps not for good."""
        if self._strategy == SnapshotStrategy.ON_FAILURE:
            self._failed[step_name] = self.take(step_name, status="compensating")

    async def compensate(self) -> None:
        """Something is about to be undone: the failure is for good."""
        self._save_failure()
        await self.flush()

    async def end(self, status: str) -> None:
        """The run is over; returns when everything is saved."""
        if status != "completed":
            self._save_failure()
        self._save_soon(self.take(f"__{status}__", status=status))
        await self.flush()

    async def flush(self) -> None:
        """Wait until what was taken is saved, or has failed to be."""
        saving, self._saving = self._saving, []
        if saving:
            await asyncio.wait(saving)

    async def saved(self, snapshot_id: UUID) -> None:
        """One more of this run is there; the oldest goes where there are to be fewer."""
        self._kept.append(snapshot_id)
        while self._most is not None and len(self._kept) > max(1, self._most):
            await self._storage.delete_snapshot(self._kept.popleft())

    def _save_failure(self) -> None:
        failed, self._failed = self._failed, {}
        for snapshot in failed.values():
            self._save_soon(snapshot)

    def _save_soon(self, snapshot: SagaSnapshot) -> None:
        before = self._saving[-1] if self._saving else None
        self._saving.append(asyncio.create_task(self._save(snapshot, before)))

    async def _save(self, snapshot: SagaSnapshot, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        try:
            await self._storage.save_snapshot(snapshot)
            await self.saved(snapshot.snapshot_id)
        except Exception as exc:  # noqa: BLE001 - whatever a storage raises, the saga goes on
            _tell(snapshot, exc)
        else:
            _outage.over()


_outage = Repeated()


def _tell(snapshot: SagaSnapshot, error: Exception) -> None:
    """Each value that cannot be stored; a storage that takes nothing once in a while, not with every step."""
    times: dict[str, int] | None = {}
    if isinstance(error, (TierUnavailable, UnexpectedFailure)) or not isinstance(error, SagazTieringError):
        times = _outage.due(type(error))
    if times is not None:
        _log.error(
            "capture.failed",
            saga_id=str(snapshot.saga_id),
            step_name=snapshot.step_name,
            error=f"{type(error).__name__}: {error}",
            **times,
        )


def capture(
    saga: Any, storage: SavesSnapshots | None = None, config: Any = None, *, clock: Clock | None = None
) -> Capture:
    """Take snapshots of a saga of `sagaz.Saga` (decorators, `depends_on`) or `sagaz.core.saga.Saga` from now on.

    `storage` and `config` (a ReplayConfig, ours or sagaz's) are those that the saga was given, unless they are named
    here; without any, each step's end is captured, and only policies say when it expires. Raises ConfigError.
    """
    storage = storage or getattr(saga, "snapshot_storage", None)
    if storage is None:
        raise ConfigError("there is no storage to capture into", hint="capture(saga, storage)")
    config = config or getattr(saga, "replay_config", None)
    made = Capture(saga, storage, config, clock or SystemClock())
    if hasattr(saga, "execute_from_snapshot"):
        _attach_to_executed(saga, made)
    elif hasattr(saga, "get_execution_order"):
        # It tells its listeners; the list is the class's, so the saga gets one of its own.
        saga._instance_listeners = [*saga._instance_listeners, _Listener(saga, made)]
    else:
        raise ConfigError(
            f"a {type(saga).__name__} is no saga of sagaz", hint="give a sagaz.Saga or sagaz.core.saga.Saga"
        )
    return made


def _attach_to_executed(saga: Any, made: Capture) -> None:
    """`sagaz.core.saga.Saga` tells nobody what it does, so its steps and its two ways to run are wrapped."""
    if saga.replay_config is not None:
        saga.replay_config = replace(saga.replay_config, enable_snapshots=False)  # the engine's own would come twice
    wrapped: set[int] = set()

    def running(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(run)
        async def run_and_capture(*args: Any, **kwargs: Any) -> Any:
            steps = [step.name for step in saga.steps]
            current = made.run = Run(made, saga.saga_id, saga.name, steps, lambda: saga.context.data)
            for step in saga.steps:
                if id(step) not in wrapped:
                    wrapped.add(id(step))
                    _wrap_step(step, made, saga)
            try:
                result = await run(*args, **kwargs)
            finally:
                await asyncio.shield(current.flush())
            undone = {step.name for step in saga.steps if step.compensated_at is not None}
            current.completed = [name for name in _completed(saga, current) if name not in undone]
            await current.end(result.status.value)
            return result

        return run_and_capture

    saga.execute = running(saga.execute)
    saga.execute_from_snapshot = running(saga.execute_from_snapshot)


def _wrap_step(step: Any, made: Capture, saga: Any) -> None:
    action, compensation = step.action, step.compensation

    @wraps(action)
    async def act(context: Any) -> Any:
        run = made.run
        assert run is not None
        run.completed = _completed(saga, run)
        await run.enter(step.name)
        try:
            result = action(context)
            result = await result if inspect.isawaitable(result) else result
        except BaseException:  # a time-out is a cancellation here
            run.fail(step.name)
            raise
        run.leave(step.name, {step.name: result})  # the engine sets it a moment later
        return result

    step.action = act
    if compensation is None:
        return

    @wraps(compensation)
    async def undo(result: Any, context: Any) -> Any:
        assert made.run is not None
        await made.run.compensate()
        undone = compensation(result, context)
        return await undone if inspect.isawaitable(undone) else undone

    step.compensation = undo


def _completed(saga: Any, run: Run) -> list[str]:
    """In order of completion; the engine notes steps that run at once only when all of them have ended."""
    return list(dict.fromkeys([*(step.name for step in saga.completed_steps), *run.completed]))


def _in_order(saga: Any) -> list[str]:
    """Steps in the order in which they run; `sagaz` lists them by name, and those that run at once in any order."""
    try:
        levels = {step.step_id: at for at, level in enumerate(saga.get_execution_order()) for step in level}
    except ValueError:  # they depend on each other, which the saga fails with
        levels = {}
    return sorted((step.step_id for step in saga.get_steps()), key=lambda name: levels.get(name, 0))


class _Listener:
    """What `sagaz` calls a listener: any of these methods, each awaited. Errors in it are swallowed there."""

    def __init__(self, saga: Any, made: Capture) -> None:
        self._saga, self._made = saga, made

    async def on_saga_start(self, saga_name: str, saga_id: str, ctx: dict[str, Any]) -> None:
        self._made.run = Run(self._made, saga_id, saga_name, _in_order(self._saga), lambda: ctx)

    def on_resumed(self, completed: list[str]) -> None:
        """Told by a replay of ours alone: these steps are not run again."""
        self._run.completed = [name for name in self._run.steps if name in completed]

    async def on_step_enter(self, _saga_name: str, step_name: str, _ctx: dict[str, Any]) -> None:
        await self._run.enter(step_name)

    async def on_step_success(self, _saga_name: str, step_name: str, _ctx: dict[str, Any], _result: Any) -> None:
        self._run.leave(step_name)

    async def on_step_failure(self, _saga_name: str, step_name: str, _ctx: dict[str, Any], _error: Exception) -> None:
        self._run.fail(step_name)

    async def on_compensation_start(self, _saga_name: str, _step_name: str, _ctx: dict[str, Any]) -> None:
        await self._run.compensate()

    async def on_saga_complete(self, _saga_name: str, _saga_id: str, _ctx: dict[str, Any]) -> None:
        await self._run.end("completed")

    async def on_saga_failed(self, _saga_name: str, _saga_id: str, ctx: dict[str, Any], _error: Exception) -> None:
        """Rolled back, unless something could not be undone: the engine notes that in the context alone."""
        self._run.completed = [name for name in self._run.completed if not ctx.get(COMPENSATED.format(name))]
        stuck = any(STUCK.format(step.step_id) in ctx for step in self._saga.get_steps())
        await self._run.end("failed" if stuck else "rolled_back")

    @property
    def _run(self) -> Run:
        assert self._made.run is not None
        return self._made.run


def _copied(data: dict[str, Any]) -> dict[str, Any]:
    """What no step can change any more; a value that cannot be copied is left for the storage to refuse by its path."""
    try:
        return copy.deepcopy(data)
    except Exception:  # noqa: BLE001 - whatever __deepcopy__ of a caller's value raises
        return dict(data)
