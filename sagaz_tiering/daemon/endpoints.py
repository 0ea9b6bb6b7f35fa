"""`/livez`, `/readyz` and `/metrics` over HTTP, for Kubernetes, load balancers and Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from aiohttp import web

from sagaz_tiering import metrics
from sagaz_tiering.daemon.health import Health
from sagaz_tiering.errors import ConfigError


@asynccontextmanager
async def serve(host: str, port: int, health: Health) -> AsyncIterator[tuple[str, int]]:
    """Answer while the block runs; yields the address listened on (`port` 0 takes a free one).

    Raises ConfigError if the address cannot be had.
    """
    # A probe that waits for its answer must not delay the exit, hence the short shutdown.
    runner = web.AppRunner(_application(health), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {exc.strerror or exc}",
                hint="is another daemon running there? set daemon.host and daemon.port (0 takes any free port)",
            ) from exc
        bound = runner.addresses[0]
        yield str(bound[0]), int(bound[1])
    finally:
        await runner.cleanup()


def _application(health: Health) -> web.Application:
    async def livez(_: web.Request) -> web.Response:
        # Being answered at all is the answer: the event loop turns.
        return web.json_response({"alive": True})

    async def readyz(_: web.Request) -> web.Response:
        problems = health.problems()
        answer = {"ready": not problems, "reasons": [asdict(problem) for problem in problems]}
        return web.json_response(answer, status=503 if problems else 200)

    async def show_metrics(_: web.Request) -> web.Response:
        health.problems()  # brings sagaz_tiering_ready up to date
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    application = web.Application()
    application.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", show_metrics)])
    return application
