"""Big-endian pieces of the pack format: bounds-checked reading, columns of integers, string tables."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from uuid import UUID

from sagaz_tiering.codec.value import text_bytes
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.snapshot import uuid_of

_U32: Final = struct.Struct(">I")
_WIDTHS: Final = {"H": 2, "i": 4, "I": 4, "q": 8, "Q": 8}


class Cursor:
    """Takes values off the front of `data`; raises CorruptPack when there is less than was promised."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        start = self.skip(length)
        return self._data[start : self._at]

    def skip(self, length: int) -> int:
        """Go past `length` bytes, which must be there; where they begin."""
        if length > len(self._data) - self._at:
            raise self.corrupt(f"truncated at byte {self._at}: {length} bytes promised, {self.remaining} there")
        start, self._at = self._at, self._at + length
        return start

    def numbers(self, code: str, count: int) -> tuple[int, ...]:
        """`count` integers of one struct code."""
        return struct.unpack(f">{count}{code}", self.take(count * _WIDTHS[code]))

    def number(self, code: str) -> int:
        return self.numbers(code, 1)[0]

    def count(self, width: int, what: str) -> int:
        """A u32 count of things that take at least `width` bytes each, checked before anything is allocated."""
        count = self.number("I")
        if count * width > self.remaining:
            raise self.corrupt(f"{count} {what} cannot be in {self.remaining} bytes")
        return count

    def blobs(self, width: int, count: int) -> list[bytes]:
        return blobs(self.take(width * count), width)

    def uuids(self, count: int) -> list[UUID]:
        return list(map(uuid_of, self.blobs(16, count)))

    def text(self) -> str:
        start = self.skip(4)
        data = self.take(_U32.unpack_from(self._data, start)[0])
        try:
            return _known_name(data) if len(data) <= _SHORT_TEXT else _name(data)
        except UnicodeDecodeError as exc:
            raise self.corrupt("a name is not UTF-8") from exc

    def strings(self) -> list[str]:
        return [self.text() for _ in range(self.count(4, "strings"))]

    def picked(self, strings: Sequence[str], indexes: Sequence[int]) -> list[str]:
        """A column of indexes into `strings`, as the strings."""
        if indexes and max(indexes) >= len(strings):
            raise self.corrupt(f"string {max(indexes)} of {len(strings)}")
        return [strings[index] for index in indexes]

    def end(self) -> None:
        if self.remaining:
            raise self.corrupt(f"{self.remaining} bytes too many")

    def corrupt(self, reason: str) -> CorruptPack:
        return CorruptPack(f"{self._what}: {reason}")


def _name(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


_known_name: Final = lru_cache(maxsize=4096)(_name)
"""The same few names are read again and again."""


def blobs(data: bytes, width: int) -> list[bytes]:
    """`data` in pieces of `width` bytes."""
    return [data[at : at + width] for at in range(0, len(data), width)]


class StringTable:
    """Texts by index, in order of first use."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}

    def index(self, text: str) -> int:
        return self._index.setdefault(text, len(self._index))

    def packed(self) -> bytes:
        return _U32.pack(len(self._index)) + b"".join(map(packed_text, self._index))


def packed_text(text: str) -> bytes:
    """u32 length and UTF-8."""
    return _known_text(text) if len(text) <= _SHORT_TEXT else _packed_text(text)


def _packed_text(text: str) -> bytes:
    data = text_bytes(text)
    return column(_U32, (len(data),)) + data


_known_text: Final = lru_cache(maxsize=4096)(_packed_text)
"""The same few names are written again and again."""
_SHORT_TEXT: Final = 128


def column(code: str | struct.Struct, values: Sequence[int]) -> bytes:
    """Integers of one struct code, or of a layout of codes. Raises ValueError for one that does not fit."""
    try:
        return struct.pack(f">{len(values)}{code}", *values) if isinstance(code, str) else code.pack(*values)
    except struct.error as exc:
        raise ValueError(f"a number does not fit into the pack format: {exc}") from exc


def digest(data: bytes) -> bytes:
    """16 bytes of blake2b."""
    return blake2b(data, digest_size=16).digest()
