"""The rows of an export: a snapshot, a line of the timeline, a replay record, an entry of the holds log; as JSON lines.

A line is one JSON document in the form of the filesystem storage's files, with its own digest as the last key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sagaz_tiering.codec.value import Record
from sagaz_tiering.exports.manifest import LeftOut, RowKind
from sagaz_tiering.snapshot import SnapshotRef
from sagaz_tiering.storage.filesystem.record import replay_document, sealed, snapshot_document
from sagaz_tiering.terminal import document, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the timeline: where a snapshot was read from (the tier in `ref`), or why it was left out.

    `saved_at`: when the save was made that was read. `body_crc32`: of its JSON, 8 hex digits. One from a pack has the
    object's key there, the frame's bytes in it, and the digest by which the catalog vouches for the frame (32 hex
    digits; None for what was packed before there were any).
    """

    ref: SnapshotRef
    saved_at: datetime | None = None
    body_crc32: str | None = None
    pack: str | None = None
    frame_offset: int | None = None
    frame_length: int | None = None
    frame_digest: str | None = None
    left_out: LeftOut | None = None
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self.ref.to_dict(), **document(self, without=("ref",))}


class SnapshotRow(NamedTuple):
    """A snapshot as it was saved, and its line of the timeline."""

    record: Record
    entry: Entry


class Row(NamedTuple):
    """One row of a part: of the kind its `content` is a SnapshotRow, an Entry, or a mapping.

    That is a replay record in the shape of `ReplayResult.to_dict`, or an entry of the holds log: `entry_id`,
    `hold_id`, `action`, `at`, `who`, `reason`, `saga_id`, `match`, which may be of no one saga (`saga_id` None).
    """

    kind: RowKind
    saga_id: UUID | None
    content: Any


LINES: Final[dict[RowKind, Callable[[Any], bytes]]] = {
    RowKind.SNAPSHOTS: lambda row: snapshot_document(row.record, pretty=False, compress=False),
    RowKind.TIMELINE: lambda row: sealed(row.to_dict(), pretty=False),
    RowKind.REPLAYS: lambda row: replay_document(row, pretty=False),
    RowKind.HOLDS: lambda row: sealed(plain(row), pretty=False),
}
"""How the content of a row of each kind becomes a line, with its end of line."""
