"""`/livez`, `/readyz` and `/metrics` over HTTP, for Kubernetes, load balancers and Prometheus."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any

from aiohttp import web

from sagaz_tiering import metrics
from sagaz_tiering.daemon.health import Readiness
from sagaz_tiering.daemon.listening import listening


def serve(host: str, port: int, health: Readiness) -> AbstractAsyncContextManager[tuple[str, int]]:
    """Answer while the block runs; gives the address listened on. Raises ConfigError if it cannot be had."""
    return listening(host, port, _application(health), section="daemon")


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
