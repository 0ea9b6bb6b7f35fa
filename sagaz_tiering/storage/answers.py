"""The answer belongs to the question: what came back is compared with what was asked before it is returned.

A swapped value, a frame in the wrong place, a wrong row or another caller's answer is refused, in every storage.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar
from uuid import UUID

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta, SnapshotRef, is_uuid

_Class = TypeVar("_Class", bound=type)
_NOTHING: Final[dict[str, Callable[[], Any]]] = {
    "get_snapshot": lambda: None,
    "get_latest_snapshot": lambda: None,
    "get_snapshot_at_time": lambda: None,
    "list_snapshots": list,
    "delete_snapshot": bool,
    "cleanup_saga": int,
    "get_replay_log": lambda: None,
    "list_replays": list,
}

_HINT = (
    "something else than this package wrote to the store, or its servers were mixed up; delete the snapshot by its id, "
    "or restore the store from a backup"
)


def text_ids_find_nothing(cls: _Class) -> _Class:
    """Let a storage's methods of sagaz answer as sagaz does where an id is text that is no UUID: with nothing.

    What is no text either stays an error: it is a mistake in the program, not the id of something that is gone.
    """
    for name, nothing in _NOTHING.items():
        setattr(cls, name, _finding_nothing(getattr(cls, name), nothing))
    return cls


def _finding_nothing(method: Any, nothing: Callable[[], Any]) -> Any:
    _, id_name, *_ = inspect.signature(method).parameters

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = args[0] if args else kwargs.get(id_name)
        if isinstance(asked, str) and not is_uuid(asked):
            return nothing()
        return await method(self, *args, **kwargs)

    return call


def check_answer(
    found: SagaSnapshot | SnapshotMeta,
    *,
    snapshot_id: UUID | None = None,
    saga_id: UUID | None = None,
    step_name: str | None = None,
    not_after_us: int | None = None,
) -> None:
    """Raise CorruptRecord, naming both, if `found` is not what was asked for (None: any)."""
    if snapshot_id is not None and found.snapshot_id != snapshot_id:
        raise _other(f"snapshot {snapshot_id}", f"snapshot {found.snapshot_id} of saga {found.saga_id}")
    if saga_id is not None and found.saga_id != saga_id:
        raise _other(
            f"snapshot {found.snapshot_id} of saga {saga_id}", f"snapshot {found.snapshot_id} of saga {found.saga_id}"
        )
    if step_name is not None and found.step_name != step_name:
        raise _other(f"step {step_name!r:.100}", f"snapshot {found.snapshot_id} of step {found.step_name!r:.100}")
    if not_after_us is not None and created_us(found) > not_after_us:
        raise _other(
            f"what was created by {from_micros(not_after_us).isoformat()}",
            f"snapshot {found.snapshot_id}, created at {from_micros(created_us(found)).isoformat()}",
        )


def check_place(found: SnapshotMeta, ref: SnapshotRef) -> None:
    """Raise CorruptRecord unless `found` is the snapshot that an index places there: its ids, order and step."""
    check_answer(found, snapshot_id=ref.snapshot_id, saga_id=ref.saga_id)
    if (found.created_us, found.step_index, found.step_name) != (
        to_micros(ref.created_at),
        ref.step_index,
        ref.step_name,
    ):
        raise CorruptRecord(
            f"snapshot {found.snapshot_id}: its index says step {ref.step_index} {ref.step_name!r:.100} at "
            f"{ref.created_at.isoformat()}, its bytes say step {found.step_index} {found.step_name!r:.100} at "
            f"{from_micros(found.created_us).isoformat()}",
            hint=_HINT,
        )


def checked_replay(
    record: dict[str, Any], *, replay_id: UUID | None = None, saga_id: UUID | None = None
) -> dict[str, Any]:
    """A replay record. Raises CorruptRecord, naming both, if it is not the one that was asked for."""
    if replay_id is not None and record["replay_id"] != str(replay_id):
        raise _other(f"replay {replay_id}", f"replay {record['replay_id']}")
    if saga_id is not None and record["original_saga_id"] != str(saga_id):
        raise _other(f"a replay of saga {saga_id}", f"replay {record['replay_id']} of {record['original_saga_id']}")
    return record


def created_us(found: SagaSnapshot | SnapshotMeta) -> int:
    """When it was created, in microseconds."""
    return found.created_us if isinstance(found, SnapshotMeta) else to_micros(found.created_at)


def _other(asked: str, found: str) -> CorruptRecord:
    return CorruptRecord(f"{asked} was asked for, {found} came back", hint=_HINT)
