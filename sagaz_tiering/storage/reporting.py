"""What every storage tells logs and metrics: the engine swallows the errors of a save, so they are shown here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sagaz_tiering import metrics
from sagaz_tiering.errors import CorruptData, SagazTieringError, TierUnavailable, UnexpectedFailure
from sagaz_tiering.logs import Logger, Repeated

_log = Logger(__name__)

Unreadable = Callable[[object, CorruptData], None]
_told: ContextVar[Unreadable | None] = ContextVar("told_of_unreadable", default=None)


class reported_save:  # noqa: N801 - used like a function
    """Time of a save; a failed one in logs and metrics, whatever failed. `snapshot` may be anything.

    What is no error of ours becomes an UnexpectedFailure. A server that is away is told once in a while, not with every
    save, and when it is back.
    """

    __slots__ = ("_began", "_snapshot", "_storage")

    def __init__(self, snapshot: object, storage: str) -> None:
        self._snapshot = snapshot
        self._storage = storage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        metrics.SAVE_SECONDS.observe(time.perf_counter() - self._began)
        if error is None:
            _recovered(_save_outages, "snapshot.saves_recovered", self._storage)
        elif isinstance(error, Exception):
            typed = _typed(error, "the save failed")
            metrics.SAVE_FAILURES.labels(reason=type(typed).__name__).inc()
            about = {
                "snapshot_id": str(getattr(self._snapshot, "snapshot_id", None)),
                "saga_id": str(getattr(self._snapshot, "saga_id", None)),
            }
            _tell(_save_outages, "snapshot.save_failed", self._storage, typed, about)
            if typed is not error:
                raise typed from error


class measured_read:  # noqa: N801 - used like a function
    """Time and failures of a read, in the metrics; a server that is away and the unforeseen in the logs, too."""

    __slots__ = ("_began", "_storage")

    def __init__(self, storage: str = "") -> None:
        self._storage = storage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        metrics.READ_SECONDS.observe(time.perf_counter() - self._began)
        if error is None:
            _recovered(_read_outages, "snapshot.reads_recovered", self._storage)
        elif isinstance(error, Exception) and not isinstance(error, (ValueError, TypeError)):  # a caller's mistake
            typed = _typed(error, "the read failed")
            metrics.READ_FAILURES.labels(reason=type(typed).__name__).inc()
            if isinstance(typed, (TierUnavailable, UnexpectedFailure)):
                _tell(_read_outages, "snapshot.read_failed", self._storage, typed, {})
            if typed is not error:
                raise typed from error


_save_outages: dict[str, Repeated] = {}
_read_outages: dict[str, Repeated] = {}


def _typed(error: Exception, what: str) -> SagazTieringError:
    if isinstance(error, SagazTieringError):
        return error
    return UnexpectedFailure(f"{what}: {type(error).__name__}: {error}")


def _tell(
    outages: dict[str, Repeated], event: str, storage: str, error: SagazTieringError, about: dict[str, str]
) -> None:
    times: dict[str, int] | None = {}
    if isinstance(error, (TierUnavailable, UnexpectedFailure)):
        times = outages.setdefault(storage, Repeated()).due(type(error))
    if times is not None:
        kind = type(error).__name__
        _log.error(event, storage=storage, error=str(error), hint=error.hint, error_type=kind, **about, **times)


def _recovered(outages: dict[str, Repeated], event: str, storage: str) -> None:
    outage = outages.get(storage)
    if outage is not None and (kinds := outage.over()):
        _log.info(event, storage=storage, untold=sum(kinds.values()))


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
