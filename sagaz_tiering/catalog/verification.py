"""The catalog against itself: rows that contradict each other, a range of packs at a time. Only reads.

Every question is one statement, so that it sees one state, however busy the jobs are meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.rows import Repository, of_row
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.storage_class import StorageClass

_SQL = load(__package__, "verification")
_PACKS = 1000
_SNAPSHOTS = 200_000
"""One range: so many packs, or so many snapshots and one pack more."""
_ARCHIVES = [each.value for each in StorageClass if each.is_archive]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Rows that do not go together: `what` is a short name, `item` what is concerned."""

    what: str
    item: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What a range holds. `empty_frames` are left by deletions and go with the bytes of their pack."""

    packs: int
    frames: int
    snapshots: int
    empty_frames: int


Range = tuple[int, int | None]
"""After this pack id, up to that one (None: all the rest)."""


class Verification(Repository):
    """Questions about packs, frames, snapshots, steps, keys, restores and erasures."""

    async def ranges(self) -> AsyncIterator[Range]:
        """The whole catalog, in ranges of about the same number of snapshots; gaps between packs included."""
        after = 0
        while True:
            last = await self._db.fetchval(_SQL["next_range"], after, _PACKS, _SNAPSHOTS)
            if last is None:
                yield after, None
                return
            yield after, last
            after = last

    async def extent(self, span: Range) -> Extent:
        """How much there is."""
        [row] = await self._db.fetch(_SQL["totals"], *span)
        return Extent(**dict(row), empty_frames=await self._db.fetchval(_SQL["empty_frames"], *span))

    async def contradictions(self, span: Range, limit: int) -> list[Contradiction]:
        """At most `limit` of each kind."""
        found: list[Contradiction] = []
        described = {"miscounted": _miscounted, "misdated": _misdated, "misplaced": _misplaced, "frames": _frame}
        for name, describe in described.items():
            found += [describe(row) for row in await self._db.fetch(_SQL[name], *span, limit)]
        return found

    async def dangling(self, limit: int) -> list[Contradiction]:
        """Restores and erasures of packs that are not there."""
        return [
            Contradiction(what="dangling", item=f"{row['kind']} {row['id']}", detail=f"no pack {row['pack_id']}")
            for row in await self._db.fetch(_SQL["dangling"], limit)
        ]

    async def sample(self, seed: str, count: int) -> list[Pack]:
        """Active packs by chance."""
        return [of_row(Pack, row) for row in await self._db.fetch(_SQL["sample"], seed, count)]

    async def archived(self, after: UUID, limit: int) -> Sequence[Pack]:
        """Active packs of archive classes, by the name of their footer's copy."""
        return [of_row(Pack, row) for row in await self._db.fetch(_SQL["archived"], _ARCHIVES, after, limit)]


def _miscounted(row: Any) -> Contradiction:
    if row["state"] != "ACTIVE":
        what, detail = "dead_pack", f"{row['rows']} snapshots are in it, but it is {row['state']}"
    elif row["rows"] == 0:
        what, detail = "no_rows", f"{row['live_count']} snapshots should be in it, no row is"
    elif row["rows"] != row["live_count"]:
        what, detail = "live_count", f"says {row['live_count']}, {row['rows']} rows are there"
    else:
        what, detail = "live_count", f"{row['rows']} rows, but only {row['snapshot_count']} were packed"
    return Contradiction(what=what, item=row["object_key"], detail=detail)


def _misdated(row: Any) -> Contradiction:
    noted = "never" if row["next_expiry_at"] is None else row["next_expiry_at"].isoformat()
    detail = f"looked at for expiry {noted}, but a snapshot expires {row['first'].isoformat()}"
    return Contradiction(what="next_expiry", item=row["object_key"], detail=detail)


def _misplaced(row: Any) -> Contradiction:
    missing = [f"{what} {row[column]}" for what, column in _PARTS if row[f"no_{what}"]]
    return Contradiction(what="misplaced", item=f"snapshot {row['snapshot_id']}", detail=f"no {', no '.join(missing)}")


_PARTS = (("pack", "pack_id"), ("frame", "frame_no"), ("step", "step_id"))


def _frame(row: Any) -> Contradiction:
    item = f"{row['object_key']} frame {row['frame_no']}"
    if row["outside"]:
        detail = f"{row['byte_length']} bytes from {row['byte_offset']} are not in its {row['byte_size']}"
        return Contradiction(what="frame_outside", item=item, detail=detail)
    return Contradiction(what="key_missing", item=item, detail=f"saga {row['saga_id']}: its data key is gone")
