"""`sagaz-tiering find`: a table that fits 80 columns with whole ids, a document, pages, and errors that help."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from support.commands import cli, save, write_config
from support.console import OPEN, Browser, state_of
from support.payload import saga

from sagaz_tiering.app.runtime import open_runtime
from sagaz_tiering.config.load import load_config
from sagaz_tiering.console import serve_console
from sagaz_tiering.snapshot import SagaSnapshot

POLICIES = """\
policies:
  - {name: all, match: {}, move: [{to: STANDARD_IA, after: 7d}], even_if_costlier: true}
attributes:
  - {name: order_id, path: order}
"""


@pytest.fixture
async def shop(tmp_path: Path, database: str, redis_url: str) -> tuple[Path, list[list[SagaSnapshot]]]:
    """A configuration, and five sagas."""
    path = write_config(tmp_path, database=database, redis_url=redis_url, policies=POLICIES)
    begun = datetime.now(UTC) - timedelta(hours=3)
    sagas = [saga(at, begun=begun + timedelta(minutes=at)) for at in range(5)]
    async with open_runtime(load_config(path)) as runtime:
        await save(runtime.storage(), [each for one in sagas for each in one])
    return path, sagas


@pytest.mark.guarantee("G12")
async def test_find_shows_sagas_in_pages(shop: tuple[Path, list[list[SagaSnapshot]]]) -> None:
    """A table with whole ids at 80 columns and the cursor of the next page; the same as one document."""
    path, sagas = shop
    ids = [str(one[0].saga_id) for one in reversed(sagas)]
    shown = await cli("find", "--config", path, "--limit", 3, "--count", COLUMNS="80")
    assert shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines()[:-1])) <= 80
    assert [line.split()[0] for line in shown.out.splitlines() if line.strip()[:36] in ids] == ids[:3]
    assert "in all: 5" in shown.out
    cursor = shown.out.split("--cursor ")[1].strip()
    page = await cli("find", "--config", path, "--limit", 3, "--json")
    assert page.document["next"] == cursor
    rest = await cli("find", "--config", path, "--limit", 3, "--cursor", cursor, "--json")
    assert [each["saga_id"] for each in rest.document["sagas"]] == ids[3:]
    assert rest.document["next"] is None


@pytest.mark.guarantee("G12")
async def test_find_takes_what_people_know(shop: tuple[Path, list[list[SagaSnapshot]]]) -> None:
    """Names, status, times and attributes; what nothing meets is told, what cannot be asked says what to do."""
    path, sagas = shop
    wanted = sagas[2][0]
    today, name = wanted.created_at.date(), wanted.saga_name
    order = wanted.context["order"]
    for asked in (
        ("--attribute", f"order_id={order}"),
        ("--name", f"{name[:3]}*", "-a", f"order_id={order}", "-a", "order_id=none", "--from", today, "--tier", "hot"),
    ):
        found = await cli("find", "--config", path, "--json", *asked)
        assert [each["saga_id"] for each in found.document["sagas"]] == [str(wanted.saga_id)], found.err
    where = str(load_config(path).catalog.url)
    none = await cli("find", "--config", path, "--until", "2020-02")
    assert (none.code, none.out, none.err) == (0, f"no such saga in the catalog at {where}\n", "")
    nearly = await cli("find", "--config", path, "--status", "complete", "--status", "compl*", "--status", "mine")
    assert nearly.err == "warning: complete is no status of sagaz; did you mean completed?\n"
    for option in ("--name", "--status", "--step"):
        none = await cli("find", "--config", path, option, "check(.*)")
        assert (none.code, none.out) == (0, f"no such saga in the catalog at {where}\n")
        assert "warning: check(.*) looks like a regular expression" in none.err
    for arguments, hint in (
        (("--attribute", "order_id"), "--attribute order_id=A-17"),
        (("--attribute", "ordre=1"), "those there are: order_id"),
        (("--from", "2026-13"), "2023-01"),
        (("--cursor", "x"), "the page before"),
    ):
        refused = await cli("find", "--config", path, *arguments)
        assert refused.code == 2
        assert hint in refused.err, refused.err


async def test_command_of_a_console_page_finds_what_the_page_shows(shop: tuple[Path, list[list[SagaSnapshot]]]) -> None:
    """By every filter, by what is typed into the box, on every page."""
    path, sagas = shop
    third = sagas[2][0]
    order, name, begun = third.context["order"], third.saga_name, sagas[2][0].created_at
    since, until = (quote(at.isoformat()) for at in (begun, sagas[4][0].created_at))
    async with (
        open_runtime(load_config(path)) as runtime,
        serve_console(OPEN, state_of(runtime, runtime.settings)) as (host, port),
        Browser(f"http://{host}:{port}") as browser,
    ):
        await runtime.storage().hold(third.saga_id, "case 7")
        for question, count in (
            ("", 5),
            ("limit=2", 2),
            (f"since={since}&until={until}", 2),
            (f"since={since}&name={quote(name[:3])}*&status=completed&tier=hot&step=*", 3),
            (f"attribute=order_id={quote(order)}", 1),
            (f"q={quote(order)}", 1),
            (f"q={quote(order)}&attribute=order_id=none", 1),
            (f"q=order_id={quote(order)}&held=true", 1),
            (f"q={quote(name[1:4])}&name=none", 5),
            (f"q={quote(name[:3])}*", 5),
            ("held=true", 1),
            ("q=it's nobody", 0),
        ):
            page = await browser.get(f"/sagas?{question}")
            assert (shown := _shown(page), len(shown)) == (await _found(page, path), count), question
        more = re.search(r'href="(/sagas[?][^"]*cursor=[^"]*)"', await browser.get("/sagas?limit=2"))
        assert more
        page = await browser.get(unescape(more[1]))
        assert (shown := _shown(page), len(shown)) == (await _found(page, path), 2)
        assert f"sagaz-tiering timeline {third.saga_id}<" in await browser.get(f"/sagas?q={third.saga_id}")


def _shown(page: str) -> list[str]:
    return re.findall(r'href="/sagas/([0-9a-f-]{36})"', page)


async def _found(page: str, path: Path) -> list[str]:
    """What the command at the foot of a page finds."""
    told = re.search(r"<code>(sagaz-tiering find[^<]*)</code>", page)
    assert told
    answer = await cli(*shlex.split(unescape(told[1]))[1:], "--config", path, "--json")
    return [each["saga_id"] for each in answer.document["sagas"]]
