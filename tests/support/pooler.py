"""A connection pooler as pgbouncer is in transaction mode: a client has a server only until its transaction ends.

So what a client left in "its" session (a prepared statement, a session lock) is in another one the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from dataclasses import dataclass
from typing import Self

from support.listening import end

HOST = "127.0.0.1"
_PROTOCOL = 196608
_TERMINATE = b"X"
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104


@dataclass(slots=True, kw_only=True)
class _Session:
    """A connection to the server; `greeting` is what it told about itself."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes


class TransactionPooler:
    """`async with TransactionPooler(port, user, database, size=2) as pooler`: clients connect to `pooler.port`.

    The server must trust us. `switches` counts how often a client got another server than before.
    """

    def __init__(self, server_port: int, user: str, database: str, *, size: int = 2) -> None:
        self._to = (HOST, server_port)
        self._startup = {"user": user, "database": database}
        self._size = size
        self._free: list[_Session] = []
        self._available = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.switches = 0

    async def __aenter__(self) -> Self:
        self._free = [await self._connect() for _ in range(self._size)]
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await end(self._server, self._tasks, self._clients)
        for session in self._free:
            session.writer.transport.abort()

    async def _connect(self) -> _Session:
        reader, writer = await asyncio.open_connection(*self._to)
        words = [text for pair in self._startup.items() for text in pair]
        body = struct.pack(">i", _PROTOCOL) + b"".join(word.encode() + b"\0" for word in words) + b"\0"
        writer.write(struct.pack(">i", len(body) + 4) + body)
        greeting = b""
        while (message := await _message(reader))[:1] != b"Z":
            assert message[:1] != b"E", message
            greeting += message
        return _Session(reader=reader, writer=writer, greeting=greeting + message)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                while True:
                    length = struct.unpack(">i", await reader.readexactly(4))[0]
                    code = struct.unpack(">i", (await reader.readexactly(length - 4))[:4])[0]
                    if code not in (_SSL_REQUEST, _GSS_REQUEST):
                        break
                    writer.write(b"N")
                if code == _PROTOCOL:
                    writer.write(self._free[0].greeting if self._free else await self._greeting())
                    await self._transactions(reader, writer)
            finally:
                writer.transport.abort()

    async def _greeting(self) -> bytes:
        session = await self._take()
        await self._give(session)
        return session.greeting

    async def _transactions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        messages: asyncio.Queue[bytes] = asyncio.Queue()

        async def listen() -> None:
            while True:
                messages.put_nowait(await _message(reader))

        listener = asyncio.create_task(listen())
        listener.add_done_callback(lambda _: messages.put_nowait(_TERMINATE))
        before: _Session | None = None
        try:
            while (first := await messages.get())[:1] != _TERMINATE:
                session = await self._take()
                self.switches += before is not None and session is not before
                before = session
                await _transaction(session, first, messages, writer)
                await self._give(session)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _take(self) -> _Session:
        async with self._available:
            await self._available.wait_for(lambda: self._free)
            return self._free.pop(random.randrange(len(self._free)))

    async def _give(self, session: _Session) -> None:
        async with self._available:
            self._free.append(session)
            self._available.notify()


async def _transaction(
    session: _Session, first: bytes, messages: asyncio.Queue[bytes], writer: asyncio.StreamWriter
) -> None:
    """Pass messages both ways from the first one on, until the server says that no transaction is open."""
    asked, answered = 0, 0

    async def ask() -> None:
        nonlocal asked
        message = first
        while True:
            asked += message[:1] in (b"S", b"Q")
            session.writer.write(message)
            message = await messages.get()

    asking = asyncio.create_task(ask())
    try:
        while True:
            message = await _message(session.reader)
            writer.write(message)
            answered += message[:1] == b"Z"
            if message[:1] == b"Z" and message[-1:] == b"I" and answered == asked:
                return
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack(">i", head[1:])[0] - 4)
