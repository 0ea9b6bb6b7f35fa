"""What the hot tier answers with."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Gone:
    """An index names this snapshot, but its value is not there."""

    snapshot_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One indexed snapshot: `head` is enough for its meta (None: the value is gone); `length` of the value in bytes."""

    snapshot_id: UUID
    created_us: int
    member: bytes
    head: bytes | None
    length: int


@dataclass(frozen=True, slots=True)
class ClaimedSaga:
    """A saga that this job works on."""

    saga_id: UUID
    token: str
