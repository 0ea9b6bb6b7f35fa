"""Concurrent inserts share transactions: what arrives while one batch is being committed is the next batch.

A lone insert waits for nobody. One after the other, each pays a round trip and a flush of the log; sixty-four at
once pay one.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.errors import CatalogUnavailable, ConfigError

MAX_ROWS: Final = 256
MAX_BYTES: Final = 4 * 1024 * 1024
"""A batch is sealed at either, so that it is held in memory and sent in one piece without harm."""
COMMITTERS: Final = 2
"""Batches under way at once: one is sent while another is flushed."""
_STRAGGLERS: Final = 8
_GATHER_S: Final = 0.002
"""After a batch of many, one of less than an eighth of it waits so long for more: to send one costs as much as twenty
rows, and its rows came just before the many or just after them."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """`await put(item, size, seconds=…)`: committed, in a transaction with others; `commit` commits a batch or nothing.

    A batch that is refused is committed again item by item, so that each caller gets its own error and nobody
    another's; only what says nothing of the items (the server is away) is told to all of the batch. A cancelled
    caller's item is left out if its batch was not sent yet, and may be committed all the same if it was.
    """

    def __init__(self, commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._commit = commit
        self._waiting: deque[tuple[Item, int, asyncio.Future[Result]]] = deque()
        self._until: dict[asyncio.Future[Result], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._working = self._last = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._home = HomeLoop(self)

    async def put(self, item: Item, size: int, *, seconds: float) -> Result:
        """What `commit` tells of the item; `size` in bytes. Raises WrongEventLoop.

        It is given up after so many seconds: TimeoutError. It is then as if its caller had been cancelled.
        """
        self._home.check()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, size, done))
        if self._working < COMMITTERS:
            self._working += 1
            task = loop.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        until = self._until[done] = loop.time() + seconds
        if self._timer is None or until < self._timer.when():
            self._look_again(until)
        try:
            return await done
        finally:
            del self._until[done]

    def _look_again(self, at: float) -> None:
        """One timer for all who wait: one for each would cost as much as the rest of `put`."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._give_up)

    def _give_up(self) -> None:
        self._timer, now = None, asyncio.get_running_loop().time()
        for done, until in self._until.items():
            if until <= now:
                _fail(done, TimeoutError())
        later = min((until for until in self._until.values() if until > now), default=None)
        if later is not None:
            self._look_again(later)

    async def _work(self) -> None:
        """Batches until none is left; a task starts in the next turn of the loop, so this turn's items go together."""
        try:
            while self._waiting:
                if len(self._waiting) * _STRAGGLERS < self._last:
                    await asyncio.sleep(_GATHER_S)
                batch = self._next_batch()
                if batch:
                    self._last = len(batch)
                    await self._commit_all(batch)
        finally:
            self._working -= 1

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        room = MAX_BYTES
        while self._waiting and len(batch) < MAX_ROWS:
            item, size, done = self._waiting[0]
            if batch and size > room:
                break
            self._waiting.popleft()
            if not done.done():
                batch.append((item, done))
                room -= size
        return batch

    async def _commit_all(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._commit([item for item, _done in batch])
        except (CatalogUnavailable, ConfigError) as exc:
            for _item, done in batch:
                own = copy.copy(exc)
                own.__cause__ = exc.__cause__
                _fail(done, own)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller whose item it was is told
            if len(batch) == 1:
                _fail(batch[0][1], exc)
                return
            for single in batch:
                await self._commit_all([single])
        else:
            for (_item, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)


def _fail(done: asyncio.Future[Result], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
