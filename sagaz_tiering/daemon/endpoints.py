"""`/livez`, `/readyz` and `/metrics` over HTTP, for Kubernetes, load balancers and Prometheus.

Whoever can reach the port cannot stop the daemon with it: there are at most MOST_CONNECTIONS, and each is ended that
has sent no whole request for REQUEST_WITHIN_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from aiohttp import web

from sagaz_tiering import metrics
from sagaz_tiering.daemon.health import Readiness
from sagaz_tiering.errors import ConfigError

MOST_CONNECTIONS = 64
"""One more takes the place of the one that has been silent for longest."""
REQUEST_WITHIN_S = 5.0
_BACKLOG = 128


@asynccontextmanager
async def serve(host: str, port: int, health: Readiness) -> AsyncIterator[tuple[str, int]]:
    """Answer while the block runs; yields the address listened on (`port` 0 takes a free one).

    Raises ConfigError if the address cannot be had.
    """
    # A probe that waits for its answer must not delay the exit, hence the short shutdown.
    guests = _Guests(REQUEST_WITHIN_S)
    application = _application(health)
    application.middlewares.append(guests.note_request)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None
    server: asyncio.Server | None = None
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                guests.welcoming(runner.server), host, port, backlog=_BACKLOG
            )
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {exc.strerror or exc}",
                hint="is another daemon running there? set daemon.host and daemon.port (0 takes any free port)",
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

    def welcoming(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """A protocol factory like `make`, whose connections are counted."""
        return lambda: _Guest(make(), self)

    def came(self, transport: asyncio.BaseTransport) -> None:
        """A connection, or a request on it: its time begins anew."""
        timer = self._silent_since.pop(transport, None)
        if timer is not None:
            timer.cancel()
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


def _application(health: Readiness) -> web.Application:
    async def livez(_: web.Request) -> web.Response:
        # Being answered at all is the answer: the event loop turns.
        return web.json_response({"alive": True})

    async def readyz(_: web.Request) -> web.Response:
        problems = health.problems()
        answer: dict[str, Any] = {"ready": not problems, "reasons": [asdict(problem) for problem in problems]}
        if health.clock is not None:
            answer["clock"] = health.clock.to_dict()
        if notes := health.notes():
            answer["degraded"] = [asdict(note) for note in notes]
        return web.json_response(answer, status=503 if problems else 200)

    async def show_metrics(_: web.Request) -> web.Response:
        health.problems()  # brings sagaz_tiering_ready up to date
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    application = web.Application()
    application.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", show_metrics)])
    return application
