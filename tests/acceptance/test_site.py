"""The documentation site: built without a warning and without a network, and nothing that exists is missing from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import typer.main
from support.commands import clean_environment

import sagaz_tiering
from sagaz_tiering import errors
from sagaz_tiering.cli.app import make_app
from sagaz_tiering.config.model import TieringConfig
from tools.reference import described

ROOT = Path(__file__).parents[2]
DEADLINE_S = 600
OUTSIDE = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it was built, by the configuration of `make docs`; a warning (a link that leads nowhere) is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environ = clean_environment(
        NO_MKDOCS_2_WARNING="1", http_proxy="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1"
    )
    ran = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return folder


def text_of(site: Path, name: str) -> str:
    """What a page says, without its markup."""
    html = (site / f"{name}.html").read_text(encoding="utf-8")
    return unescape(re.sub(r"<[^>]+>", "", html.partition("<article")[2].partition("</article>")[0]))


def words_of(site: Path, name: str) -> set[str]:
    """Names on a page, whole, so that `--at` is not found in `--attribute`."""
    return set(re.findall(r"[\w.\[\]-]+", text_of(site, name)))


def test_every_setting_is_on_the_site(site: Path) -> None:
    """Every key that the YAML may have, in full, or that of the section that its own is said to be like."""
    said = words_of(site, "configuration")
    alike = dict(re.findall(r"([\w.]+)\s+as ([\w.]+)\n", text_of(site, "configuration")))
    known = said | {
        name.replace(other, section, 1) for section, other in alike.items() for name in said if other in name
    }
    assert set(keys(TieringConfig.model_json_schema())) - known == set()


def keys(schema: dict[str, object]) -> Iterator[str]:
    """Of the model's own schema: `tiers.hot.url`; of lists `policies[].name`."""
    definitions = schema.get("$defs", {})

    def walk(node: object, path: str, seen: tuple[str, ...]) -> Iterator[str]:
        if not isinstance(node, dict):
            return
        if "$ref" in node:
            name = str(node["$ref"]).rpartition("/")[2]
            if name not in seen:
                yield from walk(definitions[name], path, (*seen, name))  # type: ignore[index]
        for each in (*node.get("anyOf", ()), *node.get("allOf", ())):
            yield from walk(each, path, seen)
        yield from walk(node.get("items"), f"{path}[]", seen)
        for key, each in node.get("properties", {}).items():
            inner = f"{path}.{key}" if path else key
            yield inner
            yield from walk(each, inner, seen)

    yield from walk(schema, "", ())


def test_every_command_and_option_is_on_the_site(site: Path) -> None:
    """Each command has its section, and each of its options is in it."""
    parts = re.split(r"^sagaz-tiering(?: |¶|$)", text_of(site, "reference/commands"), flags=re.MULTILINE)
    sections = {part.partition("¶")[0].strip(): set(re.findall(r"(?<!\S)-{1,2}[\w-]+", part)) for part in parts}
    wanted = dict(options(typer.main.get_command(make_app()), ""))
    assert wanted.keys() - sections.keys() == set()
    assert {path: missing for path, names in wanted.items() if (missing := names - sections[path])} == {}
    guide = words_of(site, "cli")
    assert {path for path in wanted if not set(path.split()) <= guide} == set()


def options(command: object, path: str) -> Iterator[tuple[str, set[str]]]:
    """Every command that can be run, with the names of its options."""
    children = getattr(command, "commands", {})
    if not children:
        params = getattr(command, "params", [])
        yield path, {name for each in params if each.param_type_name == "option" for name in each.opts}
    for name, child in children.items():
        yield from options(child, f"{path} {name}".strip())


def test_every_metric_is_on_the_site(site: Path) -> None:
    """By the name that it is asked for."""
    assert {each.name for each in described()} - words_of(site, "reference/metrics") == set()


def test_every_error_is_on_the_site_with_its_exit_code_and_remedy(site: Path) -> None:
    """A row of its own."""
    said = " ".join(text_of(site, "reference/errors").split())
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(classes) > 40
    for each in classes:
        row = re.search(rf"(?<!\w){each.__name__} [^─├└]*? {each.exit_code} (?:yes|no) ", said)
        assert row, each.__name__
        if isinstance(each.hint, str):
            assert " ".join(each.hint.replace("`", "").split()) in said


def test_every_public_name_is_on_the_site(site: Path) -> None:
    """What `sagaz_tiering` exports, and every method of the storage that applications use."""
    html = (site / "reference" / "python.html").read_text(encoding="utf-8")
    found = set(re.findall(r'id="sagaz_tiering\.([\w.]+)"', html))
    public = set(sagaz_tiering.__all__) - {"errors", "__version__"}
    methods = {f"TieredSnapshotStorage.{name}" for name in dir(sagaz_tiering.TieredSnapshotStorage) if name[0] != "_"}
    assert (public | methods) - found == set()


def test_pages_ask_no_other_server_and_can_be_searched(site: Path) -> None:
    """No script, font, style or picture from elsewhere; the index has every page."""
    assert {page.name for page in site.rglob("*.html") if OUTSIDE.search(page.read_text(encoding="utf-8"))} == set()
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    searched = {entry["location"].partition("#")[0] for entry in index["docs"]}
    pages = {page.relative_to(site).as_posix() for page in site.rglob("*.html")} - {"404.html"}
    assert pages - searched - {"index.html"} == set()
    assert any("linger" in entry["text"] for entry in index["docs"])


def test_every_page_is_in_the_navigation() -> None:
    """So that `docs/` has none that nobody finds."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/-]+\.md", text.partition("\nnav:")[2]))
    here = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert here - named == set()
