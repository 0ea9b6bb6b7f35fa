"""Shell-style patterns as regular expressions of PostgreSQL, over text as the columns hold it."""

from __future__ import annotations

from collections.abc import Sequence

from sagaz_tiering.config.patterns import ANY
from sagaz_tiering.drivers.postgresql.text import to_column


def expression(patterns: Sequence[str]) -> str | None:
    """The patterns as one regular expression of PostgreSQL over escaped text; None matches everything."""
    if tuple(patterns) == ANY:
        return None
    return "^(?:" + "|".join(_translated(to_column(pattern)) for pattern in patterns) + ")$"


def _translated(pattern: str) -> str:
    found, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        end = pattern.find("]", at + 2) if char == "[" else -1
        if char == "*":
            found.append(".*")
        elif char == "?":
            found.append(".")
        elif end > 0:
            inner = pattern[at + 1 : end].replace("\\", "\\\\")
            found.append(f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]")
            at = end
        else:
            found.append(char if char.isalnum() or char == "_" else f"[{char}]" if char not in "\\^" else f"\\{char}")
        at += 1
    return "".join(found)
