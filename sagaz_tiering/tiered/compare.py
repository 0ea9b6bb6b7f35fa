"""Two snapshots side by side, and what each step of a saga changed."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeGuard
from uuid import UUID

from sagaz_tiering.codec.changes import ValueChange, changes, patch, snapshot_document
from sagaz_tiering.errors import NoSuchSnapshot, SnapshotArchived, Unreadable
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef, as_utc, is_uuid
from sagaz_tiering.tiered.merge import Copy
from sagaz_tiering.tiered.read import Reader

Which = UUID | str | datetime | None
"""A snapshot of a saga: its id, a step (`charge`, or `charge#2`: the second time), an instant (aware, or as ISO 8601),
None for the newest."""

WHY_NONE: Final = "it never saved one here, all have expired, or it was erased (see: sagaz-tiering erasures)"
"""Of a saga of which there is no snapshot."""
_STATE: Final = ("/status", "/context", "/completed_steps", "/external_refs")
_NOTHING: Final[dict[str, Any]] = {"context": {}, "completed_steps": [], "external_refs": {}}
_BODIES: Final = 20
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDiff:
    """Two snapshots, and how the JSON form of one (`show`) becomes that of the other.

    `changes` are those of the saga's state (status, context, completed steps, external references), in the order of the
    document; `patch` is all of it as RFC 6902, ids, names and times included.
    """

    before: SagaSnapshot
    after: SagaSnapshot
    changes: Sequence[ValueChange]
    patch: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChanges:
    """What a snapshot changed of the saga's state since the one before it; `unknown` says why that cannot be told."""

    ref: SnapshotRef
    changes: Sequence[ValueChange] = ()
    unknown: str | None = None


async def diff(reader: Reader, saga_id: UUID, a: Which, b: Which, other_id: UUID) -> SnapshotDiff:
    """`a` of one saga and `b` of the other, or of the same."""
    while True:
        copies = [await _find(reader, saga_id, a), await _find(reader, other_id, b)]
        once = {copy.ref.snapshot_id: copy for copy in copies}
        found = {each.snapshot_id: each for each in await reader.load(list(once.values()))}
        before, after = (found.get(copy.ref.snapshot_id) for copy in copies)
        if _is_still(before, copies[0].ref) and _is_still(after, copies[1].ref):
            return await asyncio.to_thread(_compared, before, after)


async def step_changes(reader: Reader, saga_id: UUID) -> AsyncIterator[StepChanges]:
    """What each live snapshot of a saga changed, oldest first; a few bodies are in memory at a time."""
    copies = (await reader.timeline(saga_id))[::-1]
    before: SagaSnapshot | None = None
    for start in range(0, len(copies), _BODIES):
        page = copies[start : start + _BODIES]
        errors: dict[UUID, Unreadable] = {}
        try:
            loaded: Sequence[SagaSnapshot] = await reader.load(page)
        except Unreadable as exc:
            loaded, errors = exc.readable, dict(exc.unreadable)
        found = {each.snapshot_id: each for each in loaded}
        for copy in page:
            snapshot, error = found.get(copy.ref.snapshot_id), errors.get(copy.ref.snapshot_id)
            if error is not None:
                yield StepChanges(ref=copy.ref, unknown=_why(error))
            elif snapshot is None:  # deleted meanwhile
                continue
            elif before is None and copy is not copies[0]:
                yield StepChanges(ref=copy.ref, unknown="the one before it cannot be read")
            else:
                yield StepChanges(ref=copy.ref, changes=await asyncio.to_thread(_changed, before, snapshot))
            before = snapshot


async def _find(reader: Reader, saga_id: UUID, which: Which) -> Copy:
    if isinstance(which, UUID):
        found = await _by_id(reader, saga_id, which)
    elif isinstance(which, str):
        found = await _by_text(reader, saga_id, which)
    else:
        not_after = None if which is None else as_utc(which, "a time")
        found = await reader.timeline(saga_id, not_after=not_after, limit=1)
    if found:
        return found[0]
    copies = (await reader.timeline(saga_id))[::-1]
    if not copies:
        raise NoSuchSnapshot(f"no snapshots of saga {saga_id}", hint=WHY_NONE)
    asked = which.isoformat() if isinstance(which, datetime) else repr(str(which))
    raise NoSuchSnapshot(f"saga {saga_id} has no snapshot {asked}", hint=f"it has {_listed(copies)}")


async def _by_id(reader: Reader, saga_id: UUID, snapshot_id: UUID) -> list[Copy]:
    found = await reader.live_copies(snapshot_id)
    for copy in found:
        if copy.ref.saga_id != saga_id:
            raise NoSuchSnapshot(
                f"snapshot {snapshot_id} is of saga {copy.ref.saga_id}, not of {saga_id}",
                hint="name both sagas to compare one with the other",
            )
    return found


async def _by_text(reader: Reader, saga_id: UUID, text: str) -> list[Copy]:
    """A step of that name counts first, whatever else the name looks like."""
    if found := await reader.timeline(saga_id, step_name=text, limit=1):
        return found
    if (numbered := re.fullmatch(r"(.+)#(\d{1,9})", text, re.DOTALL)) is not None:
        times = (await reader.timeline(saga_id, step_name=numbered[1]))[::-1]
        if 0 < int(numbered[2]) <= len(times):
            return [times[int(numbered[2]) - 1]]
        if times:
            raise NoSuchSnapshot(f"saga {saga_id} has no {text}", hint=f"it has {_listed(times)}")
    if is_uuid(text):
        return await _by_id(reader, saga_id, UUID(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return []
    if moment.utcoffset() is None:
        raise NoSuchSnapshot(
            f"saga {saga_id} has no step {text!r}, and as a time it has no zone",
            hint=f"write it like {moment.isoformat()}Z for UTC",
        )
    return await reader.timeline(saga_id, not_after=as_utc(moment, "a time"), limit=1)


def step_labels(refs: Iterable[SnapshotRef]) -> dict[UUID, str]:
    """How `diff` finds each of a saga's snapshots (all, oldest first): `charge`, `charge#2` where there are several."""
    refs = list(refs)
    often, times, labels = Counter(ref.step_name for ref in refs), Counter[str](), dict[UUID, str]()
    for ref in refs:
        times[ref.step_name] += 1
        number = f"#{times[ref.step_name]}" if often[ref.step_name] > 1 else ""
        labels[ref.snapshot_id] = ref.step_name + number
    return labels


def _listed(copies: Sequence[Copy]) -> str:
    """The newest of these, with their times."""
    refs = [copy.ref for copy in copies]
    labels = step_labels(refs)
    shown = ", ".join(f"{labels[ref.snapshot_id]} ({ref.created_at.isoformat()})" for ref in refs[-_SHOWN:])
    return shown if len(refs) <= _SHOWN else f"{len(refs)}, the newest of which are {shown}"


def _is_still(snapshot: SagaSnapshot | None, ref: SnapshotRef) -> TypeGuard[SagaSnapshot]:
    """Whether it was not deleted since, nor saved anew as another step or of another time."""
    return snapshot is not None and (snapshot.step_name, snapshot.created_at) == (ref.step_name, ref.created_at)


def _compared(before: SagaSnapshot, after: SagaSnapshot) -> SnapshotDiff:
    found = changes(snapshot_document(before), snapshot_document(after))
    return SnapshotDiff(
        before=before,
        after=after,
        changes=[each for each in found if each.path.startswith(_STATE)],
        patch=patch(found),
    )


def _changed(before: SagaSnapshot | None, after: SagaSnapshot) -> list[ValueChange]:
    return changes(_NOTHING if before is None else _state(before), _state(after))


def _state(snapshot: SagaSnapshot) -> dict[str, Any]:
    return {name: value for name, value in snapshot_document(snapshot).items() if f"/{name}" in _STATE}


def _why(error: Unreadable) -> str:
    return f"archived in {error.storage_class}" if isinstance(error, SnapshotArchived) else f"unreadable: {error}"
