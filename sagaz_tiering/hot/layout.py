"""How the hot tier names things in Redis, the bytes in its indexes, and what its scripts answer. Pure.

Everything of one saga shares the hash tag `{saga}`, so that on Redis Cluster a saga lives in one slot:

    PREFIX:{SAGA}:ID        the value (codec.value.to_value)
    PREFIX:{SAGA}           sorted set: score = created_at in microseconds, member = step_index and id,
                            so that the set's own order is the time-travel order (guarantee G5)
    PREFIX:id:ID            the pointer: which saga an id belongs to, its place in the index, which save it is
    PREFIX:gone:ID          when a snapshot was deleted (8 bytes, microseconds; with a time to live of DELETE_MARK):
                            what is saved after it is given a later instant, whatever the clock of its host
    PREFIX:held:{SAGA}      a legal hold is on the saga by its id: the script `save` replaces nothing of it unasked
    PREFIX:held-id:ID       the same for a snapshot of such a saga that PostgreSQL has, by its own id: Redis need not
                            have it any more, and it may be saved under another saga
    PREFIX:due:{X}          sorted set of sagas by when the age job looks at them next; X = first hex digit of SAGA
    PREFIX:exp:{X}          the same for the expire job
    PREFIX:claim:SAGA       a job works on this saga (with a time to live)
    PREFIX:unnoted          sorted set of what Redis alone acknowledged and the catalog was not told of yet:
                            score = saved_at in microseconds, member = SAGA and ID (16 bytes each)
    PREFIX:incarnation      hash: nonce, number and when it was last seen, of this Redis as the catalog knows it
    PREFIX:dictionary:HEX   a compression dictionary, by its id in hex
    PREFIX:dictionaries     hash: saga name -> id of the dictionary that new values are compressed with

SAGA and ID are 32 hex digits.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, NamedTuple, Self
from uuid import UUID

from sagaz_tiering.codec.value import MAX_US, MIN_US, Header, read_header, read_meta
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

SHARDS = "0123456789abcdef"
DELETE_MARK = timedelta(hours=1)
"""Longer than any clock may be off that saves by: so long a delete is remembered in Redis."""
_STEP_BIAS = 2**31
_INSTANT = struct.Struct(">q")
_MEMBER_BYTES = 20
_HEX_DIGITS = 32
_MEMBER = struct.Struct(">I16s")
_POINTER = struct.Struct(">32sqIqI")
_EVICTABLE = struct.Struct(">32sI16sqI")
_DIGITS = 16
"""Times have at most so many digits, and are exact as scores."""

FOREIGN_INDEX = "something else wrote to Redis; `age` and `expire` put it aside and make the index anew"
"""What to do where a saga's index is none."""


@dataclass(frozen=True, slots=True)
class HotKeys:
    """Key names under one prefix."""

    prefix: str

    def index(self, saga: str) -> str:
        return f"{self.prefix}:{{{saga}}}"

    def value_prefix(self, saga: str) -> str:
        return f"{self.prefix}:{{{saga}}}:"

    def value(self, saga: str, snapshot: str) -> str:
        return f"{self.prefix}:{{{saga}}}:{snapshot}"

    def pointer(self, snapshot: str) -> str:
        return f"{self.prefix}:id:{snapshot}"

    def held_mark(self, saga: str) -> str:
        return f"{self.prefix}:held:{{{saga}}}"

    def held_id_mark(self, snapshot: str) -> str:
        return f"{self.prefix}:held-id:{snapshot}"

    def delete_mark(self, snapshot: str) -> str:
        return f"{self.prefix}:gone:{snapshot}"

    def due(self, shard: str) -> str:
        return f"{self.prefix}:due:{{{shard}}}"

    def expiry(self, shard: str) -> str:
        return f"{self.prefix}:exp:{{{shard}}}"

    def claim(self, saga: str) -> str:
        return f"{self.prefix}:claim:{saga}"

    def unnoted(self) -> str:
        return f"{self.prefix}:unnoted"

    def of_save(self, saga: str, snapshot: str) -> list[str]:
        """Those that the script `save` takes, in its order."""
        prefix, shard = self.prefix, saga[0]
        return [
            f"{prefix}:{{{saga}}}:{snapshot}",
            f"{prefix}:{{{saga}}}",
            f"{prefix}:id:{snapshot}",
            f"{prefix}:due:{{{shard}}}",
            f"{prefix}:exp:{{{shard}}}",
            f"{prefix}:gone:{snapshot}",
            f"{prefix}:held:{{{saga}}}",
            f"{prefix}:held-id:{snapshot}",
            f"{prefix}:unnoted",
        ]

    def incarnation(self) -> str:
        return f"{self.prefix}:incarnation"

    def dictionary(self, dictionary_hex: str) -> str:
        return f"{self.prefix}:dictionary:{dictionary_hex}"

    def dictionaries(self) -> str:
        return f"{self.prefix}:dictionaries"


def instant(micros: int) -> bytes:
    """Microseconds as scripts keep and answer them."""
    return _INSTANT.pack(micros)


def read_instant(raw: bytes) -> int:
    """The microseconds of `instant`."""
    micros: int = _INSTANT.unpack(raw)[0]
    return micros


def member(step_index: int, snapshot_id: UUID) -> bytes:
    """The member of a saga's index: orders by step_index, then id."""
    return _MEMBER.pack(step_index + _STEP_BIAS, snapshot_id.bytes)


def is_member(raw: bytes) -> bool:
    """Whether this may be a member of ours; something else in an index stands for no snapshot."""
    return len(raw) == _MEMBER_BYTES


def member_id(raw: bytes) -> UUID:
    """The snapshot id of a member; zeros for what is none of ours."""
    return UUID(bytes=raw[4:]) if is_member(raw) else UUID(int=0)


def member_step(raw: bytes) -> int:
    """The step index of a member; the lowest for what is none of ours."""
    return int.from_bytes(raw[:4], "big") - _STEP_BIAS if is_member(raw) else -_STEP_BIAS


def pointer(meta: SnapshotMeta) -> bytes:
    """The pointer's value: saga hex (32), created_us (8), biased step_index (4), saved_us (8), body crc (4)."""
    saga, step = b"%032x" % meta.saga_id.int, meta.step_index + _STEP_BIAS
    return _POINTER.pack(saga, meta.created_us, step, meta.saved_us, meta.body_crc)


def pointed(snapshot_id: UUID, pointer_value: bytes) -> SnapshotMeta:
    """What a pointer tells of a save; names, status and retention are not in it."""
    saga, created_us, step, saved_us, body_crc = _POINTER.unpack(pointer_value)
    found = known_by_place(snapshot_id, UUID(hex=saga.decode()), created_us, step - _STEP_BIAS)
    return found._replace(saved_us=saved_us, body_crc=body_crc)


def known_by_place(snapshot_id: UUID, saga_id: UUID, created_us: int, step_index: int) -> SnapshotMeta:
    """What a place in an index tells of a snapshot: neither which save, nor names, status and retention."""
    return SnapshotMeta(snapshot_id, saga_id, "", "", step_index, "", created_us, 0, None, 0)


def owner(pointer_value: bytes) -> UUID | None:
    """The saga that a pointer names; None for one that is none of ours."""
    return saga_of(pointer_value[:32])


def saga_of(raw: bytes) -> UUID | None:
    """The saga that 32 hex digits name; None for anything else."""
    try:
        return UUID(hex=raw.decode("ascii")) if len(raw) == _HEX_DIGITS else None
    except ValueError:
        return None


def evictable(meta: SnapshotMeta) -> bytes:
    """What the script `evict` must know of a save: id in hex, member, saved_us and body crc as its value has them."""
    snapshot_id = meta.snapshot_id
    return _EVICTABLE.pack(
        snapshot_id.hex.encode(), meta.step_index + _STEP_BIAS, snapshot_id.bytes, meta.saved_us, meta.body_crc
    )


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
        at_us = read_instant(at[0]) if at else 0
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
        return is_member(self.member)


def headers_of(raw: Sequence[Any]) -> list[IndexedHeader]:
    """What `lua/headers.lua` answers."""
    return [
        IndexedHeader(snapshot_id=member_id(m), created_us=_micros(at), member=m, head=head, length=length)
        for m, at, head, length in zip(raw[::4], raw[1::4], raw[2::4], raw[3::4], strict=True)
    ]


def check_indexed(meta: SnapshotMeta, saga_id: UUID, entry: bytes, created_us: int) -> None:
    """Raise CorruptRecord unless a value is the one that an entry of this saga's index stands for."""
    if meta.saga_id == saga_id and meta.created_us == created_us and member(meta.step_index, meta.snapshot_id) == entry:
        return
    raise CorruptRecord(
        f"Redis has snapshot {meta.snapshot_id} of saga {meta.saga_id} (step {meta.step_index}) where the index of "
        f"saga {saga_id} has snapshot {member_id(entry)} (step {member_step(entry)})"
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


def indexed_header(found: Indexed, value: bytes, saga_id: UUID) -> Header:
    """The header of a value that Redis gave for an entry of a saga's index. Raises CorruptRecord."""
    header = read_header(value)
    check_indexed(header.meta, saga_id, found.member, found.created_us)
    return header
