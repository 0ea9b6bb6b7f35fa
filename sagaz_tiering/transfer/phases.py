"""The two phases of a transfer: the snapshots of every saga, then the replay records.

Their units come in ascending order and are worked on several at a time: up to where is everything done?
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.errors import (
    BucketUnusable,
    ConfigError,
    ForeignCatalog,
    MissingDependencyError,
    SagazTieringError,
    SchemaMismatch,
    TierUnavailable,
)
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SagaSnapshot, as_uuid
from sagaz_tiering.transfer.checkpoint import Standing
from sagaz_tiering.transfer.report import Counts
from sagaz_tiering.transfer.retry import Stopped, closing
from sagaz_tiering.transfer.source import OutOfOrder, SourceReader
from sagaz_tiering.transfer.target import Writer

_log = Logger(__name__)

_HOPELESS: Final = (ConfigError, MissingDependencyError, SchemaMismatch, BucketUnusable, ForeignCatalog, OutOfOrder)
"""Errors that every further item would meet too: they end the transfer."""

_WINDOW: Final = 64
"""Sagas (or replay records) per worker that may be done while an earlier one is not: memory stays bounded."""


@dataclass(slots=True, eq=False)
class Unit:
    """One unit of work (a saga, or a replay record with what the source gave of it) and what was counted for it.

    `cut`: the work ended before its end, so that nothing from here on counts as done. `doubtful`: it should not
    count as done while an outage is suspected, since then it would be tried again. `probe`: a snapshot of it that
    is at the target.
    """

    id: UUID
    given: Any
    counts: Counts = field(default_factory=Counts)
    cut: bool = False
    doubtful: bool = False
    probe: UUID | None = None
    finished: bool = False


Work = Callable[[Unit], Awaitable[None]]
Units = AsyncIterator[tuple[UUID, Any]]


@dataclass(kw_only=True, eq=False)
class Phases:
    """Moves `standing` forward. `moved` is awaited after each unit, `counted` called after each item."""

    reader: SourceReader
    writer: Writer
    standing: Standing
    concurrency: int
    stop: asyncio.Event
    moved: Callable[[], Awaitable[None]]
    counted: Callable[[], None]

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.concurrency)
        self._unanswered = 0  # items in a row for which a server could not be asked
        self._begun: deque[Unit] = deque()  # and not committed
        self._room = asyncio.Condition()
        self._over = False

    def begun(self) -> Counts:
        """What was counted in the running phase and is behind the mark."""
        counts = Counts()
        for unit in self._begun:
            counts.add(unit.counts)
        return counts

    async def snapshots(self, selected: Sequence[UUID] | None) -> bool:
        """Every snapshot behind the mark; False if it was stopped before the end."""
        sagas = self.reader.sagas(self.standing.mark, selected)
        copy = partial(self._copy_saga, is_selected=selected is not None)
        return await self._in_order(sagas, copy, self.standing.snapshots)

    async def replay_logs(self, selected: Sequence[UUID] | None) -> bool:
        """Every replay record behind the mark; False if it was stopped before the end."""
        records = self.reader.replay_logs(self.standing.mark)
        copy = partial(self._copy_replay, of_sagas=None if selected is None else frozenset(selected))
        return await self._in_order(records, copy, self.standing.replay_logs)

    async def _in_order(self, units: Units, work: Work, total: Counts) -> bool:
        """Work on all units, and commit the finished ones in their order; False if it was stopped before the end.

        Raises the first error of `work` or of the units, when all other work has ended.
        """
        self._over = False
        async with closing(units):
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.concurrency):
                        group.create_task(self._work(units, work, total))
            except BaseExceptionGroup as errors:
                raise _first_of(errors) from None
        self._commit_finished(total, trust=True)
        return not self._begun and not self.stop.is_set()

    async def _work(self, units: Units, work: Work, total: Counts) -> None:
        while (unit := await self._next(units)) is not None:
            await work(unit)
            unit.finished = not unit.cut
            self._over = self._over or unit.cut
            self._commit_finished(total, trust=len(self._begun) >= _WINDOW * self.concurrency)
            await self.moved()
            async with self._room:
                self._room.notify_all()

    async def _next(self, units: Units) -> Unit | None:
        async with self._room:  # one at a time, or they would not be in order
            await self._room.wait_for(lambda: self._over or len(self._begun) < _WINDOW * self.concurrency)
            if self._over or self.stop.is_set():
                return None
            try:
                unit = Unit(*await anext(units))
            except (StopAsyncIteration, Stopped):
                self._over = True
                return None
            self._begun.append(unit)
            return unit

    def _commit_finished(self, total: Counts, *, trust: bool) -> None:
        while self._begun and self._begun[0].finished:
            if self._begun[0].doubtful and not trust and self._unanswered:
                return
            unit = self._begun.popleft()
            self.standing.mark = unit.id
            self.standing.probe = unit.probe or self.standing.probe
            total.add(unit.counts)

    async def _copy_saga(self, unit: Unit, *, is_selected: bool) -> None:
        async with asyncio.TaskGroup() as copies:
            await self._judge(unit, None, unit.id, partial(self._read_saga, unit, copies))
        counts = unit.counts
        counts.sagas += counts.found > 0
        counts.sagas_missing += is_selected and counts.found == 0 and not unit.cut

    async def _read_saga(self, unit: Unit, copies: asyncio.TaskGroup) -> None:
        """Begin the copy of each snapshot as slots get free; never holds more than one that waits for a slot.

        The newest goes first: where a saga ends decides at the target what becomes of the others, from their save on.
        """
        compare = await self.writer.has_saga(unit.id)
        newest = await self.reader.newest(unit.id)
        if newest is not None:
            await self._slot()
            await self._copy_snapshot(unit, newest, compare)
        async with closing(self.reader.snapshots(unit.id, unit.counts)) as found:
            async for snapshot in found:
                if newest is None or snapshot.snapshot_id != newest.snapshot_id:
                    await self._slot()
                    copies.create_task(self._copy_snapshot(unit, snapshot, compare))

    async def _slot(self) -> None:
        """Wait for one. Raises Stopped."""
        await self._slots.acquire()
        if self.stop.is_set():
            self._slots.release()
            raise Stopped

    async def _copy_snapshot(self, unit: Unit, snapshot: SagaSnapshot, compare: bool) -> None:
        async def put() -> None:
            if await self.writer.put(snapshot, unit.counts, compare=compare):
                unit.probe = snapshot.snapshot_id
            self._unanswered = 0

        try:
            await self._judge(unit, snapshot.snapshot_id, snapshot.saga_id, put)
        finally:
            self._slots.release()
        self.counted()

    async def _copy_replay(self, unit: Unit, *, of_sagas: frozenset[UUID] | None) -> None:
        record = unit.given
        if isinstance(record, SagazTieringError):
            unit.counts.fail(record, item_id=unit.id, saga_id=None)
            return

        async def put() -> None:
            if of_sagas is None or as_uuid(record.get("original_saga_id"), "original_saga_id") in of_sagas:
                await self.writer.put_replay(record, unit.counts)
                self._unanswered = 0

        await self._judge(unit, unit.id, None, put)
        self.counted()

    async def _judge(
        self, unit: Unit, item_id: UUID | None, saga_id: UUID | None, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do the work on one item (`item_id` None: on the whole saga), and count it as failed if it fails.

        Raises what would end every other item too: wrong configuration, or an outage.
        """
        try:
            await work()
        except Stopped:
            unit.cut = True
        except _HOPELESS:
            raise
        except SagazTieringError as exc:
            unit.counts.fail(exc, item_id=item_id, saga_id=saga_id)
            _log.warning(
                "transfer.item_failed",
                item_id=None if item_id is None else str(item_id),
                saga_id=None if saga_id is None else str(saga_id),
                error=str(exc),
                error_type=type(exc).__name__,
            )
            if isinstance(exc, TierUnavailable):
                unit.doubtful = True
                self._unanswered += 1
                if self._unanswered >= 2 * self.concurrency:  # it is not the item's fault
                    raise
            elif item_id is not None:
                self._unanswered = 0


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, which is what ended it."""
    first = errors.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
