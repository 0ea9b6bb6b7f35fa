"""What sagas can be found and ruled by, beside their names: values at configured paths of their contexts.

A value is compared as its **canonical text**; a **token** is one text of it and its attribute's name; a **column** is
all tokens of a snapshot as one text, the one form that everything keeps: values in Redis, rows, packs. "" is none.

    column  token U+001F token ..., sorted, each once        token  name=value, in the value \\ as \\\\, and what is
                                                                    below U+0020 as \\uXXXX

Pure: no I/O and no clock. A context is walked along the configured paths alone, and no further than the limits below.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timezone
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sagaz_tiering.errors import ConfigError

SEPARATOR: Final = "\x1f"
NAME_PATTERN: Final = r"^[a-z][a-z0-9_]{0,62}$"
MAX_VALUE_BYTES: Final = 256
"""Longest canonical text, in UTF-8."""
MAX_VALUES: Final = 16
"""Of one attribute in one snapshot, and of one saga."""
MAX_COLUMN_BYTES: Final = 65_535
"""Of all attributes of a snapshot together, in UTF-8."""
MAX_ELEMENTS: Final = 10_000
"""So many elements of lists are looked at for one attribute of one snapshot."""
MIN_HASH_KEY_BYTES: Final = 32

TOO_LONG: Final = "too_long"
TOO_MANY: Final = "too_many"

_HASH_BYTES: Final = 16
_MAX_DIGITS: Final = 300
_SPECIAL: Final = re.compile("[\\\\\x00-\x1f]")
_ESCAPE: Final = re.compile(r"\\(\\|u[0-9a-f]{4})")
_ZONES: Final = (type(None), timezone, ZoneInfo)
_LISTS: Final = (list, tuple, set, frozenset)
_NAMES_KNOWN: Final = 4096


class Extracted(NamedTuple):
    """The column of a snapshot, and what was left out of it: (attribute, TOO_LONG or TOO_MANY), each once."""

    column: str
    left_out: Collection[tuple[str, str]] = ()


NOTHING: Final = Extracted("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """An attribute as it is configured. `of_saga`: whether sagas of a name have it. `hash_key`: values are hashed."""

    name: str
    path: tuple[str, ...]
    of_saga: Callable[[str], bool]
    hash_key: bytes | None = field(default=None, repr=False)

    def token(self, text: str) -> str:
        """The token of a canonical text, hashed if the attribute is."""
        if self.hash_key is not None:
            told = f"{self.name}\0{text}".encode("utf-8", "surrogatepass")
            text = hmac.digest(self.hash_key, told, "sha256")[:_HASH_BYTES].hex()
        return token(self.name, text)


class Attributes:
    """The attributes in force. Immutable and safe to share."""

    def __init__(self, attributes: Sequence[Attribute] = ()) -> None:
        self._by_name = {attribute.name: attribute for attribute in attributes}
        # Names of sagas are few, snapshots are many.
        self._of_saga = lru_cache(maxsize=_NAMES_KNOWN)(self._search)

    @property
    def names(self) -> tuple[str, ...]:
        """As configured, in order."""
        return tuple(self._by_name)

    def of(self, saga_name: str, context: dict[str, Any]) -> Extracted:
        """What a snapshot with this context is found by. Never raises for what a context holds."""
        attributes = self._of_saga(saga_name)
        if not attributes:
            return NOTHING
        tokens = list[str]()
        left_out = list[tuple[str, str]]()
        for attribute in attributes:
            found = _at(context, attribute.path)
            if type(found) is str and 0 < len(found) <= MAX_VALUE_BYTES // 4:
                tokens.append(attribute.token(found))
            elif found is not None:
                texts, lost = _texts(found)
                tokens += map(attribute.token, texts)
                left_out += [(attribute.name, why) for why in lost]
        tokens.sort()  # each is there once: names differ, and so do the texts of one
        text = SEPARATOR.join(tokens)
        return Extracted(text, left_out) if len(text) <= MAX_COLUMN_BYTES // 4 else _within(tokens, left_out)

    def are_of(self, saga_name: str) -> bool:
        """Whether sagas of a name may have any."""
        return bool(self._of_saga(saga_name))

    def token(self, name: str, value: object) -> str:
        """What a snapshot with that value of an attribute has in its column.

        Raises ConfigError for a name that is not configured, and for what is no value, or one that is never kept.
        """
        attribute = self._by_name.get(name)
        if attribute is None:
            raise unknown(name, self._by_name)
        text = canonical(value)
        if text is None:
            raise ConfigError(
                f"attribute {name}: {value!r:.80} is no value",
                hint="values are text (not empty), numbers, UUIDs, dates, times and booleans",
            )
        if is_too_long(text):
            raise ConfigError(
                f"attribute {name}: the value is longer than {MAX_VALUE_BYTES} bytes",
                hint="such values are not kept, so no saga can be found by one",
            )
        return attribute.token(text)

    def _search(self, saga_name: str) -> tuple[Attribute, ...]:
        return tuple(attribute for attribute in self._by_name.values() if attribute.of_saga(saga_name))


def unknown(name: str, names: Iterable[str]) -> ConfigError:
    """The error for an attribute that the configuration does not have."""
    known = ", ".join(names) or "none"
    return ConfigError(
        f"no attribute {name!r:.80} is configured",
        hint=f"add it to the section `attributes` of the configuration; those there are: {known}",
    )


def canonical(value: object) -> str | None:
    """The text that a value is compared as; None for what is no value of an attribute (or an empty one)."""
    make = _CANONICAL.get(type(value))
    if make is not None:
        return make(value)
    return canonical(value.value) if isinstance(value, Enum) else None


def is_too_long(text: str) -> bool:
    """Whether a canonical text is longer than what is kept."""
    if len(text) <= MAX_VALUE_BYTES // 4:
        return False
    return len(text) > MAX_VALUE_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_VALUE_BYTES


def escaped(text: str) -> str:
    """A value's text as it is within a token."""
    return _SPECIAL.sub(escape, text)


def escape(match: re.Match[str]) -> str:
    """A character as \\uXXXX, the backslash as two."""
    char = match[0]
    return "\\\\" if char == "\\" else f"\\u{ord(char):04x}"


def unescaped(text: str) -> str:
    """Text in which `escape` was used."""
    return _ESCAPE.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), text) if "\\" in text else text


def token(name: str, text: str) -> str:
    """One text of an attribute's name and a canonical text (or its hash)."""
    return f"{name}={text}" if text.isprintable() and "\\" not in text else f"{name}={escaped(text)}"


def parse(one: str) -> tuple[str, str]:
    """(name, text) of `token`."""
    name, _, text = one.partition("=")
    return name, unescaped(text)


def column(tokens: Iterable[str]) -> str:
    """The column of these tokens."""
    return SEPARATOR.join(sorted(set(tokens)))


def tokens_of(text: str) -> list[str]:
    """The tokens of `column`."""
    return text.split(SEPARATOR) if text else []


def values_of(text: str) -> dict[str, list[str]]:
    """What a column says: for each attribute that it has values of, their texts, sorted as the column is."""
    found: dict[str, list[str]] = {}
    for name, value in map(parse, tokens_of(text)):
        found.setdefault(name, []).append(value)
    return found


def key_of(text: str) -> int:
    """The key of a token in an index: a signed 64-bit number. `text`: the token as a column of PostgreSQL holds it."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _at(context: dict[str, Any], path: tuple[str, ...]) -> Any:
    """What a path leads to, or the list that it leads through; None: nothing."""
    found: Any = context
    for depth, key in enumerate(path):
        if type(found) is dict:
            found = found.get(key)
        elif type(found) in _LISTS:
            return _ListOnTheWay(found, path[depth:])
        else:
            return None
    return found


class _ListOnTheWay(NamedTuple):
    """A list that a path leads through, and the rest of the path."""

    at: Any
    path: tuple[str, ...]


def _texts(found: Any) -> tuple[list[str], set[str]]:
    """The canonical texts of what is at a path, the first ones, each once; and why others were left out."""
    texts, lost = dict[str, None](), set[str]()
    for value in _leaves(found, lost):
        text = canonical(value)
        if text is None or text in texts:
            continue
        if is_too_long(text):
            lost.add(TOO_LONG)
        elif len(texts) == MAX_VALUES:
            lost.add(TOO_MANY)
            break
        else:
            texts[text] = None
    return list(texts), lost


def _leaves(found: Any, lost: set[str]) -> Iterator[Any]:
    """The values in what may be lists of lists, in their order; TOO_MANY is added to `lost` where it is cut short."""
    at, path = (found.at, found.path) if type(found) is _ListOnTheWay else (found, ())
    waiting, seen = [(_elements([at]), path)], 0
    while waiting:
        elements, path = waiting[-1]
        for value in elements:
            seen += 1
            if seen > MAX_ELEMENTS:
                lost.add(TOO_MANY)
                return
            rest = path
            while rest and type(value) is dict:
                value, rest = value.get(rest[0]), rest[1:]
            if type(value) in _LISTS:
                waiting.append((_elements(value), rest))
                break
            if not rest:
                yield value
        else:
            waiting.pop()


def _elements(found: Any) -> Iterator[Any]:
    if type(found) in (set, frozenset) and len(found) <= MAX_ELEMENTS:
        return iter(sorted(found, key=lambda value: canonical(value) or ""))  # the same ones are kept each time
    return iter(found)


def _within(tokens: Iterable[str], left_out: list[tuple[str, str]]) -> Extracted:
    kept, size = list[str](), 0
    for one in tokens:
        size += len(one.encode("utf-8", "surrogatepass")) + 1
        if size > MAX_COLUMN_BYTES:
            left_out.append((parse(one)[0], TOO_MANY))
        else:
            kept.append(one)
    return Extracted(SEPARATOR.join(kept), list(dict.fromkeys(left_out)))


def _text(value: Any) -> str | None:
    return value or None


def _boolean(value: Any) -> str:
    return "true" if value else "false"


def _integer(value: Any) -> str:
    # One with more digits than is kept anyway need not be written out, and Python refuses to.
    return str(value) if value.bit_length() < 4 * _MAX_DIGITS else "0" * (MAX_VALUE_BYTES + 1)


def _float(value: Any) -> str | None:
    return _decimal(Decimal(repr(value)))


def _decimal(value: Any) -> str | None:
    if not value.is_finite():
        return None
    if not value:
        return "0"
    if abs(value.adjusted()) > _MAX_DIGITS or value.as_tuple().exponent < -_MAX_DIGITS:
        return "0" * (MAX_VALUE_BYTES + 1)
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _time(value: Any) -> str | None:
    if type(value.tzinfo) not in _ZONES:  # one of somebody's own may raise anything, and is never stored
        return None
    try:
        return str((value if value.utcoffset() is None else value.astimezone(UTC)).isoformat())
    except OverflowError:  # in UTC it is in no year that there is
        return None


_CANONICAL: Final[dict[type, Callable[[Any], str | None]]] = {
    str: _text,
    bool: _boolean,
    int: _integer,
    float: _float,
    Decimal: _decimal,
    UUID: str,
    date: date.isoformat,
    datetime: _time,
}
