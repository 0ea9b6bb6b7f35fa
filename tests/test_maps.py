"""What the documents say of files and functions is there, and each room says what it is for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sagaz_tiering"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`([\w/]+\.py): ([\w.]+)`")
PATH = re.compile(r"`(?:\./)?([\w-]+(?:/[\w.-]+)*/?\.?[\w-]*\.(?:py|sql|lua|md|json|toml|txt))(?:: [\w.]+)?`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
ELSEWHERE = re.compile(r"[\w-]+\.json")
"""Files of stores, and results that a command writes."""


def defined(path: Path) -> set[str]:
    """`name` and `Class.name` of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            functions = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{each.name}" for each in functions}
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_what_is_there(document: Path) -> None:
    """Each path, link and `file: function` of a document exists, from the root, the package or beside the document."""
    text = document.read_text(encoding="utf-8")
    wrong = [f"{path}: {name}" for path, name in NAMED.findall(text) if name not in defined(PACKAGE / path)]
    homes = (ROOT, PACKAGE, document.parent)
    paths = {path for path in (*PATH.findall(text), *LINK.findall(text)) if not ELSEWHERE.fullmatch(path)}
    wrong += [path for path in sorted(paths) if not any((home / path).exists() for home in homes)]
    assert not wrong, f"{document.name} names what is not there: {wrong}"


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_room_says_what_it_is_for_and_what_it_never_does(room: str) -> None:
    """The docstring of its `__init__`: at least two sentences, one of them with "never"."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(re.findall(r"[.!](?=\s|$)", text)) >= 2, text
    assert "never" in text.lower(), text
