"""How the standalone Redis storage names things, and what it notes about a snapshot.

Sagas are spread over 256 shards, and everything of a shard shares a hash tag, so that on Redis Cluster too a
snapshot, its saga's index, the list of sagas and the totals are in one slot and change together. P is the key
prefix, X the shard (two hex digits), SAGA and ID 32 hex digits:

    P{X}SAGA:ID       the value (codec.to_value)
    P{X}SAGA          sorted set: score = created_at in microseconds, member = step_index and id, so that the set's
                      own order is the time-travel order (guarantee G5)
    P{X}SAGA:facts    hash: id -> facts, what is known of a snapshot without its value
    P{X}sagas         sorted set of the shard's sagas, by id
    P{X}expiring      sorted set: score = expiry in microseconds, member = saga, id and size
    P{X}totals        hash: how many snapshots are held, expired ones included, and the bytes of their values
    Pwhere:ID         pointer: shard and saga of a snapshot, nonce of its save, time of its save (in a slot of its own)
    P{X}replay:ID     a replay record: shard and saga (34 bytes), then standalone.replay_bytes
    P{X}replays       sorted set of the shard's replay records, by id
    P{X}SAGA:replays  sorted set: score = created_at in microseconds, member = replay id and its shard

Facts are `step,tag,nonce,size,expires,forward`: the step as in the member, a hash of the step's name, which save it
is, bytes of the value, expiry in microseconds (empty: never), and (a cluster only) the place it is moving to. They
stay below 64 bytes, up to where Redis keeps small hashes compact.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

from sagaz_tiering.codec.value import text_bytes
from sagaz_tiering.snapshot import SnapshotMeta

SHARDS = tuple(f"{number:02x}" for number in range(256))
PLACE_BYTES = 34
_STEP_BIAS = 2**31


class SagaHome(NamedTuple):
    """Where a saga is: its shard and its id, both hex."""

    shard: str
    saga: str

    @classmethod
    def of(cls, saga_id: UUID) -> SagaHome:
        return cls(shard_of(saga_id), saga_id.hex)

    @classmethod
    def parse(cls, text: bytes) -> SagaHome | None:
        """The place in the first 34 bytes; None if they are none."""
        try:
            place = text[:PLACE_BYTES].decode("ascii")
            return cls.of(UUID(hex=place[2:])) if len(place) == PLACE_BYTES else None
        except ValueError:
            return None

    @property
    def text(self) -> str:
        return self.shard + self.saga


def shard_of(any_id: UUID) -> str:
    """The shard of a saga or replay; evenly spread, also for ids that begin with the time."""
    return SHARDS[crc32(any_id.bytes) & 0xFF]


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """Key names under one prefix."""

    prefix: str

    def base(self, shard: str) -> str:
        return f"{self.prefix}{{{shard}}}"

    def index(self, place: SagaHome) -> str:
        return f"{self.base(place.shard)}{place.saga}"

    def facts(self, place: SagaHome) -> str:
        return f"{self.index(place)}:facts"

    def value(self, place: SagaHome, snapshot: str) -> str:
        return f"{self.index(place)}:{snapshot}"

    def pointer(self, snapshot: str) -> str:
        return f"{self.prefix}where:{snapshot}"

    def sagas(self, shard: str) -> str:
        return f"{self.base(shard)}sagas"

    def expiring(self, shard: str) -> str:
        return f"{self.base(shard)}expiring"

    def totals(self, shard: str) -> str:
        return f"{self.base(shard)}totals"

    def replay(self, replay_id: UUID) -> str:
        return f"{self.base(shard_of(replay_id))}replay:{replay_id.hex}"

    def replays(self, shard: str) -> str:
        return f"{self.base(shard)}replays"

    def replays_of(self, place: SagaHome) -> str:
        return f"{self.index(place)}:replays"


def step_as_member(step_index: int) -> str:
    """How a member of an index begins."""
    return f"{step_index + _STEP_BIAS:08x}"


def step_tag(step_name: str) -> str:
    """A hash of a step's name; two names may share one, so that who finds it compares the names."""
    return blake2b(text_bytes(step_name), digest_size=8).hexdigest()


def facts(meta: SnapshotMeta, *, nonce: str, size: int, expires_us: int | None) -> str:
    """What is noted about a snapshot."""
    expires = "" if expires_us is None else expires_us
    return f"{step_as_member(meta.step_index)},{step_tag(meta.step_name)},{nonce},{size},{expires},"


def nonce_of(facts_text: bytes) -> str:
    """Which save the facts are of."""
    return facts_text.split(b",")[2].decode()


def pointer(place: SagaHome, nonce: str, saved_us: int) -> str:
    """What is kept under a snapshot's id."""
    return f"{place.text},{nonce},{saved_us}"
