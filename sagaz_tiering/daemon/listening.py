"""An address that is listened on; whoever can reach it cannot stop the daemon: no connection is silent for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from sagaz_tiering.errors import ConfigError

MOST_CONNECTIONS = 64
"""One more takes the place of the one that has been silent for longest."""
REQUEST_WITHIN_S = 5.0
_BACKLOG = 128


@asynccontextmanager
async def listening(
    host: str, port: int, application: web.Application, *, section: str, request_within_s: float | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Answer while the block runs; yields the address listened on (`port` 0 takes a free one).

    A connection is ended that for so long (by default REQUEST_WITHIN_S) has sent no whole request, or got no answer to
    its last one. Raises ConfigError, which names the `section` of the configuration, if the address cannot be had.
    """
    # A probe that waits for its answer must not delay the exit, hence the short shutdown.
    guests = _Guests(REQUEST_WITHIN_S if request_within_s is None else request_within_s)
    application.middlewares.insert(0, guests.note_request)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    make = runner.server
    assert make is not None
    server: asyncio.Server | None = None
    try:
        try:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda: _Guest(make(), guests), host, port, backlog=_BACKLOG)
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {exc.strerror or exc}",
                hint=f"is another daemon running there? set {section}.host and {section}.port (0 takes any free port)",
            ) from exc
        bound = server.sockets[0].getsockname()
        yield str(bound[0]), int(bound[1])
    finally:
        if server is not None:
            server.close()
        guests.close()
        await runner.cleanup()


class _Guests:
    """The open connections, the one that has been silent for longest first."""

    def __init__(self, request_within_s: float) -> None:
        self._within_s = request_within_s
        self._silent_since: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def came(self, transport: asyncio.BaseTransport) -> None:
        """A connection, or a request on it: its time begins anew."""
        self.went(transport)
        while len(self._silent_since) >= MOST_CONNECTIONS:
            self._end(next(iter(self._silent_since)))
        later = asyncio.get_running_loop().call_later(self._within_s, self._end, transport)
        self._silent_since[transport] = later

    def went(self, transport: asyncio.BaseTransport) -> None:
        """It is closed."""
        timer = self._silent_since.pop(transport, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """End all of them."""
        for transport in list(self._silent_since):
            self._end(transport)

    @web.middleware
    async def note_request(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """A whole request has come."""
        if request.transport is not None:
            self.came(request.transport)
        return await handler(request)

    def _end(self, transport: asyncio.BaseTransport) -> None:
        self.went(transport)
        transport.close()


class _Guest(asyncio.Protocol):
    """One connection: what aiohttp's own protocol does, and `guests` told of its begin and end."""

    def __init__(self, inner: asyncio.Protocol, guests: _Guests) -> None:
        self._inner, self._guests = inner, guests
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._guests.came(transport)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._guests.went(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
