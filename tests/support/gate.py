"""A door in front of a server: shut, it refuses whoever comes and breaks off whoever is inside; it counts both.

And a server that hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from support.listening import close, listening
from support.s3_server import free_port

HOST = "127.0.0.1"


class Gate:
    """Forwards a port of its own to a server. `async with Gate(host, port) as gate`; open from the start.

    `opened` counts every connection there was, `inside` those there are, `most` the most there were at once.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.port = free_port()
        self.opened = 0
        self.most = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def inside(self) -> int:
        """Connections at this moment."""
        return len(self._tasks)

    async def open(self) -> None:
        """Let connections in."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port)

    def lead_to(self, host: str, port: int) -> None:
        """Forward who comes from now on to another server."""
        self._to = (host, port)

    async def shut(self) -> None:
        """Refuse connections and break off those that are open."""
        server, self._server = self._server, None
        if server is not None:
            await close(server)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shut()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        self.most = max(self.most, self.inside)

        def done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            writer.transport.abort()  # here, since a task that is cancelled before its first step runs nothing

        task.add_done_callback(done)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            server_reader, server_writer = await asyncio.open_connection(*self._to)
            pumps = [asyncio.create_task(self._questions(reader, server_writer))]
            pumps.append(asyncio.create_task(self._answers(server_reader, writer)))
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                server_writer.transport.abort()  # before the first await: a second cancellation may come there
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _questions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the server is asked, as it comes."""
        await _pump(reader, writer)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the server says, as it comes."""
        await _pump(reader, writer)


@dataclass(slots=True)
class HangingUp:
    """What each connection that was hung up said first; `port` on 127.0.0.1."""

    port: int = 0
    said: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def hanging_up() -> AsyncIterator[HangingUp]:
    """A server that closes each connection once it has said something."""
    found = HangingUp()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            found.said.append(await reader.read(65_536))
        writer.close()

    async with listening(serve, HOST) as found.port:
        yield found


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


def through(url: str, port: int) -> str:
    """`url` with another port of this machine."""
    parts = urlsplit(url)
    account, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{account}{at}{HOST}:{port}").geturl()
