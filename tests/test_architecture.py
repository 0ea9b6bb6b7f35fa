"""Rooms, their faces, module sizes and house rules, checked from the source itself."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from support.faces import FACES

PACKAGE = Path(__file__).parent.parent / "sagaz_tiering"

# Top down. A room imports only from lines below its own; rooms on one line never import each other.
ROOMS = (
    ("__main__",),
    ("cli",),
    ("console",),
    ("torture",),
    ("demo", "doctor", "daemon"),
    ("app",),
    ("operations",),
    ("tiered", "jobs", "transfer", "sagaz_engine"),
    ("tiers",),
    ("hot",),
    ("exports",),
    ("catalog", "storage"),
    ("packs",),
    ("dictionaries",),
    ("keys", "objects", "embedded"),
    ("drivers",),
    ("codec",),
    ("costs",),
    ("policy", "terminal"),
    ("config",),
    ("snapshot", "attributes"),
    ("errors", "clock", "logs", "metrics"),
    ("storage_class",),
)
RANK = {name: rank for rank, line in enumerate(ROOMS) for name in line}
ROOT = {
    "__init__",
    "__main__",
    "attributes",
    "clock",
    "errors",
    "logs",
    "metrics",
    "snapshot",
    "storage_class",
    "terminal",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """What a module says, read once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """`catalog.packs`; of a package its name alone."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@cache
def names() -> frozenset[str]:
    return frozenset(map(name_of, modules()))


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules of ours that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sagaz_tiering":
            home = (node.module or "").removeprefix("sagaz_tiering").removeprefix(".")
            for alias in node.names:
                inner = f"{home}.{alias.name}".removeprefix(".")
                found.add(inner if inner in names() else home)
        elif isinstance(node, ast.Import):
            found |= {each.name.removeprefix("sagaz_tiering.") for each in node.names if "sagaz_tiering" in each.name}
    return frozenset(found - {""})


def test_imports_go_down() -> None:
    """A room imports only rooms below it: a stranger can read the package from the bottom up."""
    wrong = []
    for path in modules():
        room = name_of(path).partition(".")[0]
        if room == "__init__":
            continue
        assert room in RANK, f"{room} has no place in ROOMS"
        wrong += [
            f"{name_of(path)} may not import {other}"
            for other in sorted(imported(path))
            if other.partition(".")[0] != room and RANK[other.partition(".")[0]] <= RANK[room]
        ]
    assert not wrong, "\n".join(wrong)


def test_rooms_are_entered_by_their_faces() -> None:
    """No room imports what another one keeps to itself; what FACES names is used from outside."""
    wrong, used = [], set[str]()
    for path in modules():
        room = name_of(path).partition(".")[0]
        for other in sorted(imported(path)):
            home = other.partition(".")[0]
            if home == room or home in ROOT:
                continue
            used.add(other)
            if other != home and other.removeprefix(f"{home}.") not in FACES.get(home, ()):
                wrong.append(f"{name_of(path)} imports {other}, which is not in the face of {home}")
    assert not wrong, "\n".join(wrong)
    unused = [f"{room}.{name}" for room, face in FACES.items() for name in face if f"{room}.{name}" not in used]
    assert not unused, f"in a face, and nobody comes in by it: {unused}"


def test_no_import_goes_in_a_circle() -> None:
    """Modules can be put in an order in which each imports only earlier ones, imports in functions included."""
    by_name = {name_of(path): path for path in modules()}
    done: set[str] = set()
    # A package's face is what it shows of its modules: who imports a module does not wait for the face.
    waits = {name: {other for other in imported(path) if other in by_name} - {name} for name, path in by_name.items()}
    while ready := {name for name in waits.keys() - done if waits[name] <= done}:
        done |= ready
    assert not waits.keys() - done, sorted(waits.keys() - done)


def test_root_is_small() -> None:
    """At the root are these few modules and the rooms."""
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == RANK.keys() - ROOT


def test_a_class_name_means_one_thing() -> None:
    """No two classes of the package have the same name, private ones included."""
    homes: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name_of(path))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_modules_stay_readable() -> None:
    """No module over 400 lines, and every module says what it is for."""
    assert [name_of(path) for path in modules() if path.read_text(encoding="utf-8").count("\n") > 400] == []
    assert [name_of(path) for path in modules() if not ast.get_docstring(tree(path))] == []


@pytest.mark.parametrize(
    "part",
    [
        *("jobs", "operations", "catalog", "hot", "packs", "costs", "policy", "tiered", "transfer", "exports"),
        *("sagaz_engine/imports", "storage", "drivers/postgresql", "objects"),
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
    """A named query that no module of its room asks for is dead."""
    files = [path for path in PACKAGE.rglob("*.sql") if path.parent.name == "sql"]
    assert files
    for sql in files:
        sources = "\n".join(p.read_text(encoding="utf-8") for p in sql.parent.parent.rglob("*.py"))
        for line in sql.read_text(encoding="utf-8").splitlines():
            if line.startswith("-- name: "):
                name = f"{sql.relative_to(PACKAGE)}: {line}"
                assert f'"{line.removeprefix("-- name: ").strip()}"' in sources, name


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("get_range(", ("objects/", "doctor/probe.py", "packs/reader.py")),
        ("open_frame(", ("packs/", "jobs/compact/job.py", "jobs/reindex.py")),
        ("aioboto3.Session", ("drivers/aws.py",)),
        ("AioConfig", ("drivers/aws.py",)),
        ("_available_connections", ("drivers/redis/internals.py",)),
        ("_writer.transport", ("drivers/redis/internals.py",)),
        ("DefaultParser", ("drivers/redis/internals.py",)),
    ],
)
def test_what_is_checked_is_not_gone_round(words: str, allowed: tuple[str, ...]) -> None:
    """Frames are read by the reader that compares them with the catalog, the SDK's clients know whom they ask.

    The private members of redis-py are touched in one place.
    """
    for path in modules():
        name = str(path.relative_to(PACKAGE))
        if words in path.read_text(encoding="utf-8") and not name.startswith(allowed):
            raise AssertionError(f"{name}: {words}")
