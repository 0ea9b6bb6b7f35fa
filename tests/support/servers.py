"""Throw-away servers for the suite: started once, used over many event loops, gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from sagaz_tiering.embedded import PostgresServer


@contextmanager
def server_folder() -> Iterator[Path]:
    """A temporary folder that PostgreSQL's account can pass through (pytest's own are closed to it)."""
    folder = Path(tempfile.mkdtemp(prefix="sagaz-tiering-tests-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(parent: Path, name: str) -> Path:
    """A folder in there that PostgreSQL's account can pass through, whatever the umask is."""
    folder = parent / name
    folder.mkdir()
    folder.chmod(0o711)
    return folder


def run_apart(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine to its end on a loop of its own in a thread, whatever loop the test runs on."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(make())).result()


def cluster_template(folder: Path) -> Path:
    """A freshly made PostgreSQL cluster to copy from; making it is the slow part of a start."""
    server = PostgresServer(folder, durable=False)
    server.initialise()
    return server.home


@asynccontextmanager
async def fresh_database(server: PostgresServer) -> AsyncIterator[str]:
    """The URL of an empty database that is dropped at the end, with whoever is still connected."""
    name = f"test_{secrets.token_hex(6)}"
    await _execute(server, f"CREATE DATABASE {name}")
    try:
        yield server.url_of(name)
    finally:
        # A test may have left the server dead; its database is then as gone as can be.
        with contextlib.suppress(OSError):
            await _execute(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def _execute(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url, timeout=120)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
