"""What a new user meets: `init`, the snippets of the README, what messages point at."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import fastapi
import pytest
from support.commands import cli, write_config
from support.payload import saga
from support.tiers import config, product

import sagaz_tiering
from sagaz_tiering.cli.parsing import parse_time
from sagaz_tiering.cli.stderr import UsageError
from sagaz_tiering.doctor.setup import Machine, preparations

ROOT = Path(__file__).parents[2]
PACKAGE = Path(sagaz_tiering.__file__).parent


async def test_init_writes_a_configuration_and_never_over_one(tmp_path: Path) -> None:
    """Where commands look for it by themselves; the next commands are said, and one of them checks it."""
    told = await cli("init", "--json", cwd=tmp_path, HOME=str(tmp_path))
    assert told.code == 0, told.err
    verbs = ("catalog migrate", "doctor", "run")
    first = preparations(Machine(**told.document["found"]))
    assert told.document["commands"] == [*first, *(f"sagaz-tiering {verb}" for verb in verbs)]
    assert (await cli("policy", "check", "--strict", cwd=tmp_path)).code == 0
    text = (tmp_path / "config" / "tiering.yaml").read_text()
    again = await cli("init", cwd=tmp_path)
    assert again.code == 2
    assert "config/tiering.yaml is there already" in again.err
    assert (tmp_path / "config" / "tiering.yaml").read_text() == text
    other = await cli("init", "my shop.yaml", "--bucket", "acme", cwd=tmp_path)
    assert "  sagaz-tiering doctor --config 'my shop.yaml'" in other.out.splitlines()
    assert "s3://acme/sagaz" in (tmp_path / "my shop.yaml").read_text()


def test_version_is_that_of_the_package() -> None:
    """Asked for by the usual name."""
    assert f'version = "{sagaz_tiering.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2026-03-01", "2026-03-01T00:00:00+00:00"),
        ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00+00:00"),
        ("2026-03-01 12:00+02:00", "2026-03-01T10:00:00+00:00"),
    ],
)
def test_times_have_one_form_for_every_option(text: str, told: str) -> None:
    """A day is its first instant in UTC."""
    assert parse_time(text).isoformat() == told


def test_time_without_a_zone_is_refused() -> None:
    """With what to write."""
    with pytest.raises(UsageError, match="has no time zone") as caught:
        parse_time("2026-03-01T12:00:00")
    assert "2026-03-01T12:00:00Z" in caught.value.hint


def messages(path: Path) -> list[str]:
    """Every text of a module that is no docstring and documents no field."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in silent)
    return [node.value for node in texts if isinstance(node.value, str)]


def test_nobody_is_sent_to_what_only_the_repository_has() -> None:
    """No message, hint or help of an installed package names a file that is not in it."""
    only_here = re.compile(r"\b(?:docs|examples|deploy|systemd|benchmarks|tools|tests)/\w|`make [a-z]+`|README")
    generates_docs = {"config/reference.py"}
    found = {
        f"{path.relative_to(PACKAGE)}: {text[:80]}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).as_posix() not in generates_docs
        for text in messages(path)
        if only_here.search(text)
    }
    assert found == set()


def snippet(after: str) -> str:
    """The first Python block of the README behind these words."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text[text.index(after) :].partition("```python\n")[2].partition("```")[0]


async def test_lifespan_of_the_readme_serves_a_timeline(
    tmp_path: Path, database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI opens the storage once, and closes it with the application."""
    saved = saga(1)
    async with product(config(database=database, redis_url=redis_url, cold=tmp_path / "cold")) as shop:
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
    (tmp_path / "config").mkdir()
    write_config(tmp_path / "config", database=database, redis_url=redis_url)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(snippet("FastAPI"), "README.md", "exec"), names)
    application: fastapi.FastAPI = names["app"]
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async with application.router.lifespan_context(application) as state:
        path = f"/sagas/{saved[0].saga_id}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "state": state or {},
        }
        await application(scope, receive, send)  # type: ignore[arg-type]  # as a server of ASGI calls it
    assert sent[0]["status"] == 200
    body = b"".join(message.get("body", b"") for message in sent)
    assert all(snapshot.step_name.encode() in body for snapshot in saved)
