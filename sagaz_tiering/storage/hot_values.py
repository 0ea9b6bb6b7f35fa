"""What the hot tier answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sagaz_tiering.storage import hot_keys


@dataclass(frozen=True, slots=True)
class Gone:
    """An index names this snapshot, but its value is not there."""

    snapshot_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class NotTaken:
    """Why a save was not stored: something as new or newer was done to the snapshot at `at_us` (microseconds).

    `deleted`: it was deleted; else another save of it is there.
    """

    at_us: int
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One indexed snapshot: `head` is enough for its meta (None: the value is gone); `length` of the value in bytes."""

    snapshot_id: UUID
    created_us: int
    member: bytes
    head: bytes | None
    length: int


def headers_of(raw: Sequence[Any]) -> list[Header]:
    """What `lua/headers.lua` answers."""
    return [
        Header(snapshot_id=hot_keys.member_id(m), created_us=int(float(at)), member=m, head=head, length=length)
        for m, at, head, length in zip(raw[::4], raw[1::4], raw[2::4], raw[3::4], strict=True)
    ]


class TurnOf(StrEnum):
    """Which index a saga was claimed from; the value is what the script `settle` calls it."""

    AGE = "2"
    EXPIRE = "3"
    NONE = ""


@dataclass(frozen=True, slots=True)
class ClaimedSaga:
    """A saga that this job works on."""

    saga_id: UUID
    token: str
    turn: TurnOf = TurnOf.NONE


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that Redis has of a saga: its index names `count` snapshots; their values, oldest first.

    The value of one that is gone is None; `members` are what the index says of each.
    """

    count: int
    members: list[bytes]
    values: list[bytes | None]

    @property
    def gone(self) -> list[UUID]:
        """Those that the index names, though their values are not there."""
        if None not in self.values:
            return []
        named = zip(self.members, self.values, strict=True)
        return [hot_keys.member_id(member) for member, value in named if value is None]


def gathered(raw: list[Any]) -> Gathered | None:
    """What the script `gather` answers."""
    count, members, values = raw[0], raw[1::2], raw[2::2]
    return Gathered(count, members, values) if len(members) == count else None
