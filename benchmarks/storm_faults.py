"""What befalls the servers in a storm: each has a wire in front of it that can be cut, slowed and made to lie still."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import redis.asyncio
from support.gate import HOST, Gate
from support.processes import processes_below, send

from sagaz_tiering.embedded import PostgresServer, RedisServer, S3Server

_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
_SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
)


class Wire(Gate):
    """A gate whose connections can be made to misbehave.

    `mode`: "" forwards; "still" forwards nothing; "slow" waits with every piece; "drip" sends a few bytes at a time;
    "deaf" forwards what is asked, but breaks off before the answer; "busy" answers 503 itself.
    """

    mode = ""

    async def calm(self) -> None:
        """Forward again; who waited in vain is broken off."""
        self.mode = ""
        await self.cut()

    async def cut(self) -> None:
        """Break off every connection."""
        await self.shut()
        await self.open()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "busy":
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.5):
                    await reader.read(65_536)
                writer.write(_BUSY % (len(_SLOW_DOWN), _SLOW_DOWN))
                await writer.drain()
            return
        with contextlib.suppress(OSError):
            await super()._forward(reader, writer)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            match self.mode:
                case "still":
                    await asyncio.Event().wait()
                case "deaf":
                    return
                case "slow":
                    await asyncio.sleep(0.1)
                case "drip":
                    for at in range(0, len(data), 700):
                        writer.write(data[at : at + 700])
                        await asyncio.sleep(0.005)
                    continue
            writer.write(data)
            await writer.drain()


class Weather:
    """The faults, by name. Each is a coroutine function that brings it, lasts a while, and ends it."""

    def __init__(
        self,
        *,
        postgres: tuple[PostgresServer, Wire],
        redis_: tuple[RedisServer, Wire],
        s3: tuple[S3Server, Wire],
        chance: random.Random,
        scratch: Path,
    ) -> None:
        self._postgres, self._pg_wire = postgres
        self._redis, self._redis_wire = redis_
        self._s3, self._s3_wire = s3
        self._chance, self._scratch = chance, scratch
        self.redis_lost_at: list[float] = []
        """When Redis lost what it had acknowledged, by a fault of ours (monotonic)."""

    def faults(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Every kind."""
        wires = {"postgresql": self._pg_wire, "redis": self._redis_wire, "s3": self._s3_wire}
        found: dict[str, Callable[[], Awaitable[None]]] = {}
        for name, wire in wires.items():
            found[f"{name}: connections cut"] = lambda wire=wire: self._cuts(wire)
            for mode, told in (("still", "answers nothing"), ("slow", "slow"), ("deaf", "answers lost")):
                found[f"{name}: {told}"] = lambda wire=wire, mode=mode: self._bad_wire(wire, mode)
        return found | {
            "postgresql: killed and started": self._postgres_killed,
            "postgresql: frozen": lambda: self._frozen(self._postgres.pid),
            "postgresql: backends ended": self._backends_ended,
            "postgresql: read-only": self._read_only,
            "redis: killed and started": self._redis_killed,
            "redis: frozen": lambda: self._frozen(self._redis.pid),
            "redis: rolled back": self._redis_rolled_back,
            "redis: emptied": self._redis_emptied,
            "redis: out of memory": self._redis_full,
            "redis: scripts and clients gone": self._redis_forgets_scripts,
            "s3: 503 to everybody": lambda: self._bad_wire(self._s3_wire, "busy"),
            "s3: bodies drip": lambda: self._bad_wire(self._s3_wire, "drip"),
            "s3: frozen": lambda: self._frozen(self._s3.pid),
        }

    def _while(self) -> float:
        return self._chance.uniform(2, 6)

    async def _cuts(self, wire: Wire) -> None:
        for _ in range(5):
            await wire.cut()
            await asyncio.sleep(self._while() / 5)

    async def _bad_wire(self, wire: Wire, mode: str) -> None:
        wire.mode = mode
        try:
            await asyncio.sleep(self._while())
        finally:
            await wire.calm()

    async def _frozen(self, pid: int | None) -> None:
        assert pid is not None
        pids = {pid, *processes_below(pid)}
        send(pids, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._while())
        finally:
            send(pids, signal.SIGCONT)

    async def _postgres_killed(self) -> None:
        self._postgres.kill()
        await asyncio.sleep(self._chance.uniform(0, 2))
        await self._postgres.start()

    async def _backends_ended(self) -> None:
        await self._sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    async def _read_only(self) -> None:
        await self._sql("ALTER SYSTEM SET default_transaction_read_only = on")
        await self._sql("SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(self._while())
        finally:
            await self._sql("SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only")
            await self._sql("SELECT pg_reload_conf()")

    async def _redis_killed(self) -> None:
        self._redis.kill()
        self.redis_lost_at.append(time.monotonic())  # appendfsync everysec
        await asyncio.sleep(self._chance.uniform(0, 2))
        await self._redis.start()

    async def _redis_rolled_back(self) -> None:
        """Stopped, and started with the files that it had some seconds before."""
        home, kept = self._redis.data_dir / "redis", self._scratch / "older"
        shutil.rmtree(kept, ignore_errors=True)
        assert self._redis.pid is not None
        send({self._redis.pid}, signal.SIGSTOP)
        await asyncio.to_thread(shutil.copytree, home, kept)
        send({self._redis.pid}, signal.SIGCONT)
        await asyncio.sleep(self._while() + 2)
        self._redis.kill()
        self.redis_lost_at.append(time.monotonic())
        shutil.rmtree(home / "appendonlydir")
        await asyncio.to_thread(shutil.copytree, kept / "appendonlydir", home / "appendonlydir")
        await self._redis.start()

    async def _redis_emptied(self) -> None:
        await self._redis_do("FLUSHALL")
        self.redis_lost_at.append(time.monotonic())

    async def _redis_full(self) -> None:
        await self._redis_do("CONFIG", "SET", "maxmemory", "1mb")
        try:
            await asyncio.sleep(self._while())
        finally:
            await self._redis_do("CONFIG", "SET", "maxmemory", "0")

    async def _redis_forgets_scripts(self) -> None:
        for _ in range(5):
            await self._redis_do("SCRIPT", "FLUSH")
            await self._redis_do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(self._while() / 5)

    async def _redis_do(self, *command: str) -> None:
        async with redis.asyncio.Redis.from_url(self._redis.url, socket_timeout=60) as client:
            await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type for it

    async def _sql(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._postgres.url, timeout=60)
        try:
            for statement in statements:
                for part in statement.split("; "):
                    await connection.execute(part)
        finally:
            await connection.close()


async def wire_to(port: int) -> Wire:
    """An open wire to a server on this machine."""
    wire = Wire(HOST, port)
    await wire.open()
    return wire
