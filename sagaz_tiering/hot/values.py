"""What the hot tier answers with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self
from uuid import UUID

from sagaz_tiering.codec.value import MAX_US, MIN_US, read_header, read_meta
from sagaz_tiering.codec.value import Header as ValueHeader
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.hot import keys as hot_keys
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_DIGITS = 16
"""Times have at most so many digits, and are exact as scores."""

FOREIGN_INDEX = "something else wrote to Redis; `age` and `expire` put it aside and make the index anew"
"""What to do where a saga's index is none."""


@dataclass(frozen=True, slots=True)
class Gone:
    """An index names this snapshot, but its value is not there."""

    snapshot_id: UUID


class Indexed(NamedTuple):
    """A value (None: it is gone), and what the index of its saga says of it."""

    member: bytes
    created_us: int
    value: bytes | None


def indexed(member: bytes, score: bytes, value: bytes | None) -> Indexed:
    """One of what the scripts `list` and `newest` answer."""
    return Indexed(member, _micros(score), value)


class HotValue(NamedTuple):
    """A value, and `newest`: the header of the newest snapshot of its saga (None: it is that itself, b"": unknown)."""

    value: bytes
    newest: bytes | None

    def end(self, meta: SnapshotMeta) -> SagaEnd | None:
        """Where the saga of this value, whose meta is known, ends in Redis; None where that cannot be told."""
        if self.newest is None:
            return SagaEnd.of(meta)
        return end_of(meta.saga_id, self.newest)


def end_of(saga_id: UUID, head: bytes) -> SagaEnd | None:
    """Where a saga ends by the header of its newest snapshot; None where that cannot be told."""
    with suppress(CorruptRecord):
        newest = read_meta(head)
        if newest.saga_id == saga_id:
            return SagaEnd.of(newest)
    return None


class Unnoted(NamedTuple):
    """A save that the catalog was not told of. `meta`: of what Redis has of the snapshot (None: nothing readable)."""

    saga_id: UUID
    snapshot_id: UUID
    saved_us: int
    meta: SnapshotMeta | None


def unnoted(raw: Sequence[Any]) -> list[Unnoted]:
    """What the script `unnoted` answers."""
    found = []
    for both, score, head in zip(raw[::3], raw[1::3], raw[2::3], strict=True):
        meta = None
        with suppress(CorruptRecord):
            meta = read_meta(head)
        saga_id, snapshot_id = UUID(bytes=both[:16]), UUID(bytes=both[16:32])
        ours = meta is not None and (meta.saga_id, meta.snapshot_id) == (saga_id, snapshot_id)
        found.append(Unnoted(saga_id, snapshot_id, _micros(score), meta if ours else None))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NotTaken:
    """Why a save was not stored: something as new or newer was done to the snapshot at `at_us` (microseconds).

    `deleted`: it was deleted; else another save of it is there. `held`: neither, a legal hold may forbid it. `foreign`:
    neither, something else is in the place of the saga's index.
    """

    at_us: int
    deleted: bool = False
    held: bool = False
    foreign: bool = False

    @classmethod
    def of(cls, answer: Any) -> Self | None:
        """By what the script `save` answers; None: it is stored."""
        if answer == 1:
            return None
        why, *at = answer
        at_us = hot_keys.read_instant(at[0]) if at else 0
        return cls(at_us=at_us, deleted=why == b"deleted", held=why == b"held", foreign=why == b"foreign")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedHeader:
    """One indexed snapshot: `head` is enough for its meta (None: the value is gone); `length` of the value in bytes."""

    snapshot_id: UUID
    created_us: int
    member: bytes
    head: bytes | None
    length: int

    def is_ours(self) -> bool:
        """Whether this is an entry for a snapshot at all; something else wrote it otherwise."""
        return hot_keys.is_member(self.member)


def headers_of(raw: Sequence[Any]) -> list[IndexedHeader]:
    """What `lua/headers.lua` answers."""
    return [
        IndexedHeader(snapshot_id=hot_keys.member_id(m), created_us=_micros(at), member=m, head=head, length=length)
        for m, at, head, length in zip(raw[::4], raw[1::4], raw[2::4], raw[3::4], strict=True)
    ]


def check_indexed(meta: SnapshotMeta, saga_id: UUID, member: bytes, created_us: int) -> None:
    """Raise CorruptRecord unless a value is the one that an entry of this saga's index stands for."""
    if (
        meta.saga_id == saga_id
        and meta.created_us == created_us
        and hot_keys.member(meta.step_index, meta.snapshot_id) == member
    ):
        return
    raise CorruptRecord(
        f"Redis has snapshot {meta.snapshot_id} of saga {meta.saga_id} (step {meta.step_index}) where the index of "
        f"saga {saga_id} has snapshot {hot_keys.member_id(member)} (step {hot_keys.member_step(member)})"
        + (", at another time" if meta.created_us != created_us else ""),
        hint="something else than this package wrote to Redis; delete the snapshot by its id, or restore Redis",
    )


def _micros(score: bytes) -> int:
    """A score as a time; one that is none (as infinity) is the first or last there is, which no snapshot has."""
    if score.isdigit() and len(score) <= _DIGITS:
        return int(score)
    return int(min(max(float(score), MIN_US), MAX_US - 1))


class ClaimedFrom(StrEnum):
    """Which index a saga was claimed from; the value is what the script `ack` calls it."""

    AGE = "2"
    EXPIRE = "3"
    NONE = ""


@dataclass(frozen=True, slots=True)
class ClaimedSaga:
    """A saga that this job works on."""

    saga_id: UUID
    token: str
    origin: ClaimedFrom = ClaimedFrom.NONE


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that Redis has of a saga: its index names `count` snapshots; their values, oldest first.

    The value of one that is gone is None; `members` are what the index says of each.
    """

    count: int
    members: list[bytes]
    values: list[bytes | None]


def gathered(raw: list[Any]) -> Gathered | None:
    """What the script `gather` answers."""
    count, members, values = raw[0], raw[1::2], raw[2::2]
    return Gathered(count, members, values) if len(members) == count else None


def indexed_header(found: Indexed, value: bytes, saga_id: UUID) -> ValueHeader:
    """The header of a value that Redis gave for an entry of a saga's index. Raises CorruptRecord."""
    header = read_header(value)
    check_indexed(header.meta, saga_id, found.member, found.created_us)
    return header
