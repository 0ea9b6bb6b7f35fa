"""Reading a large text in slices that each take about a millisecond: see `pieces` for why.

One pass over the brackets outside strings finds where members of objects and arrays end. Some members at a time
are parsed as an object or array of their own. That is sound whatever the pass finds: if "[" + slice + "]" parses,
and the slice started where a member may start, then a member ends where it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from sagaz_tiering.typed_json.freezing import PIECE
from sagaz_tiering.typed_json.revival import revive
from sagaz_tiering.typed_json.tagging import MAX_DEPTH

MAX_BRACKETS: Final = 3 * MAX_DEPTH + 8
"""Levels of brackets that can have been written: the last of three may hold a leaf of three."""

_BESIDE_BRACKETS: Final = rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+'
_BESIDE_COMMAS: Final = _BESIDE_BRACKETS.replace(rb"\[\]]", rb"\[\],]")
# Up to and with the next object or array without another in it, opening bracket, closing bracket, quotation mark of
# a string that ends beyond the window, or end of the window.
_TOKEN: Final = re.compile(
    _BESIDE_BRACKETS + rb"(?:(\{" + _BESIDE_BRACKETS + rb"\}|\[" + _BESIDE_BRACKETS + rb'\])|([{\[])|([}\]])|(")|\Z)',
    re.DOTALL,
)
_FLAT, _OPENS, _CLOSES, _QUOTE = 1, 2, 3, 4
_SCALAR_MEMBERS: Final = re.compile(rb"(?:" + _BESIDE_COMMAS + rb",)*+", re.DOTALL)


class Unexpected(Exception):
    """The text is not as `dumps` writes it; it may be JSON nevertheless."""


def plain_value(data: bytes, piece: int = PIECE) -> tuple[Any, int]:
    """(the value of an object or array of ordinary JSON, levels of brackets in it or one more).

    Raises Unexpected or what orjson raises: then the whole text must be parsed at once to know what it is.
    """
    return _Parser(data, piece, orjson.loads, tagged=False).parse()


def typed_value(data: bytes, piece: int = PIECE) -> tuple[Any, int]:
    """The same of tagged JSON; raises also what `revive` raises."""
    decode = json.JSONDecoder(object_pairs_hook=revive, parse_constant=no_constant).decode
    return _Parser(data, piece, lambda text: decode(text.decode("utf-8", "surrogatepass")), tagged=True).parse()


def no_constant(name: str) -> Any:
    """What the json module is to do with NaN and Infinity."""
    raise ValueError(f"a bare {name}")


class _Frame:
    """An array or object whose beginning has been parsed."""

    __slots__ = ("is_object", "key", "length", "must_follow", "value")

    def __init__(self, *, is_object: bool) -> None:
        self.is_object = is_object
        self.value: Any = {} if is_object else []
        self.length = 0  # members so far, more than in `value` if a key came twice
        self.key: Any = None  # of the member that is the next frame
        self.must_follow = False  # a comma was read, so there is another member


class _Parser:
    def __init__(self, data: bytes, piece: int, loads: Callable[[bytes], Any], *, tagged: bool) -> None:
        self._data = data
        self._piece = piece
        self._loads = loads
        self._tagged = tagged
        self._frames: list[_Frame] = []
        self._inner: list[int] = []  # where brackets opened in the text that is not parsed yet
        self._pending = 0  # start of that text, in the last frame
        self._flat = 0  # from here on it has neither brackets nor a part of a string
        self._result: Any = None
        self._most_inner = 0  # of `_inner`, since the last frame was added
        self._deepest = 0

    def parse(self) -> tuple[Any, int]:
        self._inner.append(0)
        self._split()
        at = 1
        while self._frames:
            at = self._scan(at, min(at + self._piece, len(self._data)))
        if at != len(self._data):
            raise Unexpected
        return self._result, self._deepest

    def _scan(self, at: int, limit: int) -> int:
        """Go on from `at` (not in a string) to `limit` or a little further; where that is."""
        inner, kind = self._inner, None
        for token in _TOKEN.finditer(self._data, at, limit):
            kind, at = token.lastindex, token.end()
            if kind == _OPENS:
                inner.append(at - 1)
                if len(inner) > self._most_inner:
                    self._note_depth()
            elif kind == _CLOSES and not inner:
                if self._finish(at):
                    return at
            elif kind == _QUOTE or kind is None:
                break
            else:
                if kind == _CLOSES:
                    inner.pop()
                if not inner:
                    self._member_ended(at)
        return self._string_crossed(at - 1) if kind == _QUOTE else self._window_ended(at)

    def _string_crossed(self, start: int) -> int:
        """A string that starts at `start` ends beyond the window; where that is."""
        at = self._string_end(start)
        if not self._inner:
            self._flat = at
        return at

    def _note_depth(self) -> None:
        self._most_inner = len(self._inner)
        # One more than is open: an object or array without another in it is not counted when it opens.
        self._deepest = max(self._deepest, len(self._frames) + len(self._inner) + 1)
        if self._deepest > MAX_BRACKETS:
            raise Unexpected

    def _member_ended(self, end: int) -> None:
        """A member of the last frame that is an object or array ends at `end`."""
        self._flat = end
        if end - self._pending >= self._piece and self._data[end : end + 1] == b",":
            self._take(end)
            self._go_on(end)

    def _window_ended(self, limit: int) -> int:
        """The window ended outside strings: if much text is not parsed, parse as much of it as is whole."""
        if limit == len(self._data):
            raise Unexpected
        while self._inner and limit - self._pending >= self._piece:
            self._split()
        if not self._inner and limit - self._pending >= self._piece:
            match = _SCALAR_MEMBERS.match(self._data, self._flat, limit)
            if match is not None and match.end() > self._flat:
                self._take(match.end() - 1)
                self._go_on(match.end() - 1)
            else:
                self._flat = limit
        return limit

    def _split(self) -> None:
        """Make a frame of the outermost bracket in the text, after taking what is before it."""
        start = self._inner.pop(0)
        if self._frames:
            frame, comma = self._frames[-1], start
            if frame.is_object:
                comma = self._key_start(start - 1)
                frame.key = self._loads(b"[" + self._data[comma : start - 1] + b"]")[0]
            if comma > self._pending:
                if self._data[comma - 1 : comma] != b",":
                    raise Unexpected
                self._take(comma - 1)
        self._frames.append(_Frame(is_object=self._data[start : start + 1] == b"{"))
        self._pending = self._flat = start + 1
        self._note_depth()

    def _take(self, end: int) -> None:
        """Parse the text up to `end`, where a member ends."""
        frame, text = self._frames[-1], self._data[self._pending : end]
        if not frame.is_object:
            members = self._loads(b"[" + text + b"]")
            frame.value += members
        else:
            # With a member more, an object that has only one member in this slice is not taken for a tag.
            members = self._loads(b'{"\\u0000":0,' + text + b"}" if self._tagged else b"{" + text + b"}")
            if self._tagged:
                del members["\0"]
            frame.value.update(members)
        if not members:
            raise Unexpected
        frame.length += len(members)

    def _go_on(self, end: int) -> None:
        """A member of the last frame ends at `end`: what follows must be a comma or a closing bracket."""
        follows = self._data[end : end + 1]
        self._frames[-1].must_follow = follows == b","
        if follows not in (b",", b"]", b"}"):
            raise Unexpected
        self._pending = self._flat = end + 1 if follows == b"," else end

    def _finish(self, end: int) -> bool:
        """The last frame closes just before `end`: its value becomes a member of the frame around it, if any."""
        frame = self._frames[-1]
        if self._data[end - 1 : end] != (b"}" if frame.is_object else b"]"):
            raise Unexpected
        value = self._whole(frame, end)
        self._frames.pop()
        if not self._frames:
            self._result = value
            return True
        around = self._frames[-1]
        if around.is_object:
            around.length += 1
            around.value[around.key] = value
        else:
            around.value.append(value)
        self._go_on(end)
        return False

    def _whole(self, frame: _Frame, end: int) -> Any:
        """The value of the last frame, after taking what is left of it up to its bracket."""
        if frame.is_object and not frame.value:
            return self._loads(b"{" + self._data[self._pending : end])  # none of it was parsed; it may be a tag
        if self._pending < end - 1:
            self._take(end - 1)
        elif frame.must_follow:
            raise Unexpected
        if not (frame.is_object and self._tagged):
            return frame.value
        if frame.length == 1:
            return revive(list(frame.value.items()))
        if len(frame.value) != frame.length or any(key.startswith("~") for key in frame.value):
            raise Unexpected
        return frame.value

    def _key_start(self, colon: int) -> int:
        """Where the key that ends at `colon` starts."""
        if self._data[colon - 1 : colon + 1] != b'":':
            raise Unexpected
        at = colon - 1
        while (at := self._data.rfind(b'"', self._pending, at)) >= 0:
            if self._quotes(at, self._pending):
                return at
        raise Unexpected

    def _string_end(self, start: int) -> int:
        """Where the string that starts at `start` has ended."""
        at = start
        while (at := self._data.find(b'"', at + 1)) >= 0:
            if self._quotes(at, start + 1):
                return at + 1
        raise Unexpected

    def _quotes(self, at: int, start: int) -> bool:
        """Whether the quotation mark at `at` is one, not a character: no odd number of backslashes is before it."""
        before = at
        while before > start and self._data[before - 1] == 0x5C:
            before -= 1
        return (at - before) % 2 == 0
