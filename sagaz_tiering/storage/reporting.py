"""What every storage tells logs and metrics: the engine swallows the errors of a save, so they are shown here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final, TypeVar
from uuid import UUID

from sagaz_tiering import errors, metrics
from sagaz_tiering.drivers import traces
from sagaz_tiering.logs import Logger, Repeated

_log = Logger(__name__)

T = TypeVar("T")

MOST_GAPS: Final = 10_000
"""Unreadable items that an error names at most."""


class reported_save:  # noqa: N801 - used like a function
    """Time of a save; a failed one in logs and metrics, whatever failed. `snapshot` may be anything.

    What is no error of ours becomes an UnexpectedFailure. A server that is away is told once in a while, not with every
    save, and when it is back; the same fault in a saga's snapshots, once in a while for that saga.
    """

    __slots__ = ("_began", "_snapshot", "_span", "_storage")

    def __init__(self, snapshot: object, storage: str) -> None:
        self._snapshot = snapshot
        self._storage = storage
        self._span: AbstractContextManager[Any] | None = None

    def __enter__(self) -> None:
        if traces.tracer is not None:
            name = getattr(self._snapshot, "saga_name", None)
            self._span = traces.span("snapshot.save", storage=self._storage, saga_name=name)
            self._span.__enter__()
        self._began = time.perf_counter()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        metrics.SAVE_SECONDS.observe(time.perf_counter() - self._began)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
        if error is None:
            if _save_outages:
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

    __slots__ = ("_began", "_span", "_storage")

    def __init__(self, storage: str = "") -> None:
        self._storage = storage
        self._span: AbstractContextManager[Any] | None = None

    def __enter__(self) -> None:
        if traces.tracer is not None:
            self._span = traces.span("snapshot.read", storage=self._storage)
            self._span.__enter__()
        self._began = time.perf_counter()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        metrics.READ_SECONDS.observe(time.perf_counter() - self._began)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
        if error is None:
            if _read_outages:
                _recovered(_read_outages, "snapshot.reads_recovered", self._storage)
        elif isinstance(error, Exception) and not isinstance(error, (ValueError, TypeError)):  # a caller's mistake
            typed = _typed(error, "the read failed")
            metrics.READ_FAILURES.labels(reason=type(typed).__name__).inc()
            if isinstance(typed, (errors.TierUnavailable, errors.UnexpectedFailure)):
                _tell(_read_outages, "snapshot.read_failed", self._storage, typed, {})
            if typed is not error:
                raise typed from error


_save_outages: dict[str, Repeated] = {}
_read_outages: dict[str, Repeated] = {}


def _typed(error: Exception, what: str) -> errors.SagazTieringError:
    if isinstance(error, errors.SagazTieringError):
        return error
    return errors.UnexpectedFailure(f"{what}: {type(error).__name__}: {error}")


def _tell(
    outages: dict[str, Repeated], event: str, storage: str, error: errors.SagazTieringError, about: dict[str, str]
) -> None:
    times: dict[str, int] | None = {}
    if isinstance(error, (errors.TierUnavailable, errors.UnexpectedFailure)):
        times = outages.setdefault(storage, Repeated()).due(type(error))
    elif isinstance(error, errors.InvalidSnapshot) and not _is_news(storage, (about["saga_id"], str(error))):
        times = None
    if times is not None:
        kind = type(error).__name__
        _log.error(event, storage=storage, error=str(error), hint=error.hint, error_type=kind, **about, **times)


def _recovered(outages: dict[str, Repeated], event: str, storage: str) -> None:
    outage = outages.get(storage)
    if outage is not None and (kinds := outage.over()):
        _log.info(event, storage=storage, untold=sum(kinds.values()))


_news: dict[tuple[str, object], float] = {}
"""When each was told last, of the last MOST_GAPS."""
_TOLD_EVERY_S: Final = 30.0


def _is_news(storage: str, item: object) -> bool:
    """Whether this one was not told a moment ago: what cannot be read may be read often, and each step saves."""
    now, before = time.monotonic(), _news.pop((storage, item), None)
    is_news = before is None or now - before >= _TOLD_EVERY_S
    if len(_news) >= MOST_GAPS:
        del _news[next(iter(_news))]
    _news[storage, item] = now if is_news or before is None else before
    return is_news


class Gaps:
    """What a list or a walk could not read. Who asked is never given the rest as if it were the whole."""

    __slots__ = ("_found", "_storage")

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._found: dict[UUID, errors.Unreadable] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, item_id: UUID, error: errors.Unreadable) -> None:
        """This one cannot be read; said in the log too. Of a walk that meets very many the first are kept."""
        if item_id in self._found or len(self._found) >= MOST_GAPS:
            return
        if not isinstance(error, errors.SnapshotArchived):
            if str(item_id) not in str(error):
                named = type(error)(f"{item_id}: {error}", hint=error.hint)
                named.__cause__, error = error, named
            if _is_news(self._storage, item_id):
                _log.error("snapshot.unreadable", snapshot_id=str(item_id), storage=self._storage, error=str(error))
        self._found[item_id] = error

    @contextmanager
    def passing_over(self, item_id: UUID) -> Iterator[None]:
        """The block may not be able to read this one: then it ends there, and this is a gap."""
        try:
            yield
        except errors.CorruptRecord as exc:
            self.add(item_id, exc)

    def readable(self, found: Iterable[tuple[UUID, T | errors.CorruptRecord | None]]) -> list[T]:
        """Those that could be read; the errors among them become gaps, None is nothing."""
        readable = list[T]()
        for item_id, each in found:
            if isinstance(each, errors.CorruptRecord):
                self.add(item_id, each)
            elif each is not None:
                readable.append(each)
        return readable

    def update(self, error: errors.Unreadable) -> None:
        """Those that a part of the walk could not read."""
        for item_id, each in error.unreadable.items():
            self._found.setdefault(item_id, each)

    def attach(self, error: errors.Unreadable, readable: Sequence[Any] = ()) -> errors.Unreadable:
        """`error`, which tells of all of them and of what can be read."""
        error.readable, error.unreadable = tuple(readable), MappingProxyType(dict(self._found))
        return error

    def check(self, readable: Sequence[Any] = ()) -> None:
        """Raise the error of the first of them, if there is one: of an archived one first, since that can be cured."""
        if self._found:
            found = self._found.values()
            archived = (error for error in found if isinstance(error, errors.SnapshotArchived))
            raise self.attach(next(archived, next(iter(found))), readable)
