"""Whether the daemon can do its work: the check at start, and a ping of each server ever since."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import uniform

from sagaz_tiering import metrics
from sagaz_tiering.drivers.server_clock import ServerClock
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.logs import Logger

_log = Logger(__name__)

PING_EVERY = timedelta(seconds=15)
PING_AGAIN = timedelta(seconds=2)
"""While a server does not answer."""
PING_DEADLINE = timedelta(seconds=10)
STALE_AFTER = timedelta(seconds=60)
"""An older answer says nothing about now."""

Ping = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One reason for not being ready: which server (or `start`, `daemon`), what happened, what to do."""

    server: str
    error: str
    hint: str = ""


def problem_of(server: str, error: Exception) -> Problem:
    """An error as a reason."""
    if isinstance(error, SagazTieringError):
        return Problem(server=server, error=str(error), hint=error.hint)
    return Problem(server=server, error=f"{type(error).__name__}: {error}")


class Readiness:
    """What is known about ourselves and the servers. Written by the daemon, read by /readyz."""

    def __init__(self, monotonic: Callable[[], float], more: Callable[[], list[Problem]] = list) -> None:
        """`monotonic` gives seconds that only grow; `more` gives problems that somebody else knows of."""
        self._monotonic = monotonic
        self._more = more
        self._start: Problem | None = Problem(server="start", error="the servers were not checked yet")
        self._stopping = False
        self._pings: dict[str, tuple[float, Problem | None]] = {}
        self._notes: dict[str, list[str]] = {}
        self.clock: ServerClock | None = None
        """Whose state /readyz shows, once it is there."""
        self.recovered = asyncio.Event()
        """Set when a server answers that did not before."""

    def note(self, server: str, notes: Sequence[str]) -> None:
        """What somebody should know of a server that works."""
        self._notes[server] = list(notes)

    def notes(self) -> list[Problem]:
        """What is no reason for not being ready."""
        return [Problem(server=server, error=text) for server, texts in self._notes.items() for text in texts]

    def check_failed(self, error: Exception) -> None:
        """The check at start found this."""
        self._start = problem_of("start", error)

    def check_passed(self) -> None:
        """The check at start found nothing wrong."""
        self._start = None

    def stopping(self) -> None:
        """The daemon ends; it is not ready from now on."""
        self._stopping = True
        metrics.READY.set(0)

    def pinged(self, server: str, error: Exception | None) -> None:
        """`server` answered (None), or this happened."""
        before = self._pings.get(server, (0.0, None))[1]
        problem = None if error is None else problem_of(server, error)
        self._pings[server] = (self._monotonic(), problem)
        metrics.SERVER_UP.labels(server=server).set(problem is None)
        if problem is None and before is not None:
            _log.info("server.recovered", server=server)
            self.recovered.set()
        elif problem is not None and before is None:
            _log.warning("server.unavailable", server=server, error=problem.error, hint=problem.hint)

    def problems(self) -> list[Problem]:
        """Why we are not ready; empty: we are."""
        if self._stopping:
            return [Problem(server="daemon", error="stopping")]
        found = [] if self._start is None else [self._start]
        for server, (at, problem) in self._pings.items():
            age = self._monotonic() - at
            if problem is not None:
                found.append(problem)
            elif age > STALE_AFTER.total_seconds():
                found.append(Problem(server=server, error=f"no answer for {age:.0f} s"))
        found += self._more()
        metrics.READY.set(not found)
        return found

    async def watch(self, pings: Mapping[str, Ping]) -> None:
        """Ping every server for ever, each at its own pace."""
        async with asyncio.TaskGroup() as group:
            for server, ping in pings.items():
                group.create_task(self._watch_one(server, ping), name=f"ping {server}")

    async def _watch_one(self, server: str, ping: Ping) -> None:
        while not self._stopping:  # a driver may have swallowed the cancellation that should have ended this
            error = await self._ask(ping)
            self.pinged(server, error)
            pause = PING_EVERY if error is None else PING_AGAIN
            await asyncio.sleep(pause.total_seconds() * uniform(0.75, 1.25))

    async def _ask(self, ping: Ping) -> Exception | None:
        try:
            async with asyncio.timeout(PING_DEADLINE.total_seconds()):
                await ping()
        except TimeoutError:
            return SagazTieringError(f"no answer within {PING_DEADLINE.total_seconds():.0f} s")
        except Exception as exc:  # noqa: BLE001 - a ping ends here: whatever happened is its result
            return exc
        return None
