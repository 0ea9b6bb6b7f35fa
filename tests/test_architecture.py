"""Layers, module sizes and house rules, checked from the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sagaz_tiering"

# Top down. A module imports only from lines below its own; names on one line never import each other.
LAYERS = (
    ("cli",),
    ("torture",),
    ("demo", "daemon", "replaying", "doctor"),
    ("opener", "worker_process"),
    ("wiring",),
    ("workers",),
    ("engine", "tiered", "transfer", "from_sagaz", "sagaz_engine"),
    ("keyring", "incarnation"),
    ("catalog", "pack", "storage"),
    ("config_file", "settings_reference"),
    ("config_messages", "settings_checks"),
    ("settings",),
    ("settings_sections",),
    ("value_peek",),
    ("embedded", "db", "objects", "codec", "master_keys"),
    ("settings_tiers", "yaml_source"),
    ("planning", "dictionaries"),
    ("policy", "policy_checks", "prices", "typed_json", "zstd", "aead", "aws"),
    ("policy_model",),
    ("patterns", "units", "urls", "environment"),
    ("schema",),
    ("snapshot", "process_loop", "aws_credentials"),
    ("server_clock", "own_process"),
    ("storage_class", "errors", "logs", "metrics", "clock", "terminal", "spool", "lazy", "checksum"),
    ("restore_option",),
)
# Imports inside functions that lead upwards on purpose: a class method that opens the whole product.
EXCEPTIONS = {("tiered", "wiring"), ("tiered", "settings")}
RANK = {name: rank for rank, line in enumerate(LAYERS) for name in line}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module] if node.module != "sagaz_tiering" else [f"sagaz_tiering.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("sagaz_tiering.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_lower_layers(path: Path) -> None:
    """Imports go strictly downward."""
    part = part_of(path)
    if part == "__init__":
        return
    assert part in RANK, f"{part} has no place in LAYERS"
    for other in imported_parts(path) - {part}:
        if (part, other) not in EXCEPTIONS:
            assert RANK[part] < RANK[other], f"{part} may not import {other}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_stays_readable(path: Path) -> None:
    """No module over 400 lines, and every module says what it is for."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)), "no module docstring"


@pytest.mark.parametrize(
    "part",
    [
        "engine",
        "catalog",
        "pack",
        "planning",
        "policy.py",
        "tiered",
        "transfer",
        "from_sagaz",
        "storage",
        "db",
        "objects",
    ],
)
def test_time_is_an_argument_below_the_edge(part: str) -> None:
    """Nothing below the CLI and the daemon asks the wall clock."""
    path = PACKAGE / part
    for source in [path] if path.suffix else path.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        assert "datetime.now(" not in text, source
        assert "time.time(" not in text, source


def test_every_sql_query_is_used() -> None:
    """A named query that no module asks for is dead."""
    sources = "\n".join(p.read_text(encoding="utf-8") for p in modules())
    for sql in (PACKAGE / "db" / "sql").glob("*.sql"):
        for line in sql.read_text(encoding="utf-8").splitlines():
            if line.startswith("-- name: "):
                assert f'"{line.removeprefix("-- name: ").strip()}"' in sources, f"{sql.name}: {line}"


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("get_range(", ("objects/", "doctor/probe.py", "pack/reader.py")),
        ("open_frame(", ("pack/", "engine/compact.py")),
        ("aioboto3.Session", ("aws.py",)),
        ("AioConfig", ("aws.py",)),
    ],
)
def test_what_is_checked_is_not_gone_round(words: str, allowed: tuple[str, ...]) -> None:
    """Frames are read by the reader that compares them with the catalog, the SDK's clients know whom they ask."""
    for path in modules():
        name = str(path.relative_to(PACKAGE))
        if words in path.read_text(encoding="utf-8") and not name.startswith(allowed):
            raise AssertionError(f"{name}: {words}")
