"""What Redis alone acknowledged is told to the catalog many saves at once, however fast they come."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from support.snapshots import make

from sagaz_tiering.clock import SystemClock
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.tiered.hot_notes import HotNotes


class Saves:
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
    hot: Any = SimpleNamespace(identity=SimpleNamespace(saves=_none_there), noted=_taken_off)
    notes = saves.notes = HotNotes(catalog, hot, SystemClock())
    for _ in range(3):
        notes.add(_meta(), None, 1)
    await notes.flush()
    assert saves.noted == [3]
    await notes.flush()
    assert saves.noted == [3, 1]
    await notes.close()


async def _taken_off(saves: Sequence[object]) -> None:
    assert saves


async def _none_there(ids: Sequence[object]) -> dict[object, object]:
    assert not ids
    return {}
