"""A console over an open product, and browsers with and without a token."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import aiohttp

from sagaz_tiering.app.runtime import Runtime
from sagaz_tiering.config.sections import ConsoleSettings
from sagaz_tiering.console import serve_console
from sagaz_tiering.daemon.health import DaemonState, Readiness
from sagaz_tiering.daemon.schedule import JobSchedule
from sagaz_tiering.jobs import JobReport
from support.tiers import Product

VIEWER, OPERATOR = "a-viewer's-token", "an-operator's-token"


def hashed(token: str) -> str:
    """As the configuration has it."""
    return sha256(token.encode()).hexdigest()


def with_tokens(**more: Any) -> ConsoleSettings:
    """A console for a viewer and an operator."""
    return ConsoleSettings(
        enabled=True, port=0, viewer_token_hash=hashed(VIEWER), operator_token_hash=hashed(OPERATOR), **more
    )


OPEN = ConsoleSettings(enabled=True, port=0)


def state_of(runtime: Runtime | None, settings: Any, health: Readiness | None = None) -> DaemonState:
    """What a daemon would tell; no job is scheduled."""

    async def never(_: str) -> JobReport:
        raise AssertionError

    if health is None:
        health = Readiness(lambda: 0.0)
        health.check_passed()
    return DaemonState(lambda: runtime, lambda: settings, health, JobSchedule(never))


@asynccontextmanager
async def console(shop: Product, settings: ConsoleSettings) -> AsyncIterator[str]:
    """Serve it; yields the address."""
    async with serve_console(settings, state_of(shop.runtime, shop.runtime.settings)) as (host, port):
        yield f"http://{host}:{port}"


class Browser:
    """What a person has: cookies, pages, and the forms on them."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        self.status = 0
        self.path = ""

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def get(self, path: str) -> str:
        """A page."""
        async with self.session.get(self.address + path) as response:
            self.status, self.path = response.status, response.url.path
            return await response.text()

    async def post(self, path: str, _page: str = "", **fields: str) -> str:
        """Send a form; the hidden text that ours carry is taken from `_page`."""
        hidden = re.search(r'name="csrf" value="([^"]*)"', _page)
        data = {**({"csrf": hidden[1]} if hidden else {}), **fields}
        async with self.session.post(self.address + path, data=data) as response:
            self.status, self.path = response.status, response.url.path
            return await response.text()

    async def log_in(self, token: str, name: str = "") -> str:
        """As the form does."""
        return await self.post("/login", token=token, name=name, next="/")


async def asked(address: str, path: str, token: str | None = None, **body: Any) -> tuple[int, Any]:
    """Of the API, by GET, or POST where there is a body: the status and the document."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request("POST" if body else "GET", f"{address}/api/v1{path}", json=body or None) as response,
    ):
        return response.status, await response.json()
