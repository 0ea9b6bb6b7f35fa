"""What Redis alone acknowledged is told to the catalog many saves at once, however fast they come."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.snapshots import make

from sagaz_tiering import metrics
from sagaz_tiering.catalog.hot_saves import HotSaves
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.errors import CatalogUnavailable, StatementRefused
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.tiered.hot_notes import HotNotes


class Saves(HotSaves):
    """A table in which, whenever something is noted, one more save has just been acknowledged."""

    def __init__(self) -> None:
        self.noted: list[int] = []
        self.notes: HotNotes | None = None

    async def note(self, metas: Sequence[SnapshotMeta], expiries_us: Sequence[int | None]) -> int:
        assert len(metas) == len(expiries_us)
        self.noted.append(len(metas))
        assert self.notes is not None
        assert len(self.noted) < 10, "flush goes on for as long as saves come"
        self.notes.add(_meta(), None, 1)
        return 1


def _meta() -> SnapshotMeta:
    return SnapshotMeta.of(make(snapshot_id=uuid4()), saved_us=1, body_crc=0)


async def test_flush_tells_what_waits_and_leaves_what_comes_meanwhile_to_the_next() -> None:
    """Else a busy application writes to PostgreSQL without a pause, one or two saves at a time."""
    saves = Saves()
    catalog: Any = SimpleNamespace(hot_saves=saves, hot_tier=None)
    hot: Any = SimpleNamespace(queue=SimpleNamespace(saves=_none_there), noted=_taken_off)
    notes = saves.notes = HotNotes(catalog, hot, SystemClock())
    for _ in range(3):
        notes.add(_meta(), None, 1)
    await notes.flush()
    assert saves.noted == [3]
    await notes.flush()
    assert saves.noted == [3, 1]
    await notes.close()


async def test_what_postgresql_would_refuse_for_ever_holds_up_nobody() -> None:
    """It is left out and counted; the others of its batch are told, and it does not come again."""
    metas, told = [_meta() for _ in range(5)], list[UUID]()

    async def note(given: Sequence[SnapshotMeta], _: Sequence[int | None]) -> int:
        if metas[2] in given:
            raise StatementRefused("no such value")
        told.extend(meta.snapshot_id for meta in given)
        return 1

    catalog: Any = SimpleNamespace(hot_saves=_saves(note), hot_tier=None)
    hot: Any = SimpleNamespace(queue=SimpleNamespace(saves=_none_there), noted=_taken_off)
    notes, before = HotNotes(catalog, hot, SystemClock()), metrics.HOT_SAVES_UNNOTED._value.get()
    for meta in metas:
        notes.add(meta, None, 1)
    await notes.flush()
    await notes.flush()
    assert told == [meta.snapshot_id for meta in metas if meta is not metas[2]]
    assert metrics.HOT_SAVES_UNNOTED._value.get() - before == 1
    await notes.close()


async def test_what_could_not_be_told_waits_on_beside_what_came_meanwhile() -> None:
    """A save of the same id that was acknowledged in between is the one that is told of then."""
    first, other = _meta(), _meta()
    later = first._replace(saved_us=2)
    told = list[Sequence[SnapshotMeta]]()

    async def note(metas: Sequence[SnapshotMeta], _: Sequence[int | None]) -> int:
        told.append(metas)
        if len(told) == 1:
            notes.add(later, None, 1)
            raise CatalogUnavailable("away")
        return 1

    catalog: Any = SimpleNamespace(hot_saves=_saves(note), hot_tier=None)
    hot: Any = SimpleNamespace(queue=SimpleNamespace(saves=_none_there), noted=_taken_off)
    notes = HotNotes(catalog, hot, SystemClock())
    notes.add(first, None, 1)
    notes.add(other, None, 1)
    with pytest.raises(CatalogUnavailable):
        await notes.flush()
    await notes.flush()
    assert [set(each) for each in told] == [{first, other}, {later, other}]
    await notes.flush()
    await notes.close()
    assert len(told) == 2


def _saves(note: Any) -> Any:
    """The table, with another way to note."""
    saves: Any = HotSaves.__new__(HotSaves)
    saves.note = note
    return saves


async def _taken_off(saves: Sequence[object]) -> None:
    assert saves


async def _none_there(ids: Sequence[object]) -> dict[object, object]:
    assert not ids
    return {}
