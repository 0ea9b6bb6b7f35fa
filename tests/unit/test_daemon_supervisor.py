"""The notify protocol, over real datagram sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from sagaz_tiering.daemon.systemd import ServiceManager


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + address[1:] if address.startswith("@") else address)
        receiver.settimeout(5)
        yield receiver


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@sagaz-tiering-{uuid4().hex}"


def test_supervisor_hears_each_state(address: str) -> None:
    """Ready, reloading, stopping and status arrive as systemd expects them, over both kinds of socket."""
    with listening(address) as receiver:
        supervisor = ServiceManager.from_environment({"NOTIFY_SOCKET": address})
        supervisor.ready("all\nwell")
        assert receiver.recv(4096) == b"READY=1\nSTATUS=all well"
        supervisor.reloading()
        first, _, usec = receiver.recv(4096).decode().partition("\nMONOTONIC_USEC=")
        assert first == "RELOADING=1"
        assert int(usec) > 0
        supervisor.status("waiting")
        assert receiver.recv(4096) == b"STATUS=waiting"
        supervisor.stopping("bye", within=timedelta(seconds=90))
        assert receiver.recv(4096) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=90000000\nSTATUS=bye"


async def test_supervisor_answers_the_watchdog_repeatedly(tmp_path: Path) -> None:
    """Pings come at half the interval that was asked for."""
    path = str(tmp_path / "notify")
    with listening(path) as receiver:
        environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
        supervisor = ServiceManager.from_environment(environ)
        assert supervisor.watchdog == timedelta(milliseconds=20)
        pinging = asyncio.create_task(supervisor.keep_alive())
        pings = [await asyncio.to_thread(receiver.recv, 4096) for _ in range(3)]
        pinging.cancel()
        assert pings == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "nonsense"}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}],
)
async def test_supervisor_without_a_watchdog_of_ours_sends_none(environ: dict[str, str]) -> None:
    """A watchdog that is off, unreadable or meant for another process is not answered."""
    supervisor = ServiceManager.from_environment(environ)
    assert supervisor.watchdog is None
    await asyncio.wait_for(supervisor.keep_alive(), 300)


def test_supervisor_that_is_gone_or_absent_does_not_fail_us(tmp_path: Path) -> None:
    """Without a socket, or with a dead one, telling is a no-op."""
    ServiceManager.from_environment({}).ready("well")
    ServiceManager.from_environment({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("well")
