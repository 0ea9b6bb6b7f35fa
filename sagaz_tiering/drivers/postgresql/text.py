"""Any Python string in a PostgreSQL text column, and back; many rows as one parameter.

PostgreSQL text cannot hold NUL, and UTF-8 cannot hold lone surrogates; both are written as escapes, and so is
the backslash that marks them. Strings without any of the three (nearly all) are stored as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

from sagaz_tiering.attributes import escape, unescaped
from sagaz_tiering.config.patterns import UNWRITABLE
from sagaz_tiering.errors import ConfigError

_SPECIAL = re.compile("[\\\\\x00\ud800-\udfff]")


def to_column(text: str) -> str:
    """`text` as a text column can hold it."""
    return _known_columns(text) if len(text) <= _SHORT else _escaped(text)


def recordset(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """`json_rows` of rows without their names, which are these."""
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


def from_column(text: str) -> str:
    """The string that `to_column` was given."""
    return unescaped(text)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(escape, text)


_SHORT: Final = 256
_known_columns: Final = lru_cache(maxsize=4096)(_escaped)
"""Few names differ and many rows are written."""
