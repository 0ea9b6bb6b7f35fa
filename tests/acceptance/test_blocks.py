"""Every code block of README and guides is run, parsed by what it is for, or marked as output."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import sagaz
import typer.main
import yaml
from support.pages import Block, blocks
from support.tiers import Places
from support.yaml_config import write_config

import sagaz_tiering
from sagaz_tiering import SagaSnapshot, TieredSnapshotStorage, errors
from sagaz_tiering.cli.app import make_app
from sagaz_tiering.config.load import load_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLLOWED = {"start.md", "recovery.md"}
"""Pages whose commands are run in their order: `test_pages`, `test_drills`."""
RUN_ELSEWHERE = {"sql", "redis", "json"}
"""Of `docs/deployment.md`: `test_least_privilege`."""
OTHERS = {"nginx"}
"""Configuration of programs that are not here."""
BEGUN = datetime.now(UTC) - timedelta(days=2)


def found(*languages: str) -> list[Any]:
    """Blocks in these languages, each by its page and line."""
    return [
        pytest.param(block, id=f"{page.name}:{block.line}")
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.language in languages and page.name not in FOLLOWED
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A language that is run or parsed here, or that it is output, or for an empty machine."""
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(list(blocks(text))), "a block without a language"
    known = {"sh", "python", "yaml"} | RUN_ELSEWHERE | OTHERS
    assert [each for each in blocks(text) if each.language not in known and "output" not in each.words] == []
    if page.name != "deployment.md":
        assert [each for each in blocks(text) if each.language in RUN_ELSEWHERE and "output" not in each.words] == []


@pytest.mark.parametrize("block", found("yaml"))
def test_configuration_is_valid(block: Block, tmp_path: Path) -> None:
    """With what it leaves out; keys and values are those of the product."""
    base = {
        "tiers": {"hot": {"url": "redis://localhost:6379/0"}, "cold": {"url": "s3://acme/production"}},
        "catalog": {"url": "postgresql://localhost/sagaz"},
        "policies": [{"name": "default", "match": {}}],
        "attributes": [{"name": name, "path": name} for name in ("tenant", "region")],
    }
    text = re.sub(r"\b([0-9a-f]{4})…", lambda found: found[1].replace("0", "a") * 16, block.text)
    (tmp_path / "tiering.yaml").write_text(yaml.safe_dump({**base, **yaml.safe_load(text)}))
    load_config(tmp_path / "tiering.yaml", environ={"SAGAZ_TIERING_ATTRIBUTE_HASH_KEY": "x" * 32})


def commands(page: Path) -> list[str]:
    """Every line of ours that a block of it shows as typed, also in a block that is only indented."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for block in blocks(text) if block.language == "sh" for line in block.text.splitlines()]
    lines += re.findall(r"^    (?:\$ )?(sagaz-tiering .*)$", text, re.MULTILINE)
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.startswith("sagaz-tiering ") and part[14:15].islower()]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in FOLLOWED], ids=lambda path: path.name)
def test_commands_are_those_of_the_program(page: Path) -> None:
    """Name, options and the number of arguments of each."""
    for line in commands(page):
        command, words, path = typer.main.get_command(make_app()), shlex.split(line, comments=True)[1:], "sagaz-tiering"
        while words and words[0] in getattr(command, "commands", {}):
            path, command = f"{path} {words[0]}", command.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert path != "sagaz-tiering", line
        try:
            command.make_context(path, words)
        except Exception as exc:  # noqa: BLE001  # whichever class of complaint this version of typer has
            pytest.fail(f"{line}: {exc}")


class OrderSaga(sagaz.Saga):
    """What the README calls yours."""

    saga_name = "payment-order"

    @sagaz.action("reserve")
    async def reserve(self, ctx: dict[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}


@pytest.fixture
async def names(tmp_path: Path, places: Places, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the snippets take for granted: a configuration, an open storage, a saga with three steps."""
    (tmp_path / "config").mkdir()
    attributes = [{"name": "order_id", "path": "order.id"}]
    file = tmp_path / "config" / "tiering.yaml"
    write_config(file, **places, attributes=attributes)
    monkeypatch.chdir(tmp_path)
    saga_id = uuid4()
    async with TieredSnapshotStorage.from_config(file) as storage:
        for number, step in enumerate(("reserve", "charge", "charge", "ship")):
            context = {"order": {"id": "A-17"}, "total": number}
            snapshot = SagaSnapshot(
                snapshot_id=uuid4(),
                saga_id=saga_id,
                saga_name="payment-order",
                step_name=step,
                step_index=number,
                status="failed" if step == "ship" else "executing",
                context=context,
                completed_steps=[],
                created_at=BEGUN + timedelta(minutes=number),
            )
            await storage.save_snapshot(snapshot)
        yield {
            "storage": storage,
            "saga_id": saga_id,
            "three_years_ago": BEGUN - timedelta(days=1000),
            "OrderSaga": OrderSaga,
            "errors": errors,
            "datetime": datetime,
            "UTC": UTC,
            "url": redis_url,
            **{name: getattr(sagaz_tiering, name) for name in sagaz_tiering.__all__ if name != "errors"},
        }


@pytest.mark.parametrize("block", found("python"))
async def test_snippet_runs(block: Block, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written, with what the page takes for granted."""
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)  # where its classes say that they are
    vars(page).update(names)
    code = compile(block.text, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, vars(page))
    if inspect.isawaitable(running):
        async with asyncio.timeout(300):
            await running
