"""What every embedded server has in common: ports, start, stop, kill, pause, and being really ready."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

from sagaz_tiering.embedded.process import ServerCommand, ServerProcess
from sagaz_tiering.errors import ConfigError

HOST = "127.0.0.1"
START_DEADLINE_S = 60.0
STOP_GRACE_S = 20.0
"""How long a server may take to end in order before it is killed."""
EXTRA = "sagaz-tiering[embedded]"
"""What to install for the servers."""

_LOWEST_PORT = 15_000
_PORT_TRIES = 5
_POLL_S = 0.01
_IN_USE = ("address already in use", "port is in use")


class EmbeddedServer(ABC):
    """One real server on 127.0.0.1, reachable with a password that only we know.

    `start` after `stop` or `kill` uses the same port and the same data, so that clients and their URL stay
    valid. `durable=False` is for throw-away data: nothing is flushed to disk. Not for concurrent use: one
    caller starts and stops.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    not_ready_errors: ClassVar[tuple[type[Exception], ...]]
    """What `_talk` raises while the server is still starting."""

    def __init__(self, data_dir: Path, *, durable: bool = True, hold_fds: Sequence[int] = ()) -> None:
        """Nothing is started or written yet. `hold_fds`: see ServerProcess."""
        self.data_dir = data_dir
        self.durable = durable
        self._hold_fds = tuple(hold_fds)
        self._port: int | None = None
        self._was_ready = False
        self._process: ServerProcess | None = None

    @property
    def port(self) -> int:
        """The TCP port; known after the first start."""
        if self._port is None:
            raise ConfigError(f"the embedded {self.name} was not started")
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's pid, or None while it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether any process of the server lives."""
        return self._process is not None and self._process.exit_code() is None

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.data_dir / "log" / f"{self.name.lower()}.log"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _end(self) -> None:
        await self.stop()
        if not self.durable:
            self.discard()

    async def start(self, *, deadline_s: float = START_DEADLINE_S) -> None:
        """Start the server and return once it answers; does nothing if it runs.

        Raises MissingDependencyError without the package that holds it, and ConfigError, with the end of its
        log, if it does not come up within `deadline_s` seconds.
        """
        if self.running:
            return
        until = time.monotonic() + deadline_s
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await _finish_in_thread(lambda: self._prepare(deadline_s))
        for tries_left in reversed(range(_PORT_TRIES)):
            self._port = self._port if self._was_ready else free_port()
            process = self._spawn()
            try:
                await self._wait_until_ready(process, until)
            except _PortTaken as exc:
                if not tries_left or time.monotonic() > until:
                    raise self._failure(f"port {self.port} is taken", exc.log) from exc
                await asyncio.sleep(_POLL_S * 10)
            else:
                self._was_ready = True
                return

    def _spawn(self) -> ServerProcess:
        if self._process is not None:
            self._process.release()
        try:
            self._process = ServerProcess(
                self._command(), self.log, stop_signal=self.stop_signal, grace_s=STOP_GRACE_S, hold_fds=self._hold_fds
            )
        except OSError as exc:
            raise ConfigError(f"the embedded {self.name} cannot be started: {exc}") from exc
        return self._process

    async def _wait_until_ready(self, process: ServerProcess, until: float) -> None:
        last: Exception | None = None
        while time.monotonic() < until:
            if process.exit_code() is not None:
                log = process.log_tail()
                process.release()
                if any(sign in log.lower() for sign in _IN_USE):
                    raise _PortTaken(log)
                raise self._failure(f"ended at once (exit code {process.exit_code()})", log) from last
            last = await self._try_to_talk(process)
            if last is None:
                return
            await asyncio.sleep(_POLL_S)
        log = process.log_tail()
        await self.stop()
        raise self._failure(f"did not answer in time ({last})", log) from last

    async def _try_to_talk(self, process: ServerProcess) -> Exception | None:
        """Why there was no answer yet, or None; not waiting longer once the process has ended."""
        talk = asyncio.ensure_future(self._talk())
        try:
            while not talk.done():
                await asyncio.wait({talk}, timeout=_POLL_S)
                if process.exit_code() is not None:
                    return ConnectionResetError("the server ended")
            await talk
        except self.not_ready_errors as exc:
            return exc
        finally:
            talk.cancel()
            await asyncio.wait({talk})
        return None

    def _failure(self, what: str, log: str) -> ConfigError:
        return ConfigError(
            f"the embedded {self.name} {what}; the end of {self.log}:\n{log or '(it wrote nothing)'}",
            hint=f"look at {self.log}; nothing of {self.data_dir} was removed. "
            f"If another server should be used, put its URL into the configuration",
        )

    async def stop(self) -> None:
        """End the server in order, or by force after STOP_GRACE_S; does nothing if it ended."""
        process = self._process
        if process is None:
            return
        process.begin_stop()
        until = time.monotonic() + 2 * STOP_GRACE_S
        while process.exit_code() is None:
            if time.monotonic() > until:
                process.abandon()
                break
            await asyncio.sleep(_POLL_S)
        process.release()

    def begin_stop(self) -> None:
        """Let the server end by itself from here on, without waiting (`stop` waits)."""
        if self._process is not None:
            self._process.begin_stop()

    def kill(self) -> None:
        """End the server and all its processes as a power cut would; returns when they are gone."""
        if self._process is not None:
            self._process.kill()
            self._process.release()

    def pause(self) -> None:
        """Freeze the server with its open connections: it accepts, and never answers."""
        self._require_process().signal_tree(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._require_process().signal_tree(signal.SIGCONT)

    def discard(self) -> None:
        """Remove what a stopped, throw-away server keeps outside of its data folder."""
        return

    def _require_process(self) -> ServerProcess:
        if self._process is None or not self.running:
            raise ConfigError(f"the embedded {self.name} does not run")
        return self._process

    @abstractmethod
    def _prepare(self, deadline_s: float) -> None:
        """Find the binary and create the data where there is none. Blocking; in a thread."""

    @abstractmethod
    def _command(self) -> ServerCommand:
        """How to run it on `self.port`."""

    @abstractmethod
    async def _talk(self) -> None:
        """One real exchange; raises one of `not_ready_errors` while it is too early."""


async def _finish_in_thread(work: Callable[[], None]) -> None:
    """Run blocking work; a cancellation is heard when it is done, so that it never goes on behind our back."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


class _PortTaken(Exception):
    """Somebody else listens on the port that we chose."""

    def __init__(self, log: str) -> None:
        super().__init__("address already in use")
        self.log = log


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, below the range of outgoing connections.

    From within that range, a client that reconnects to a stopped server could be given the port itself.
    """
    highest = _first_outgoing_port()
    for _ in range(1000):
        port = random.randrange(_LOWEST_PORT, highest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise ConfigError(f"no free TCP port between {_LOWEST_PORT} and {highest} on {HOST}")


def _first_outgoing_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 49_152
    return first if first > _LOWEST_PORT + 1000 else 65_535
