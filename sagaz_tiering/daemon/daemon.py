"""The daemon from start to exit.

    load the file -> answer HTTP -> open the runtime -> check the servers until all is well -> READY
    -> run jobs by the schedule -> SIGTERM -> let the running steps finish -> exit 0

Nothing here writes data: a kill at any point leaves what the jobs' own protocols leave.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sagaz_tiering import logs, metrics
from sagaz_tiering.app.process import ignore_abandoned_connects, yield_to_others
from sagaz_tiering.app.runtime import Runtime, open_runtime
from sagaz_tiering.config.load import load_with_warnings
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.costs.prices import minimum_durations
from sagaz_tiering.daemon import health
from sagaz_tiering.daemon.schedule import FullJitter, JobSchedule, first_delays, times_of
from sagaz_tiering.daemon.systemd import ServiceManager
from sagaz_tiering.daemon.totals import LOOK_EVERY_S, TotalsKeeper
from sagaz_tiering.drivers.server_clock import ServerClock
from sagaz_tiering.errors import BucketUnusable, MissingDependencyError, PolicyError, SagazTieringError, TierUnavailable
from sagaz_tiering.jobs import JobReport, load_jobs, run_job
from sagaz_tiering.logs import Logger
from sagaz_tiering.terminal import counted

_log = Logger(__name__)

CHECK_FIRST = timedelta(seconds=1)
CHECK_CAP = timedelta(seconds=30)
_LOOK_EVERY_S = 5.0
_NOTE_EVERY_S = 1.0
_LOOK_AT_KEYS_S = 300.0
_CLOSING = timedelta(seconds=30)
"""For connections and embedded servers, after the jobs have stopped; then the process ends by force."""
_CANCELS, _CANCEL_S = 4, 1.0
"""So often a task is cancelled, and waited for each time in seconds."""
_NEEDS_RESTART = ("tiers", "catalog", "embedded", "encryption", "daemon.host", "daemon.port", "console", "jobs.nice")
"""What is set at start: servers, sockets, and how much the process yields to others, which cannot be taken back."""


async def run(
    config_path: Path, environ: Mapping[str, str] | None = None, console: health.ServeConsole | None = None
) -> int:
    """Run the daemon by the configuration file and `environ` (by default the process's) until SIGTERM or SIGINT.

    `console` serves the console, where the configuration enables it.

    Returns the exit code. 0: stopped in order. 2: the configuration, the listening address or an embedded server is
    wrong, and nothing was changed. A second signal ends the process at once with 1.
    """
    logs.configure()
    ignore_abandoned_connects()
    try:
        config = _load(config_path, environ)
    except SagazTieringError as exc:
        _log.error("config.rejected", file=str(config_path), error=str(exc), hint=exc.hint)
        return exc.exit_code
    _configure_logs(config)
    return await _Daemon(config_path, environ, config, console).run()


class _Daemon:
    def __init__(
        self,
        config_path: Path,
        environ: Mapping[str, str] | None,
        config: TieringConfig,
        console: health.ServeConsole | None,
    ) -> None:
        self._path, self._environ, self._console = config_path, environ, console
        self._started_with = config
        self._config = config
        self._schedule = JobSchedule(self._run_job)
        self._health = health.Readiness(time.monotonic, self._overdue)
        self._supervisor = ServiceManager.from_environment(os.environ)
        self._last_resort: threading.Timer | None = None
        self._runtime: Runtime | None = None
        self._stop = asyncio.Event()
        self._hup = asyncio.Event()
        self._ready = asyncio.Event()
        self._opening: asyncio.Task[Any] | None = None

    async def run(self) -> int:
        load_jobs()
        try:
            async with AsyncExitStack() as stack:
                self._follow_signals(stack)
                stack.push_async_callback(_end, asyncio.create_task(self._supervisor.keep_alive()))
                await self._listen(stack)
                if (runtime := await self._open(stack)) is not None:
                    await self._live(runtime)
        except SagazTieringError as exc:
            _log.error("daemon.failed", error=str(exc), hint=exc.hint, kind=type(exc).__name__)
            self._supervisor.status(f"failed: {exc}")
            return exc.exit_code
        finally:
            if self._last_resort is not None and asyncio.all_tasks() <= {asyncio.current_task()}:
                self._last_resort.cancel()  # nothing is left that could keep the process
        _log.info("daemon.stopped")
        return 0

    async def _listen(self, stack: AsyncExitStack) -> None:
        settings = self._config.daemon
        host, port = await stack.enter_async_context(health.serve(settings.host, settings.port, self._health))
        _log.info("daemon.started", pid=os.getpid(), config=str(self._path), host=host, port=port)
        state = health.DaemonState(lambda: self._runtime, lambda: self._config, self._health, self._schedule)
        await health.show(self._console, state, stack)

    async def _open(self, stack: AsyncExitStack) -> Runtime | None:
        """Open the runtime (embedded servers may take seconds); None if told to stop meanwhile."""
        self._opening = asyncio.current_task()
        backoff = FullJitter(first=CHECK_FIRST, cap=CHECK_CAP)
        try:
            while self._runtime is None:
                try:
                    self._runtime = await stack.enter_async_context(open_runtime(self._config))
                except (TierUnavailable, BucketUnusable) as exc:
                    await self._wait_to_check_again(exc, backoff)
        except asyncio.CancelledError:
            if not self._stop.is_set() or self._opening is None:
                raise
            self._opening.uncancel()
            return None
        finally:
            self._opening = None
        return self._runtime

    async def _live(self, runtime: Runtime) -> None:
        if isinstance(runtime.clock, ServerClock):
            self._health.clock = runtime.clock
        yield_to_others(self._config.jobs.nice)  # servers that this process started go first, too
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        work = {
            "pings": self._health.watch(health.pings(runtime)),
            "check": self._become_ready(runtime),
            "reload": self._reload_on_request(runtime),
            "hot tier": self._every(_LOOK_EVERY_S, partial(self._look_at_hot_tier, runtime)),
            "hot saves": self._every(_NOTE_EVERY_S, runtime.storage().note_hot_saves),
            "keys": self._every(_LOOK_AT_KEYS_S, partial(self._look_at_keys, runtime)),
            "totals": self._every(LOOK_EVERY_S, TotalsKeeper(runtime.job_context()).look),
        }
        tasks = [asyncio.create_task(each, name=name) for name, each in work.items()]
        waiting: set[asyncio.Task[Any]] = {stop, *tasks}
        try:
            while not stop.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # what ends one of them badly ends the daemon
        finally:
            self._health.stopping()
            runtime.job_context().stopping.set()
            await self._schedule.stop(self._config.daemon.shutdown_grace)
            await _end(stop, *tasks)

    # -- start ---------------------------------------------------------------------------------------------

    async def _become_ready(self, runtime: Runtime) -> None:
        backoff = FullJitter(first=CHECK_FIRST, cap=CHECK_CAP)
        while True:
            try:
                self._health.recovered.clear()
                await runtime.check()
                last_runs = await runtime.catalog.history.last_runs()
                break
            except (MissingDependencyError, PolicyError):
                raise
            except Exception as exc:  # noqa: BLE001 - a wrong server can break a driver in any way; it may be replaced
                await self._wait_to_check_again(exc, backoff)
        for server in health.pings(runtime):
            self._health.pinged(server, None)
        self._health.check_passed()
        times = times_of(self._config.schedule)
        self._schedule.start(times, first_delays(times, last_runs, runtime.clock.now()), runtime.clock)
        self._ready.set()
        self._supervisor.ready(self._status())
        _log.info("daemon.ready", jobs={name: when.text for name, when in times.items()})

    async def _wait_to_check_again(self, error: Exception, backoff: FullJitter) -> None:
        """A permanent error, too: an operator can migrate a schema or make a bucket while we wait."""
        text = self._health.check_failed(error).error
        hint = error.hint if isinstance(error, SagazTieringError) else "is this the right server?"
        delay = backoff.next().total_seconds()
        _log.warning("daemon.not_ready", error=text, hint=hint, kind=type(error).__name__, retry_in_s=round(delay, 1))
        self._supervisor.status(f"not ready: {text}")
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._health.recovered.wait()

    async def _every(self, pause_s: float, look: Callable[[], Awaitable[object]]) -> None:
        """For ever, once the daemon is ready."""
        await self._ready.wait()
        while True:
            with suppress(SagazTieringError):  # a server that is away is told by its pings
                await look()
            await asyncio.sleep(pause_s)

    async def _look_at_hot_tier(self, runtime: Runtime) -> None:
        """Whether Redis is what it was; if not, `reconcile` runs at once."""
        await runtime.incarnation.look()
        state = await runtime.catalog.hot_tier.state()
        self._health.note("redis", state.warnings())
        metrics.HOT_TIER_TRUSTED.set(state.trusted)
        metrics.HOT_SAVES_MISSING.set(state.lost)
        if not state.trusted:
            self._schedule.run_now("reconcile")
        if self._health.failed_jobs:
            self._health.look_at_runs(await runtime.catalog.history.last_runs())

    async def _look_at_keys(self, runtime: Runtime) -> None:
        """Whether what is encrypted can be read."""
        locked = await runtime.keys.locked()
        self._health.note("encryption", [each.warning() for each in locked])
        metrics.DATA_KEYS_LOCKED.set(sum(each.data_keys for each in locked))

    # -- work ----------------------------------------------------------------------------------------------

    async def _run_job(self, name: str) -> JobReport:
        assert self._runtime is not None  # jobs start after `_open`
        context = self._runtime.job_context()
        try:
            report = await run_job(name, context)
        except SagazTieringError as exc:
            self._health.job_failed(name, exc, context.now)
            raise
        if not report.skipped and report.opens_at is None:
            self._health.job_went_well(name)
        return report

    def _overdue(self) -> list[health.Problem]:
        found = []
        for name, by in self._schedule.overdue().items():
            ago = format_duration(timedelta(seconds=int(by.total_seconds())))
            found.append(health.Problem(server="schedule", error=f"the job {name} should have begun {ago} ago"))
        return found

    def _status(self) -> str:
        times = times_of(self._config.schedule)
        return f"ready: {counted(len(self._config.policies), 'policy', 'policies')}, {counted(len(times), 'job')}"

    # -- reload --------------------------------------------------------------------------------------------

    async def _reload_on_request(self, runtime: Runtime) -> None:
        while True:
            await self._hup.wait()
            self._hup.clear()
            tells = self._ready.is_set()  # READY=1 ends a reload, and must not be said before it is true
            if tells:
                self._supervisor.reloading()
            note = await self._reload(runtime)
            if tells:
                self._supervisor.ready(self._status() + note)

    async def _reload(self, runtime: Runtime) -> str:
        """Put the file in force; what to add to the status."""
        try:
            config = _load(self._path, self._environ)
            await self._ready.wait()
            await self._put_in_force(runtime, config)
        except SagazTieringError as exc:
            metrics.CONFIG_RELOADS.labels(outcome="rejected").inc()
            kept = "the configuration in force"
            _log.error("config.rejected", file=str(self._path), error=str(exc), hint=exc.hint, kept=kept)
            return "; the changed configuration was rejected, see the log"
        metrics.CONFIG_RELOADS.labels(outcome="accepted").inc()
        return ""

    async def _put_in_force(self, runtime: Runtime, config: TieringConfig) -> None:
        backoff = FullJitter(first=CHECK_FIRST, cap=CHECK_CAP)
        while True:
            try:
                await runtime.reload(config)
                break
            except SagazTieringError as exc:
                if exc.permanent:
                    raise
                delay = backoff.next().total_seconds()
                _log.warning("config.reload_delayed", error=str(exc), hint=exc.hint, retry_in_s=round(delay, 1))
                await asyncio.sleep(delay)
        changed, self._config = changes(self._config, config), config
        _configure_logs(config)
        self._schedule.change(times_of(config.schedule))
        _log.info("config.reloaded", file=str(self._path), changed=changed)
        later = needing_restart(changes(self._started_with, config))
        if later:
            _log.warning("config.restart_needed", settings=later, hint="these keep their old values until a restart")

    # -- end -----------------------------------------------------------------------------------------------

    def _follow_signals(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._hup.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            stack.callback(loop.remove_signal_handler, number)

    def _on_stop(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            _log.warning("daemon.forced", signal=number.name)
            os._exit(1)  # whoever asks twice does not want to wait; the protocols survive a kill
        within = self._config.daemon.shutdown_grace + _CLOSING
        self._supervisor.stopping("finishing what runs", within=within)
        self._health.stopping()
        _log.info("daemon.stopping", signal=number.name, running=self._schedule.running)
        self._stop.set()
        self._last_resort = threading.Timer(within.total_seconds(), _exit_at_once)
        self._last_resort.daemon = True
        self._last_resort.start()
        if self._runtime is not None:
            self._runtime.job_context().stopping.set()
        if self._opening is not None:
            self._opening.cancel()


def _load(path: Path, environ: Mapping[str, str] | None) -> TieringConfig:
    config, warnings = load_with_warnings(path, minimum_durations, environ)
    for warning in warnings:
        _log.warning("config.doubtful", warning=str(warning))
    return config


def _configure_logs(config: TieringConfig) -> None:
    logs.configure(level=config.log.level, format=config.log.format)


def _exit_at_once() -> None:
    """On a thread: whatever holds up the event loop or the closing of connections, the protocols survive a kill."""
    _log.error("daemon.forced", reason="not everything ended within the grace")
    os._exit(1)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them, again if a driver swallowed that, and wait a while; what is left then is told."""
    for _ in range(_CANCELS):
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=_CANCEL_S)
        if not left:
            break
    else:
        _log.warning("daemon.tasks_left", tasks=sorted(task.get_name() for task in left))
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()


def changes(old: BaseModel, new: BaseModel, prefix: str = "") -> list[str]:
    """Names of the settings that differ, such as `tiers.hot.url`; never their values. Policies count as one."""
    found: list[str] = []
    for field in type(old).model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            found += changes(before, after, f"{prefix}{field}.")
        elif before != after:
            found.append(f"{prefix}{field}")
    return found


def needing_restart(names: list[str]) -> list[str]:
    """Those of `names` that a reload does not put in force."""
    return [name for name in names if any(name == part or name.startswith(part + ".") for part in _NEEDS_RESTART)]
