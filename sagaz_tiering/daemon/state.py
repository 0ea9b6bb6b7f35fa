"""What a daemon tells of itself while it runs, for the console."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.sections import ConsoleSettings
from sagaz_tiering.daemon.health import Readiness
from sagaz_tiering.daemon.schedule import JobSchedule, first_delays, times_of
from sagaz_tiering.jobs import run_job
from sagaz_tiering.logs import Logger

_log = Logger(__name__)


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
