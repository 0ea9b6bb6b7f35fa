"""A small TCP server for a test, of which nothing is left when the test ends.

What is left would fail whichever test comes next and makes enough objects for it to be collected: a task that is
cancelled before its first step runs nothing, not even its `finally`, and its connection stays open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve each connection so; gives the port. At the end who is still connected is broken off."""
    tasks: set[asyncio.Task[None]] = set()
    connections: set[asyncio.StreamWriter] = set()
    failures: list[BaseException] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(ended)

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None and not isinstance(failure, ConnectionError | asyncio.IncompleteReadError):
            failures.append(failure)

    server = await asyncio.start_server(accept, host, 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        await end(server, tasks, connections)
    for failure in failures:
        raise failure


async def end(server: asyncio.Server, tasks: set[asyncio.Task[None]], connections: set[asyncio.StreamWriter]) -> None:
    """The end of a server, of what serves its connections, and of these."""
    await close(server)
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for writer in connections:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for writer in connections), return_exceptions=True)
    connections.clear()


async def close(server: asyncio.Server) -> None:
    """Close it once whom it has accepted is in, some steps later; else that connection would be nobody's."""
    for _ in range(5):
        await asyncio.sleep(0)
    server.close()
