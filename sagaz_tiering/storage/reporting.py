"""What every storage tells logs and metrics: the engine swallows the errors of a save, so they are shown here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog

from sagaz_tiering import metrics
from sagaz_tiering.errors import CorruptData, SagazTieringError

_log = structlog.get_logger(__name__)

Unreadable = Callable[[object, CorruptData], None]
_told: ContextVar[Unreadable | None] = ContextVar("told_of_unreadable", default=None)


@contextmanager
def reported_save(snapshot: object, storage: str) -> Iterator[None]:
    """Time of a save; a failed one in logs and metrics. `snapshot` may be anything."""
    try:
        with metrics.SAVE_SECONDS.time():
            yield
    except SagazTieringError as exc:
        metrics.SAVE_FAILURES.labels(reason=type(exc).__name__).inc()
        _log.error(
            "snapshot.save_failed",
            snapshot_id=str(getattr(snapshot, "snapshot_id", None)),
            saga_id=str(getattr(snapshot, "saga_id", None)),
            storage=storage,
            error=str(exc),
            error_type=type(exc).__name__,
        )
        raise


@contextmanager
def measured_read() -> Iterator[None]:
    """Time and failures of a read, in the metrics."""
    with metrics.READ_SECONDS.time():
        try:
            yield
        except SagazTieringError as exc:
            metrics.READ_FAILURES.labels(reason=type(exc).__name__).inc()
            raise


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
