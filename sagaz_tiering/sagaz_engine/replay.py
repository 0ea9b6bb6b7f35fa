"""Replays by the `sagaz` engine on snapshots of ours: which code, from which step, with what changed.

The engine's own replay log leaves out the override; here it is recorded, since an auditor asks for it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sagaz_tiering.errors import ConfigError, MissingDependencyError, NoSuchSnapshot, SagazTieringError
from sagaz_tiering.sagaz_engine.capture import COMPENSATED, COMPLETED, STUCK
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

SagaFactory = Callable[[str], Any]
"""From a saga's name to a `sagaz` Saga that is not executed yet, or to an awaitable of one."""


class ReplayFailed(SagazTieringError):
    """The saga was replayed and failed again, or could not be resumed; the replay log says so too."""


def load_factory(reference: str) -> SagaFactory:
    """The factory that `package.module:name` names: a function of the saga's name or of nothing, or a Saga class.

    The working directory is importable. Raises ConfigError that says what is wrong with the reference.
    """
    module_name, separator, path = reference.partition(":")
    if not separator or not module_name or not path:
        raise ConfigError(f"{reference!r:.200} is not a factory", hint="write it like shop.sagas:make_saga")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
    except ImportError as exc:
        raise ConfigError(f"cannot import {module_name!r}: {exc}", hint="run it where the saga's code is") from exc
    except AttributeError as exc:
        raise ConfigError(f"{module_name} has no {path!r}: {exc}") from exc
    if not callable(found):
        raise ConfigError(f"{reference} is a {type(found).__name__}, not a function or a Saga class")
    return _of_name(found)


async def replay(
    storage: SnapshotStorage,
    saga_id: UUID,
    step: str,
    *,
    factory: SagaFactory | None,
    override: Mapping[str, Any] | None = None,
    initiated_by: str = "system",
    dry_run: bool = False,
) -> Any:
    """Resume a saga from its snapshot of `step` with keys of the context replaced; sagaz's ReplayResult.

    With `dry_run` nothing is executed, only the snapshot read. Both are written to the replay log. Raises
    NoSuchSnapshot, ReplayFailed, and what the storage raises (SnapshotArchived: restore first).
    """
    try:
        from sagaz.core.replay import SnapshotNotFoundError  # type: ignore[import-untyped]  # sagaz ships no types
        from sagaz.core.replay.saga_replay import SagaReplay  # type: ignore[import-untyped]
    except ImportError as exc:
        raise MissingDependencyError("sagaz", "a replay") from exc
    engine = SagaReplay(
        saga_id=saga_id,
        snapshot_storage=_Recording(storage, override),
        initiated_by=initiated_by,
        saga_factory=None if factory is None else _awaited(factory),
    )
    try:
        result = await engine.from_checkpoint(
            step, context_override=dict(override) if override else None, dry_run=dry_run
        )
    except SnapshotNotFoundError as exc:
        raise NoSuchSnapshot(
            str(exc), hint=f"see the saga's steps: sagaz-tiering replay list-changes {saga_id}"
        ) from exc
    except Exception as exc:  # the engine wraps whatever the saga's code raised
        cause = exc.__cause__
        if isinstance(cause, SagazTieringError):
            raise cause from exc
        raise ReplayFailed(str(exc), hint="the saga's code raised it; the replay log has it too") from exc
    result.context_override = dict(override) if override else None
    return result


class _Recording:
    """A storage whose replay log also gets the override."""

    def __init__(self, storage: SnapshotStorage, override: Mapping[str, Any] | None) -> None:
        self._storage = storage
        self._override = override

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def save_replay_log(self, result: Any) -> None:
        result.context_override = dict(self._override) if self._override else None
        await self._storage.save_replay_log(result)


def _of_name(factory: Callable[..., Any]) -> SagaFactory:
    """A class, or a function without parameters, is called without the saga's name."""
    if inspect.isclass(factory):
        return lambda _name: factory()
    try:
        inspect.signature(factory).bind("saga name")
    except TypeError:
        return lambda _name: factory()
    return factory


def _awaited(factory: SagaFactory) -> Callable[[str], Awaitable[Any]]:
    async def make(name: str) -> Any:
        made = factory(name)
        made = await made if inspect.isawaitable(made) else made
        return _Declared(made) if hasattr(made, "get_execution_order") else made

    return make


class _Declared:
    """A `sagaz.Saga` (decorators, `depends_on`) as the engine's replay wants a saga: it knows only its other kind."""

    def __init__(self, saga: Any) -> None:
        self._saga = saga
        self.saga_id = ""
        self.steps = saga.get_steps()

    async def execute_from_snapshot(
        self, snapshot: SagaSnapshot, override: Mapping[str, Any] | None
    ) -> SimpleNamespace:
        """Run what was not completed then; what was is undone with the rest if that fails. What the engine looks at."""
        from sagaz.core.decorators._execution import ExecutionEngine  # type: ignore[import-untyped]

        done = set(snapshot.completed_steps)

        class Resumed(ExecutionEngine):  # type: ignore[misc]  # sagaz ships no types
            async def _execute_all_levels(self) -> None:
                await self._notify_listeners("on_resumed", list(done))
                await super()._execute_all_levels()

            async def _execute_step(self, step: Any) -> None:
                if step.step_id not in done:
                    await super()._execute_step(step)
                    return
                self.saga._compensation_graph.mark_step_executed(step.step_id)
                if step.pivot:
                    self.saga._propagate_taint_from_pivot(step.step_id)

        # Without what the engine noted of the steps in the run before.
        marks = {mark.format(step.step_id) for step in self.steps for mark in (COMPLETED, COMPENSATED, STUCK)}
        context = {key: value for key, value in snapshot.context.items() if key not in marks} | dict(override or {})
        context |= {COMPLETED.format(name): True for name in done}
        try:
            await Resumed(self._saga).run(context, self.saga_id)
        except Exception as exc:  # noqa: BLE001 - whatever a step of the application raises is how it ended
            return SimpleNamespace(success=False, error=exc)
        return SimpleNamespace(success=True, error=None)
