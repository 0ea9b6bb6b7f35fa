"""`docs/reliability.md` names every guarantee and where it is proven, and the tests say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import durations

ROOT = Path(__file__).parent.parent.parent
ROW = re.compile(r"^\| (G\d+) \| [^|]+ \| ([^|]*) \|$", re.MULTILINE)
MARK = re.compile(r"mark\.guarantee\(([^)]*)\)")


def proven() -> dict[str, set[str]]:
    """Test files by guarantee, from their markers."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path != Path(__file__):
            for name in re.findall(r"G\d+", "".join(MARK.findall(path.read_text(encoding="utf-8")))):
                found.setdefault(name, set()).add(path.stem.removeprefix("test_"))
    return found


def test_every_guarantee_of_the_document_is_proven_where_it_says() -> None:
    """Which `pytest -m guarantee` runs; a test that moves or is new moves the table."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    said = {name: set(re.findall(r"`([a-z0-9_]+)`", files)) for name, files in ROW.findall(text)}
    rows = "\n".join(
        f"{name}: {', '.join(f'`{file}`' for file in sorted(files))}" for name, files in sorted(proven().items())
    )
    assert said == proven(), f"the table should have:\n{rows}"


def test_the_quick_share_proves_every_guarantee(pytestconfig: pytest.Config) -> None:
    """`make test` leaves out what is slow by `tests/durations.json`, and no guarantee with it."""
    collected = pytestconfig.stash[durations.COLLECTED]
    if not set().union(*proven().values()) <= collected.files:
        pytest.skip("only known when all tests are collected")
    assert collected.quick_proofs == set(proven())
