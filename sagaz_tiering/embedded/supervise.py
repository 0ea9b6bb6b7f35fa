"""Runs one server and outlives nobody: a tiny program of its own between us and the server.

    python -I -S supervise.py          (standard library only, so that it starts in milliseconds)

stdin: one line of JSON (the spec, see `server.py`), then `signal N` (to the server and its children) as often as that
is wanted. End of file means that the parent stopped us or died, also by SIGKILL: the server gets its stop signal, and
SIGKILL after the grace.
stdout: the server's pid, then `done` after each `signal`. stderr: the server's log.
Exits when no process of the server is left.

Why not only PR_SET_PDEATHSIG on the server: it fires when the parent *thread* ends, and knows one signal.
Here it is set too, against this single-threaded program, in case this one is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT_CHECK_S = 1.0
"""A forked child of the parent can hold our stdin open, so the parent's death is also looked for."""
LEFTOVER_GRACE_S = 5.0
"""How long children of a server that ended may take to notice."""


def _prctl() -> Any:
    """The C function, or None where the system has none (macOS)."""
    if not sys.platform.startswith("linux"):
        return None
    return ctypes.CDLL(None, use_errno=True).prctl


def _parents() -> dict[int, int]:
    """pid -> parent pid of every visible process; empty where there is no /proc."""
    found: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat") as stat:
                    found[int(name)] = int(stat.read().rpartition(")")[2].split()[1])
    return found


def _below(root: int) -> list[int]:
    """Every descendant of `root`, parents first."""
    parents = _parents()
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found[1:]


def _report(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Supervisor:
    """The life of one server process."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.parent = os.getppid()
        self.stopping_until: float | None = None
        self.exit_code: int | None = None
        self.ended_at = 0.0
        self.server = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        spec, prctl, me = self.spec, _prctl(), os.getpid()
        if prctl is not None:
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        def die_with_us() -> None:
            # Runs after setuid, which would clear it.
            if prctl is not None:
                prctl(PR_SET_PDEATHSIG, spec["stop_signal"], 0, 0, 0)
                if os.getppid() != me:
                    os._exit(1)

        account: dict[str, Any] = {}
        if spec["account"] is not None:
            account = {"user": spec["account"][0], "group": spec["account"][1], "extra_groups": []}
        return subprocess.Popen(
            spec["argv"],
            stdin=subprocess.DEVNULL,
            stdout=2,
            stderr=2,
            cwd=spec["cwd"],
            env=spec["env"],
            umask=0o077,
            pass_fds=spec["hold_fds"],
            preexec_fn=die_with_us,
            **account,
        )

    def stop(self) -> None:
        """Ask the server to end, and remember when it must have ended."""
        if self.stopping_until is None:
            self.stopping_until = time.monotonic() + self.spec["grace_s"]
            if self.exit_code is None:
                self.signal_tree(signal.SIGCONT)
                _send(self.server.pid, self.spec["stop_signal"])

    def signal_tree(self, number: int) -> None:
        """The server first, so that it forks nothing more when it is stopped."""
        for pid in [self.server.pid, *_below(self.server.pid)]:
            _send(pid, number)

    def obey(self, line: str) -> None:
        if self.exit_code is None:
            self.signal_tree(int(line.removeprefix("signal ")))
        _report("done")

    def reap(self) -> bool:
        """Collect ended children; True when none is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.server.pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
                self.ended_at = time.monotonic()

    def enforce_deadlines(self) -> None:
        now = time.monotonic()
        if self.exit_code is not None and now - self.ended_at > LEFTOVER_GRACE_S:
            for pid in _below(os.getpid()):
                _send(pid, signal.SIGKILL)
        if self.exit_code is None and self.stopping_until is not None and now > self.stopping_until:
            self.signal_tree(signal.SIGKILL)

    def run(self, wakeup: int) -> int:
        """Serve until no process is left; returns the exit code to end with."""
        inputs, pending = [0, wakeup], b""
        while not self.reap():
            readable, _, _ = select.select(inputs, [], [], PARENT_CHECK_S)
            if wakeup in readable:
                os.read(wakeup, 4096)
            if 0 in readable:
                data = os.read(0, 4096)
                pending += data
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    self.obey(line.decode())
                if not data:
                    inputs.remove(0)
                    self.stop()
            if os.getppid() != self.parent:
                self.stop()
            self.enforce_deadlines()
        code = self.exit_code if self.exit_code is not None else 1
        return code if code >= 0 else 128 - code


def _read_spec() -> dict[str, Any]:
    """The first line, byte by byte: what follows is for the loop."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise SystemExit("the parent died before it said what to run")
        line += byte
    spec: dict[str, Any] = json.loads(line)
    return spec


def _nothing(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor tells that a signal came; that is enough."""


def main() -> int:
    """Run what stdin says; the exit code is the server's (128 + N for signal N)."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    # Handlers, not SIG_IGN: an ignored signal would stay ignored in the server.
    for quiet in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(quiet, _nothing)
    spec = _read_spec()
    try:
        supervisor = Supervisor(spec)
    except OSError as exc:
        sys.stderr.write(f"cannot run {spec['argv'][0]}: {exc}\n")
        return 127
    signal.signal(signal.SIGTERM, lambda number, frame: supervisor.stop())
    _report(str(supervisor.server.pid))
    return supervisor.run(read_end)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
