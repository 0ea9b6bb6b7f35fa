"""What every embedded server has in common: ports, start, stop, kill, pause, being really ready; and our end of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sagaz_tiering.embedded.account import Account
from sagaz_tiering.errors import ConfigError

HOST = "127.0.0.1"
START_DEADLINE_S = 60.0
STOP_GRACE_S = 20.0
"""How long a server may take to end in order before it is killed."""
TALK_S = 5.0
"""Of one exchange with a server that is starting."""
EXTRA = "sagaz-tiering[embedded]"
"""What to install for the servers."""

_SUPERVISOR = Path(__file__).with_name("supervise.py")
_ANSWER_S = 5.0
_MAX_LOG_SIZE = 16 * 2**20
"""Bytes; a longer log is set aside (one generation) when its server starts."""
_LOG_TAIL = 4096
"""Bytes of the log that an error carries at most."""
_LOWEST_PORT = 15_000
_PORT_TRIES = 5
_POLL_S = 0.01
_IN_USE = ("address already in use", "port is in use")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """What one server is run by, in the folder `cwd`. `account` is whom it runs as (None: as we do)."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    account: Account | None = None


class ServerProcess:
    """A running (or ended) server. Bound to no event loop, so that tests can keep one over many loops."""

    def __init__(
        self, command: ServerCommand, log: Path, *, stop_signal: signal.Signals, hold_fds: Sequence[int]
    ) -> None:
        """Spawns it; raises OSError if not even the supervisor can be run.

        `stop_signal` ends it in order; after STOP_GRACE_S it is killed. `hold_fds` stay open in the server as long
        as any process of it lives (the lock of its data).
        """
        self._log = log
        self._pid: int | None = None
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > _MAX_LOG_SIZE:
                log.replace(log.with_suffix(log.suffix + ".1"))
        with log.open("ab") as output:
            self._log_start = output.tell()
            supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISOR)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                stderr=output,
                # A Ctrl-C in our terminal must not stop the servers before we are done with them.
                start_new_session=True,
                pass_fds=tuple(hold_fds),
            )
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        self._supervisor, self._input, self._output = supervisor, supervisor.stdin, supervisor.stdout
        spec = {
            "argv": list(command.argv),
            "env": dict(command.env),
            "cwd": str(command.cwd),
            "stop_signal": int(stop_signal),
            "grace_s": STOP_GRACE_S,
            "account": None if command.account is None else command.account[:2],
            "hold_fds": list(hold_fds),
        }
        self._say(json.dumps(spec))

    @property
    def pid(self) -> int | None:
        """The server's own pid (not its supervisor's), or None if it could not be run."""
        if self._pid is None and (line := self._heard()):
            self._pid = int(line)
        return self._pid

    def exit_code(self) -> int | None:
        """None while any process of the server lives; then its exit code (128 + N after signal N)."""
        return self._supervisor.poll()

    def signal_tree(self, number: signal.Signals) -> None:
        """Send a signal to the server and its children (nothing if it has ended); returns when it is sent."""
        if self.pid is not None:
            self._say(f"signal {int(number)}")
            self._heard()

    def begin_stop(self) -> None:
        """Ask it to end in order (and to be killed after the grace); returns at once."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def kill(self) -> None:
        """End it and its children as a power cut would, and wait until they are gone (milliseconds)."""
        self.signal_tree(signal.SIGKILL)
        self.begin_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._supervisor.wait(_ANSWER_S)

    def abandon(self) -> None:
        """Kill the supervisor too: the last resort when it does not end by itself."""
        self._supervisor.kill()
        self._supervisor.wait()

    def release(self) -> None:
        """Close what connects us to an ended process."""
        self.begin_stop()
        self._output.close()

    def log_tail(self) -> str:
        """What the server wrote since it was started: the last lines, at most _LOG_TAIL bytes."""
        try:
            with self._log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - _LOG_TAIL))
                return log.read().decode(errors="replace").strip()
        except OSError as exc:
            return f"({self._log} cannot be read: {exc})"

    def _heard(self) -> str:
        """The supervisor's next line; empty if it has ended."""
        # Line by line is enough: it says nothing without being asked, but its first line.
        readable, _, _ = select.select([self._output], [], [], _ANSWER_S)
        return self._output.readline().decode().strip() if readable else ""

    def _say(self, line: str) -> None:
        # A closed pipe means that the supervisor has ended, which exit_code() tells.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._input.write(line.encode() + b"\n")


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
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, *, deadline_s: float = START_DEADLINE_S) -> None:
        """Start the server and return once it answers; does nothing if it runs.

        Raises MissingDependencyError without the package that holds it, and ConfigError, with the end of its
        log, if it does not come up within `deadline_s` seconds.
        """
        if self.running:
            return
        until = time.monotonic() + deadline_s
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        preparing = asyncio.ensure_future(asyncio.to_thread(self._prepare, deadline_s))
        try:
            await asyncio.shield(preparing)
        except asyncio.CancelledError:
            await asyncio.wait({preparing})  # it must never go on behind our back
            raise
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
                self._command(), self.log, stop_signal=self.stop_signal, hold_fds=self._hold_fds
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


class _PortTaken(Exception):
    """Somebody else listens on the port that we chose."""

    def __init__(self, log: str) -> None:
        super().__init__("address already in use")
        self.log = log


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, below the range of outgoing connections.

    From within that range, a client that reconnects to a stopped server could be given the port itself.
    """
    try:
        highest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        highest = 49_152
    if highest <= _LOWEST_PORT + 1000:
        highest = 65_535
    for _ in range(1000):
        port = random.randrange(_LOWEST_PORT, highest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise ConfigError(f"no free TCP port between {_LOWEST_PORT} and {highest} on {HOST}")
