"""What every storage tells logs and metrics: the engine swallows the errors of a save, so they are shown here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog

from sagaz_tiering import metrics
from sagaz_tiering.errors import CorruptData, SagazTieringError

_log = structlog.get_logger(__name__)

Unreadable = Callable[[object, CorruptData], None]
_told: ContextVar[Unreadable | None] = ContextVar("told_of_unreadable", default=None)


class reported_save:  # noqa: N801 - used like a function
    """Time of a save; a failed one in logs and metrics. `snapshot` may be anything."""

    __slots__ = ("_began", "_snapshot", "_storage")

    def __init__(self, snapshot: object, storage: str) -> None:
        self._snapshot = snapshot
        self._storage = storage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        metrics.SAVE_SECONDS.observe(time.perf_counter() - self._began)
        if isinstance(error, SagazTieringError):
            metrics.SAVE_FAILURES.labels(reason=type(error).__name__).inc()
            _log.error(
                "snapshot.save_failed",
                snapshot_id=str(getattr(self._snapshot, "snapshot_id", None)),
                saga_id=str(getattr(self._snapshot, "saga_id", None)),
                storage=self._storage,
                error=str(error),
                error_type=type(error).__name__,
            )


class measured_read:  # noqa: N801 - used like a function
    """Time and failures of a read, in the metrics."""

    __slots__ = ("_began",)

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        metrics.READ_SECONDS.observe(time.perf_counter() - self._began)
        if isinstance(error, SagazTieringError):
            metrics.READ_FAILURES.labels(reason=type(error).__name__).inc()


def skipped_unreadable(snapshot_id: object, storage: str, error: CorruptData) -> None:
    """A list leaves out a record that cannot be read: say so, also to who asked by `telling_unreadable`."""
    metrics.READ_FAILURES.labels(reason=type(error).__name__).inc()
    _log.error("snapshot.unreadable", snapshot_id=str(snapshot_id), storage=storage, error=str(error))
    told = _told.get()
    if told is not None:
        told(snapshot_id, error)


@contextmanager
def telling_unreadable(tell: Unreadable) -> Iterator[None]:
    """Have `tell(id, error)` called for each record that a list leaves out within the block: what must add up."""
    token = _told.set(tell)
    try:
        yield
    finally:
        _told.reset(token)
