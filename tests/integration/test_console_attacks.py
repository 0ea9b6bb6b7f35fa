"""What strangers and hostile data try on the console: they change nothing, learn nothing, and never make it fail."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from support.console import OPEN, OPERATOR, VIEWER, Browser, asked, console, with_tokens
from support.snapshots import make
from support.tiers import Product

from sagaz_tiering.console.access import COOKIE
from sagaz_tiering.console.views import openapi

EXAMPLES = 6
MOST_PAGE = 1_500_000


SECTIONS: dict[str, Any] = {"attributes": [{"name": "order_id", "path": "order.id"}]}


async def saved(shop: Product, name: str = "payment-card", **context: Any) -> str:
    """The id of a saga of one snapshot."""
    saga_id = uuid4()
    made = make(0, snapshot_id=uuid4(), saga_id=saga_id, saga_name=name, created_at=shop.clock.now(), context=context)
    await shop.storage.save_snapshot(made)
    return str(saga_id)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_nothing_that_is_asked_makes_the_api_fail(shop: Product, mode: GenerationMode) -> None:
    """Every operation of the OpenAPI document with made-up values, by its schema and against it: no 5xx."""
    await saved(shop)
    document = openapi()
    failed: list[str] = []

    def ask(address: str) -> None:
        schema = schemathesis.openapi.from_dict(document)
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        for operation in (found.ok() for found in schema.get_all_operations()):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def once(case: Any) -> None:
                response = case.call(base_url=f"{address}/api/v1", headers=headers)
                if response.status_code >= 500:
                    failed.append(f"{case.method} {case.formatted_path} {case.query} {case.body}: {response.text}")

            once()

    async with console(shop, with_tokens()) as address:
        await asyncio.to_thread(ask, address)
    assert failed == []


async def test_large_contexts_make_no_large_page(shop: Product) -> None:
    """Strings of a megabyte, 100,000 keys, long names: a page is bounded whatever it shows."""
    sagas = [
        await saved(shop, name="n" * 200, text="x" * 1_000_000, **{"k" * 1_000_000: "y" * 1_000_000}),
        await saved(shop, many={f"key {i}": i for i in range(100_000)}),
        await saved(shop, many=["z" * 10_000 for _ in range(400)]),
    ]
    async with console(shop, OPEN) as address, Browser(address) as browser:
        for saga in sagas:
            for path in (f"/sagas/{saga}", f"/sagas/{saga}/state", f"/sagas/{saga}/changes", "/sagas", "/"):
                page = await browser.get(path)
                assert (browser.status, len(page) < MOST_PAGE) == (200, True), (path, len(page))


async def test_guessing_has_to_wait(shop: Product) -> None:
    """After five wrong tokens, by form or header, the next is told to wait; a right one is let in."""
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        for _ in range(2):
            assert "not a token" in await browser.log_in("guess")
            assert (await asked(address, "/overview", "guess"))[0] == 401
        assert "not a token" in await browser.log_in("guess")
        await browser.log_in("guess")
        assert browser.status == 429
        assert (await asked(address, "/overview", "guess"))[0] == 429
        assert (await asked(address, "/overview", VIEWER))[0] == 200


async def test_a_session_is_of_who_logged_in(shop: Product) -> None:
    """One that was planted is worth nothing after the login either, and the one before is over."""
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        jar = browser.session.cookie_jar
        jar.update_cookies({COOKIE: "planted"})
        await browser.log_in(VIEWER)
        first = {each.key: each.value for each in jar}[COOKIE]
        await browser.log_in(OPERATOR)
        second = {each.key: each.value for each in jar}[COOKIE]
        assert len({"planted", first, second}) == 3
        for session, status in (("planted", 303), (first, 303), (second, 200)):
            async with (
                aiohttp.ClientSession(headers={"Cookie": f"{COOKIE}={session}"}) as other,
                other.get(f"{address}/audit", allow_redirects=False) as response,
            ):
                assert response.status == status


async def test_other_sites_cannot_send_our_forms(shop: Product) -> None:
    """Whatever a page elsewhere can make a browser send with our cookie changes nothing."""
    saga = await saved(shop)
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        await browser.log_in(OPERATOR)
        target = f"{address}/sagas/{saga}/hold"
        for path, headers, body in (
            (target, {}, "reason=x"),
            (target, {"Content-Type": "text/plain"}, '{"reason": "x", "csrf": ""}'),
            (target, {"Content-Type": "application/json"}, '{"reason": "x"}'),
            (target, {"Content-Type": "application/json"}, '{"reason": "x", "csrf": null}'),
            (f"{address}/api/v1/sagas/{saga}/hold", {"Content-Type": "application/json"}, '{"reason": "x"}'),
            (target, {"Sec-Fetch-Site": "cross-site"}, "reason=x"),
            (target, {"Origin": "null"}, "reason=x"),
            (f"{target}?reason=x&csrf=", {}, ""),
        ):
            async with browser.session.post(path, headers=headers, data=body) as response:
                assert response.status == 400, (headers, body)
        async with browser.session.get(f"{target}?reason=x") as response:
            assert response.status in (404, 405)
        headers = {"X-HTTP-Method-Override": "POST"}
        async with browser.session.get(f"{target}?reason=x", headers=headers) as response:
            assert response.status in (404, 405)
    assert await shop.runtime.catalog.holds.in_force() == []
    assert await shop.runtime.catalog.audit.page(10) == []


async def test_paths_and_headers_open_nothing(shop: Product) -> None:
    """No file beside the static ones, no page without a login, no user by a header that no proxy sent."""
    async with console(shop, with_tokens()) as address:
        host, port = address.removeprefix("http://").split(":")
        for target, headers in (
            ("/static/../templates/base.html", ""),
            ("/static/..%2ftemplates%2fbase.html", ""),
            ("/static/%2e%2e/%2e%2e/server.py", ""),
            ("/static/console.css/../../sagas", ""),
            ("/static//etc/passwd", ""),
            ("/login/../audit", ""),
            ("/%61udit", ""),
            ("//evil.test/audit", ""),
            ("http://evil.test/audit", ""),
            ("/audit", "X-Forwarded-User: ann\r\nX-Forwarded-For: 127.0.0.1\r\n"),
            ("/audit", "X-Original-URL: /login\r\nX-Rewrite-URL: /login\r\n"),
            ("/audit", f"Cookie: {COOKIE}=\r\n"),
            ("/audit", f"Cookie: {COOKIE}=a; {COOKIE}=b\r\n"),
            ("/audit", "Authorization: Bearer \r\n"),
            ("/audit", f"Authorization: Basic {VIEWER}\r\n"),
            ("/login?next=//evil.test/%0d%0aSet-Cookie:x=y", ""),
        ):
            status, answer = await raw(host, int(port), f"GET {target} HTTP/1.1\r\n{headers}")
            assert status in (200, 303, 400, 404), (target, status)
            assert "Nobody changed anything" not in answer, (target, headers)
            assert "Set-Cookie" not in answer.split("\r\n\r\n")[0], target
            assert "{% block" not in answer, target
            assert "root:" not in answer, target
        for mangled in (
            "GET /audit HTTP/1.1\r\nX: " + "a" * 100_000 + "\r\n",
            "GET /" + "a" * 100_000 + " HTTP/1.1\r\n",
            "POST /login HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "GET /audit HTTP/1.1\r\nHost: other.test\r\nBad\x00Name: x\r\n",
            "POST /login HTTP/1.1\r\nContent-Length: -5\r\n",
        ):
            status, _ = await raw(host, int(port), mangled)
            assert status in (0, 400, 431), mangled[:60]
        assert (await asked(address, "/overview", VIEWER))[0] == 200


async def raw(host: str, port: int, head: str) -> tuple[int, str]:
    """Status (0: the connection was ended without one) and text of what these very bytes are answered with."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"{head}Host: {host}:{port}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        async with asyncio.timeout(60):
            answer = (await reader.read()).decode("utf-8", "replace")
    except ConnectionError:
        return 0, ""
    finally:
        writer.close()
    return (int(answer.split(" ")[1]), answer) if answer else (0, "")
