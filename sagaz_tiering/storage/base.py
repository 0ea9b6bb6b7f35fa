"""The contract of a snapshot storage: what the engine calls, what transfer and backup read, plus lifecycle."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, Self, runtime_checkable
from uuid import UUID

from sagaz_tiering.errors import ConfigError
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot
from sagaz_tiering.terminal import document

MAX_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What `health_check` found; it never raises for a server that is down, it says so here.

    `status`: healthy, degraded (some of it answers, or it should be looked at) or unhealthy (nothing answers);
    latency in milliseconds. The counts cover what answered: `details` tells what did not, and whether a count is
    only a lower bound.
    """

    status: str
    latency_ms: float
    snapshot_count: int
    total_size_bytes: int
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self)


@runtime_checkable
class SnapshotSource(Protocol):
    """What can be read whole, in a fixed order and bounded memory: every storage, and the readers of foreign data."""

    def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""

    def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first; without `saga_id` of every saga in the order of `saga_ids`.

        Holds a page at a time. What is saved or deleted meanwhile may or may not be seen, nor need be what is saved
        anew meanwhile with another `created_at` or saga: its new place may lie behind. Raises SnapshotArchived where it
        comes to archived bytes, and at its end Unreadable for what it had to pass over (`unreadable` names it).
        """

    def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record in the shape of `ReplayResult.to_dict`, ascending by replay id, from behind `after`.

        Raises CorruptRecord where one cannot be read: `unreadable` names it, to go on behind.
        """

    async def close(self) -> None:
        """Release what was opened; the next call opens it again."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...


@runtime_checkable
class SnapshotStorage(SnapshotSource, Protocol):
    """Ten methods of the `sagaz` engine, and what operating a storage needs. Ids are accepted as UUID or text; text
    that is no UUID is the id of nothing for the engine's methods and `cleanup_saga`, as in sagaz: None, [], False or 0.
    All of them may be called from every event loop, thread and forked process; what cannot be raises WrongEventLoop.

    Order everywhere is (created_at, step_index, snapshot_id). `None` and `[]` mean "does not exist or expired",
    never "could not ask": that raises an error of `sagaz_tiering.errors`. What comes back is what was asked for: bytes
    of another snapshot, saga, step or time are damage. A stored record that cannot be read raises `errors.Unreadable`
    (CorruptRecord, SnapshotLost, SnapshotArchived), also from a list, with the others in its `readable`.
    """

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        """Store; a snapshot with the same id is replaced. Raises InvalidSnapshot, TierUnavailable."""

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        """One snapshot."""

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        """The newest of a saga; with `before_step`, the newest whose `step_name` equals it."""

    async def get_snapshot_at_time(self, saga_id: UUID | str, timestamp: datetime) -> SagaSnapshot | None:
        """The newest live one created at or before an aware time (raises NaiveTimestamp)."""

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        """The newest `limit`, newest first. ValueError or TypeError for a wrong limit; Unreadable has the rest."""

    async def delete_snapshot(self, snapshot_id: UUID | str) -> bool:
        """Remove one, expired or unreadable ones too; False if there was none."""

    async def delete_expired_snapshots(self) -> int:
        """Remove what is past its retention; how many."""

    async def save_replay_log(self, replay_result: ReplayResult) -> None:
        """Insert or replace a replay record (ours or sagaz's)."""

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """One replay record in the shape of `ReplayResult.to_dict`."""

    async def list_replays(self, original_saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """Replay records whose original is this saga, newest first. Raises ValueError for a negative limit."""

    async def cleanup_saga(self, saga_id: UUID | str) -> int:
        """Remove every snapshot of a saga; how many there were."""

    async def health_check(self) -> Health:
        """Whether it works, and how much it holds."""

    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of (`storage_type` and its options, no secrets)."""


def as_duration(value: timedelta | float, name: str) -> timedelta:
    """A timedelta, or a number of seconds, as the drivers take it. Raises ConfigError that names the option."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        found = timedelta(seconds=value) if number else value  # type: ignore[arg-type]  # a number was asked for
    except (OverflowError, ValueError):
        found = None
    if not isinstance(found, timedelta) or found <= timedelta(0):
        raise ConfigError(f"{name} must be a timedelta or a number of seconds, above 0, not {value!r:.80}")
    return found


def check_level(level: object) -> None:
    """Raise ConfigError unless it is a level of zstd."""
    if type(level) is not int or not 1 <= level <= 22:
        raise ConfigError(
            f"compression_level must be from 1 to 22, not {level!r}",
            hint="3 is a good one; enable_compression=False stores values as they are",
        )


def checked_limit(limit: int) -> int:
    """`limit` as every backend takes it. Raises ValueError for a negative one, TypeError for no whole number."""
    try:
        if isinstance(limit, bool):
            raise TypeError("a yes or no counts nothing")
        number = operator.index(limit)
    except TypeError as exc:
        raise TypeError(f"limit must be a whole number, such as 100, not {limit!r:.80}") from exc
    if number < 0:
        raise ValueError(f"limit must not be negative: {number}")
    return min(number, MAX_LIMIT)
