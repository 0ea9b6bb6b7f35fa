"""Named SQL from the folder `sql` of the package that asks, and values as its parameters and columns have them.

A file of SQL holds blocks of `-- name: some_name` followed by `-- ` comment lines that describe it and one statement.

Any Python string goes into a text column and back: PostgreSQL text cannot hold NUL, and UTF-8 cannot hold lone
surrogates; both are written as escapes, and so is the backslash that marks them. Strings without any of the three
(nearly all) are stored as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

import orjson

from sagaz_tiering.attributes import escape, unescaped
from sagaz_tiering.config.patterns import UNWRITABLE
from sagaz_tiering.errors import ConfigError, InvalidSnapshot
from sagaz_tiering.snapshot import as_utc

_MARK = "-- name: "
_NAMES: dict[str, str] = {}
_SPECIAL = re.compile("[\\\\\x00\ud800-\udfff]")
_SHORT: Final = 256


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


def to_column(text: str) -> str:
    """`text` as a text column can hold it."""
    return _known_columns(text) if len(text) <= _SHORT else _escaped(text)


def recordset(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """`json_rows` of rows without their names, which are these; values without a name are left out."""
    return json_rows([dict(zip(names, row, strict=False)) for row in rows])


def json_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows for `json_to_recordset`, by column names: the driver takes three times as long for arrays of columns.

    Texts as of `to_column`; UUIDs, aware times, numbers and None as they are; no bytes.
    """
    return orjson.dumps(rows, default=str).decode()


def checked_text(text: str, name: str) -> str:
    """`text` of a legal record, which goes into JSON too. Raises ConfigError for NUL and for what is no Unicode."""
    if UNWRITABLE.search(text):
        raise ConfigError(
            f"{name} has a character that cannot be recorded: {text!r:.200}",
            hint="write it in UTF-8 and without NUL: other bytes of a command line reach a program as lone surrogates",
        )
    return text


def replay_row(record: Mapping[str, Any], override: Any) -> tuple[Any, ...]:
    """The columns of a replay log that everybody has, of `replay_record`, with the context override as it is stored.

    Raises InvalidSnapshot for a text that is none.
    """
    error, completed = record["error_message"], record["completed_at"]
    for name in ("checkpoint_step", "initiated_by", "error_message"):
        if type(record[name]) is not str and not (name == "error_message" and error is None):
            raise InvalidSnapshot(f"{name} must be a str, not {type(record[name]).__name__}")
    return (
        *(UUID(record[name]) for name in ("replay_id", "original_saga_id", "new_saga_id")),
        *(to_column(record["checkpoint_step"]), override, to_column(record["initiated_by"]), record["replay_status"]),
        *(None if error is None else to_column(error), datetime.fromisoformat(record["created_at"])),
        None if completed is None else datetime.fromisoformat(completed),
    )


def replay_of_row(row: Any, override: Any, text: Callable[[str], str] = unescaped) -> dict[str, Any]:
    """The record, in the shape of `ReplayResult.to_dict`; `text` reads its columns. Raises InvalidSnapshot."""
    error, completed = row["error_message"], row["completed_at"]
    return {
        **{name: str(row[name]) for name in ("replay_id", "original_saga_id", "new_saga_id")},
        "checkpoint_step": text(row["checkpoint_step"]),
        "replay_status": row["replay_status"],
        "initiated_by": text(row["initiated_by"]),
        "context_override": override,
        "error_message": None if error is None else text(error),
        "created_at": as_utc(row["created_at"], "created_at").isoformat(),
        "completed_at": None if completed is None else as_utc(completed, "completed_at").isoformat(),
    }


def from_column(text: str) -> str:
    """The string that `to_column` was given."""
    return unescaped(text)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(escape, text)


_known_columns: Final = lru_cache(maxsize=4096)(_escaped)
"""Few names differ and many rows are written."""
