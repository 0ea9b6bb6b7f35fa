"""Big-endian pieces of the pack format: bounds-checked reading, columns of integers, string tables.

And the block of snapshot metadata that frames and footers share. Columns, not rows, and times as differences from
`created_us`: on order sagas that takes a footer from 45 to 34 bytes a snapshot once compressed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from operator import add, sub
from struct import Struct, calcsize, unpack_from
from typing import Final
from uuid import UUID

from sagaz_tiering.codec.typed_json import Encoding
from sagaz_tiering.codec.value import MAX_US, MIN_US, NO_EXPIRY_US, text_bytes
from sagaz_tiering.errors import CorruptPack
from sagaz_tiering.snapshot import SnapshotMeta, uuid_of

CODEC_ZSTD: Final = 1
FLAG_DICTIONARY: Final = 1
FLAG_KEY: Final = 2
KEY_ID_BYTES: Final = 16
_U32: Final = struct.Struct(">I")
_WIDTHS: Final = {"H": 2, "i": 4, "I": 4, "q": 8, "Q": 8}
_SHORT_TEXT: Final = 128
MAX_EXPIRY_US: Final = 2**62
"""Effective expiries lie between plus and minus this, so that the difference from any created_us is an i64."""
MIN_META_BYTES: Final = 16 + 3 * 8 + 4 * 4 + 1
"""What one snapshot takes in the block."""
_ENCODINGS: Final = {int(encoding): encoding for encoding in Encoding}
_LAYOUT: Final = (("q", 3), ("i", 1), ("I", 3), ("B", 1))


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


def flags(dictionary_id: bytes | None, key_id: bytes | None) -> int:
    """Which ids follow."""
    return (FLAG_DICTIONARY if dictionary_id is not None else 0) | (FLAG_KEY if key_id is not None else 0)


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


def column(code: str | struct.Struct, values: Sequence[int]) -> bytes:
    """Integers of one struct code, or of a layout of codes. Raises ValueError for one that does not fit."""
    try:
        return struct.pack(f">{len(values)}{code}", *values) if isinstance(code, str) else code.pack(*values)
    except struct.error as exc:
        raise ValueError(f"a number does not fit into the pack format: {exc}") from exc


def digest(data: bytes) -> bytes:
    """16 bytes of blake2b."""
    return blake2b(data, digest_size=16).digest()


@lru_cache(maxsize=256)
def _numbers(count: int) -> Struct:
    """All that is not an id: created, saved, retention, step index, step name, status, crc, encoding; by column."""
    return Struct(">" + "".join(f"{columns * count}{code}" for code, columns in _LAYOUT))


def packed_metas(metas: Sequence[SnapshotMeta], encodings: Iterable[Encoding], strings: StringTable) -> bytes:
    """The block for `metas`, without the sagas that they belong to and without attributes.

    Raises ValueError for what does not fit.
    """
    if not metas:
        return b""
    ids, _, _, step_names, steps, statuses, created, saved, retention, crcs, _ = zip(*metas, strict=True)
    return b"".join([snapshot_id.bytes for snapshot_id in ids]) + column(
        _numbers(len(metas)),
        (
            *created,
            *map(sub, saved, created),
            *[NO_EXPIRY_US if until is None else until - at for until, at in zip(retention, created, strict=True)],
            *steps,
            *map(strings.index, step_names),
            *map(strings.index, statuses),
            *crcs,
            *encodings,
        ),
    )


def packed_times(metas: Sequence[SnapshotMeta], moments: Sequence[int | None]) -> bytes:
    """A column of times, each as its difference from its snapshot's created_us; 2^63-1 for None (never)."""
    pairs = zip(metas, moments, strict=True)
    return column("q", [NO_EXPIRY_US if at is None else at - meta.created_us for meta, at in pairs])


def read_metas(
    cursor: Cursor, sagas: Sequence[tuple[UUID, str]], strings: Sequence[str]
) -> tuple[list[SnapshotMeta], list[Encoding]]:
    """The rows of `packed_metas`; `sagas` is the saga of each row. Raises CorruptPack."""
    return MetaBlock(cursor, len(sagas)).rows(0, sagas, strings)


class MetaBlock:
    """The block of `count` snapshots, read some rows at a time: all at once they take ten times its bytes."""

    def __init__(self, cursor: Cursor, count: int) -> None:
        self.cursor = cursor
        self._count = count
        self._ids = cursor.take(16 * count)
        self._numbers = cursor.take(_numbers(count).size)

    def has_one_twice(self) -> bool:
        """Whether a snapshot is in the block more than once."""
        return len({self._ids[at : at + 16] for at in range(0, len(self._ids), 16)}) != self._count

    def rows(
        self, start: int, sagas: Sequence[tuple[UUID, str]], strings: Sequence[str]
    ) -> tuple[list[SnapshotMeta], list[Encoding]]:
        """As many rows as there are `sagas`, from row `start` on. Raises CorruptPack."""
        n = len(sagas)
        ids = map(uuid_of, blobs(self._ids[16 * start : 16 * (start + n)], 16))
        numbers = self._columns(start, n)
        created, steps = numbers[:n], numbers[3 * n : 4 * n]
        names, crcs = numbers[4 * n : 6 * n], numbers[6 * n : 7 * n]
        _check_range(self.cursor, created, MIN_US, MAX_US)
        saved = tuple(map(add, created, numbers[n : 2 * n]))
        _check_range(self.cursor, saved, MIN_US, MAX_US)
        retention = read_times(self.cursor, created, numbers[2 * n : 3 * n], MIN_US, MAX_US)
        texts = self.cursor.picked(strings, names)
        try:
            encodings = [_ENCODINGS[number] for number in numbers[7 * n :]]
        except KeyError as exc:
            raise self.cursor.corrupt("unknown encoding of a body") from exc
        saga_ids, saga_names = zip(*sagas, strict=True) if n else ((), ())
        columns = (ids, saga_ids, saga_names, texts[:n], steps, texts[n:], created, saved, retention, crcs)
        return list(map(SnapshotMeta, *columns)), encodings

    def _columns(self, start: int, n: int) -> tuple[int, ...]:
        """The numbers of `n` rows by column, as `_numbers(n)` has them."""
        if n == self._count:
            return _numbers(n).unpack(self._numbers)
        found: tuple[int, ...] = ()
        at = 0
        for code, columns in _LAYOUT:
            width = calcsize(code)
            for _ in range(columns):
                found += unpack_from(f">{n}{code}", self._numbers, at + width * start)
                at += width * self._count
        return found


def read_times(cursor: Cursor, created: Sequence[int], deltas: Sequence[int], low: int, high: int) -> list[int | None]:
    """Times of the column of `packed_times`, for snapshots created at `created`; they must be in [low, high)."""
    if deltas.count(NO_EXPIRY_US) == len(deltas):
        return list(repeat(None, len(deltas)))
    times = [None if d == NO_EXPIRY_US else at + d for at, d in zip(created, deltas, strict=True)]
    _check_range(cursor, [at for at in times if at is not None], low, high)
    return times


def _check_range(cursor: Cursor, times: Sequence[int], low: int, high: int) -> None:
    if times and not (low <= min(times) and max(times) < high):
        raise cursor.corrupt("a time is out of range")
