"""The source's side: every snapshot of a saga once, in spite of outages, archived bytes and unreadable records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from sagaz_tiering.errors import SagazTieringError, SnapshotArchived, TierUnavailable, Unreadable
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef
from sagaz_tiering.storage.base import SnapshotSource
from sagaz_tiering.transfer.ordered import closing
from sagaz_tiering.transfer.report import Counts, Outcome
from sagaz_tiering.transfer.retry import RetryBudget

_Key = tuple[datetime, int, int]

_MOST_LISTED: Final = 1024
"""Snapshots of one saga that are held at once where a source can only list them."""


class NextReplay(NamedTuple):
    """A replay record (None: there is no further one), and what could not be read since the one before it."""

    replay_id: UUID
    record: dict[str, Any] | None
    before: Counts


class OutOfOrder(SagazTieringError):
    """A source gives its ids in another order than ascending: what a resumed transfer skips would be wrong."""


class SourceReader:
    """Reads one source for one transfer."""

    def __init__(self, source: SnapshotSource, retry_budget: RetryBudget) -> None:
        self._source = source
        self._retry_budget = retry_budget

    async def saga_ids(self, after: UUID | None) -> AsyncIterator[UUID]:
        """Every saga behind `after`, ascending. Raises TierUnavailable when the budget is spent."""
        last, waiting = after, self._retry_budget.wait()
        while True:
            try:
                async with closing(self._source.saga_ids(after=last)) as found:
                    async for saga_id in found:
                        _check_order(last, saga_id)
                        last, waiting = saga_id, self._retry_budget.wait()
                        yield saga_id
                return
            except TierUnavailable as exc:
                await waiting.after(exc)

    async def replay_logs(self, after: UUID | None) -> AsyncIterator[NextReplay]:
        """Every replay record behind `after`, ascending, each with the unreadable ones before it."""
        last, waiting, before = after, self._retry_budget.wait(), Counts()
        while True:
            try:
                async with closing(self._source.iter_replay_logs(after=last)) as found:
                    async for record in found:
                        replay_id = UUID(record["replay_id"])
                        _check_order(last, replay_id)
                        last, waiting = replay_id, self._retry_budget.wait()
                        yield NextReplay(replay_id, record, before)
                        before = Counts()
                break
            except TierUnavailable as exc:
                await waiting.after(exc)
            except Unreadable as exc:
                behind = [replay_id for replay_id in exc.unreadable if last is None or replay_id > last]
                if not behind:
                    raise
                for replay_id in behind:
                    before.fail(exc.unreadable[replay_id], item_id=str(replay_id), saga_id=None)
                last = max(behind)
        if before.found:
            yield NextReplay(last or UUID(int=0), None, before)

    async def newest(self, saga_id: UUID) -> SagaSnapshot | None:
        """The newest snapshot of a saga, where the source can give it by itself. Raises as `snapshots`."""
        get = getattr(self._source, "get_latest_snapshot", None)
        try:
            return None if get is None else await self._retry_budget.ask(partial(get, saga_id))
        except Unreadable:
            return None

    async def snapshots(self, saga_id: UUID, counts: Counts) -> AsyncIterator[SagaSnapshot]:
        """The snapshots of a saga, oldest first; what cannot be read is in `counts` instead.

        Raises TierUnavailable when the budget is spent.
        """
        last: _Key | None = None
        waiting, again = self._retry_budget.wait(), False
        while True:
            try:
                async with closing(self._source.iter_snapshots(saga_id)) as found:
                    async for snapshot in found:
                        key = _order_key(snapshot)
                        if again and last is not None and key <= last:
                            continue
                        last, waiting = key, self._retry_budget.wait()
                        yield snapshot
                return
            except TierUnavailable as exc:
                await waiting.after(exc)
                again = True
            except Unreadable as exc:
                told = {i: each for i, each in exc.unreadable.items() if not isinstance(each, SnapshotArchived)}
                for snapshot_id, each in told.items():
                    counts.fail(each, item_id=str(snapshot_id), saga_id=saga_id)
                if not told or isinstance(exc, SnapshotArchived):  # else it was the end: the rest has come before it
                    async for snapshot in self._one_by_one(saga_id, last, exc, counts, told):
                        yield snapshot
                return

    async def _one_by_one(
        self, saga_id: UUID, last: _Key | None, error: Unreadable, counts: Counts, told: Collection[UUID]
    ) -> AsyncIterator[SagaSnapshot]:
        """What is left of a saga that cannot be read as a whole: each by its id, where the source can name them.

        Those `told` of are counted.
        """
        names, get = self._names(saga_id, last), getattr(self._source, "get_snapshot", None)
        if names is None or get is None:
            async for snapshot in self._newest_readable(saga_id, last, error, counts):
                yield snapshot
            return
        async for snapshot_id in names:
            if snapshot_id in told:
                continue
            try:
                found: SagaSnapshot | None = await self._retry_budget.ask(partial(get, snapshot_id))
            except SnapshotArchived as exc:
                _count_archived(counts, [snapshot_id], exc)
            except Unreadable as exc:
                counts.fail(exc, item_id=snapshot_id, saga_id=saga_id)
            else:
                if found is not None and (last is None or _order_key(found) > last):
                    yield found

    def _names(self, saga_id: UUID, last: _Key | None) -> AsyncIterator[UUID] | None:
        """Ids of a saga's snapshots, found without their bytes; None if the source has no way to."""
        timeline, ids = getattr(self._source, "timeline", None), getattr(self._source, "snapshot_ids", None)
        if ids is not None:
            return cast(AsyncIterator[UUID], ids(saga_id))
        return None if timeline is None else self._of_timeline(partial(timeline, saga_id), last)

    async def _of_timeline(
        self, timeline: Callable[[], Awaitable[list[SnapshotRef]]], last: _Key | None
    ) -> AsyncIterator[UUID]:
        for ref in await self._retry_budget.ask(timeline):
            if last is None or ref.order_key > last:
                yield ref.snapshot_id

    async def _newest_readable(
        self, saga_id: UUID, last: _Key | None, error: Unreadable, counts: Counts
    ) -> AsyncIterator[SagaSnapshot]:
        """As many of the newest of a saga as can be listed, and the error for the rest."""
        archived = list(error.snapshot_ids) if isinstance(error, SnapshotArchived) else []
        listing = getattr(self._source, "list_snapshots", None)
        readable: list[SagaSnapshot] = []
        limit = 1
        while listing is not None and limit <= _MOST_LISTED:
            try:
                listed: list[SagaSnapshot] = await self._retry_budget.ask(partial(listing, saga_id, limit=limit))
            except Unreadable:
                break
            readable, complete = listed, len(listed) < limit
            if complete:
                break
            limit *= 2
        for snapshot in reversed(readable):
            if last is None or _order_key(snapshot) > last:
                yield snapshot
        if isinstance(error, SnapshotArchived):
            _count_archived(counts, archived, error)
        else:
            counts.fail(error, item_id=None, saga_id=saga_id)


def _count_archived(counts: Counts, snapshot_ids: Sequence[UUID], error: SnapshotArchived) -> None:
    for _ in snapshot_ids:
        counts.count(Outcome.ARCHIVED)
    counts.note(f"not copied, archived in {error.storage_class}: {error.how_to_restore or 'restore them first'}")


def _order_key(snapshot: SagaSnapshot) -> _Key:
    return (snapshot.created_at, snapshot.step_index, snapshot.snapshot_id.int)


def _check_order(last: UUID | None, found: UUID) -> None:
    if last is not None and found <= last:
        raise OutOfOrder(f"the source gave {found} after {last}", hint="this is a bug of the source; report it")
