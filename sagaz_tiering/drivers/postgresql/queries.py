"""Loads named SQL from the folder `sql` of the package that asks.

A file holds blocks of `-- name: some_name` followed by `-- ` comment lines that describe it and one statement.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

_MARK = "-- name: "
_NAMES: dict[str, str] = {}


@cache
def load(package: str, file_name: str) -> dict[str, str]:
    """Statements of `sql/<file_name>.sql` in `package` by name; raises ValueError where a name is there twice."""
    text = files(package).joinpath("sql", f"{file_name}.sql").read_text(encoding="utf-8")
    statements: dict[str, str] = {}
    for block in text.split(_MARK)[1:]:
        name, _, body = block.partition("\n")
        if name.strip() in statements:
            raise ValueError(f"{file_name}.sql: query {name.strip()!r} is there twice")
        statements[name.strip()] = body.strip()
        _NAMES[body.strip()] = f"{package.rpartition('.')[2]}.{file_name}.{name.strip()}"
    return statements


def joined(package: str, file_name: str, *names: str) -> str:
    """A statement that the file holds in parts; it is named by the first."""
    parts = load(package, file_name)
    statement = "\n".join(parts[name] for name in names)
    _NAMES[statement] = _NAMES[parts[names[0]]]
    return statement


def name_of(statement: str) -> str:
    """`catalog.packs.activate` of a statement that was loaded; of another its first word."""
    return _NAMES.get(statement) or statement.split(maxsplit=1)[0].rstrip(";")
