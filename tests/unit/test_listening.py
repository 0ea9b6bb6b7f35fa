"""Servers of tests leave nothing behind that would fail another test when it is collected."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import Awaitable, Callable

import pytest
from support.gate import Gate, hanging_up
from support.listening import listening
from support.s3_server import Hang, Request, ScriptedServer, free_port


async def _quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _hang(_request: Request) -> type[Hang]:
    return Hang


async def _small(visit: Callable[[int], Awaitable[None]]) -> None:
    async with listening(_quiet) as port:
        await visit(port)


async def _scripted(visit: Callable[[int], Awaitable[None]]) -> None:
    async with ScriptedServer(_hang) as server:
        await visit(int(server.endpoint.rpartition(":")[2]))


async def _hanging_up(visit: Callable[[int], Awaitable[None]]) -> None:
    async with hanging_up() as server:
        await visit(server.port)


async def _gate(visit: Callable[[int], Awaitable[None]]) -> None:
    async with Gate("127.0.0.1", free_port()) as gate:
        await visit(gate.port)


@pytest.mark.parametrize("passes", range(6))
@pytest.mark.parametrize("serve", [_small, _scripted, _hanging_up, _gate])
def test_server_of_a_test_leaves_no_connection_open(
    serve: Callable[[Callable[[int], Awaitable[None]]], Awaitable[None]], passes: int
) -> None:
    """At whatever moment after somebody came the test ends, also before the server took a first step for them."""
    clients = []

    async def visit(port: int) -> None:
        clients.append(socket.create_connection(("127.0.0.1", port)))
        for _ in range(passes):
            await asyncio.sleep(0)

    gc.freeze()  # what other tests left need not be looked through, nor is it this one's
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop = asyncio.new_event_loop()
        loop.run_until_complete(serve(visit))
        loop.close()
        del loop
        clients.pop().close()
        gc.collect()
    gc.unfreeze()
    assert [str(each.message) for each in told] == []
