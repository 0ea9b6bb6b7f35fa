"""zstd with declared sizes: one frame in, one frame out, and never more memory than was promised."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, TypeVar

import zstandard


class NotZstd(ValueError):
    """The bytes are not a zstd frame of the declared size."""


_KEPT: Final = 32
"""Compressors and decompressors that a thread keeps: one for each level and dictionary that it works with."""

Made = TypeVar("Made")


class Dictionary:
    """Text that many raw values share, so that small ones need not repeat it. Named by its content.

    `digest` is the sha256 of `data`, `id` its first 8 bytes. Shared by threads.
    """

    __slots__ = ("_prepared", "data", "digest", "id")

    def __init__(self, data: bytes) -> None:
        """`data` as `zstandard.train_dictionary` makes it."""
        self.data = data
        self.digest = sha256(data).digest()
        self.id = self.digest[:DICTIONARY_ID_BYTES]
        self._prepared = zstandard.ZstdCompressionDict(data)

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """A new compressor, for one thread."""
        return zstandard.ZstdCompressor(level=level, dict_data=self._prepared)

    def decompressor(self) -> zstandard.ZstdDecompressor:
        """A new decompressor, for one thread."""
        return zstandard.ZstdDecompressor(dict_data=self._prepared)


DICTIONARY_ID_BYTES: Final = 8
NO_DICTIONARIES: Final[Mapping[bytes, Dictionary]] = MappingProxyType({})


class _PerThread(threading.local):
    """zstd contexts are not thread-safe, and making one costs more than compressing a snapshot."""

    def __init__(self) -> None:
        self.compressors: OrderedDict[tuple[int, bytes], zstandard.ZstdCompressor] = OrderedDict()
        self.decompressors: OrderedDict[bytes, zstandard.ZstdDecompressor] = OrderedDict()


_mine: Final = _PerThread()
_NO_ID: Final = b""


def compressor(level: int, dictionary: Dictionary | None = None) -> zstandard.ZstdCompressor:
    """This thread's compressor."""
    key = (level, _NO_ID if dictionary is None else dictionary.id)
    found = _mine.compressors.get(key)
    if found is None:
        made = zstandard.ZstdCompressor(level=level) if dictionary is None else dictionary.compressor(level)
        found = _keep(_mine.compressors, key, made)
    return found


def _decompressor(dictionary: Dictionary | None) -> zstandard.ZstdDecompressor:
    key = _NO_ID if dictionary is None else dictionary.id
    found = _mine.decompressors.get(key)
    if found is None:
        made = zstandard.ZstdDecompressor() if dictionary is None else dictionary.decompressor()
        found = _keep(_mine.decompressors, key, made)
    return found


def _keep(kept: OrderedDict[Any, Made], key: Any, made: Made) -> Made:
    """In place of the one that was made first, if there are too many."""
    kept[key] = made
    if len(kept) > _KEPT:
        kept.popitem(last=False)
    return made


def compress(raw: bytes, level: int, dictionary: Dictionary | None = None) -> bytes:
    """`raw` as one zstd frame that declares its size."""
    return compressor(level, dictionary).compress(raw)


def compress_many(raws: Sequence[bytes], level: int, dictionary: Dictionary | None = None) -> list[bytes]:
    """`compress` of each, in one call: other threads run meanwhile, and wait once, not for each."""
    if len(raws) < 2:
        return [compress(raw, level, dictionary) for raw in raws]
    found = compressor(level, dictionary).multi_compress_to_buffer(list(raws))
    return [found[at].tobytes() for at in range(len(found))]


def declared_size(data: bytes) -> int:
    """The raw size that a zstd frame declares. Raises NotZstd."""
    try:
        size: int = zstandard.frame_content_size(data)
    except zstandard.ZstdError as exc:
        raise NotZstd("not a zstd frame") from exc
    if size < 0:
        raise NotZstd("a zstd frame that does not declare its size")
    return size


def decompress(data: bytes, raw_length: int, dictionary: Dictionary | None = None) -> bytes:
    """The raw bytes of `compress`, which must be `raw_length` (above 0). Raises NotZstd and allocates no more."""
    size = declared_size(data)
    if size != raw_length or size == 0:
        raise NotZstd(f"a zstd frame of {size} raw bytes, not {raw_length}")
    try:
        # python-zstandard allocates what the frame declares, whatever max_output_size says: hence the check above.
        raw: bytes = _decompressor(dictionary).decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise NotZstd(f"damaged zstd data: {exc}") from exc
    if len(raw) != size:
        raise NotZstd(f"{len(raw)} raw bytes, not {raw_length}")
    return raw


def decompress_head(data: bytes, length: int, dictionary: Dictionary | None = None) -> bytes:
    """The first `length` raw bytes (or fewer), in no more memory than that and a window. Raises NotZstd."""
    try:
        with _decompressor(dictionary).stream_reader(data) as reader:
            raw: bytes = reader.read(length)
    except zstandard.ZstdError as exc:
        raise NotZstd(f"damaged zstd data: {exc}") from exc
    return raw


def decompress_many(items: Sequence[tuple[bytes, int]], dictionary: Dictionary | None = None) -> list[bytes]:
    """`decompress` of each (data, raw length), in one call. Raises NotZstd if it fails for any of them."""
    if len(items) < 2:
        return [decompress(data, raw_length, dictionary) for data, raw_length in items]
    for data, raw_length in items:
        size = declared_size(data)
        if size != raw_length or size == 0:
            raise NotZstd(f"a zstd frame of {size} raw bytes, not {raw_length}")
    try:
        found = _decompressor(dictionary).multi_decompress_to_buffer([data for data, _ in items])
    except (zstandard.ZstdError, ValueError) as exc:
        raise NotZstd(f"damaged zstd data: {exc}") from exc
    return [found[at].tobytes() for at in range(len(found))]
