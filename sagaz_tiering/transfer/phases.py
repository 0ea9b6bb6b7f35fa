"""The two phases of a transfer: the snapshots of every saga, then the replay records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
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
from sagaz_tiering.transfer.ordered import OrderedCommitter, Unit, closing
from sagaz_tiering.transfer.report import Counts
from sagaz_tiering.transfer.retry import Outage, Stopped
from sagaz_tiering.transfer.source import NextReplay, OutOfOrder, SourceReader
from sagaz_tiering.transfer.target import Writer

_log = Logger(__name__)

_HOPELESS: Final = (ConfigError, MissingDependencyError, SchemaMismatch, BucketUnusable, ForeignCatalog, OutOfOrder)
"""Errors that every further item would meet too: they end the transfer."""

_WINDOW: Final = 64
"""Sagas (or replay records) per worker that may be done while an earlier one is not."""


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
        self._outage = Outage(2 * self.concurrency)
        self._unfinished: Callable[[], Sequence[Unit[Any]]] = list

    def begun(self) -> Counts:
        """What was counted in the running phase and is behind the mark."""
        counts = Counts()
        for unit in self._unfinished():
            counts.add(unit.counts)
        return counts

    async def snapshots(self, selected: Sequence[UUID] | None) -> bool:
        """Every snapshot behind the mark; False if it was stopped before the end."""
        mark = self.standing.mark
        sagas = self.reader.saga_ids(mark) if selected is None else _behind(mark, selected)
        work = OrderedCommitter(units=sagas, commit=self._commit_saga, **self._limits())
        self._unfinished = work.unfinished
        return await work.run(partial(self._copy_saga, is_selected=selected is not None))

    async def replay_logs(self, selected: Sequence[UUID] | None) -> bool:
        """Every replay record behind the mark; False if it was stopped before the end."""
        records = self.reader.replay_logs(self.standing.mark)
        work = OrderedCommitter(units=records, commit=self._commit_replay, **self._limits())
        self._unfinished = work.unfinished
        return await work.run(partial(self._copy_replay, of_sagas=None if selected is None else frozenset(selected)))

    def _limits(self) -> dict[str, Any]:
        return {
            "workers": self.concurrency,
            "window": _WINDOW * self.concurrency,
            "committed": self.moved,
            "is_doubted": lambda: self._outage.suspected,
            "stop": self.stop,
        }

    def _commit_saga(self, unit: Unit[UUID]) -> None:
        self.standing.mark = unit.value
        self.standing.probe = unit.probe or self.standing.probe
        self.standing.snapshots.add(unit.counts)

    def _commit_replay(self, unit: Unit[NextReplay]) -> None:
        self.standing.mark = unit.value.replay_id
        self.standing.replay_logs.add(unit.counts)

    async def _copy_saga(self, unit: Unit[UUID], *, is_selected: bool) -> None:
        async with asyncio.TaskGroup() as copies:
            await self._judge(unit, None, unit.value, partial(self._read_saga, unit, copies))
        counts = unit.counts
        counts.sagas += counts.found > 0
        counts.sagas_missing += is_selected and counts.found == 0 and not unit.cut

    async def _read_saga(self, unit: Unit[UUID], copies: asyncio.TaskGroup) -> None:
        """Begin the copy of each snapshot as slots get free; never holds more than one that waits for a slot.

        The newest goes first: where a saga ends decides at the target what becomes of the others, from their save on.
        """
        compare = await self.writer.has_saga(unit.value)
        newest = await self.reader.newest(unit.value)
        if newest is not None:
            await self._slot()
            await self._copy_snapshot(unit, newest, compare)
        async with closing(self.reader.snapshots(unit.value, unit.counts)) as found:
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

    async def _copy_snapshot(self, unit: Unit[UUID], snapshot: SagaSnapshot, compare: bool) -> None:
        async def put() -> None:
            if await self.writer.put(snapshot, unit.counts, compare=compare):
                unit.probe = snapshot.snapshot_id
            self._outage.over()

        try:
            await self._judge(unit, snapshot.snapshot_id, snapshot.saga_id, put)
        finally:
            self._slots.release()
        self.counted()

    async def _copy_replay(self, unit: Unit[NextReplay], *, of_sagas: frozenset[UUID] | None) -> None:
        found = unit.value
        unit.counts.add(found.before)

        async def put(record: dict[str, Any]) -> None:
            if of_sagas is None or as_uuid(record.get("original_saga_id"), "original_saga_id") in of_sagas:
                await self.writer.put_replay(record, unit.counts)
                self._outage.over()

        if found.record is not None:
            await self._judge(unit, found.replay_id, None, partial(put, found.record))
            self.counted()

    async def _judge(
        self, unit: Unit[Any], item_id: UUID | None, saga_id: UUID | None, work: Callable[[], Awaitable[None]]
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
                self._outage.gave_up(exc)
            elif item_id is not None:
                self._outage.over()


async def _behind(mark: UUID | None, selected: Sequence[UUID]) -> AsyncIterator[UUID]:
    for saga_id in selected:
        if mark is None or saga_id > mark:
            yield saga_id
