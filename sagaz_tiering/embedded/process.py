"""Our end of a supervised server process: spawn, signal, wait, and what its log said last."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sagaz_tiering.embedded.account import Account

SUPERVISOR = Path(__file__).with_name("supervise.py")
MAX_LOG_SIZE = 16 * 2**20
"""Bytes; a longer log is set aside (one generation) when its server starts."""
LOG_TAIL = 4096
"""Bytes of the log that an error carries at most."""
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """What one server is run by. `account` is whom it runs as (None: as we do).

    `remove` is a folder that goes when the parent dies without having stopped the server.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    account: Account | None = None
    remove: Path | None = None


class ServerProcess:
    """A running (or ended) server. Bound to no event loop, so that tests can keep one over many loops."""

    def __init__(
        self,
        command: ServerCommand,
        log: Path,
        *,
        stop_signal: signal.Signals,
        grace_s: float,
        hold_fds: Sequence[int],
    ) -> None:
        """Spawns it; raises OSError if not even the supervisor can be run.

        `stop_signal` ends it in order; after `grace_s` seconds it is killed. `hold_fds` stay open in the server as long
        as any process of it lives (the lock of its data).
        """
        self._log = log
        self._pid: int | None = None
        _set_long_log_aside(log)
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SUPERVISOR)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                stderr=output,
                # A Ctrl-C in our terminal must not stop the servers before we are done with them.
                start_new_session=True,
                pass_fds=tuple(hold_fds),
            )
        spec = {
            "argv": list(command.argv),
            "env": dict(command.env),
            "cwd": str(command.cwd),
            "stop_signal": int(stop_signal),
            "grace_s": grace_s,
            "account": None if command.account is None else command.account[:2],
            "hold_fds": list(hold_fds),
            "remove": None if command.remove is None else str(command.remove),
        }
        self._say(json.dumps(spec))

    @property
    def pid(self) -> int | None:
        """The server's own pid (not its supervisor's), or None if it could not be run."""
        if self._pid is None:
            line = self._heard()
            self._pid = int(line) if line else None
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
        self._say("keep")
        self._close_input()

    def kill(self) -> None:
        """End it and its children as a power cut would, and wait until they are gone (milliseconds)."""
        self._say("keep")
        self.signal_tree(signal.SIGKILL)
        self._close_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._supervisor.wait(_ANSWER_S)

    def abandon(self) -> None:
        """Kill the supervisor too: the last resort when it does not end by itself."""
        self._supervisor.kill()
        self._supervisor.wait()

    def release(self) -> None:
        """Close what connects us to an ended process."""
        self._close_input()
        if self._supervisor.stdout is not None:
            self._supervisor.stdout.close()

    def log_tail(self) -> str:
        """What the server wrote since it was started: the last lines, at most LOG_TAIL bytes."""
        try:
            with self._log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - LOG_TAIL))
                return log.read().decode(errors="replace").strip()
        except OSError as exc:
            return f"({self._log} cannot be read: {exc})"

    def _heard(self) -> str:
        """The supervisor's next line; empty if it has ended."""
        assert self._supervisor.stdout is not None
        # Line by line is enough: it says nothing without being asked, but its first line.
        readable, _, _ = select.select([self._supervisor.stdout], [], [], _ANSWER_S)
        return self._supervisor.stdout.readline().decode().strip() if readable else ""

    def _say(self, line: str) -> None:
        assert self._supervisor.stdin is not None
        # A closed pipe means that the supervisor has ended, which exit_code() tells.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._supervisor.stdin.write(line.encode() + b"\n")
            self._supervisor.stdin.flush()

    def _close_input(self) -> None:
        assert self._supervisor.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._supervisor.stdin.close()


def _set_long_log_aside(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > MAX_LOG_SIZE:
            log.replace(log.with_suffix(log.suffix + ".1"))
