"""The daemon as its supervisor sees it: a process, its notifications, its log and its HTTP endpoints."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

DEADLINE_S = 300.0
POLL_S = 0.05


class DaemonProcess:
    """`sagaz-tiering run` under a supervisor that is this test."""

    def __init__(self, folder: Path, config: Path) -> None:
        self._config = config
        self._log = folder / f"daemon-{time.monotonic_ns()}.log"
        self._address = f"@sagaz-tiering-test-{os.getpid()}-{time.monotonic_ns()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self._address[1:])
        self._socket.setblocking(False)
        self._told: list[str] = []
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, environ: dict[str, str]) -> None:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sagaz_tiering", "run", "--config", str(self._config)),
                env={**os.environ, "NOTIFY_SOCKET": self._address, **environ},
                stderr=log,
                stdout=log,
            )

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def events(self) -> list[dict[str, Any]]:
        """Log lines so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    @property
    def told(self) -> list[str]:
        """Notifications so far, each with all its lines."""
        try:
            while True:
                self._told.append(self._socket.recv(65536).decode())
        except BlockingIOError:
            return self._told

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Log lines of one event so far."""
        return [line for line in self.events if line["event"] == event]

    def notified(self, state: str) -> int:
        """How often a notification with the line `state` has come."""
        return sum(state in message.splitlines() for message in self.told)

    async def until(self, what: Callable[[], Any], *, deadline_s: float = DEADLINE_S) -> Any:
        """Wait until `what()` is true; fails with the log when it does not become so, or when the process ends."""
        until = time.monotonic() + deadline_s
        while not (found := what()):
            assert self.process.returncode is None, f"the daemon exited:\n{self._log.read_text()}"
            assert time.monotonic() < until, f"not within {deadline_s} s:\n{self._log.read_text()}\n{self.told}"
            await asyncio.sleep(POLL_S)
        return found

    async def ready(self) -> None:
        """Wait for the first READY=1."""
        await self.until(lambda: self.notified("READY=1"))

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP endpoint."""
        (started,) = await self.until(lambda: self.logged("daemon.started"))
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://{started['host']}:{started['port']}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def until_running(self, job: str) -> None:
        """Wait until a run of `job` is under way that lasts longer than two looks at the metrics."""
        until, seen = time.monotonic() + DEADLINE_S, 0
        while seen < 3:
            running = f'sagaz_tiering_job_running{{job="{job}"}} 1.0' in (await self.get("/metrics"))[1]
            seen = seen + 1 if running else 0
            assert time.monotonic() < until, f"{job} is not under way:\n{self._log.read_text()}"
            await asyncio.sleep(POLL_S * 2)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait for the end."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return await self.exit_code()

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._socket.close()


@asynccontextmanager
async def daemon(folder: Path, config: Path, **environ: str) -> AsyncIterator[DaemonProcess]:
    """A daemon that was started; killed at the end if it still runs."""
    process = DaemonProcess(folder, config)
    try:
        await process.start(environ)
        yield process
    finally:
        await process.close()
