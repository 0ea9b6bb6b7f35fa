"""The keys of `S3SnapshotStorage`: all that a listing must know is in them, so that listing reads no objects.

    data/<snapshot id>                                  one snapshot
    sagas/<saga id>/<order>-<expiry>-<step>-<token>     an entry: it belongs to this saga, at this place in its order
    expiry/<expiry>-<snapshot id>-<token>               the same save once more, by when it ends; only if it ends
    replays/<replay id>                                 one replay record
    replayed/<saga id>/<order>                          it is one of this saga's replays

`order` is created_at, step index and id, each counted down from its maximum, in hexadecimal of fixed width: S3 lists
ascending, which is newest first, exact to the last tie. `expiry` is the retention in microseconds, `step` a hash of
the step name, `token` the save's own. Names, which may be anything, are in no key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import blake2b
from typing import Final
from uuid import UUID

from sagaz_tiering.codec.value import NO_EXPIRY_US, text_bytes
from sagaz_tiering.snapshot import MAX_STEP_INDEX, SnapshotMeta

DATA: Final = "data/"
SAGAS: Final = "sagas/"
EXPIRY: Final = "expiry/"
REPLAYS: Final = "replays/"
REPLAYED: Final = "replayed/"

_MAX_I64: Final = 2**63 - 1
_MAX_ID: Final = 2**128 - 1
_UUID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ENTRY: Final = re.compile(
    rf"{SAGAS}({_UUID})/([0-9a-f]{{16}})([0-9a-f]{{8}})([0-9a-f]{{32}})-([0-9a-f]{{16}})-([0-9a-f]{{16}})-([0-9a-f]+)"
)
_EXPIRY_ENTRY: Final = re.compile(rf"{EXPIRY}([0-9a-f]{{16}})-([0-9a-f]{{32}})-[0-9a-f]+")
_REPLAY_ENTRY: Final = re.compile(rf"{REPLAYED}{_UUID}/[0-9a-f]{{16}}([0-9a-f]{{32}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedEntry:
    """One save of a snapshot, as its entry tells it. `listed_at`: when the store says the entry was written.

    `token` is "" for the entry that a body without a mark must have: then any token fits.
    """

    saga_id: UUID
    created_us: int
    step_index: int
    snapshot_id: UUID
    retention_us: int | None
    step_hash: str
    token: str
    listed_at: datetime | None = field(default=None, compare=False)

    @classmethod
    def of(cls, meta: SnapshotMeta, token: str) -> SavedEntry:
        return cls(
            saga_id=meta.saga_id,
            created_us=meta.created_us,
            step_index=meta.step_index,
            snapshot_id=meta.snapshot_id,
            retention_us=meta.retention_us,
            step_hash=step_hash(meta.step_name),
            token=token,
        )

    @classmethod
    def parse(cls, key: str, listed_at: datetime | None = None) -> SavedEntry | None:
        """The entry under a key; None for a key of something else."""
        match = _ENTRY.fullmatch(key)
        if match is None:
            return None
        saga_id, created, step_index, snapshot_id, expiry, step, token = match.groups()
        return cls(
            saga_id=UUID(saga_id),
            created_us=_MAX_I64 - int(created, 16),
            step_index=MAX_STEP_INDEX - int(step_index, 16),
            snapshot_id=UUID(int=_MAX_ID - int(snapshot_id, 16)),
            retention_us=_retention_us(expiry),
            step_hash=step,
            token=token,
            listed_at=listed_at,
        )

    @property
    def place(self) -> str:
        """Where it is: its saga, and its place in the order of that; ascending is newest first."""
        order = (
            f"{_descending(self.created_us)}{MAX_STEP_INDEX - self.step_index:08x}{_id_descending(self.snapshot_id)}"
        )
        return saga_prefix(self.saga_id) + order

    @property
    def key(self) -> str:
        return f"{self.place}-{_expiry(self.retention_us)}-{self.step_hash}-{self.token}"

    @property
    def expiry_key(self) -> str | None:
        """None for a snapshot that never ends."""
        if self.retention_us is None:
            return None
        return f"{EXPIRY}{_expiry(self.retention_us)}-{self.snapshot_id.hex}-{self.token}"

    @property
    def keys(self) -> list[str]:
        """Every key of this entry."""
        return [self.key] if self.expiry_key is None else [self.key, self.expiry_key]

    def has_expiry_key(self, key: str) -> bool:
        """Whether `key` is this save's expiry entry."""
        own = self.expiry_key
        return own is not None and (key == own if self.token else key.startswith(own))

    def is_live(self, now_us: int) -> bool:
        """Whether the snapshot has not ended."""
        return self.retention_us is None or now_us < self.retention_us

    def is_same_save(self, other: SavedEntry) -> bool:
        """Whether both are of one save, as far as their tokens are known."""
        return self == other if self.token and other.token else replace(self, token="") == replace(other, token="")


def data_key(snapshot_id: UUID) -> str:
    return f"{DATA}{snapshot_id}"


def saga_prefix(saga_id: UUID) -> str:
    return f"{SAGAS}{saga_id}/"


def behind_saga(saga_id: UUID) -> str:
    """What sorts after every entry of a saga and before those of the next."""
    return f"{SAGAS}{saga_id}0"  # "0" is the character after "/"


def not_after(saga_id: UUID, created_us: int) -> str:
    """What sorts before the entries of a saga from `created_us` back, and after the younger ones."""
    return saga_prefix(saga_id) + _descending(created_us)


def parse_expiry(key: str) -> tuple[int, UUID] | None:
    """Retention and snapshot of an expiry entry."""
    match = _EXPIRY_ENTRY.fullmatch(key)
    retention_us = None if match is None else _retention_us(match[1])
    return None if match is None or retention_us is None else (retention_us, UUID(hex=match[2]))


def replay_key(replay_id: UUID) -> str:
    return f"{REPLAYS}{replay_id}"


def parse_replay(key: str) -> UUID | None:
    """The replay whose record this is."""
    text = key.removeprefix(REPLAYS)
    return UUID(text) if re.fullmatch(_UUID, text) else None


def replayed_prefix(saga_id: UUID) -> str:
    return f"{REPLAYED}{saga_id}/"


def replayed_key(saga_id: UUID, created_us: int, replay_id: UUID) -> str:
    return f"{replayed_prefix(saga_id)}{_descending(created_us)}{_id_descending(replay_id)}"


def parse_replayed(key: str) -> UUID | None:
    """The replay that an entry names."""
    match = _REPLAY_ENTRY.fullmatch(key)
    return None if match is None else UUID(int=_MAX_ID - int(match[1], 16))


def step_hash(step_name: str) -> str:
    """What entries say of a step name; a filter only, since two names may share it."""
    return blake2b(text_bytes(step_name), digest_size=8).hexdigest()


def _descending(micros: int) -> str:
    return f"{_MAX_I64 - micros:016x}"


def _id_descending(uuid: UUID) -> str:
    return f"{_MAX_ID - uuid.int:032x}"


def _expiry(retention_us: int | None) -> str:
    return f"{(NO_EXPIRY_US if retention_us is None else retention_us) + 2**63:016x}"


def _retention_us(text: str) -> int | None:
    found = int(text, 16) - 2**63
    return None if found == NO_EXPIRY_US else found
