"""Folders for embedded servers, and a process that holds one and can be killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.processes import processes_below
from support.servers import server_folder
from support.tiers import Places, Product, config, product

from sagaz_tiering.embedded import PostgresServer, account

NewProcesses = Callable[[], set[int]]
StartHolder = Callable[..., tuple[subprocess.Popen[str], str, str]]

# A program that starts servers in argv[1], reports, and waits to be killed.
HOLDER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from sagaz_tiering.embedded import EmbeddedServers

    async def main():
        durable = sys.argv[2] == "durable"
        async with EmbeddedServers.start(Path(sys.argv[1]), durable=durable, s3=False) as servers:
            print(servers.postgres_url, servers.redis_url, flush=True)
            await asyncio.sleep(300)

    asyncio.run(main())
    """
)


@pytest.fixture
async def shop(places: Places, request: pytest.FixtureRequest) -> AsyncIterator[Product]:
    """A product over a directory, with the sections of its configuration that the test's module names in SECTIONS."""
    async with product(config(**places, **getattr(request.module, "SECTIONS", {}))) as opened:
        yield opened


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a data folder can be made in."""
    with server_folder() as found:
        yield found


@pytest.fixture
def new_processes() -> NewProcesses:
    """The pids of what this test has started; the session's servers run beside it."""
    before = {child.pid for child in psutil.Process().children()}

    def since() -> set[int]:
        started = {child.pid for child in psutil.Process().children()} - before
        return started.union(*map(processes_below, started))

    return since


@pytest.fixture
def data_dir(folder: Path, postgres_template: Path) -> Path:
    """A data folder that has its cluster already, since making one takes longest."""
    made = folder / "data"
    made.mkdir()
    made.chmod(0o711)
    PostgresServer(made, template=postgres_template).initialise()
    return made


@pytest.fixture
def closed_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that only we can enter, like a home; what must be shared goes beside it."""
    monkeypatch.setattr(account, "SHARED_ROOT", folder / "shared")
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    return closed


@pytest.fixture
def start_holder() -> Iterator[StartHolder]:
    """Start HOLDER on a folder; gives the process and the two URLs once they answer."""
    running: list[subprocess.Popen[str]] = []

    def start(data_dir: Path, mode: str = "durable") -> tuple[subprocess.Popen[str], str, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(data_dir), mode], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        postgres_url, redis_url = process.stdout.readline().split()
        return process, postgres_url, redis_url

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
