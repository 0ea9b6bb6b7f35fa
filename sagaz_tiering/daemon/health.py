"""Whether the daemon can do its work, and who is told so: the check at start, a ping of each server ever since, jobs
that failed; `/livez`, `/readyz` and `/metrics` over HTTP, for Kubernetes, load balancers and Prometheus.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from random import uniform
from typing import Any

from aiohttp import web

from sagaz_tiering import metrics
from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.catalog.history import JobRun
from sagaz_tiering.catalog.migrations import check_schema
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.sections import ConsoleSettings
from sagaz_tiering.daemon.listening import listening
from sagaz_tiering.daemon.schedule import JobSchedule, first_delays, times_of
from sagaz_tiering.drivers.server_clock import ServerClock
from sagaz_tiering.errors import ForeignCatalog, SagazTieringError
from sagaz_tiering.jobs import run_job
from sagaz_tiering.jobs.ownership import Beat
from sagaz_tiering.logs import Logger
from sagaz_tiering.terminal import show_time

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
        self.failed_jobs: dict[str, datetime] = {}
        """When each failed whose last run here did, and that nobody has run well since."""
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

    def job_failed(self, job: str, error: SagazTieringError, at: datetime) -> None:
        """A run of it failed at that time: noted until a run went well, whoever ran it."""
        self.failed_jobs[job] = at
        then = f"`sagaz-tiering job {job} --once` tries it now" if error.permanent else "it is tried again by itself"
        self.note(f"job {job}", [f"its last run failed: {error} (at {show_time(at)}; {then})"])

    def job_went_well(self, job: str) -> None:
        """It is no failed one any more."""
        self.failed_jobs.pop(job, None)
        self.note(f"job {job}", [])

    def look_at_runs(self, last_runs: Iterable[JobRun]) -> None:
        """What others ran well since it failed here, as the catalog has it, went well."""
        for run in last_runs:
            at = self.failed_jobs.get(run.job)
            if at is not None and run.started_at > at and run.is_over and run.error is None:
                self.job_went_well(run.job)

    def check_failed(self, error: Exception) -> Problem:
        """The check at start found this."""
        self._start = problem_of("start", error)
        return self._start

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


def pings(runtime: Runtime) -> dict[str, Ping]:
    """By server; each raises unless it answers, and Redis and PostgreSQL unless they take writes.

    `owner`: the bucket is still ours, and copies of our catalog learn that they are not its owner.
    """
    beat = Beat(runtime.job_context())

    async def redis() -> None:
        await runtime.hot.connection.ping()
        await runtime.incarnation.is_same()  # which writes: one that is full or a replica answers pings

    async def postgresql() -> None:
        await check_schema(runtime.catalog.db)  # a rolling deploy may have migrated it under us
        await runtime.catalog.db.check_writable()

    async def owner() -> None:
        try:
            await check_schema(runtime.catalog.db)
            await beat()
        except ForeignCatalog:
            raise
        except SagazTieringError as exc:  # that server's own ping tells
            _log.info("owner.not_looked_at", error=str(exc))
            return
        await runtime.storage().publish_journal()

    return {"redis": redis, "postgresql": postgresql, "object_store": runtime.objects.check, "owner": owner}


def serve(host: str, port: int, health: Readiness) -> AbstractAsyncContextManager[tuple[str, int]]:
    """Answer while the block runs; gives the address listened on. Raises ConfigError if it cannot be had."""

    async def livez(_: web.Request) -> web.Response:
        # Being answered at all is the answer: the event loop turns.
        return web.json_response({"alive": True})

    async def readyz(_: web.Request) -> web.Response:
        problems = health.problems()
        answer: dict[str, Any] = {"ready": not problems, "reasons": [asdict(problem) for problem in problems]}
        if health.clock is not None:
            answer["clock"] = health.clock.to_dict()
        if notes := health.notes():
            answer["degraded"] = [asdict(note) for note in notes]
        return web.json_response(answer, status=503 if problems else 200)

    async def show_metrics(_: web.Request) -> web.Response:
        health.problems()  # brings sagaz_tiering_ready up to date
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    application = web.Application()
    application.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", show_metrics)])
    return listening(host, port, application, section="daemon")


@dataclass(frozen=True, slots=True)
class DaemonState:
    """`runtime` gives None until the servers could be opened; `config` what is in force now."""

    runtime: Callable[[], Runtime | None]
    config: Callable[[], TieringConfig]
    health: Readiness
    schedule: JobSchedule


ServeConsole = Callable[[ConsoleSettings, DaemonState], AbstractAsyncContextManager[tuple[str, int]]]
"""Serves the console while the block runs; gives the address listened on."""


@asynccontextmanager
async def without_daemon(runtime: Runtime) -> AsyncIterator[DaemonState]:
    """Run the jobs by their schedule while the block runs, where no daemon does. Nobody pings the servers."""
    health, times = Readiness(time.monotonic), times_of(runtime.settings.schedule)
    health.check_passed()
    schedule = JobSchedule(lambda name: run_job(name, runtime.job_context()))
    last_runs = await runtime.catalog.history.last_runs()
    schedule.start(times, first_delays(times, last_runs, runtime.clock.now()), runtime.clock)
    try:
        yield DaemonState(lambda: runtime, lambda: runtime.settings, health, schedule)
    finally:
        await schedule.stop(timedelta(seconds=5))


async def show(console: ServeConsole | None, state: DaemonState, stack: AsyncExitStack) -> None:
    """Serve the console until `stack` ends, if the configuration enables it."""
    settings = state.config().console
    if console is not None and settings.enabled:
        host, port = await stack.enter_async_context(console(settings, state))
        _log.info("console.started", url=f"http://{f'[{host}]' if ':' in host else host}:{port}/")
