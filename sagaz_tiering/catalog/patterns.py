"""Shell-style patterns as regular expressions of PostgreSQL, over text as the columns hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sagaz_tiering.attributes import SEPARATOR, escaped
from sagaz_tiering.config.patterns import ANY
from sagaz_tiering.drivers.postgresql.text import to_column


def expression(patterns: Sequence[str]) -> str | None:
    """The patterns as one regular expression of PostgreSQL over escaped text; None matches everything."""
    if tuple(patterns) == ANY:
        return None
    return "^(?:" + "|".join(_translated(to_column(pattern)) for pattern in patterns) + ")$"


def attributes_expression(by_attribute: Mapping[str, Sequence[str]]) -> str | None:
    """The same over a column of attributes, of which each that is named must have a value that matches."""
    if not by_attribute:
        return None
    looks = [
        f"(?=(?:.*{SEPARATOR})?{name}=(?:{'|'.join(map(_of_value, patterns))})(?:{SEPARATOR}|$))"
        for name, patterns in by_attribute.items()
    ]
    return f"^{''.join(looks)}"


def _of_value(pattern: str) -> str:
    """No wildcard goes beyond the value that it is of."""
    return _translated(to_column(escaped(pattern)), but=SEPARATOR)


def _translated(pattern: str, but: str = "") -> str:
    any_one = f"[^{but}]" if but else "."
    found, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        end = pattern.find("]", at + 2) if char == "[" else -1
        if char == "*":
            found.append(f"{any_one}*")
        elif char == "?":
            found.append(any_one)
        elif end > 0:
            inner = pattern[at + 1 : end].replace("\\", "\\\\")
            found.append(f"[^{inner[1:]}{but}]" if inner.startswith("!") else f"[{inner}]")
            at = end
        else:
            found.append(char if char.isalnum() or char == "_" else f"[{char}]" if char not in "\\^" else f"\\{char}")
        at += 1
    return "".join(found)
