"""What lets one storage be called from every event loop, thread and forked process: see `process_loop`.

The loop of the first use is the storage's home: calls there run as they are written. Calls from anywhere else run on
this process's helper loop, with a twin: the same storage with connections of its own. A home that has ended, or that
is the parent process's, is never taken up again, unless the storage is closed: then the next use decides anew.
"""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from asyncio import get_running_loop
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any, Final, Self, TypeVar

from sagaz_tiering.codec.typed_json import private_copy
from sagaz_tiering.codec.value import MAX_SNAPSHOT_BYTES
from sagaz_tiering.drivers import traces
from sagaz_tiering.drivers.process_loop import HomeLoop, Twin, settling
from sagaz_tiering.errors import InvalidSnapshot, WrongEventLoop
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.reporting import reported_save

_Method = TypeVar("_Method", bound=Callable[..., Any])
_NO_MORE: Final = object()
_SAVE: Final = "save_snapshot"
_MARK: Final = "is_called_anywhere"


class AnyLoop:
    """Base of the storages that have connections. Every public coroutine and asynchronous generator is found by itself,
    inherited ones too.

    A storage opens nothing but what `_renew` made anew, and only in those.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in dir(cls):
            member = inspect.getattr_static(cls, name)
            if name.startswith("_") or name == "close" or getattr(member, _MARK, False):
                continue
            if inspect.iscoroutinefunction(member):
                setattr(cls, name, _called_anywhere(member))
            elif inspect.isasyncgenfunction(member):
                setattr(cls, name, _iterated_anywhere(member))

    def __init__(self) -> None:
        traces.follow()
        self._home = HomeLoop(self, _disconnect)
        self._twin: Twin[Self] | None = None

    async def __aenter__(self) -> Self:
        self._home.is_here()
        with settling():
            self._home.users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Whoever leaves last closes it."""
        with settling():
            self._home.users -= 1
        if self._home.users <= 0:
            await self.close()

    async def close(self) -> None:
        """Close every connection, wherever it was opened; the next call opens them again.

        May be called from every loop, and never raises because a loop has ended.
        """
        await self._close_twin()
        home = self._home
        if home.loop is None or home.loop is get_running_loop():
            await home.close(self._disconnect)
            return
        old = copy.copy(self)  # which takes along what is open
        self._home = HomeLoop(self, _disconnect)
        self._renew()
        await home.close(old._disconnect)

    def _renew(self) -> None:
        """Make everything anew that holds connections, none of them open yet."""

    async def _disconnect(self) -> None:
        """Close every connection, on the loop that they belong to; the next call opens them again."""

    def _most_bytes(self) -> int:
        """How long the body of a snapshot may be."""
        return MAX_SNAPSHOT_BYTES

    def _another(self) -> Callable[[], AbstractAsyncContextManager[Any]]:
        """What opens the same storage over connections of its own. Raises WrongEventLoop where that cannot be."""
        other = copy.copy(self)
        AnyLoop.__init__(other)
        other._renew()
        return lambda: other

    async def _close_twin(self) -> None:
        if self._twin is not None:
            await self._twin.close()

    def _reach(self) -> Twin[Self]:
        """The twin of this storage in this process."""
        with settling():
            if self._twin is None or not self._twin.is_ours:
                self._twin = Twin(self._another())
                weakref.finalize(self, self._twin.drop).atexit = False
            return self._twin

    async def _call_elsewhere(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            twin = self._reach()
        except WrongEventLoop:
            if method.__name__ == _SAVE:  # which tells logs and metrics, since the engine swallows errors
                with reported_save(next(iter((*args, *kwargs.values())), None), type(self).__name__):
                    raise
            raise
        if method.__name__ == _SAVE:
            most = self._most_bytes()
            args = tuple(_private(value, most) for value in args)
            kwargs = {name: _private(value, most) for name, value in kwargs.items()}
        return await twin.use(lambda other: method(other, *args, **kwargs))

    async def _iterate_elsewhere(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        twin, begun = self._reach(), list[AsyncGenerator[Any, None]]()

        async def step(other: Self) -> Any:
            if not begun:
                begun.append(method(other, *args, **kwargs))
            return await anext(begun[0], _NO_MORE)

        try:
            while (item := await twin.use(step)) is not _NO_MORE:
                yield item
        finally:
            for items in begun:
                await twin.run(items.aclose)


def _called_anywhere(method: _Method) -> _Method:
    @functools.wraps(method)
    async def call(self: AnyLoop, *args: Any, **kwargs: Any) -> Any:
        home = self._home
        if get_running_loop() is home.loop or home.is_here():
            return await method(self, *args, **kwargs)
        return await self._call_elsewhere(method, args, kwargs)

    setattr(call, _MARK, True)
    return call  # type: ignore[return-value]  # the same signature, as `functools.wraps` tells at run time


def _iterated_anywhere(method: _Method) -> _Method:
    @functools.wraps(method)
    async def iterate(self: AnyLoop, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        here = self._home.is_here()
        items = method(self, *args, **kwargs) if here else self._iterate_elsewhere(method, args, kwargs)
        async with aclosing(items):
            async for item in items:
                yield item

    setattr(iterate, _MARK, True)
    return iterate  # type: ignore[return-value]  # the same signature, as `functools.wraps` tells at run time


async def _disconnect(storage: AnyLoop) -> None:
    await storage._disconnect()


def _private(snapshot: Any, most: int) -> Any:
    """A copy that the caller's other tasks cannot change while another thread encodes it, unless that refuses it."""
    with suppress(InvalidSnapshot):  # the call itself raises it
        ours = copy.copy(SagaSnapshot.of(snapshot))
        for name in ("context", "completed_steps", "external_refs"):
            object.__setattr__(ours, name, private_copy(getattr(ours, name), most))
        return ours
    return snapshot
