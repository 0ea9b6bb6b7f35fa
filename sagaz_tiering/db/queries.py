"""Loads named SQL from `db/sql/*.sql`.

A file holds blocks of `-- name: some_name` followed by `-- ` comment lines that describe it and one statement.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

_MARK = "-- name: "


@cache
def load(file_name: str) -> dict[str, str]:
    """Statements of `db/sql/<file_name>.sql` by name; raises ValueError where a name is there twice."""
    text = files("sagaz_tiering.db").joinpath("sql", f"{file_name}.sql").read_text(encoding="utf-8")
    statements: dict[str, str] = {}
    for block in text.split(_MARK)[1:]:
        name, _, body = block.partition("\n")
        if name.strip() in statements:
            raise ValueError(f"{file_name}.sql: query {name.strip()!r} is there twice")
        statements[name.strip()] = body.strip()
    return statements
