"""The console over real servers: every page and document, what operators do, what is refused, servers that are down."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import pytest
from structlog.testing import capture_logs
from support.console import OPEN, OPERATOR, VIEWER, Browser, asked, console, state_of, with_tokens
from support.snapshots import make
from support.stores import until
from support.tiers import DAY, Places, Product, adjust, config, product
from yarl import URL

from sagaz_tiering import SagaSnapshot, saga_uuid
from sagaz_tiering.catalog.surveys import Holding
from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.console import documents, saga_views, serve_console
from sagaz_tiering.console.render import MOST_ALL_TEXT, MOST_CHILDREN, MOST_NODES, MOST_TEXT, Node, tree_of
from sagaz_tiering.console.views import VIEWS, openapi
from sagaz_tiering.costs.plan import Plan
from sagaz_tiering.exports.verify import verify_export

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x00\x1b[31m{{7*7}}"


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    settings = config(
        **places, attributes=[{"name": "order_id", "path": "order.id"}, {"name": "customer", "path": "customer"}]
    )
    async with product(settings) as found:
        yield found


async def saved(shop: Product, *, name: str = "payment-card", steps: int = 3, **context: Any) -> list[SagaSnapshot]:
    """A saga of now, a second a step."""
    saga, now = uuid4(), shop.clock.now()
    made = [
        make(
            i,
            snapshot_id=uuid4(),
            saga_id=saga,
            saga_name=name,
            step_name=f"step-{i}",
            status="completed" if i == steps - 1 else "executing",
            created_at=now + timedelta(seconds=i),
            context={"step": i, **context},
        )
        for i in range(steps)
    ]
    for each in made:
        await shop.storage.save_snapshot(each)
    return made


async def archived(shop: Product) -> None:
    """A year goes by, and what there is ends in GLACIER."""
    for _ in range(2):
        shop.clock.advance(100 * DAY)
        for job in ("age", "transition"):
            await shop.run(job)


async def test_every_page_and_document_is_there(shop: Product) -> None:
    """Each view as a page and as JSON, with nothing and with something to show; the page names its command."""
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        await browser.log_in(VIEWER)
        for full in (False, True):
            made = await saved(shop)
            if full:
                await archived(shop)
                await shop.storage.restore(saga_id=made[0].saga_id)
                await shop.storage.hold(made[0].saga_id, "case 7")
            receipt = await shop.storage.forget((await saved(shop))[0].saga_id)
            restores = await shop.runtime.catalog.restores.newest(1)
            names = {
                "saga_id": made[0].saga_id,
                "erasure_id": receipt.erasure_id,
                "restore_id": restores[0].restore_id if restores else None,
                "pack_id": 1 if full else None,
            }
            for view in VIEWS:
                path = view.path.format(**names)
                if "None" in path:
                    continue
                page = await browser.get(path)
                assert browser.status == 200, (path, page)
                assert view.is_fragment or "on the command line" in page
                status, document = await asked(address, "/overview" if path == "/" else path, VIEWER)
                assert status == 200, (path, document)
                assert not [name for name in document if name.startswith("_")]


async def test_sagas_are_found_by_what_people_know(shop: Product) -> None:
    """By an order number, a value of another attribute, a part of the name, an id, filters; page by page."""
    first, second, third = [
        await saved(shop, name=name, order={"id": order}, customer="acme")
        for name, order in (("payment-card", "A-17"), ("payment-sepa", "A-18"), ("order-box", "A-19"))
    ]
    await shop.storage.hold(third[0].saga_id, "case 7")
    async with console(shop, OPEN) as address, Browser(address) as browser:
        for question, meant in (
            ("q=A-17", [first]),
            ("q=order_id=A-18", [second]),
            ("q=acme", [first, second, third]),
            ("q=ment-c", [first]),
            (f"q={second[0].saga_id}", [second]),
            ("name=payment-*", [first, second]),
            ("attribute=order_id=A-19,customer=acme", [third]),
            ("held=true", [third]),
            ("status=completed&tier=cold", []),
            ("since=2026-06-02", []),
            ("q=nobody", []),
        ):
            page = await browser.get(f"/sagas?{question}")
            shown = [one for one in (first, second, third) if f"/sagas/{one[0].saga_id}" in page]
            assert (browser.status, shown) == (200, meant), (question, page)
        page, seen = await browser.get("/sagas?limit=1&name=*"), []
        for _ in range(3):
            seen += re.findall(r'href="/sagas/([0-9a-f-]{36})"', page)
            more = re.search(r'href="(/sagas[?][^"]*cursor=[^"]*)"', page)
            page = await browser.get(more[1].replace("&amp;", "&")) if more else ""
        assert sorted(seen) == sorted(str(each[0].saga_id) for each in (first, second, third))
        assert not more
        page = await browser.get("/sagas?limit=1&q=acme")  # one page of what has the value, then all of it
        assert "/sagas?limit=1&amp;q=&amp;attribute=customer%3Dacme" in page
        page, seen = await browser.get("/sagas?limit=1&q=payment"), []  # by a part of the name
        for _ in range(2):
            seen += re.findall(r'href="/sagas/([0-9a-f-]{36})"', page)
            more = re.search(r'href="(/sagas[?][^"]*cursor=[^"]*)"', page)
            page = await browser.get(more[1].replace("&amp;", "&")) if more else ""
        assert sorted(seen) == sorted(str(each[0].saga_id) for each in (first, second))
        assert (await browser.get("/sagas?cursor=nonsense"), browser.status)[1] == 200
        assert "cannot be shown" in await browser.get("/sagas?attribute=colour=red")


async def test_a_search_that_only_stopped_looking_says_so(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sagas beyond the bound of one page may be what is meant: no page says that there are none."""
    held = await saved(shop, name="payment-old")
    match = Match(saga_name=("payment-old",))
    await shop.runtime.catalog.holds.place(match, reason="case 7", who="x", now=shop.clock.now())
    shop.clock.advance(timedelta(seconds=9))
    for _ in range(3):
        await saved(shop)
        shop.clock.advance(timedelta(seconds=9))
    monkeypatch.setattr(saga_views, "LOOK_AT", 2)
    async with console(shop, OPEN) as address, Browser(address) as browser:
        page = await browser.get("/sagas?held=true&limit=1")
        assert "No saga is known by that" not in page
        assert "None among the newest sagas that this page looked at" in page
        more = re.search(r'href="(/sagas[?][^"]*cursor=[^"]*)"', page)
        assert more
        assert str(held[0].saga_id) in await browser.get(more[1].replace("&amp;", "&"))


async def test_restore_of_another_sagas_snapshot_is_none_of_this_saga(shop: Product) -> None:
    """What the audit names is what was asked for."""
    one, other = await saved(shop), await saved(shop)
    await archived(shop)
    async with console(shop, with_tokens()) as address:
        path, snapshot = f"/sagas/{one[0].saga_id}/restore", str(other[0].snapshot_id)
        assert (await asked(address, path, OPERATOR, snapshot_id=snapshot))[0] == 404
        mine = str(one[0].snapshot_id)
        assert (await asked(address, path, OPERATOR, snapshot_id=mine))[0] == 200
    done, refused = await shop.runtime.catalog.audit.page(2)
    assert (done.outcome, mine in done.subject) == ("done", True)
    assert str(refused.outcome).startswith("not done")


async def test_large_context_keeps_no_loop(shop: Product) -> None:
    """A saga of very many values is shown in part, and its document has them all."""
    made = await saved(shop, steps=1, many=[{"n": n} for n in range(100_000)])
    async with console(shop, OPEN) as address, Browser(address) as browser:
        status, document = await asked(address, f"/sagas/{made[0].saga_id}")
        assert (status, len(document["snapshot"]["value"]["context"]["many"])) == (200, 100_000)
        assert len(await browser.get(f"/sagas/{made[0].saga_id}")) < 1_000_000


async def test_every_snapshot_of_a_long_saga_is_reached(shop: Product) -> None:
    """By links, by number, by instant, in differences: numbers count from the oldest of all."""
    made = await saved(shop, steps=documents.MOST_SNAPSHOTS + 5)
    saga, last = made[0].saga_id, len(made) - 1
    async with console(shop, OPEN) as address, Browser(address) as browser:
        page = await browser.get(f"/sagas/{saga}")
        assert "Snapshots 6 to 1,005 of 1,005." in page
        assert (f'data-n="{last}"' in page, f'href="/sagas/{saga}?n=5"' in page, "Later ones" in page) == (
            True,
            True,
            False,
        )
        assert (str(made[5].snapshot_id) in page or "step-5<" in page, "step-4<" in page) == (True, False)
        [earlier] = re.findall(r'href="([^"]*)">Earlier ones', page)
        page = await browser.get(earlier)
        assert "Snapshots 1 to 5 of 1,005." in page
        assert ('data-n="4"' in page, 'data-first="0"' in page, "Earlier ones" in page) == (True, True, False)
        [later] = re.findall(r'href="([^"]*)">Later ones', page)
        assert 'data-n="5"' in await browser.get(later)
        [after] = re.findall(r"<a ([^>]*) rel=\"next\">", page)
        assert "hx-get" not in after  # it is on another page
        for number in (2, 700):
            at = made[number].created_at.isoformat().replace("+00:00", "Z")
            status, document = await asked(address, f"/sagas/{saga}?at={at}")
            assert (status, document["chosen"], document["snapshot"]["value"]["context"]) == (
                200,
                number,
                {"step": number},
            )
            assert document["snapshots"][number - document["earlier"]]["step_name"] == f"step-{number}"
            assert document["earlier"] + len(document["snapshots"]) + document["newer"] == last + 1
            _, document = await asked(
                address, f"/sagas/{saga}/state?ms={to_micros(made[number].created_at) // 1_000 + 1}"
            )
            assert (document["chosen"], document["last"]) == (number, last)
        assert "had not begun then" in await browser.get(f"/sagas/{saga}?at=2000-01-01")
        _, document = await asked(address, f"/sagas/{saga}/changes?a=1&b={last}")
        changes = document["difference"]["value"]["changes"]
        assert ("1", str(last)) in [(each["before"], each["after"]) for each in changes]
        page = await browser.get(f"/sagas/{saga}/diff?a=1&b={last}")
        assert f"diff {saga} {made[1].snapshot_id} {made[last].snapshot_id}" in page
        assert page.count(" selected>") == 2


async def test_saga_shows_any_state_of_it_and_what_is_archived(shop: Product) -> None:
    """By number and by instant; a state whose bytes are archived is named with what bringing it back takes."""
    made = await saved(shop, order={"id": "A-17"})
    saga = made[0].saga_id
    async with console(shop, OPEN) as address, Browser(address) as browser:
        for number, each in enumerate(made):
            page = await browser.get(f"/sagas/{saga}?n={number}")
            assert str(each.snapshot_id) in page
            at = (each.created_at + timedelta(milliseconds=1)).isoformat().replace("+00:00", "Z")
            status, document = await asked(address, f"/sagas/{saga}?at={at}")
            assert (status, document["chosen"]) == (200, number)
            ms = (to_micros(each.created_at) + 1_999) // 1_000
            assert f'data-n="{number}"' in await browser.get(f"/sagas/{saga}/state?ms={ms}")
            assert document["snapshot"]["value"]["context"] == {"step": number, "order": {"id": "A-17"}}
        before = (made[0].created_at - DAY).strftime("%Y-%m-%d")
        assert "had not begun then" in await browser.get(f"/sagas/{saga}?at={before}")
        await archived(shop)
        page = await browser.get(f"/sagas/{saga}")
        assert "archived in GLACIER" not in page  # what may have to come from the store comes behind the first paint
        later = re.search(r'hx-get="([^"]+)" hx-trigger="load"', page)
        assert later
        assert "archived in GLACIER" in await browser.get(later[1])
        adjust(shop.runtime.job_context(), restore__on_archived="request")
        for path in ("?n=0", "/state?n=1", "/diff?a=0&b=1", "/changes?a=0&b=1"):
            await browser.get(f"/sagas/{saga}{path}")
        assert await shop.runtime.catalog.restores.newest(1) == []  # a look asks for no restore
        assert (await browser.get(f"/sagas/{uuid4()}"), browser.status)[1] == 404


async def test_operator_restores_holds_releases_and_forgets(shop: Product) -> None:
    """By the forms on the page, each written to the audit with who, why, from where and what came of it."""
    made = await saved(shop)
    saga = made[0].saga_id
    await archived(shop)
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        await browser.log_in(OPERATOR, "ann")
        page = await browser.get(f"/sagas/{saga}")
        assert "RESTORING" in await browser.post(f"/sagas/{saga}/restore", page, tier="Bulk")
        assert browser.path.startswith("/restores/")
        page = await browser.post(f"/sagas/{saga}/hold", page, reason="case 7")
        assert "held" in page
        refused = await browser.post(f"/sagas/{saga}/forget", page, reason="art. 17", confirm=str(saga))
        assert (browser.status, "hold" in refused) == (409, True)
        held = (await shop.runtime.catalog.holds.in_force(saga))[0]
        assert (held.placed_by, held.reason) == ("ann", "case 7")
        await browser.post(f"/holds/{held.hold_id}/release", page, reason="case closed")
        assert browser.path == "/holds"
        await browser.post(f"/sagas/{saga}/forget", page, reason="art. 17", confirm=str(uuid4()))
        assert browser.status == 400
        assert await shop.storage.timeline(saga)
        page = await browser.post(f"/sagas/{saga}/forget", page, reason="art. 17", confirm=str(saga))
        assert (browser.status, browser.path.startswith("/erasures/")) == (200, True)
        assert await shop.storage.timeline(saga) == []
    entries = await shop.runtime.catalog.audit.page(10)
    assert [(each.action, each.outcome == "done") for each in entries] == [
        ("forget", True),
        ("forget", False),
        ("release", True),
        ("forget", False),
        ("hold", True),
        ("restore", True),
    ]
    assert {(each.who, each.address) for each in entries} == {("ann", "127.0.0.1")}


async def test_holds_are_shown_in_pages(shop: Product) -> None:
    """Those in force and the log of all, each with a way to the rest; of a saga only some."""
    saga = (await saved(shop))[0].saga_id
    for number in range(60):
        await shop.storage.hold(saga, f"case {number}")
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            _, document = await asked(address, f"/holds?limit=25&cursor={quote(cursor)}", VIEWER)
            assert len(document["holds"]) <= 25
            seen += [each["hold_id"] for each in document["holds"]]
            cursor = document["next"]
        assert seen == [str(each.hold_id) for each in await shop.runtime.catalog.holds.in_force()]
        _, document = await asked(address, "/holds?limit=25", VIEWER)
        _, older = await asked(address, f"/holds?limit=50&before={document['before']}", VIEWER)
        assert [each["reason"] for each in document["log"] + older["log"]] == [f"case {n}" for n in range(59, -1, -1)]
        assert older["before"] is None
        assert (await asked(address, "/holds?cursor=x", VIEWER))[0] == 400
        await browser.log_in(OPERATOR)
        page = await browser.get("/holds?limit=25")
        assert page.count("/release") == 25
        [later] = re.findall(r'href="(/holds\?[^"]*cursor=[^"]*)"', page)
        [earlier] = re.findall(r'href="(/holds\?[^"]*before=[^"]*)"', page)
        assert seen[30] in await browser.get(later.replace("&amp;", "&"))
        assert "case 30" in await browser.get(earlier.replace("&amp;", "&"))
        _, document = await asked(address, f"/sagas/{saga}", VIEWER)
        assert len(document["holds"]["value"]) == 50


async def test_export_hands_over_a_saga_that_proves_itself(
    shop: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer gets a ZIP file with all of it, by form or API; the audit says who, and no file stays."""
    made = await saved(shop)
    path, out = f"/sagas/{made[0].saga_id}/export", tmp_path / "saga.zip"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        await browser.log_in(VIEWER, "vic")
        page = await browser.get(f"/sagas/{made[0].saga_id}")
        hidden = re.search(r'name="csrf" value="([^"]*)"', page)
        assert hidden
        async with browser.session.post(address + path, data={"csrf": hidden[1]}) as response:
            assert (response.status, response.headers["X-Content-Type-Options"]) == (200, "nosniff")
            assert response.headers["Content-Disposition"].startswith("attachment")
            out.write_bytes(await response.read())
        await browser.post(path)
        assert browser.status == 400  # not without the text of our form
        assert (await asked(address, f"/sagas/{uuid4()}/export", VIEWER, more="x"))[0] == 404
    found = verify_export(out)
    assert found.is_intact
    assert found.manifest is not None
    assert (found.manifest.counts.exported, found.manifest.who) == (len(made), "vic")
    entries = await shop.runtime.catalog.audit.page(10)
    assert [(each.action, each.outcome == "done") for each in entries] == [("export", False), ("export", True)]
    scratch.rmdir()  # it is empty


async def test_exports_are_made_one_at_a_time(shop: Product) -> None:
    """Another is told to come again; one that is broken off makes room, and is no defect."""
    made = await saved(shop, steps=2, noise=token_hex(6 * 2**20))
    path = f"/sagas/{made[0].saga_id}/export"
    with capture_logs() as logs:
        async with console(shop, with_tokens()) as address:
            target = URL(address)
            first = socket.socket()
            first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            first.setblocking(False)
            await asyncio.get_running_loop().sock_connect(first, (target.host, target.port))
            reader, writer = await asyncio.open_connection(sock=first, limit=1_024)
            writer.write(_post(f"/api/v1{path}", "{}"))
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"  # and no more of it
            headers = {"Authorization": f"Bearer {VIEWER}"}
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(f"{address}/api/v1{path}", json={}) as response,
            ):
                assert (response.status, response.headers["Retry-After"]) == (429, "60")
                assert "one at a time" in (await response.json())["problem"]
            writer.transport.abort()
            _, half = await asyncio.open_connection(target.host, target.port)
            half.write(_post(f"/api/v1{path}", "{}", length=9))  # a question that is broken off
            await half.drain()
            half.transport.abort()
            await until(lambda: [each["event"] for each in logs].count("console.broken_off") == 2, "two broken off")
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(f"{address}/api/v1{path}", json={}) as response,
            ):
                assert (response.status, (await response.read())[:2]) == (200, b"PK")
    assert [each for each in logs if each["log_level"] in ("warning", "error")] == []


def _post(path: str, body: str, length: int | None = None) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {VIEWER}",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
    )
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


async def test_viewer_and_stranger_change_nothing(shop: Product) -> None:
    """Without a session, as a viewer, without the form's own text, from another origin: nothing happens."""
    saga = (await saved(shop))[0].saga_id
    path, fields = f"/sagas/{saga}/forget", {"reason": "x", "confirm": str(saga)}
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        await browser.get("/")
        assert browser.path == "/login"
        await browser.post(path, **fields)
        assert browser.path == "/login"
        assert (await asked(address, "/overview"))[0] == 401
        assert (await asked(address, path, VIEWER, **fields))[0] == 403
        await browser.log_in(VIEWER)
        page = await browser.get(f"/sagas/{saga}")
        assert "Forget for good" not in page
        await browser.post(path, page, **fields)
        assert browser.status == 403
        await browser.log_in(OPERATOR)
        await browser.post(path, **fields)
        assert browser.status == 400
        page = await browser.get(f"/sagas/{saga}")
        browser.session.headers["Origin"] = "https://evil.test"
        refused = await browser.post(path, page, **fields)
        assert (browser.status, "proxy_set_header Host $http_host;" in refused) == (400, True)
        refused = await browser.log_in(OPERATOR)
        assert (browser.status, "proxy_set_header Host $http_host;" in refused) == (400, True)
        del browser.session.headers["Origin"]
        await browser.post("/logout", page)
        await browser.post(path, page, **fields)
        assert browser.path == "/login"
    async with console(shop, OPEN) as address, Browser(address) as browser:
        page = await browser.get(f"/sagas/{saga}")
        await browser.post(path, page, **fields)
        assert browser.status in (400, 403)  # no form of ours, and no operator
        assert (await asked(address, path, **fields))[0] in (400, 403)
        async with browser.session.get(address, headers={"Host": "evil.test"}) as response:
            assert response.status == 421
    assert await shop.storage.timeline(saga)
    assert await shop.runtime.catalog.audit.page(10) == []


async def test_login_leads_to_no_other_site(shop: Product) -> None:
    """`next` is a path of ours, or it is nothing; the cookie is closed to scripts and other sites."""
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        for target in ("//evil.test/", "https://evil.test/", "/\\evil.test", "\\\\evil.test", "/a\r\nSet-Cookie: x=y"):
            data = {"token": VIEWER, "next": target}
            async with browser.session.post(f"{address}/login", data=data, allow_redirects=False) as response:
                assert (response.status, response.headers["Location"]) == (303, "/")
                cookie = response.headers["Set-Cookie"]
                assert "HttpOnly" in cookie
                assert "SameSite=Strict" in cookie
        async with browser.session.post(
            f"{address}/login", data={"token": VIEWER, "next": "/packs?limit=7"}
        ) as response:
            assert str(response.url) == f"{address}/packs?limit=7"


async def test_every_answer_carries_what_protects_it(shop: Product) -> None:
    """Pages, documents, files, failures: no inline script, no frame, no guessing of types, no storing."""
    async with console(shop, OPEN) as address, Browser(address) as browser:
        for path in (
            "/",
            "/nothing",
            "/static/console.css",
            "/static/..%2f..%2fserver.py",
            "/api/v1/overview",
            "/login",
        ):
            async with browser.session.get(address + path) as response:
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                page = await response.text()
                assert "style=" not in page
                assert not re.search(r"<script(?! src=)", page)
                assert not re.search(r"\son\w+=", page)


async def test_hostile_names_and_contexts_are_text(shop: Product) -> None:
    """Markup, changes of direction, control characters, templates, in every place that shows them."""
    made = await saved(shop, name=HOSTILE, **{HOSTILE: HOSTILE, "many": {str(i): i for i in range(3 * MOST_CHILDREN)}})
    saga = made[0].saga_id
    async with console(shop, with_tokens()) as address, Browser(address) as browser:
        await browser.log_in(OPERATOR, HOSTILE)
        page = await browser.get(f"/sagas/{saga}")
        await browser.post(f"/sagas/{saga}/hold", page, reason=HOSTILE)
        await browser.post("/quarantine/drop", page, item=HOSTILE)
        assert browser.status == 404
        paths = (f"/sagas/{saga}", f"/sagas/{saga}/diff", f"/sagas/{saga}/changes", f"/sagas/{saga}/state?n=1")
        for path in (*paths, "/holds", "/audit", "/sagas"):
            page = await browser.get(path)
            assert browser.status == 200
            assert "<script>alert" not in page
            assert not re.search("[\u202e\x00\x1b]", page)
            assert "49" not in page.replace("{{7*7}}", "") or "{{7*7}}" in page
        assert f"{2 * MOST_CHILDREN:,} more are not shown" in await browser.get(f"/sagas/{saga}/state")


def test_holdings_of_a_class_that_is_not_known_come_last() -> None:
    """Their order is known, whatever class the catalog names."""
    held = [
        Holding(tier=tier, storage_class=storage_class, bytes=1)
        for tier, storage_class in (
            ("cold", "NEWER"),
            ("cold", "GLACIER"),
            ("retiring", ""),
            ("cold", "STANDARD"),
            ("hot", ""),
        )
    ]
    found = [each.storage_class or each.tier for each in sorted(held, key=documents._warmest_first)]
    assert found == ["hot", "STANDARD", "GLACIER", "NEWER", "retiring"]


def test_tree_is_bounded_whatever_the_context() -> None:
    """Long texts, many keys, deep nesting: so many nodes, and what is left out is told."""
    deep: Any = "bottom"
    for _ in range(5_000):
        deep = [deep]
    trees = [
        tree_of({"text": "x" * 2_000_000, "blob": b"y" * 1_000_000, "huge": 10**5_000}),
        tree_of({f"k{i}": {"a": [1, 2, {3}]} for i in range(100_000)}),
        tree_of(deep),
        tree_of({"k" * 1_000_000 + str(i): "x" * 1_000_000 for i in range(400)}),
    ]

    def count(node: Node) -> int:
        return 1 + sum(map(count, node.children))

    assert max(map(count, trees)) <= MOST_NODES
    assert sum(len(node.key) + len(node.text) for node in trees[3].children) < 2 * MOST_ALL_TEXT
    text, blob, huge = trees[0].children
    assert (len(text.text), text.left_out) == (MOST_TEXT, 2_000_000 - MOST_TEXT)
    assert blob.left_out == 1_000_000 - MOST_TEXT // 3
    assert huge.text == "a number of 16,610 bits"
    assert trees[1].left_out == 100_000 - MOST_CHILDREN


async def test_what_cannot_be_asked_is_unknown_not_empty(shop: Product, database: str, tmp_path: Path) -> None:
    """Redis down: what it holds is unknown, the rest is shown. Before the servers were reached: every page says so."""
    dead = config(database=database, redis_url="redis://127.0.0.1:1/0", cold=tmp_path / "cold")
    saga = (await saved(shop))[0].saga_id
    async with product(dead, schema=False) as broken, console(broken, OPEN) as address, Browser(address) as browser:
        page = await browser.get("/")
        assert browser.status == 200
        assert "what it holds is unknown" in page
        assert "PostgreSQL" in page
        page = await browser.get(f"/sagas/{saga}")
        assert "payment-card" in page  # PostgreSQL has all of it
    async with serve_console(OPEN, state_of(None, dead)) as (host, port), Browser(f"http://{host}:{port}") as browser:
        assert "has not reached its servers yet" in await browser.get("/")
        for view in VIEWS[1:]:
            if view.path == "/plan":  # what it shows of the servers comes behind its first paint
                continue
            path = re.sub(r"\{pack_id\}", "1", re.sub(r"\{\w+_id\}", str(saga), view.path.replace("{pack_id}", "1")))
            page = await browser.get(path)
            assert "has not reached its servers yet" in page, path


async def test_plan_is_made_once_for_all_who_look(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through the catalog: people who look within half a minute see the same one."""
    await saved(shop)
    shop.clock.advance(10 * DAY)
    made, real = [], documents.planned

    async def plan(*asked: Any) -> Plan:
        made.append(asked)
        return await real(*asked)

    monkeypatch.setattr(documents, "planned", plan)
    async with console(shop, OPEN) as address:
        answers = await asyncio.gather(*(asked(address, "/plan/now") for _ in range(3)))
    assert len(made) == 1
    assert all(document["plan"]["value"]["lines"] for _, document in answers)


async def test_other_policies_are_compared_and_nothing_is_saved(shop: Product) -> None:
    """What a pasted file would do instead; a wrong one is refused with its line, a secret in it is not told."""
    await saved(shop)
    shop.clock.advance(10 * DAY)
    other = {
        "tiers": {"hot": {"url": "redis://:hunter2@nowhere/0"}, "cold": {"url": "s3://bucket/p"}},
        "catalog": {"url": "postgresql://u@nowhere/d"},
        "policies": [{"name": "all", "match": {}, "retain": "8d"}],
    }
    async with console(shop, OPEN) as address, Browser(address) as browser:
        page = await browser.get("/plan")
        compared = await browser.post("/plan", page, policies=json.dumps(other))
        assert browser.status == 200, compared
        assert "expire" in compared
        wrong = await browser.post("/plan", page, policies=json.dumps({**other, "polices": []}))
        assert (browser.status, "polices" in wrong, "hunter2" in wrong) == (400, True, False)
    assert [each.name for each in shop.runtime.policies.policies] == ["payments", "fast", "default"]


async def test_questions_that_make_no_sense_are_told_so(shop: Product) -> None:
    """Ids, numbers, times, choices, bodies: 400 with the name of what is wrong, for pages and documents."""
    async with console(shop, with_tokens()) as address:
        for path, name in (
            ("/sagas/7", "saga_id"),
            ("/packs?limit=0", "limit"),
            ("/packs?limit=99999999999999999999999", "limit"),
            ("/packs?storage_class=GOLD", "storage_class"),
            ("/packs/²", "pack_id"),
            (f"/sagas/{uuid4()}?at=yesterday", "at"),
            ("/quarantine?dropped=perhaps", "dropped"),
        ):
            status, document = await asked(address, path, VIEWER)
            assert (status, name in document["problem"]) == (400, True), path
            assert (str(saga_uuid("7")) in document["hint"]) == (name == "saga_id"), path
        headers = {"Authorization": f"Bearer {OPERATOR}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for body in ("[1]", "{", '{"item": {}}', '{"item": ""}', "[" * 100_000):
                async with session.post(f"{address}/api/v1/quarantine/drop", data=body) as response:
                    assert response.status == 400
        emptied = {"snapshot_id": ""}  # which does not mean the whole saga
        status, document = await asked(address, f"/sagas/{uuid4()}/restore", OPERATOR, **emptied)
        assert (status, "snapshot_id" in document["problem"]) == (400, True)
        assert (await asked(address, "/nothing", VIEWER))[0] == 404


def test_openapi_names_every_view_and_action() -> None:
    """What is served is described, each path parameter too."""
    document = openapi()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
    assert len(document["paths"]) >= len(VIEWS)
