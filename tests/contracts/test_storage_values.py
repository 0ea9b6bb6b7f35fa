"""The same values back: every type, every text, nobody's later changes; the same for every storage."""

from __future__ import annotations

import copy
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import uuid4

import pytest
from golden.samples import EVERY_TYPE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sagaz.core.types import SagaStatus
from support.exact import exactly
from support.snapshots import SAGA, ids_of, make, number, save_all
from support.tiers import NOW

from sagaz_tiering.errors import NotSerializable, SnapshotTooLarge
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage

pytestmark = pytest.mark.guarantee("G4")

TEXTS = [
    "",
    " ",
    "Überweisung 東京 🚚 \u202eright to left",
    "nul\0in the middle\0",
    "\0",
    "half \ud800 pair",
    "\udfff",
    "\ud83d\ude00",  # two halves that are not the character they would make
    "\U0001f600",
    "line\r\nbreak\ttab\x1b[31m\x7f\x85\u2028",
    "../../etc/passwd",
    "a/b\\c:d*e?f{g}h[i]|'\"%s$1;--",
    "~tilde",
    "null",
    "e\u0301 is not \xe9",
    "\ufeff\uffff\ufffe",
    "x" * 10_000,
    "ü\0🚚" * 3_333,
]
JSON = {
    "text": "Müller",
    "list": [1, 2.5, -0.0, None, True, {"deep": [[], {}, ""]}],
    "z": 1,
    "a": 2,
    "": 0,
    "1e999": 1e308,
}


class Unregistered(Enum):
    """An enum that nobody registered."""

    A = "a"


async def kept(storage: SnapshotStorage, snapshot: SagaSnapshot) -> SagaSnapshot:
    """What every query gives for a saved snapshot, after checking that they agree to the last bit."""
    await storage.save_snapshot(snapshot)
    found = await storage.get_snapshot(snapshot.snapshot_id)
    assert found is not None
    others = [
        await storage.get_latest_snapshot(snapshot.saga_id),
        await storage.get_latest_snapshot(snapshot.saga_id, before_step=snapshot.step_name),
        await storage.get_snapshot_at_time(snapshot.saga_id, snapshot.created_at),
        *await storage.list_snapshots(snapshot.saga_id),
        *[each async for each in storage.iter_snapshots(snapshot.saga_id)],
    ]
    assert len(others) == 5
    assert all(other is not None and everything(other) == everything(found) for other in others)
    return found


def everything(snapshot: SagaSnapshot) -> Any:
    """All of a snapshot, with exact types."""
    return exactly({name: getattr(snapshot, name) for name in SagaSnapshot.__dataclass_fields__})


async def test_contexts_come_back_exactly(storage: SnapshotStorage) -> None:
    """Types, order of keys, the sign of zero, NaN, folds and zones."""
    until = NOW.replace(year=2200, microsecond=999_999)
    for context in ({}, JSON, EVERY_TYPE):
        snapshot = make(1, saga_id=uuid4(), context=copy.deepcopy(context), retention_until=until)
        assert everything(await kept(storage, snapshot)) == everything(snapshot)


async def test_deep_contexts_come_back(storage: SnapshotStorage) -> None:
    """As deep as is allowed, in lists and in dicts."""
    for innermost in ([], (), {}):
        value: Any = innermost
        for level in range(195):
            value = [value] if level % 2 else {"k": value}
        snapshot = make(1, saga_id=uuid4(), context={"deep": value})
        found = await kept(storage, snapshot)
        assert exactly(found.context) == exactly(snapshot.context)


async def test_every_text_comes_back_wherever_it_stands(storage: SnapshotStorage) -> None:
    """As a name, a status nobody knows, a step, a reference, a key and a value."""
    for text in TEXTS:
        snapshot = make(
            1,
            saga_id=uuid4(),
            saga_name=text,
            step_name=text,
            status=text,
            context={text: text, "list": [text]},
            completed_steps=[text, "", text],
            external_refs={text: text, "other": text},
        )
        assert everything(await kept(storage, snapshot)) == everything(snapshot)


async def test_statuses_are_plain_text(storage: SnapshotStorage) -> None:
    """Every status of the engine, given as its enum, is its value; one that nobody knows is kept."""
    for at, status in enumerate([*SagaStatus, "paused-by-Jürgen", "COMPLETED"]):
        found = await kept(storage, make(at, saga_id=uuid4(), status=status))
        assert found.status == getattr(status, "value", status)
        assert type(found.status) is str


async def test_steps_and_references_come_back(storage: SnapshotStorage) -> None:
    """Many, in their order, repeated."""
    steps = [f"step {at % 7}" for at in range(500)]
    refs = {f"ref {at}": f"s3://bucket/{at}" for at in range(300, 0, -1)}
    snapshot = make(1, completed_steps=steps, external_refs=refs)
    assert everything(await kept(storage, snapshot)) == everything(snapshot)


async def test_changes_by_the_caller_do_not_reach_what_is_stored(storage: SnapshotStorage) -> None:
    """Neither to what was saved nor to what was returned, by any query."""
    context: dict[str, Any] = {"lines": [{"sku": "A1"}], "set": {1}}
    snapshot = make(1, context=context, completed_steps=["a"], external_refs={"a": "b"})
    before = everything(snapshot)
    await storage.save_snapshot(snapshot)
    spoil(snapshot)
    for _ in range(2):
        for found in (
            await storage.get_snapshot(number(1)),
            await storage.get_latest_snapshot(SAGA),
            await storage.get_snapshot_at_time(SAGA, NOW),
            (await storage.list_snapshots(SAGA))[0],
            *[each async for each in storage.iter_snapshots(SAGA)],
        ):
            assert found is not None
            assert everything(found) == before
            spoil(found)


def spoil(snapshot: SagaSnapshot) -> None:
    snapshot.context["lines"][0]["sku"] = "changed"
    snapshot.context["set"].add(2)
    snapshot.context["new"] = 1
    snapshot.completed_steps.append("changed")
    snapshot.external_refs["a"] = "changed"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"context": {"a": {"b": [0, object()]}}}, "context.a.b[1]"),
    ({"context": {"status": Unregistered.A}}, "context.status"),
    ({"context": [("a", 1)]}, "context"),
    ({"completed_steps": ["a", 7]}, "completed_steps[1]"),
    ({"completed_steps": ("a",)}, "completed_steps"),
    ({"external_refs": {"a": None}}, "external_refs.a"),
]


async def test_what_would_not_come_back_is_refused(storage: SnapshotStorage) -> None:
    """With the path of the value; nothing is stored, and an earlier save of the id stays."""
    await save_all(storage, [make(1)])
    for fields, path in REFUSED:
        for at in (1, 2):
            with pytest.raises(NotSerializable) as caught:
                await storage.save_snapshot(make(at, **fields))
            assert caught.value.path == path
    assert await storage.get_snapshot(number(1)) == make(1)
    assert await ids_of(storage) == [number(1)]


async def test_what_is_too_large_is_refused(storage: SnapshotStorage) -> None:
    """A name over 65,535 bytes, with its size and what to do; nothing is stored."""
    with pytest.raises(SnapshotTooLarge, match="65536") as caught:
        await storage.save_snapshot(make(1, step_name="x" * 65_536))
    assert caught.value.hint
    assert await ids_of(storage) == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.decimals()
    | st.uuids()
    | st.dates()
    | st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.tuples(inner)
    ),
    max_leaves=20,
)


@given(context=st.dictionaries(st.text(), values, max_size=6))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
async def test_whatever_is_taken_comes_back(storage: SnapshotStorage, context: dict[str, Any]) -> None:
    """Contexts that nobody thought of."""
    snapshot = make(1, saga_id=uuid4(), snapshot_id=uuid4(), context=context)
    await storage.save_snapshot(snapshot)
    found = await storage.get_snapshot(snapshot.snapshot_id)
    assert found is not None
    assert exactly(found.context) == exactly(context)
