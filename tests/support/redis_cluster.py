"""A real Redis Cluster of three primaries, and a primary that Sentinels watch, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sagaz_tiering.embedded import RedisServer
from sagaz_tiering.embedded.process import ServerCommand
from sagaz_tiering.embedded.server import HOST
from support.processes import redis_do
from support.servers import new_folder

SLOTS = 16_384
SERVICE = "primary"
DEADLINE_S = 30.0
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
        return ServerCommand(
            argv=[*command.argv, "--sentinel"],
            env=command.env,
            cwd=command.cwd,
            log=command.log,
            stop_signal=command.stop_signal,
            grace_s=command.grace_s,
            hold_fds=command.hold_fds,
        )

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


@asynccontextmanager
async def watched_primary(folder: Path) -> AsyncIterator[tuple[str, PlainRedis]]:
    """The URL of a primary with one replica, by way of one Sentinel; and the primary, to be killed."""
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(PlainRedis(new_folder(folder, "primary")))
        replica = PlainRedis(new_folder(folder, "replica"), replicaof=f"{HOST} {primary.port}")
        replica._password = primary.password
        await stack.enter_async_context(replica)
        sentinel = await stack.enter_async_context(SentinelServer(new_folder(folder, "sentinel")))
        url = f"redis://{HOST}:{sentinel.port}"
        await redis_do(url, "SENTINEL", "MONITOR", SERVICE, HOST, str(primary.port), "1")
        # On a busy machine a Sentinel may find no replica good enough: by default it tries again in six minutes.
        for option, value in (
            ("auth-pass", primary.password),
            ("down-after-milliseconds", "500"),
            ("failover-timeout", "3000"),
        ):
            await redis_do(url, "SENTINEL", "SET", SERVICE, option, value)
        await _until(replica.url, ("INFO", "replication"), "'master_link_status': 'up'")
        await _until(url, ("SENTINEL", "REPLICAS", SERVICE), str(replica.port))
        yield f"redis+sentinel://:{primary.password}@{HOST}:{sentinel.port}/{SERVICE}/0", primary


async def _until(url: str, command: Sequence[str], words: str) -> None:
    until = time.monotonic() + DEADLINE_S
    answer: Any = None
    while time.monotonic() < until:
        answer = await redis_do(url, *command)
        if words in repr(answer):
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"{words!r} not within {DEADLINE_S} s: {answer!r:.2000}")
