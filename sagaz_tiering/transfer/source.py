"""The source's side: every snapshot of a saga once, in spite of outages, archived bytes and unreadable records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

from sagaz_tiering.errors import SagazTieringError, SnapshotArchived, Unreadable
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotSource
from sagaz_tiering.transfer.report import Counts
from sagaz_tiering.transfer.retry import RetryBudget, closing

T = TypeVar("T")
_Key = tuple[datetime, int, int]

_MOST_LISTED: Final = 1024
"""Snapshots of one saga that are held at once where a source can only list them."""


class OutOfOrder(SagazTieringError):
    """A source gives its ids in another order than ascending: what a resumed transfer skips would be wrong."""


class SourceReader:
    """Reads one source for one transfer."""

    def __init__(self, source: SnapshotSource, retry_budget: RetryBudget) -> None:
        self._source: Any = source  # which may have more than that
        self._retry_budget = retry_budget

    def sagas(self, after: UUID | None, selected: Sequence[UUID] | None) -> AsyncIterator[tuple[UUID, UUID]]:
        """Every saga (or every selected one, which are in order) behind `after`, ascending."""
        if selected is None:
            return self._ascending(self._source.saga_ids, lambda saga_id: saga_id, after)
        return _behind(after, selected)

    async def replay_logs(self, after: UUID | None) -> AsyncIterator[tuple[UUID, dict[str, Any] | Unreadable]]:
        """Every replay record behind `after`, ascending, or why it cannot be read."""
        last = after
        while True:
            walk = self._ascending(self._source.iter_replay_logs, lambda record: UUID(record["replay_id"]), last)
            try:
                async with closing(walk) as found:
                    async for last, record in found:
                        yield last, record
                return
            except Unreadable as exc:
                behind = {each: why for each, why in exc.unreadable.items() if last is None or each > last}
                if not behind:
                    raise
            for last in sorted(behind):
                yield last, behind[last]

    async def _ascending(
        self, walk: Callable[..., AsyncIterator[T]], id_of: Callable[[T], UUID], after: UUID | None
    ) -> AsyncIterator[tuple[UUID, T]]:
        last = after
        async with closing(self._retry_budget.walk(lambda: walk(after=last))) as found:
            async for each in found:
                if last is not None and id_of(each) <= last:
                    raise OutOfOrder(
                        f"the source gave {id_of(each)} after {last}", hint="this is a bug of the source; report it"
                    )
                last = id_of(each)
                yield last, each

    async def newest(self, saga_id: UUID) -> SagaSnapshot | None:
        """The newest snapshot of a saga, where the source can give it by itself. Raises as `snapshots`."""
        newest: SagaSnapshot | None = None
        if hasattr(self._source, "get_latest_snapshot"):
            with suppress(Unreadable):
                newest = await self._retry_budget.ask(partial(self._source.get_latest_snapshot, saga_id))
        return newest

    async def snapshots(self, saga_id: UUID, counts: Counts) -> AsyncIterator[SagaSnapshot]:
        """The snapshots of a saga, oldest first; what cannot be read is in `counts` instead.

        Raises TierUnavailable when the budget is spent.
        """
        last: _Key | None = None
        begun = 0

        def begin() -> AsyncIterator[SagaSnapshot]:
            nonlocal begun
            begun += 1
            found: AsyncIterator[SagaSnapshot] = self._source.iter_snapshots(saga_id)
            return found

        try:
            async with closing(self._retry_budget.walk(begin)) as found:
                async for snapshot in found:
                    key = _order_key(snapshot)
                    if begun == 1 or last is None or key > last:
                        last = key
                        yield snapshot
        except Unreadable as exc:
            told = {i: each for i, each in exc.unreadable.items() if not isinstance(each, SnapshotArchived)}
            for snapshot_id, each in told.items():
                counts.fail(each, item_id=snapshot_id, saga_id=saga_id)
            if not told or isinstance(exc, SnapshotArchived):  # else it was the end: the rest has come before it
                has = partial(hasattr, self._source)
                is_named = has("get_snapshot") and (has("snapshot_ids") or has("timeline"))
                rest = self._by_name(saga_id, last, counts, told) if is_named else self._newest(saga_id, exc, counts)
                async for snapshot in rest:
                    if last is None or _order_key(snapshot) > last:
                        yield snapshot

    async def _by_name(
        self, saga_id: UUID, last: _Key | None, counts: Counts, told: Collection[UUID]
    ) -> AsyncIterator[SagaSnapshot]:
        """What is left of a saga that cannot be read as a whole: each by its id; those `told` of are counted."""
        async for snapshot_id in self._names(saga_id, last):
            try:
                found = None
                if snapshot_id not in told:
                    found = await self._retry_budget.ask(partial(self._source.get_snapshot, snapshot_id))
            except SnapshotArchived as exc:
                _count_archived(counts, 1, exc)
            except Unreadable as exc:
                counts.fail(exc, item_id=snapshot_id, saga_id=saga_id)
            else:
                if found is not None:
                    yield found

    async def _names(self, saga_id: UUID, last: _Key | None) -> AsyncIterator[UUID]:
        """Ids of a saga's snapshots, found without their bytes."""
        if hasattr(self._source, "snapshot_ids"):
            async for snapshot_id in self._source.snapshot_ids(saga_id):
                yield snapshot_id
            return
        for ref in await self._retry_budget.ask(partial(self._source.timeline, saga_id)):
            if last is None or ref.order_key > last:
                yield ref.snapshot_id

    async def _newest(self, saga_id: UUID, error: Unreadable, counts: Counts) -> AsyncIterator[SagaSnapshot]:
        """As many of the newest of a saga as can be listed, oldest first, and the error for the rest."""
        readable: list[SagaSnapshot] = []
        limit = 1
        with suppress(Unreadable):
            while hasattr(self._source, "list_snapshots") and limit <= _MOST_LISTED and len(readable) == limit // 2:
                readable = await self._retry_budget.ask(partial(self._source.list_snapshots, saga_id, limit=limit))
                limit *= 2
        for snapshot in reversed(readable):
            yield snapshot
        if isinstance(error, SnapshotArchived):
            _count_archived(counts, len(error.snapshot_ids), error)
        else:
            counts.fail(error, item_id=None, saga_id=saga_id)


def _count_archived(counts: Counts, snapshots: int, error: SnapshotArchived) -> None:
    for _ in range(snapshots):
        counts.count("archived")
    counts.note(f"not copied, archived in {error.storage_class}: {error.how_to_restore or 'restore them first'}")


def _order_key(snapshot: SagaSnapshot) -> _Key:
    return (snapshot.created_at, snapshot.step_index, snapshot.snapshot_id.int)


async def _behind(mark: UUID | None, selected: Sequence[UUID]) -> AsyncIterator[tuple[UUID, UUID]]:
    for saga_id in selected:
        if mark is None or saga_id > mark:
            yield saga_id, saga_id
