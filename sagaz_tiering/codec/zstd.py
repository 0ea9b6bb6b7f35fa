"""zstd with declared sizes: one frame in, one frame out, and never more memory than was promised."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Final

import zstandard


class NotZstd(ValueError):
    """The bytes are not a zstd frame of the declared size."""


_KEPT: Final = 32
"""Compressors and decompressors that a thread keeps: one for each level and dictionary that it works with."""


class Dictionary:
    """Text that many raw values share, so that small ones need not repeat it. Named by its content.

    `digest` is the sha256 of `data`, `id` its first 8 bytes; `prepared` is for zstd. Shared by threads.
    """

    __slots__ = ("data", "digest", "id", "prepared")

    def __init__(self, data: bytes) -> None:
        """`data` as `zstandard.train_dictionary` makes it."""
        self.data = data
        self.digest = sha256(data).digest()
        self.id = self.digest[:DICTIONARY_ID_BYTES]
        self.prepared = zstandard.ZstdCompressionDict(data)


DICTIONARY_ID_BYTES: Final = 8
NO_DICTIONARIES: Final[Mapping[bytes, Dictionary]] = MappingProxyType({})


class _PerThread(threading.local):
    """zstd contexts are not thread-safe, and making one costs more than compressing a snapshot."""

    def __init__(self) -> None:
        self.compressor = lru_cache(_KEPT)(_compressor)
        self.decompressor = lru_cache(_KEPT)(_decompressor)


def _compressor(level: int, dictionary: Dictionary | None) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level, dict_data=None if dictionary is None else dictionary.prepared)


def _decompressor(dictionary: Dictionary | None) -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(dict_data=None if dictionary is None else dictionary.prepared)


_mine: Final = _PerThread()


def compress(raw: bytes, level: int, dictionary: Dictionary | None = None) -> bytes:
    """`raw` as one zstd frame that declares its size."""
    return _mine.compressor(level, dictionary).compress(raw)


def compress_many(raws: Sequence[bytes], level: int, dictionary: Dictionary | None = None) -> list[bytes]:
    """`compress` of each, in one call: other threads run meanwhile, and wait once, not for each."""
    if len(raws) < 2:
        return [compress(raw, level, dictionary) for raw in raws]
    found = _mine.compressor(level, dictionary).multi_compress_to_buffer(list(raws))
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


def _check_size(data: bytes, raw_length: int) -> None:
    size = declared_size(data)
    if size != raw_length or size == 0:
        raise NotZstd(f"a zstd frame of {size} raw bytes, not {raw_length}")


def decompress(data: bytes, raw_length: int, dictionary: Dictionary | None = None) -> bytes:
    """The raw bytes of `compress`, which must be `raw_length` (above 0). Raises NotZstd and allocates no more."""
    _check_size(data, raw_length)
    try:
        # python-zstandard allocates what the frame declares, whatever max_output_size says: hence the check above.
        raw: bytes = _mine.decompressor(dictionary).decompress(data, max_output_size=raw_length, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise NotZstd(f"damaged zstd data: {exc}") from exc
    if len(raw) != raw_length:
        raise NotZstd(f"{len(raw)} raw bytes, not {raw_length}")
    return raw


def decompress_head(data: bytes, length: int, dictionary: Dictionary | None = None) -> bytes:
    """The first `length` raw bytes (or fewer), in no more memory than that and a window. Raises NotZstd."""
    try:
        with _mine.decompressor(dictionary).stream_reader(data) as reader:
            raw: bytes = reader.read(length)
    except zstandard.ZstdError as exc:
        raise NotZstd(f"damaged zstd data: {exc}") from exc
    return raw


def decompress_many(items: Sequence[tuple[bytes, int]], dictionary: Dictionary | None = None) -> list[bytes]:
    """`decompress` of each (data, raw length), in one call. Raises NotZstd if it fails for any of them."""
    if len(items) < 2:
        return [decompress(data, raw_length, dictionary) for data, raw_length in items]
    for data, raw_length in items:
        _check_size(data, raw_length)
    try:
        found = _mine.decompressor(dictionary).multi_decompress_to_buffer([data for data, _ in items])
    except (zstandard.ZstdError, ValueError) as exc:
        raise NotZstd(f"damaged zstd data: {exc}") from exc
    return [found[at].tobytes() for at in range(len(found))]
