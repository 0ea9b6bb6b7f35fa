"""Lines for people in a large JSON text, and the text without them: both in many short steps, so that other threads
(the event loop's) go on meanwhile.

The JSON modules indent or parse ten megabytes in one call, which stops all threads for a tenth of a second and more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SHORT: Final = rb'[^"{}\[\]]{0,100}+(?:' + _STRING + rb'[^"{}\[\]]{0,100}+){0,16}+'
# What is beside commas and brackets, with a key and a value at most, then one of these. A value may be a short object
# or array without another in it, which stays in its line.
_TOKEN: Final = re.compile(
    rb'[^"{}\[\],]*+(?:(?:' + _STRING + rb"|\{" + _SHORT + rb"\}|\[" + _SHORT + rb"\])"
    rb'[^"{}\[\],]*+){0,2}+([{}\[\],])',
    re.DOTALL,
)
_AT_ONCE: Final = 4096
_WINDOW: Final = 256 * 1024
_INDENT: Final = b"  "


def broken(text: bytes, *, depth: int = 0) -> bytes:
    """Compact JSON with a line for each member that is not short; `text` is `depth` levels deep in a document."""
    return b"".join(_lines(text, depth))


def joined(text: bytes) -> bytes:
    """The compact text of `broken`."""
    return b"".join(_unindented(text))


def _lines(text: bytes, depth: int) -> Iterator[bytes]:
    parts: list[bytes] = []
    at, breaks = 0, {depth: b"\n" + _INDENT * depth}
    for token in _TOKEN.finditer(text):
        if token.start() != at:  # whatever it is, nothing is left out
            parts.append(text[at : token.start()])
        at, kind = token.end(), token[1]
        if kind == b",":
            parts += (token[0], breaks[depth])
        elif kind in b"{[":
            depth += 1
            breaks.setdefault(depth, b"\n" + _INDENT * depth)
            parts += (token[0], breaks[depth])
        else:
            depth -= 1
            parts += (token[0][:-1], breaks.setdefault(depth, b"\n" + _INDENT * depth), kind)
        if len(parts) >= _AT_ONCE:
            yield b"".join(parts)
            parts = []
    yield b"".join(parts)
    yield text[at:]


def _unindented(text: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(text):
        # A line break is never within a string: there it is written as an escape.
        end = text.find(b"\n", at + _WINDOW) + 1 or len(text)
        yield b"".join(map(bytes.strip, text[at:end].split(b"\n")))
        at = end
