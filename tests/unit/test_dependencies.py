"""The packages that the product is made with stay in real use."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IN_USE = ("redis", "zstandard", "aioboto3", "asyncpg", "apscheduler", "structlog", "pydantic_settings")
IN_TESTS = ("pytest", "moto", "fakeredis")


def _imports(folder: str, package: str) -> bool:
    wanted = re.compile(rf"^\s*(import|from) {package}\b", re.MULTILINE)
    return any(wanted.search(path.read_text(encoding="utf-8")) for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("package", [*IN_USE, *IN_TESTS])
def test_package_is_declared_and_imported(package: str) -> None:
    """What users expect to find underneath is there: declared, and imported by the package or its tests."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = re.findall(r"[A-Za-z0-9_.-]+", str([declared["dependencies"], declared["optional-dependencies"]]))
    assert package.replace("_", "-") in {name.lower().replace("_", "-") for name in names}
    assert _imports("sagaz_tiering", package) or (package in IN_TESTS and _imports("tests", package))
