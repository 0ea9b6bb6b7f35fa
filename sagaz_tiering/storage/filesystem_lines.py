"""Lines for people in a large JSON text, and the text without them: both in many short steps, so that other threads
(the event loop's) go on meanwhile.

The JSON modules indent or parse ten megabytes in one call, which stops all threads for a tenth of a second and more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# What is beside commas and brackets, with a key and a string at most, then one of these.
_TOKEN: Final = re.compile(rb'[^"{}\[\],]*+(?:' + _STRING + rb'[^"{}\[\],]*+){0,2}+([{}\[\],])', re.DOTALL)
_AT_ONCE: Final = 4096
_WINDOW: Final = 256 * 1024
_INDENT: Final = b"  "


def broken(text: bytes, *, depth: int = 0) -> bytes:
    """Compact JSON with a line for each member; `text` is `depth` levels deep in a document."""
    return b"".join(_lines(text, depth))


def joined(text: bytes) -> bytes:
    """The compact text of `broken`."""
    return b"".join(_unindented(text))


def _lines(text: bytes, depth: int) -> Iterator[bytes]:
    parts: list[bytes] = []
    at, breaks = 0, {depth: b"\n" + _INDENT * depth}
    opened = False
    for token in _TOKEN.finditer(text):
        at, kind = token.end(), token[1]
        if kind == b",":
            parts += (token[0], breaks[depth])
        elif kind in b"{[":
            depth += 1
            breaks.setdefault(depth, b"\n" + _INDENT * depth)
            parts += (token[0], breaks[depth])
        else:
            depth -= 1
            if opened and len(token[0]) == 1:  # nothing in it
                parts[-1] = token[0]
            else:
                parts += (token[0][:-1], breaks.setdefault(depth, b"\n" + _INDENT * depth), kind)
        opened = kind in b"{["
        if len(parts) >= _AT_ONCE and not opened:
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
