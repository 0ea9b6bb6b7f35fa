"""A policy as it is written: which snapshots, how safe, when they move and go. The impossible is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, ValidationInfo, field_validator

from sagaz_tiering.config.patterns import Match
from sagaz_tiering.config.schema import Location, StrictModel, problem, refusal
from sagaz_tiering.config.units import Duration, DurationOrZero, format_duration, parse_positive_duration
from sagaz_tiering.storage_class import StorageClass


class Durability(StrEnum):
    """Which server must have a snapshot before its save is acknowledged."""

    HOT = "hot"
    DURABLE = "durable"


FOREVER: Literal["forever"] = "forever"
"""As `retain`: the policy never lets go."""


def _retain(value: object) -> timedelta | Literal["forever"]:
    return FOREVER if value == FOREVER else parse_positive_duration(value)


def _retain_text(value: timedelta | Literal["forever"]) -> str:
    return format_duration(value) if isinstance(value, timedelta) else value


Retain = Annotated[
    timedelta | Literal["forever"],
    PlainValidator(_retain),
    PlainSerializer(_retain_text, return_type=str, when_used="json"),
]
"""A duration above zero, or `forever`."""


class Move(StrictModel):
    """One step to a colder storage class."""

    to: StorageClass
    """Storage class to move to, not STANDARD; the first move packs the snapshot into the cold tier."""
    after: Duration
    """Age (by the policy's clock) at which the move is due."""


class Policy(StrictModel):
    """What happens to the snapshots that `match` selects."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Unique name; kept with every pack. Letters, digits, `_`, `.` and `-`, at most 64."""
    match: Match = Match()
    """Which snapshots; `{}` is all of them."""
    durability: Durability = Durability.DURABLE
    """`durable`: a save is acknowledged when PostgreSQL has it; `hot`: when Redis has it."""
    move: tuple[Move, ...] = ()
    """Moves in order of age, each to a colder class; none: stays hot and durable."""
    retain: Retain | None = None
    """Age at which the snapshot is deleted everywhere, or `forever`; absent: its own `retention_until` decides."""
    retention: Literal["longest", "policy", "snapshot"] = "longest"
    """Whose word counts: `retain` (`policy`), the snapshot's own `retention_until` (`snapshot`), or the later one."""
    clock: Literal["saga_end", "created_at", "saved_at"] = "saga_end"
    """From when ages count: `saga_end`, when the newest snapshot of the saga was made, so that a saga moves and expires
    as one; or of each snapshot by itself `created_at`, or `saved_at`, so that a back-fill does not move all at once."""
    running_at_most: Duration = timedelta(days=30)
    """With `clock: saga_end`, what is this old of a saga that is `running` still moves all the same (after `after`)."""
    linger: DurationOrZero = timedelta(hours=24)
    """How long a due snapshot may wait for its pack to fill up before the pack is sealed undersized."""
    encryption: Literal["none", "per-saga"] = "none"
    """`per-saga`: what is packed is encrypted under a key of its saga, which `forget` destroys; see `encryption`."""
    rewrite: Literal["allow", "refuse"] = "allow"
    """`refuse`: a save with an id that is archived, or there with other content, raises; each save looks first."""
    even_if_costlier: bool = False
    """Move even what costs more to move than that saves, such as small packs."""

    @field_validator("move")
    @classmethod
    def _check_moves(cls, moves: tuple[Move, ...]) -> tuple[Move, ...]:
        if found := list(_move_problems(moves)):
            raise refusal("move", found)
        return moves

    @property
    def lifetime(self) -> timedelta | None:
        """The age at which `retain` ends a snapshot; None: `retain` ends none."""
        if self.retention == "snapshot" or not isinstance(self.retain, timedelta):
            return None
        return self.retain

    @property
    def is_for_ever(self) -> bool:
        """Whether no snapshot of the policy ever expires, whatever it says itself."""
        return self.retention != "snapshot" and self.retain == FOREVER

    @property
    def asks_snapshot(self) -> bool:
        """Whether a snapshot's own `retention_until` counts, alone or beside `retain`."""
        return self.retention != "policy" and not self.is_for_ever

    @field_validator("retain")
    @classmethod
    def _check_retain(
        cls, retain: timedelta | Literal["forever"] | None, info: ValidationInfo
    ) -> timedelta | Literal["forever"] | None:
        moves: tuple[Move, ...] = info.data.get("move", ())
        if isinstance(retain, timedelta) and moves and retain <= moves[-1].after:
            last = moves[-1]
            raise problem(
                f"{format_duration(retain)} would delete the snapshots before they move to {last.to} after "
                f"{format_duration(last.after)}; retain them longer, or remove that move"
            )
        return retain

    @field_validator("retention")
    @classmethod
    def _check_retention(cls, retention: str, info: ValidationInfo) -> str:
        if retention == "policy" and info.data.get("retain", FOREVER) is None:
            raise problem(
                "`policy` needs `retain`, a duration or forever: nothing else would end a snapshot, or keep it"
            )
        return retention


def _move_problems(moves: Sequence[Move]) -> Iterator[tuple[Location, str]]:
    for i, move in enumerate(moves):
        if move.to is StorageClass.STANDARD:
            text = "packs start at STANDARD_IA, not STANDARD; write STANDARD_IA, or remove this move to stay hot"
            yield (i, "to"), text
    for i, (earlier, later) in enumerate(pairwise(moves), start=1):
        if later.after <= earlier.after:
            yield (
                (i, "after"),
                f"{format_duration(later.after)} is not later than the move before it "
                f"({earlier.to} after {format_duration(earlier.after)}); list moves in order of age",
            )
        if later.to is not StorageClass.STANDARD and later.to.coldness <= earlier.to.coldness:
            yield (
                (i, "to"),
                f"{later.to} is not colder than {earlier.to}, the move before it; "
                f"objects only get colder: {' -> '.join(StorageClass)}",
            )


UNMATCHED = Policy(name="unmatched")
"""The policy of a snapshot that no configured policy matches."""


def name_problems(policies: Sequence[Policy]) -> Iterator[tuple[Location, str]]:
    """Names that are used twice or reserved, located by position."""
    first: dict[str, int] = {UNMATCHED.name: -1}
    for i, policy in enumerate(policies):
        before = first.setdefault(policy.name, i)
        if before == -1:
            yield (i, "name"), f"{policy.name!r} is reserved for what no policy matches; choose another name"
        elif before != i:
            yield (i, "name"), f"{policy.name!r} is already the name of policies[{before}]; choose another"
