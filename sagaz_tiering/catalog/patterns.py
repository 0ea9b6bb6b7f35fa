"""Shell-style patterns as regular expressions of PostgreSQL, over text as the columns hold it.

A pattern means what Python's `fnmatch` takes it for, in brackets too: a range that is the wrong way round matches
nothing, what no bracket closes is itself. PostgreSQL, which takes more for special, is left nothing of it to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sagaz_tiering.attributes import SEPARATOR, escaped
from sagaz_tiering.config.patterns import ANY, Match
from sagaz_tiering.drivers.postgresql.queries import to_column

_NEVER: Final = "(?!x)x"
_HALVES: Final = 0xD800, 0xDFFF
"""Surrogates, which no pattern has, but a range may have between its ends; each is an escape in every column."""
_A_HALF: Final = r"\\ud[89a-f][0-9a-f]{2}"


@dataclass(frozen=True, slots=True)
class _Text:
    """How a text is in a column: `shown`, of each character; one of them and any number as regular expressions; those
    that are not themselves there.
    """

    shown: Callable[[str], str]
    one: str
    some: str
    special: str


_NAME: Final = _Text(to_column, r"(?:\\(?:\\|u[0-9a-f]{4})|[^\\])", ".*", "\\")
_VALUE: Final = _Text(
    lambda char: to_column(escaped(char)),
    rf"(?:\\\\(?:\\\\|u[0-9a-f]{{4}})|\\u[0-9a-f]{{4}}|[^\\{SEPARATOR}])",
    f"[^{SEPARATOR}]*",
    "".join(map(chr, range(1, 32))) + "\\",
)


def expression(patterns: Sequence[str]) -> str | None:
    """The patterns as one regular expression of PostgreSQL over escaped text; None matches everything."""
    if tuple(patterns) == ANY:
        return None
    return "^(?:" + "|".join(_translated(pattern, _NAME) for pattern in patterns) + ")$"


def attributes_expression(by_attribute: Mapping[str, Sequence[str]]) -> str | None:
    """The same over a column of attributes, of which each that is named must have a value that matches."""
    if not by_attribute:
        return None
    looks = [
        f"(?=(?:.*{SEPARATOR})?{name}=(?:{'|'.join(_translated(each, _VALUE) for each in patterns)})(?:{SEPARATOR}|$))"
        for name, patterns in by_attribute.items()
    ]
    return f"^{''.join(looks)}"


def expressions(match: Match) -> tuple[str | None, ...]:
    """Of saga name, step name, status, and of its saga's end outcome and attributes."""
    names = map(expression, (match.saga_name, match.step_name, match.status, match.outcome))
    return (*names, attributes_expression(match.attributes))


def _translated(pattern: str, text: _Text) -> str:
    found, at = list[str](), 0
    while at < len(pattern):
        char, end = pattern[at], _bracket_end(pattern, at)
        if char == "*":
            found.append(text.some)
        elif char == "?":
            found.append(text.one)
        elif end:
            found.append(_one_of(pattern[at + 1 : end], text))
            at = end
        else:
            found.append(_itself(char, text))
        at += 1
    return "".join(found)


def _bracket_end(pattern: str, at: int) -> int:
    """Where the bracket that begins at `at` is closed; 0 where none is there, or it is not."""
    if pattern[at] != "[":
        return 0
    first = at + 2 if pattern[at + 1 : at + 2] == "!" else at + 1
    return max(0, pattern.find("]", first + 1))


def _one_of(inner: str, text: _Text) -> str:
    """One of the characters between brackets, or with a `!` in front one that is none of them."""
    is_not = inner.startswith("!")
    found = [each for low, high in _ranges(inner[is_not:]) for each in _between(low, high, text)]
    if not found:
        return text.one if is_not else _NEVER
    either = f"(?:{'|'.join(found)})"
    return f"(?!{either}){text.one}" if is_not else either


def _ranges(inner: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(inner):
        is_range = inner[at + 1 : at + 2] == "-" and at + 2 < len(inner)
        yield inner[at], inner[at + 2] if is_range else inner[at]
        at += 3 if is_range else 1


def _between(low: str, high: str, text: _Text) -> Iterator[str]:
    """Expressions of the characters from `low` to `high`."""
    if low == high:
        yield _itself(low, text)
        return
    special = [char for char in text.special if low <= char <= high]
    yield from (_itself(char, text) for char in special)
    if ord(low) < _HALVES[0] and ord(high) > _HALVES[1]:
        yield _A_HALF
    start = ord(low)
    for end in (*map(ord, special), ord(high) + 1):
        if start < end:
            yield rf"[\U{start:08x}-\U{end - 1:08x}]"
        start = end + 1


def _itself(char: str, text: _Text) -> str:
    return "".join(
        each if each.isalnum() or each == "_" else f"\\{each}" if each in "\\^" else f"[{each}]"
        for each in text.shown(char)
    )
