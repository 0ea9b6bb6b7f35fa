"""The values that everything else moves around: snapshots, references to them, replay records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID, SafeUUID, uuid4

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.errors import InvalidSnapshot, NaiveTimestamp

MIN_TIME = datetime(1700, 1, 1, tzinfo=UTC)
MAX_TIME = datetime(2255, 1, 1, tzinfo=UTC)
"""Times outside are refused: Redis orders by a double, which is exact to the microsecond only in between."""

MAX_STEP_INDEX = 2**31 - 1


class Tier(StrEnum):
    """Where a copy is."""

    HOT = "hot"
    DURABLE = "durable"
    COLD = "cold"


class SnapshotStrategy(StrEnum):
    """When the engine captures snapshots (same values as sagaz)."""

    BEFORE_EACH_STEP = "before_each_step"
    AFTER_EACH_STEP = "after_each_step"
    ON_FAILURE = "on_failure"
    ON_COMPLETION = "on_completion"
    MANUAL = "manual"


class ReplayStatus(StrEnum):
    """Status of a replay (same values as sagaz)."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


def is_uuid(text: str) -> bool:
    """Whether `as_uuid` takes it."""
    with suppress(ValueError):
        return UUID(text) is not None
    return False


def as_uuid(value: object, name: str) -> UUID:
    """`value` (a UUID or its text) as a UUID; raises InvalidSnapshot naming the field."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            pass
    raise InvalidSnapshot(f"{name} must be a UUID, not {value!r:.100}")


def as_utc(value: object, name: str) -> datetime:
    """`value` as aware UTC; raises NaiveTimestamp for a time without a zone."""
    if not isinstance(value, datetime):
        raise InvalidSnapshot(f"{name} must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise NaiveTimestamp(f"{name} has no time zone: {value.isoformat()}")
    if not MIN_TIME <= value < MAX_TIME:
        raise InvalidSnapshot(f"{name} must be between {MIN_TIME.year} and {MAX_TIME.year}: {value.isoformat()}")
    return value.astimezone(UTC)


def _as_text(value: object, name: str) -> str:
    plain = value.value if isinstance(value, Enum) else value
    if type(plain) is not str:
        raise InvalidSnapshot(f"{name} must be a str, not {type(plain).__name__}")
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else value


_NOT_PLAIN = {
    *("snapshot_id", "saga_id", "replay_id", "original_saga_id", "new_saga_id"),
    *("created_at", "retention_until", "expires_at", "completed_at", "tier", "replay_status"),
}
"""Fields that are ids, times or enums; what is in others is the caller's, whatever its type."""


def _as_dict(record: Any, *names: str) -> dict[str, Any]:
    """Fields as JSON has them (all, or those named): ids and times as text, of an enum its value."""
    found = {name: getattr(record, name) for name in names or record.__dataclass_fields__}
    return {name: _plain(value) if name in _NOT_PLAIN else value for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class SagaSnapshot:
    """A saga's state at one moment. Attribute for attribute what `sagaz` calls a SagaSnapshot, and equal to such a one.

    Ids are accepted as UUID or text, times must be aware and are kept in UTC with microseconds, a status may
    be an enum member and is kept as its value.

    Raises InvalidSnapshot (or NaiveTimestamp) at construction, so that a bad one never travels.
    """

    snapshot_id: UUID
    saga_id: UUID
    saga_name: str
    step_name: str
    step_index: int
    status: str
    context: dict[str, Any]
    completed_steps: list[str]
    created_at: datetime
    retention_until: datetime | None = None
    external_refs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "snapshot_id", as_uuid(self.snapshot_id, "snapshot_id"))
        put(self, "saga_id", as_uuid(self.saga_id, "saga_id"))
        for name in ("saga_name", "step_name", "status"):
            put(self, name, _as_text(getattr(self, name), name))
        if type(self.step_index) is not int or not -MAX_STEP_INDEX - 1 <= self.step_index <= MAX_STEP_INDEX:
            raise InvalidSnapshot(f"step_index must be a 32-bit integer, not {self.step_index!r:.100}")
        put(self, "created_at", as_utc(self.created_at, "created_at"))
        if self.retention_until is not None:
            put(self, "retention_until", as_utc(self.retention_until, "retention_until"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SagaSnapshot):
            if type(other).__name__ != SagaSnapshot.__name__:
                return NotImplemented
            try:
                other = SagaSnapshot.of(other)
            except InvalidSnapshot:  # the engine's own class takes anything
                return False
        return _fields(self) == _fields(other)

    @classmethod
    def create(
        cls,
        saga_id: UUID | str,
        saga_name: str,
        step_name: str,
        step_index: int,
        status: str,
        context: Mapping[str, Any],
        completed_steps: list[str],
        retention_until: datetime | None = None,
        *,
        created_at: datetime | None = None,
    ) -> SagaSnapshot:
        """A new snapshot with a fresh id, of now by default; top level of context and steps are copied."""
        return cls(
            snapshot_id=uuid4(),
            saga_id=as_uuid(saga_id, "saga_id"),
            saga_name=saga_name,
            step_name=step_name,
            step_index=step_index,
            status=status,
            context=dict(context),
            completed_steps=list(completed_steps),
            created_at=datetime.now(UTC) if created_at is None else created_at,
            retention_until=retention_until,
        )

    @classmethod
    def of(cls, other: Any) -> SagaSnapshot:
        """`other` if it is one of ours, else a copy of any object with the same attributes (sagaz's own)."""
        if isinstance(other, cls):
            return other
        try:
            values = {name: getattr(other, name) for name in cls.__dataclass_fields__ if name != "external_refs"}
        except AttributeError as exc:
            raise InvalidSnapshot(f"not a snapshot: {type(other).__name__} has no attribute {exc.name!r}") from exc
        return cls(**values, external_refs=getattr(other, "external_refs", None) or {})

    def to_dict(self) -> dict[str, Any]:
        """Ids and times as text, the rest as it is (the shape that `sagaz` uses)."""
        return _as_dict(self, *_AS_SAGAZ)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SagaSnapshot:
        """The snapshot of `to_dict`."""
        until = data.get("retention_until")
        return cls(
            **{k: data[k] for k in ("snapshot_id", "saga_id", "saga_name", "step_name", "step_index", "status")},
            context=data["context"],
            completed_steps=data["completed_steps"],
            external_refs=data.get("external_refs") or {},
            created_at=datetime.fromisoformat(data["created_at"]),
            retention_until=datetime.fromisoformat(until) if until else None,
        )


_fields = attrgetter(*SagaSnapshot.__dataclass_fields__)
_AS_SAGAZ = (*tuple(SagaSnapshot.__dataclass_fields__)[:8], "external_refs", "created_at", "retention_until")


def uuid_of(raw: bytes) -> UUID:
    """`UUID(bytes=raw)` for 16 bytes that are known to be 16, in a third of the time."""
    made = _new(UUID)
    _set(made, "int", int.from_bytes(raw, "big"))
    _set(made, "is_safe", _UNKNOWN)
    return made


_new, _set, _UNKNOWN = object.__new__, object.__setattr__, SafeUUID.unknown  # the way that copy and pickle go


class SnapshotMeta(NamedTuple):
    """What a tier knows of a snapshot without decoding its body. Times are microseconds since 1970 UTC.

    `(saved_us, body_crc)` is the version: the same pair means the same bytes of the same save. `attributes`: the column
    of what it can be found by (see `attributes`; "": nothing).
    """

    snapshot_id: UUID
    saga_id: UUID
    saga_name: str
    step_name: str
    step_index: int
    status: str
    created_us: int
    saved_us: int
    retention_us: int | None
    body_crc: int
    attributes: str = ""

    @property
    def version(self) -> tuple[int, int]:
        return (self.saved_us, self.body_crc)

    @property
    def order_key(self) -> tuple[int, int, int]:
        """Ascending time-travel order (guarantee G5): created_at, step_index, snapshot_id."""
        return (self.created_us, self.step_index, self.snapshot_id.int)

    @classmethod
    def of(cls, snapshot: SagaSnapshot, *, saved_us: int, body_crc: int, attributes: str = "") -> SnapshotMeta:
        until = snapshot.retention_until
        until_us = None if until is None else to_micros(until)
        created_us = to_micros(snapshot.created_at)
        return tuple.__new__(cls, (*_names(snapshot), created_us, saved_us, until_us, body_crc, attributes))


_names: Callable[[SagaSnapshot], tuple[UUID, UUID, str, str, int, str]] = attrgetter(*SnapshotMeta._fields[:6])


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRef:
    """One line of a saga's timeline: everything but the context, and where the bytes are.

    `expires_at` is when the snapshot stops existing (None: never); `storage_class` is set for the cold tier.
    `held`: a legal hold suspends its expiry (told by `timeline`). `unreadable`: why it is known already that it cannot
    be read; its names and status are then empty, its ids and place in the order are those of the index.
    """

    snapshot_id: UUID
    saga_id: UUID
    saga_name: str
    step_name: str
    step_index: int
    status: str
    created_at: datetime
    expires_at: datetime | None
    tier: Tier
    storage_class: str | None = None
    held: bool = False
    unreadable: str | None = None

    @property
    def order_key(self) -> tuple[datetime, int, int]:
        """Ascending time-travel order (guarantee G5)."""
        return (self.created_at, self.step_index, self.snapshot_id.int)

    @classmethod
    def of(
        cls, meta: SnapshotMeta, *, expires_us: int | None, tier: Tier, storage_class: str | None = None
    ) -> SnapshotRef:
        return cls(
            snapshot_id=meta.snapshot_id,
            saga_id=meta.saga_id,
            saga_name=meta.saga_name,
            step_name=meta.step_name,
            step_index=meta.step_index,
            status=meta.status,
            created_at=from_micros(meta.created_us),
            expires_at=None if expires_us is None else from_micros(expires_us),
            tier=tier,
            storage_class=storage_class,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return _as_dict(self)


@dataclass(slots=True)
class ReplayConfig:
    """What the engine captures (same fields as sagaz's ReplayConfig)."""

    enable_snapshots: bool = False
    snapshot_strategy: SnapshotStrategy = SnapshotStrategy.ON_FAILURE
    retention_days: int = 30
    compression: str | None = None
    max_snapshots_per_saga: int | None = None

    def get_retention_until(self) -> datetime:
        """Now plus `retention_days`, as far as times go; the engine calls this when it captures."""
        now = datetime.now(UTC)
        return now + timedelta(days=min(self.retention_days, (MAX_TIME - now).days))


@dataclass(slots=True)
class ReplayResult:
    """The record of one replay (same fields as sagaz's ReplayResult; it changes as the replay proceeds)."""

    replay_id: UUID
    original_saga_id: UUID
    new_saga_id: UUID
    checkpoint_step: str
    replay_status: ReplayStatus
    initiated_by: str = "system"
    context_override: dict[str, Any] | None = None
    error_message: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    completed_at: datetime | None = None

    def mark_success(self) -> None:
        """The replay ended well, now."""
        self.replay_status = ReplayStatus.SUCCESS
        self.completed_at = datetime.now(UTC)

    def mark_failed(self, error: str) -> None:
        """The replay failed with `error`, now."""
        self.replay_status = ReplayStatus.FAILED
        self.error_message = error
        self.completed_at = datetime.now(UTC)

    def to_dict(self) -> dict[str, Any]:
        """Ids and times as text: what `get_replay_log` returns."""
        return _as_dict(self) | {"replay_status": ReplayStatus(self.replay_status).value}


def replay_record(result: Any) -> dict[str, Any]:
    """The shape of `ReplayResult.to_dict` of a result (ours or sagaz's), checked; `context_override` is not copied.

    Raises InvalidSnapshot (or NaiveTimestamp) for what is not a replay result.
    """
    try:
        record = {name: getattr(result, name) for name in ReplayResult.__dataclass_fields__}
        record["replay_status"] = ReplayStatus(getattr(result.replay_status, "value", result.replay_status))
        record |= {name: as_uuid(record[name], name) for name in ("replay_id", "original_saga_id", "new_saga_id")}
        times = ("created_at",) if result.completed_at is None else ("created_at", "completed_at")
        record |= {name: as_utc(record[name], name) for name in times}
        return {name: _plain(value) if name in _NOT_PLAIN else value for name, value in record.items()}
    except (AttributeError, ValueError) as exc:
        raise InvalidSnapshot(f"not a replay result: {exc}") from exc
