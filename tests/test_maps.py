"""What the documents say of files and functions is there, and each room says what it is for."""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from test_architecture import ROOMS

from sagaz_tiering.cli.app import _COMMANDS, _GROUPS
from sagaz_tiering.jobs import JOBS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sagaz_tiering"
CODE = sorted(path for kind in ("py", "lua", "sql") for path in PACKAGE.rglob(f"*.{kind}"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`([\w/]+\.py): ([\w.]+)`")
PATH = re.compile(r"`(?:\./)?([\w-]+(?:/[\w.-]+)*/?\.?[\w-]*\.(?:py|sql|lua|md|json|toml|txt))(?:: [\w.]+)?`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
ELSEWHERE = re.compile(r"[\w-]+\.json")
"""Files of stores, and results that a command writes."""
MAPS = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
PART = re.compile(r"\n(?=[|#-]|\d\. |\n)")
"""Between rows, points and paragraphs."""
ALONE = re.compile(r"`(_[a-z]\w*|_?[A-Z]\w+(?:\.\w+)?)`")
"""A private name, a class, a method or a constant, said beside the file that it is in."""
ROOM_LINE = re.compile(r"^    (\w+(?: \| \w+)*)", re.MULTILINE)
RAISED = re.compile(r"(?:\b[Rr]aises (?:an? )?|\belse )([A-Z]+[a-z]\w+)")
"""How docstrings begin to say which error there is."""
FILE = re.compile(r"(?<!\w)[a-z\d_/.-]+\.(?:py|sql|lua|md)\b")
COMMENT = re.compile(r"--.*")
"""Of Lua and SQL."""
BEGINS = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
"""Behind these a text is a docstring."""
CODED = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)`")
ABROAD = {
    *("NNNN_name.sql", "OUT.partial", "SAGAZ_TIERING_TIERS__HOT__URL", "attributes.NAME", "sentinel_NAME"),
    *("SagaTimeTravel", "Suspended", "ca_bundle", "depends_on", "otel", "redis.asyncio", "reschedule_job"),
    *("sagaz_tiering_server_up", "test_redis_drivers", "__completed__", "__failed__", "__rolled_back__"),
}
"""What comments name that is no word of the package's code: of others, put together there, or an example."""
FUNCTION = re.compile(r"CREATE (?:OR REPLACE )?FUNCTION sagaz_tiering\.(\w+)")
IN_FORCE = re.compile(r"^\| (\d{4}_\w+) \| (.+) \|$", re.MULTILINE)
VERBS = re.compile(r"^ *(\w+)  +(.+)$", re.MULTILINE)
MADE = {"reference/commands.md", "reference/errors.md", "contributing.md"}
"""Pages that only the site has; its build looks at links to them."""


def named(node: ast.stmt) -> list[str]:
    """What a statement of a module or a class gives a name."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]


@cache
def defined(path: Path) -> frozenset[str]:
    """`name` and `Class.name` of a module."""
    found = set[str]()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found.update(named(node))
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for each in node.body for name in named(each)}
    return frozenset(found)


@cache
def said_and_done(path: Path) -> tuple[str, str]:
    """The comments and docstrings of a file, and the rest of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return "\n".join(COMMENT.findall(text)), COMMENT.sub("", text)
    said, done, before = list[str](), list[str](), tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_said = token.type == tokenize.COMMENT or (token.type == tokenize.STRING and before in BEGINS)
        (said if is_said else done).append(token.string)
        before = before if token.type in (tokenize.COMMENT, tokenize.NL) else token.type
    return "\n".join(said), " ".join(done)


@cache
def words() -> frozenset[str]:
    """Those of the package's code: names, and in texts."""
    return frozenset(word for path in CODE for word in re.findall(r"\w+", said_and_done(path)[1]))


def is_there(name: str, homes: Iterable[Path]) -> bool:
    """Whether `room.module.name` leads to something from one of these folders, if it begins with a module there."""
    parts = name.split(".")
    for home in homes:
        at, left = home, list(parts)
        while left and ((at / left[0]).is_dir() or (at / f"{left[0]}.py").exists()):
            at /= left.pop(0)
        if at == home:
            continue
        module = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
        if not left or left[0] in re.findall(r"\w+", said_and_done(module)[1]):
            return True
    return not any((home / each).exists() for home in homes for each in (parts[0], f"{parts[0]}.py"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_what_is_there(document: Path) -> None:
    """Each path, link and `file: function` of a document exists, from the root, the package or beside the document."""
    text = document.read_text(encoding="utf-8")
    wrong = [f"{path}: {name}" for path, name in NAMED.findall(text) if name not in defined(PACKAGE / path)]
    homes = (ROOT, PACKAGE, document.parent)
    paths = {path for path in (*PATH.findall(text), *LINK.findall(text)) if not ELSEWHERE.fullmatch(path)} - MADE
    wrong += [path for path in sorted(paths) if not any((home / path).exists() for home in homes)]
    assert not wrong, f"{document.name} names what is not there: {wrong}"


@pytest.mark.parametrize("document", MAPS, ids=lambda path: path.name)
def test_maps_name_what_is_in_a_file_beside_it(document: Path) -> None:
    """Each private name, class and constant of a row, point or paragraph is in one of the files that it names."""
    wrong = []
    for part in PART.split(document.read_text(encoding="utf-8")):
        files = [PACKAGE / path for path in PATH.findall(part) if (PACKAGE / path).suffix == ".py"]
        known = {name for path in files if path.exists() for name in defined(path)}
        known |= {name.partition(".")[2] for name in known}
        wrong += [f"{name}: {part[:60]}" for name in ALONE.findall(part) if files and name not in known]
    assert not wrong, "\n".join(wrong)


def test_comments_name_what_is_there() -> None:
    """Each file, module and name that a docstring or a comment of the package names, be it of Python, Lua or SQL."""
    settings = (ROOT / "tests" / "nets" / "settings.md").read_text(encoding="utf-8")
    wrong = []
    for path in CODE:
        said = said_and_done(path)[0]
        homes = [each for each in path.parents if each.is_relative_to(PACKAGE)]
        wrong += [
            f"{path}: {file}" for file in FILE.findall(said) if not any((h / file).exists() for h in (ROOT, *homes))
        ]
        names = {name for name in CODED.findall(said) if f"`{name}`" not in settings and not FILE.fullmatch(name)}
        wrong += [
            f"{path}: {name}"
            for name in sorted(names - ABROAD)
            if not words().issuperset(name.split(".")) or ("." in name and not is_there(name, homes))
        ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", ["architecture.md", "scale.md"])
def test_documents_of_the_code_use_its_words(document: str) -> None:
    """Each name in lower case that they have in backticks is a word of the package's code."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    wrong = [name for name in CODED.findall(text) if name.islower() and "." not in name and name not in words()]
    assert not wrong, wrong


def test_architecture_draws_the_rooms_as_imports_are_kept() -> None:
    """The list of rooms in docs/architecture.md is ROOMS, line by line."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = [tuple(line.split(" | ")) for line in ROOM_LINE.findall(text.partition("\n## ")[0])]
    assert drawn == [line for line in ROOMS if line != ("__main__",)]


def test_architecture_says_where_functions_are_in_force() -> None:
    """Its table has each function of the catalog beside the last migration that creates it."""
    created = {
        name: path.stem
        for path in sorted((PACKAGE / "catalog" / "migrations").glob("*.sql"))
        for name in FUNCTION.findall(path.read_text(encoding="utf-8"))
    }
    rows = IN_FORCE.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert {name: file for file, names in rows for name in CODED.findall(names)} == created


def test_commands_are_where_their_room_says() -> None:
    """The list in `cli/commands/__init__.py` is the registry's."""
    text = ast.get_docstring(ast.parse((PACKAGE / "cli" / "commands" / "__init__.py").read_text())) or ""
    told = {name: module for module, names in VERBS.findall(text) for name in names.split(", ")}
    assert told == _COMMANDS | _GROUPS


def test_jobs_room_tells_what_several_jobs_share() -> None:
    """The second part of its docstring names every module that is no job, and nothing else."""
    room = PACKAGE / "jobs"
    text = (ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or "").split("\n\n")[1]
    modules = {path.stem for path in room.glob("[!_]*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(CODED.findall(text)) == modules - {job.module.partition(".")[0] for job in JOBS.values()}


def test_orders_of_writes_are_where_the_map_says() -> None:
    """Each file that CONTRIBUTING names for the order of writes has it in its docstring, with what a crash leaves."""
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    files = {path for line in lines if "order of writes" in line for path in PATH.findall(line)}
    assert len(files) >= 4
    for path in files:
        text = ast.get_docstring(ast.parse((PACKAGE / path.removeprefix("sagaz_tiering/")).read_text())) or ""
        assert re.search(r"[Ww]rite order|->", text), path
        assert "crash" in text, path


def test_docstrings_name_errors_that_are_there() -> None:
    """What a docstring says is raised is a class of the package or a builtin one."""
    known, said = set(dir(builtins)), list[tuple[str, str]]()
    for path in PACKAGE.rglob("*.py"):
        known |= defined(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                known.update(each.name for each in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said += [(name, f"{path.name}: {name}") for name in RAISED.findall(node.value)]
    wrong = [where for name, where in said if name not in known]
    assert said
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_room_says_what_it_is_for_and_what_it_never_does(room: str) -> None:
    """The docstring of its `__init__`: at least two sentences, one of them with "never"."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(re.findall(r"[.!](?=\s|$)", text)) >= 2, text
    assert "never" in text.lower(), text
