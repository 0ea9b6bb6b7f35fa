"""Units that come in ascending order, worked on several at a time: up to where is everything done?"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

from sagaz_tiering.transfer.report import Counts
from sagaz_tiering.transfer.retry import Stopped

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Unit(Generic[T]):
    """One unit of work (a saga, or a replay record) and what was counted for it.

    `cut`: the work ended before its end, so that nothing from here on counts as done. `doubtful`: it should not
    count as done while an outage is suspected, since then it would be tried again. `probe`: a snapshot of it that
    is at the target.
    """

    value: T
    counts: Counts = field(default_factory=Counts)
    cut: bool = False
    doubtful: bool = False
    probe: UUID | None = None
    finished: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class OrderedCommitter(Generic[T]):
    """Works on the units of an iterator, `workers` at a time, and commits the finished ones in their order.

    At most `window` units are begun and not committed, so that memory stays bounded when one takes long.
    """

    units: AsyncIterator[T]
    workers: int
    window: int
    commit: Callable[[Unit[T]], None]
    committed: Callable[[], Awaitable[None]]
    is_doubted: Callable[[], bool]
    stop: asyncio.Event
    _turn: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _room: asyncio.Condition = field(init=False, default_factory=asyncio.Condition)
    _begun: deque[Unit[T]] = field(init=False, default_factory=deque)
    _over: bool = field(init=False, default=False)

    async def run(self, work: Callable[[Unit[T]], Awaitable[None]]) -> bool:
        """Work until the units are at their end (True) or the transfer is asked to stop (False).

        Raises the first error of `work` or of the units, when all other work has ended.
        """
        async with closing(self.units):
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.workers):
                        group.create_task(self._work(work))
            except BaseExceptionGroup as errors:
                raise first_of(errors) from None
        self._commit_finished(trust=True)
        return not self._begun and not self.stop.is_set()

    def unfinished(self) -> list[Unit[T]]:
        """What was begun and not committed."""
        return list(self._begun)

    async def _work(self, work: Callable[[Unit[T]], Awaitable[None]]) -> None:
        while (unit := await self._next()) is not None:
            await work(unit)
            unit.finished = not unit.cut
            self._over = self._over or unit.cut
            self._commit_finished(trust=len(self._begun) >= self.window)
            async with self._room:
                self._room.notify_all()
            await self.committed()

    async def _next(self) -> Unit[T] | None:
        async with self._turn:  # one at a time, or they would not be in order
            async with self._room:
                await self._room.wait_for(lambda: self._over or len(self._begun) < self.window)
            if self._over or self.stop.is_set():
                return None
            try:
                unit = Unit(await anext(self.units))
            except (StopAsyncIteration, Stopped):
                self._over = True
                return None
            self._begun.append(unit)
            return unit

    def _commit_finished(self, *, trust: bool) -> None:
        while self._begun and self._begun[0].finished:
            if self._begun[0].doubtful and not trust and self.is_doubted():
                return
            self.commit(self._begun.popleft())


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a generator when the block ends, also before its end; other iterators have nothing to close."""
    try:
        yield iterator
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, which is what ended it."""
    first = errors.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
