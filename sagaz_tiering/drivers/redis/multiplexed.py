"""One Redis connection that all callers share: what they ask in one turn of the event loop leaves as one write.

A pool sends each call by itself and waits for its answer. This one writes at once when nothing is under way, and else
what was asked in this turn of the loop in one piece, without waiting for the answers before, which come in the order
of the questions. Alone, a call costs one trip as ever; sixty-four at once cost one write and one read. Long answers
and values are for a pool: here those behind them would wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import hiredis
import redis.exceptions as driver
from redis.asyncio.connection import AbstractConnection

from sagaz_tiering.drivers.process_loop import HomeLoop
from sagaz_tiering.drivers.redis.internals import reply_reader, transport_of
from sagaz_tiering.drivers.redis.scripts import Script

IDLE_SECONDS: Final = 30.0
"""A connection that was silent for longer may be forgotten on the way, and is not trusted with a question."""

_LONGEST_WAIT: Final = 4
"""In deadlines: how long a call may wait for its turn while answers to others keep coming."""
_SECOND_LOOK_S: Final = 0.05
"""After a stall of the event loop a time-out is seen before the answer that is there; so it looks twice."""

_FEW: Final = 16
"""Of many calls, so many are sent at once, and the next so many before their answers are there."""

Connect = Callable[[], AbstractConnection]


class MultiplexedConnection:
    """`run` scripts on a connection made when first used, and made anew when it was lost.

    `connect` gives a new connection of the driver; `deadline_s` is the longest silence while an answer is awaited,
    connecting included. Only for scripts that may be run twice: one whose connection was lost is asked again, once.
    """

    def __init__(self, connect: Connect, deadline_s: float) -> None:
        self._connect = connect
        self._deadline_s = deadline_s
        self._link: Link | None = None
        self._home = HomeLoop(self)
        self.times_left = 0
        """How often `leave` ended the connection."""

    async def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """What a script answers. Raises the driver's errors; a cancelled caller's script may run all the same."""
        link = self.link()
        try:
            return await link.run(script, keys, args)
        except driver.RedisError as exc:
            return await self.again(exc, link, script, keys, args)

    async def again(
        self, error: Exception, link: Link, script: Script, keys: Sequence[Any], args: Sequence[Any]
    ) -> Any:
        """The answer after `link` gave that error, which is raised where asking once more does not help."""
        if isinstance(error, driver.NoScriptError) or (isinstance(error, driver.ConnectionError) and link.was_up):
            return await self.link().ask(("EVAL", script.text, len(keys), *keys, *args))
        raise error

    async def run_many(self, script: Script, calls: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> list[Any]:
        """What a script answers to each of these (keys, args). Raises as `run`, the first error.

        A few are always under way, and never more: a server that works for others too gets to them in between.
        """
        if not calls:
            return []
        first, *others = calls
        answers = [await self.run(script, *first)]  # which teaches the server the script, or finds it away
        link, waiting = self.link(), list[asyncio.Future[Any]]()
        for keys, args in others:
            waiting.append(link.run(script, keys, args))
            if len(waiting) % _FEW == 0 and len(waiting) > _FEW:
                await asyncio.wait((waiting[-_FEW],))
        if waiting:
            await asyncio.wait(waiting)
        for answer, (keys, args) in zip(waiting, others, strict=True):
            try:
                answers.append(answer.result())
            except (driver.NoScriptError, driver.ConnectionError):
                answers.append(await self.run(script, keys, args))
        return answers

    async def close(self) -> None:
        """End the connection; what is still under way fails. The next call makes another."""
        link, self._link = self._link, None
        if link is not None:
            await self._home.close(link.close)

    async def leave(self, times: int) -> None:
        """`close`, unless it has been left more than so many `times`: once is enough for all calls under way then."""
        if self.times_left == times:
            self.times_left += 1
            await self.close()

    def link(self) -> Link:
        """The connection that may be asked now. Raises WrongEventLoop."""
        self._home.check()
        link = self._link
        if link is None or not link.is_fit():
            if link is not None:
                link.retire()
            link = self._link = Link(self._connect(), self._deadline_s)
        return link


class Link(asyncio.Protocol):
    """One connection: questions out, answers in, each in order. Of no use any more once it failed."""

    def __init__(self, connection: AbstractConnection, deadline_s: float) -> None:
        self.was_up = False
        self._connection = connection
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._parser = reply_reader()
        self._failed = False
        self._transport: asyncio.WriteTransport | None = None
        self._must_wait = True  # for the connection, or for the server to take what was written
        self._will_flush = False
        self._unsent: list[bytes] = []
        self._unanswered: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._heard_at = monotonic()
        self._watchdog: asyncio.TimerHandle | None = None
        self._looked_twice = False
        self._over = asyncio.Event()
        self._life = asyncio.create_task(self._live())

    def is_fit(self) -> bool:
        """Whether it may be asked."""
        if self._failed:
            return False
        return bool(self._unanswered) or monotonic() - self._heard_at < IDLE_SECONDS

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> asyncio.Future[Any]:
        """What a script is going to answer, if the server knows it."""
        return self.ask(("EVALSHA", script.digest, len(keys), *keys, *args))

    def ask(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        """The answer to come."""
        answer, packed = self._loop.create_future(), hiredis.pack_command(command)
        if self._transport is not None and not self._unanswered and not self._must_wait:
            self._transport.write(packed)
        else:
            self._unsent.append(packed)
            if not self._will_flush and not self._must_wait:
                self._will_flush = True
                self._loop.call_soon(self._flush)
        self._unanswered.append((answer, monotonic()))
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._deadline_s, self._check_deadline)
        return answer

    def retire(self) -> None:
        """End it without waiting for that."""
        self._fail(driver.ConnectionError("the connection was closed"))

    async def close(self) -> None:
        """End it."""
        self.retire()
        await asyncio.wait((self._life,))

    async def _live(self) -> None:
        """The driver connects, authenticates and selects; from then on the connection speaks to us, until it fails."""
        connection = self._connection
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no types for it
            self._transport = transport_of(connection)
            self._transport.set_protocol(self)
            self.was_up, self._must_wait = True, False
            self._flush()
            await self._over.wait()
            self._transport.abort()
        except (driver.RedisError, OSError) as exc:
            self._fail(exc)
        finally:
            self._fail(driver.ConnectionError("the connection was closed"))
            with contextlib.suppress(driver.RedisError, OSError):
                await connection.disconnect(nowait=True)

    def pause_writing(self) -> None:
        """The transport has more than it can send."""
        self._must_wait = True

    def resume_writing(self) -> None:
        """It has sent enough of it."""
        self._must_wait = False
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Answers, some perhaps in part."""
        parser, unanswered = self._parser, self._unanswered
        self._heard_at = monotonic()
        parser.feed(data)
        try:
            while (found := parser.gets()) is not False:
                answer, _asked_at = unanswered.popleft()
                if answer.done():
                    continue  # its caller was cancelled
                if isinstance(found, Exception):
                    answer.set_exception(found)
                else:
                    answer.set_result(found)
        except (driver.InvalidResponse, IndexError) as exc:
            self._fail(driver.ConnectionError(f"not what Redis answers: {exc}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """By whoever's doing."""
        self._fail(driver.ConnectionError(f"the connection was lost: {exc or 'closed by the server'}"))

    def _flush(self) -> None:
        self._will_flush = False
        if self._unsent and self._transport is not None and not self._must_wait:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _check_deadline(self) -> None:
        self._watchdog = None
        if not self._unanswered:
            return
        asked_at, now = self._unanswered[0][1], monotonic()
        until = min(max(asked_at, self._heard_at) + self._deadline_s, asked_at + _LONGEST_WAIT * self._deadline_s)
        if now >= until and self._looked_twice:
            self._fail(driver.TimeoutError(f"no answer within {self._deadline_s:g} s"))
            return
        self._looked_twice = now >= until
        wait_s = _SECOND_LOOK_S if self._looked_twice else until - now
        self._watchdog = self._loop.call_later(wait_s, self._check_deadline)

    def _fail(self, error: Exception) -> None:
        """Tell everyone who waits, each with an exception of its own; the connection is of no more use."""
        self._failed = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        for answer, _asked_at in self._unanswered:
            if not answer.done():
                own = copy.copy(error)
                own.__cause__ = error
                answer.set_exception(own)
        self._unanswered.clear()
        self._unsent.clear()
        self._over.set()
