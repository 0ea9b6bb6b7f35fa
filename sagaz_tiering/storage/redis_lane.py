"""One Redis connection that all callers share: what they ask in one turn of the event loop leaves as one write.

A pool sends each call by itself and waits for its answer. A lane sends whatever was asked since its last write, at
once and without waiting for the answers under way, which come in the order of the questions. Alone, a call costs
one trip as ever; sixty-four at once cost one write and one read. Long answers and values are for a pool: on a lane
those behind them would wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import redis.exceptions as driver
from redis.asyncio.connection import AbstractConnection

from sagaz_tiering.storage.redis_client import Script

try:
    from hiredis import pack_command
except ImportError:
    pack_command = None

IDLE_SECONDS: Final = 30.0
"""A connection that was silent for longer may be forgotten on the way, and is not trusted with a question."""

_LONGEST_WAIT: Final = 4
"""In deadlines: how long a call may wait for its turn while answers to others keep coming."""
_SECOND_LOOK_S: Final = 0.05
"""After a stall of the event loop a time-out is seen before the answer that is there; so it looks twice."""

Connect = Callable[[], AbstractConnection]


class Lane:
    """`run` scripts on a connection made when first used, and made anew when it was lost.

    `connect` makes a connection object that has no time-out of its own: `deadline_s` is the longest silence while
    an answer is awaited, connecting included. Only for scripts that may be run twice: one whose connection was lost
    is asked again, once.
    """

    def __init__(self, connect: Connect, deadline_s: float) -> None:
        self._connect = connect
        self._deadline_s = deadline_s
        self._link: _Link | None = None

    async def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """What a script answers. Raises the driver's errors; a cancelled caller's script may run all the same."""
        link = self._linked()
        try:
            return await link.ask(("EVALSHA", script.digest, len(keys), *keys, *args))
        except driver.NoScriptError:
            pass
        except driver.ConnectionError:
            if not link.was_up:
                raise
        return await self._linked().ask(("EVAL", script.text, len(keys), *keys, *args))

    async def close(self) -> None:
        """End the connection; what is still under way fails. The next call makes another."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _linked(self) -> _Link:
        link = self._link
        if link is None or not link.is_fit():
            if link is not None:
                link.retire()
            link = self._link = _Link(self._connect(), self._deadline_s)
        return link


class _Link:
    """One connection: questions out, answers in, each in order. Of no use any more once it failed."""

    def __init__(self, connection: AbstractConnection, deadline_s: float) -> None:
        self.was_up = False
        self._connection = connection
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._failed = False
        self._unsent: list[tuple[Any, ...]] = []
        self._unanswered: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._wake = asyncio.Event()
        self._heard_at = self._loop.time()
        self._watchdog: asyncio.TimerHandle | None = None
        self._looked_twice = False
        self._work = asyncio.create_task(self._serve())

    def is_fit(self) -> bool:
        """Whether it may be asked."""
        if self._failed:
            return False
        return bool(self._unanswered) or self._loop.time() - self._heard_at < IDLE_SECONDS

    def ask(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        """The answer to come."""
        answer = self._loop.create_future()
        self._unsent.append(command)
        self._unanswered.append((answer, self._loop.time()))
        self._wake.set()
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._deadline_s, self._check_deadline)
        return answer

    def retire(self) -> None:
        """End it without waiting for that."""
        self._fail(driver.ConnectionError("the connection was closed"))
        self._work.cancel()

    async def close(self) -> None:
        """End it."""
        self.retire()
        await asyncio.wait((self._work,))

    async def _serve(self) -> None:
        try:
            await self._connection.connect()
            self.was_up = True
            async with asyncio.TaskGroup() as both:
                both.create_task(self._write())
                both.create_task(self._read())
        except* (driver.RedisError, OSError) as several:
            self._fail(_first(several))
        finally:
            self._fail(driver.ConnectionError("the connection ended"))
            with contextlib.suppress(driver.RedisError, OSError):
                await self._connection.disconnect(nowait=True)

    async def _write(self) -> None:
        pack = self._connection.pack_command
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._unsent = self._unsent, []
            if pack_command is not None:
                data = b"".join([pack_command(command) for command in batch])
            else:
                data = b"".join([part for command in batch for part in pack(*command)])
            await self._connection.send_packed_command(data, check_health=False)

    async def _read(self) -> None:
        read, unanswered = self._connection.read_response, self._unanswered
        while True:
            try:
                found, error = await read(disable_decoding=True), None
            except driver.ResponseError as exc:
                found, error = None, exc
            answer, _asked_at = unanswered.popleft()
            self._heard_at = self._loop.time()
            if answer.done():
                continue  # its caller was cancelled
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

    def _check_deadline(self) -> None:
        self._watchdog = None
        if not self._unanswered:
            return
        asked_at, now = self._unanswered[0][1], self._loop.time()
        until = min(max(asked_at, self._heard_at) + self._deadline_s, asked_at + _LONGEST_WAIT * self._deadline_s)
        if now >= until and self._looked_twice:
            self._fail(driver.TimeoutError(f"no answer within {self._deadline_s:g} s"))
            self._work.cancel()
            return
        self._looked_twice = now >= until
        wait_s = _SECOND_LOOK_S if self._looked_twice else until - now
        self._watchdog = self._loop.call_later(wait_s, self._check_deadline)

    def _fail(self, error: Exception) -> None:
        """Tell everyone who waits, each with an exception of its own."""
        self._failed = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        for answer, _asked_at in self._unanswered:
            if not answer.done():
                own = copy.copy(error)
                own.__cause__ = error
                answer.set_exception(own)
        self._unanswered.clear()


def _first(several: BaseExceptionGroup[Any]) -> Exception:
    found: Any = several
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found
