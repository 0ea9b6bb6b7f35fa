"""Packs to read, change and damage."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from golden import make, samples

from sagaz_tiering.codec.value import Record, encode
from sagaz_tiering.packs.entries import SealedPack
from sagaz_tiering.packs.format import PackWriter
from sagaz_tiering.packs.frame import build_frame


def seal(groups: Sequence[Sequence[tuple[Record, int | None]]], level: int = 3) -> SealedPack:
    """A pack of one frame for each group of (record, expires_us)."""
    writer = PackWriter(samples.PACK_ID, samples.CATALOG_ID, samples.CREATED_US)
    for group in groups:
        writer.add(build_frame(group, level=level))
    return writer.seal()


def some_pack() -> SealedPack:
    """Three sagas: plain, typed, and one of which only some snapshots expire."""
    large = [samples.snapshot(i, saga_id=numbered(2), snapshot_id=numbered(10 + i)) for i in range(4)]
    rows = [(encode(s, saved_us=samples.SAVED_US), None if s.step_index % 2 else 10**15) for s in large]
    return seal([[(r, samples.EXPIRES_US) for r in make.plain_records()], [(make.typed_record(), None)], rows])


def numbered(number: int) -> UUID:
    """An id that stays the same from run to run."""
    return UUID(int=(5 << 120) + number)
