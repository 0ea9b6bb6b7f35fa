"""A real Redis Cluster of three primaries, and a primary that Sentinels watch, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sagaz_tiering.embedded import RedisServer
from sagaz_tiering.embedded.server import HOST, ServerCommand
from support.gate import HangingUp
from support.processes import redis_do
from support.servers import new_folder

SLOTS = 16_384
SERVICE = "primary"
DEADLINE_S = 300.0
CLUSTER = {"cluster_enabled": "yes", "cluster_announce_ip": HOST, "save": "86400 1"}
POLL_S = 0.05


class PlainRedis(RedisServer):
    """A throw-away Redis that takes further settings."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        super().__init__(data_dir, durable=False)
        self._more = {name.replace("_", "-"): value for name, value in settings.items()}

    @property
    def password(self) -> str:
        return self._password

    def _settings(self) -> dict[str, str]:
        return {**super()._settings(), "masterauth": self._password, **self._more}

    async def _talk(self) -> None:
        """A node without a Cluster refuses everything but this."""
        client = redis.asyncio.Redis(
            host=HOST, port=self.port, password=self._password, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        try:
            await client.ping()
        finally:
            await client.aclose()


class SentinelServer(PlainRedis):
    """The same binary as a Sentinel."""

    name = "Sentinel"

    def _settings(self) -> dict[str, str]:
        wanted = ("bind", "port", "protected-mode", "dir", "daemonize")
        return {name: value for name, value in super()._settings().items() if name in wanted} | {"protected-mode": "no"}

    def _command(self) -> ServerCommand:
        command = super()._command()
        return ServerCommand(argv=[*command.argv, "--sentinel"], env=command.env, cwd=command.cwd)

    async def _talk(self) -> None:
        await redis_do(f"redis://{HOST}:{self.port}", "PING")


class Cluster:
    """An empty Cluster; started and stopped on any event loop."""

    def __init__(self, folder: Path) -> None:
        self._nodes = [PlainRedis(new_folder(folder, f"node{number}"), **CLUSTER) for number in range(3)]

    @property
    def url(self) -> str:
        """For RedisSnapshotStorage."""
        hosts = ",".join(f"{HOST}:{node.port}" for node in self._nodes)
        return f"redis+cluster://:{self._nodes[0].password}@{hosts}"

    async def start(self) -> None:
        """Returns when every node takes commands."""
        edges = [number * SLOTS // len(self._nodes) for number in range(len(self._nodes) + 1)]
        for node, begin, end in zip(self._nodes, edges, edges[1:], strict=False):
            node._password = self._nodes[0].password
            await node.start()
            await redis_do(node.url, "CLUSTER", "ADDSLOTS", *map(str, range(begin, end)))
            await redis_do(node.url, "CLUSTER", "MEET", HOST, str(self._nodes[0].port))
        for node in self._nodes:
            await _until(node.url, ("CLUSTER", "INFO"), "cluster_state:ok")

    async def stop(self) -> None:
        """End every node."""
        for node in self._nodes:
            await node.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A primary with one replica, watched by one Sentinel; `url` is the way by it."""

    url: str
    primary: PlainRedis
    replica: PlainRedis
    sentinel: SentinelServer

    async def ask_sentinel(self, *command: str) -> Any:
        """What the Sentinel answers."""
        return await redis_do(f"redis://{HOST}:{self.sentinel.port}", *command)

    async def watch(self, server: PlainRedis | HangingUp) -> None:
        """Have the Sentinel watch `server` as the primary.

        It does not count as down soon: a busy machine lets a server wait for longer than a second.
        """
        await self.ask_sentinel("SENTINEL", "MONITOR", SERVICE, HOST, str(server.port), "1")
        # On a busy machine a Sentinel may find no replica good enough: by default it tries again in six minutes.
        for option, value in (
            ("auth-pass", self.primary.password),
            ("down-after-milliseconds", "600000"),
            ("failover-timeout", "3000"),
        ):
            await self.ask_sentinel("SENTINEL", "SET", SERVICE, option, value)

    async def hand_over(self) -> None:
        """Make the replica the primary as people do by hand: no connection to the old primary is closed."""
        await self.ask_sentinel("SENTINEL", "REMOVE", SERVICE)
        await redis_do(self.replica.url, "REPLICAOF", "NO", "ONE")
        await redis_do(self.primary.url, "REPLICAOF", HOST, str(self.replica.port))
        await self.watch(self.replica)

    async def lose_primary(self) -> None:
        """Kill it, and have the Sentinel notice soon."""
        await self.ask_sentinel("SENTINEL", "SET", SERVICE, "down-after-milliseconds", "500")
        self.primary.kill()


@asynccontextmanager
async def watched_primary(folder: Path, **settings: str) -> AsyncIterator[Watched]:
    """Both servers with these settings."""
    settings = {"repl_diskless_sync_delay": "0", **settings}
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(PlainRedis(new_folder(folder, "primary"), **settings))
        replica = PlainRedis(new_folder(folder, "replica"), replicaof=f"{HOST} {primary.port}", **settings)
        replica._password = primary.password
        await stack.enter_async_context(replica)
        sentinel = await stack.enter_async_context(SentinelServer(new_folder(folder, "sentinel")))
        url = f"redis+sentinel://:{primary.password}@{HOST}:{sentinel.port}/{SERVICE}/0"
        watched = Watched(url=url, primary=primary, replica=replica, sentinel=sentinel)
        await watched.watch(primary)
        await _until(replica.url, ("INFO", "replication"), "'master_link_status': 'up'")
        await _until(f"redis://{HOST}:{sentinel.port}", ("SENTINEL", "REPLICAS", SERVICE), str(replica.port))
        yield watched


async def _until(url: str, command: Sequence[str], words: str) -> None:
    until = time.monotonic() + DEADLINE_S
    answer: Any = None
    while time.monotonic() < until:
        answer = await redis_do(url, *command)
        if words in repr(answer):
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"{words!r} not within {DEADLINE_S} s: {answer!r:.2000}")
