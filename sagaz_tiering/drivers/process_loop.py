"""Which event loop something with connections belongs to, and one more loop of this process for callers on any other.

A connection belongs to the loop that it was made on: used from another one, or by both sides of a fork, it would give
one caller's answer to another. `HomeLoop` tells where its owner belongs and refuses every other place. What callers
there want is done by a `Twin` of the owner on the helper loop: one daemon thread of this process, begun when first
needed, begun anew in a forked process, ended with the interpreter.

After a fork the child never touches what it inherited: closing a socket would take it out of the parent's epoll, and a
farewell would end the parent's session. So what is inherited is kept as it is, for ever.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import threading
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import TimeoutError as NotInTime
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet, ref

from sagaz_tiering.errors import WrongEventLoop
from sagaz_tiering.logs import Logger

_log = Logger(__name__)

T = TypeVar("T")
Owner = TypeVar("Owner")

FAREWELL_S: Final = 5.0
"""How long the end of something is waited for on a loop that may be held up."""


class _Gone:
    """Stands for a loop that has ended, or is another process's."""


_GONE: Final = _Gone()
_homes: WeakSet[HomeLoop[Any]] = WeakSet()
_settling = threading.RLock()


def settling() -> threading.RLock:
    """The lock to decide with what holds for all threads; to be asked for each time, since a fork renews it."""
    return _settling


class HomeLoop(Generic[Owner]):
    """The event loop that its owner's connections belong to: that of their first use, until they are closed.

    `at_end` closes them when that loop ends, as `asyncio.run` has it end: from then on its owner belongs nowhere.
    """

    __slots__ = ("__weakref__", "_at_end", "_ending", "_owner", "loop", "users")

    def __init__(self, owner: Owner, at_end: Callable[[Owner], Awaitable[None]] | None = None) -> None:
        self.loop: AbstractEventLoop | _Gone | None = None
        self._owner = ref(owner)
        self._at_end = at_end
        self._ending: AsyncGenerator[None, None] | None = None
        self.users = 0
        """Blocks of `async with` that the owner is in."""
        _homes.add(self)

    def is_here(self) -> bool:
        """Whether the running loop is the one; who comes first decides."""
        loop = asyncio.get_running_loop()
        return loop is self.loop or (self.loop is None and self._settle(loop))

    def check(self) -> None:
        """Raise WrongEventLoop on any other loop than the one. For what is asked outside of loops it does nothing."""
        loop = _get_running_loop()
        if loop is not self.loop and loop is not None and not self.is_here():
            raise self.wrong()

    def wrong(self, *, hint: str = "") -> WrongEventLoop:
        """The error for a call from elsewhere."""
        what = type(self._owner()).__name__
        if self.loop is _GONE:
            return WrongEventLoop(f"the event loop of this {what} has ended, or is the parent process's", hint=hint)
        return WrongEventLoop(f"this {what} belongs to another event loop or thread", hint=hint)

    async def close(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the connections closed by `end` where they belong; the next use decides anew where that is.

        Where the loop is gone there is nothing left to close, and it is no error. One that is held up is not waited
        for longer than FAREWELL_S; one that stands still does it when it goes on.
        """
        loop, self.loop, self.users = self.loop, None, 0
        self._forget_end()
        if loop is None or loop is asyncio.get_running_loop():
            await end()
        elif isinstance(loop, AbstractEventLoop):
            with suppress(RuntimeError):  # it was closed, or is by now
                await _close_there(loop, end)

    def _settle(self, loop: AbstractEventLoop) -> bool:
        with _settling:
            if self.loop is None:
                self.loop = loop
                if self._at_end is not None:
                    self._ending = _until_loop_ends(ref(self))
                    with suppress(StopIteration):
                        self._ending.__anext__().send(None)
        return self.loop is loop

    def _forget_end(self) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            with suppress(StopAsyncIteration, RuntimeError):  # it is at it already
                ending.asend(None).send(None)

    async def _ended(self) -> None:
        owner, self._ending = self._owner(), None
        if self.loop is _GONE or self.loop is None:
            return
        self.loop = _GONE
        if owner is not None and self._at_end is not None:
            await self._at_end(owner)

    def _inherit(self) -> None:
        """In a forked process: what it belonged to is the parent's."""
        if self.loop is not None:
            owner = self._owner()
            _keep_for_ever((self.loop, self._ending, None if owner is None else dict(vars(owner))))
            self.loop, self._ending, self.users = _GONE, None, 0


async def _until_loop_ends(home: ref[HomeLoop[Any]]) -> AsyncGenerator[None, None]:
    """Every runner of loops closes asynchronous generators at the end, which is the one notice of it there is."""
    try:
        yield
    except GeneratorExit:
        found = home()
        if found is not None:
            await found._ended()
        raise


async def _close_there(loop: AbstractEventLoop, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
    if not loop.is_running():
        loop.call_soon_threadsafe(lambda: loop.create_task(end()))
        return
    ended = asyncio.run_coroutine_threadsafe(end(), loop)
    done, _ = await asyncio.wait((asyncio.wrap_future(ended),), timeout=FAREWELL_S)
    for each in done:
        if not each.cancelled() and isinstance(error := each.exception(), Exception):
            raise error


def _keep_for_ever(thing: object) -> None:
    """Not even the end of the interpreter destroys it, and nothing that it refers to."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Helper:
    """An event loop in a daemon thread. `Helper.of_process()` is the only one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.twins: set[Twin[Any]] = set()
        self._thread = threading.Thread(target=self._live, name="sagaz-tiering", daemon=True)
        self._thread.start()

    @staticmethod
    def of_process() -> Helper:
        """The helper loop of this process, begun by whoever comes first."""
        global _helper
        with _settling:
            if _helper is None:
                _helper = Helper()
            return _helper

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine that `make` makes returns or raises, run on this loop in the caller's context.

        A cancelled caller's coroutine is cancelled, and has ended when the caller goes on.
        """
        caller = asyncio.get_running_loop()
        if caller is self.loop:
            return await make()
        done = caller.create_future()
        task: asyncio.Task[T]

        def begin() -> None:
            nonlocal task
            task = self.loop.create_task(make())
            task.add_done_callback(tell)

        def tell(ended: asyncio.Task[T]) -> None:
            if not ended.cancelled():
                ended.exception()  # which may never be asked for
            with suppress(RuntimeError):  # the caller's loop was closed
                caller.call_soon_threadsafe(settle)

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        self.loop.call_soon_threadsafe(begin)
        try:
            await asyncio.wait((done,))
        except asyncio.CancelledError:
            self.loop.call_soon_threadsafe(lambda: task.cancel())
            await asyncio.wait((done,))
            raise
        return task.result()

    def end(self) -> None:
        """Close what is open on it, and it; within FAREWELL_S each."""
        with suppress(NotInTime, RuntimeError):
            asyncio.run_coroutine_threadsafe(self._close_twins(), self.loop).result(FAREWELL_S)
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(FAREWELL_S)

    async def _close_twins(self) -> None:
        await asyncio.gather(*(twin.end() for twin in self.twins), return_exceptions=True)

    def _live(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()


_helper: Helper | None = None


class Twin(Generic[T]):
    """What callers on other loops use: opened by `make` on the helper loop when asked for, and again after `close`."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._helper = Helper.of_process()
        self._make = make
        self._over = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[T] | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it is of this process: after a fork it is the parent's."""
        return self._helper is _helper

    async def use(self, work: Callable[[T], Coroutine[Any, Any, Any]]) -> Any:
        """What `work` with it returns or raises, on the helper loop."""

        async def there() -> Any:
            return await work(await self._get())

        return await self._helper.run(there)

    async def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What `work` returns or raises, on the helper loop."""
        return await self._helper.run(work)

    def tell(self, word: Callable[[T], None]) -> None:
        """Have `word` called with it on the helper loop, if it is open."""

        def there() -> None:
            opened = self._opened
            if opened is not None and opened.done() and not opened.cancelled() and opened.exception() is None:
                word(opened.result())

        if self.is_ours:
            with suppress(RuntimeError):
                self._helper.loop.call_soon_threadsafe(there)

    async def close(self) -> None:
        """Close it; never raises because the helper loop is gone."""
        if self.is_ours:
            with suppress(RuntimeError):
                await self._helper.run(self.end)

    def drop(self) -> None:
        """Have it closed, without waiting for that."""
        if self.is_ours:
            with suppress(RuntimeError):
                self._helper.loop.call_soon_threadsafe(lambda: self._helper.loop.create_task(self.end()))

    async def end(self) -> None:
        """Close it, on the helper loop."""
        if self._life is not None:
            self._over.set()
            await asyncio.wait((self._life,))

    async def _get(self) -> T:
        while self._opened is not None and self._over.is_set():
            await self.end()
        if self._opened is None:
            self._over.clear()
            self._opened = self._helper.loop.create_future()
            self._life = self._helper.loop.create_task(self._live(self._opened))
        opened = self._opened
        await asyncio.wait((opened,))  # not itself: a cancelled caller does not cancel it for the others
        return opened.result()

    async def _live(self, opened: asyncio.Future[T]) -> None:
        """Opened and closed by one task, as context managers may want it."""
        self._helper.twins.add(self)
        try:
            async with self._make() as found:
                opened.set_result(found)
                await self._over.wait()
        except Exception as exc:  # noqa: BLE001 - whoever waits is told; if nobody does any more, the log
            if opened.done():
                _log.warning("twin.not_closed", error=str(exc), error_type=type(exc).__name__)
            else:
                opened.set_exception(exc)
                opened.exception()  # who waited may have been cancelled
        finally:
            opened.cancel()
            self._opened = self._life = None
            self._helper.twins.discard(self)


def _forked() -> None:
    global _helper, _settling  # locks and threads are the parent's
    _settling = threading.RLock()
    if _helper is not None:
        _keep_for_ever(_helper)
        _helper = None
    for home in list(_homes):
        home._inherit()


def _interpreter_ends() -> None:
    if _helper is not None:
        _helper.end()


os.register_at_fork(after_in_child=_forked)
atexit.register(_interpreter_ends)
