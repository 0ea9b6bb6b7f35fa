"""zstd with declared sizes: one frame in, one frame out, and never more memory than was promised."""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sagaz_tiering.errors import MissingDependencyError

if TYPE_CHECKING:
    import zstandard


class NotZstd(ValueError):
    """The bytes are not a zstd frame of the declared size."""


@cache
def _library() -> Any:
    """zstandard, imported when something is first compressed: storages that never do need not have it."""
    try:
        return import_module("zstandard")
    except ImportError as exc:
        raise MissingDependencyError("zstandard", "compression") from exc


class _PerThread(threading.local):
    """zstd contexts are not thread-safe, and making one costs more than compressing a snapshot."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor: zstandard.ZstdDecompressor | None = None


_mine: Final = _PerThread()


def compress(raw: bytes, level: int) -> bytes:
    """`raw` as one zstd frame that declares its size. Raises MissingDependencyError without zstandard."""
    compressor = _mine.compressors.get(level)
    if compressor is None:
        compressor = _mine.compressors[level] = _library().ZstdCompressor(level=level)
    return compressor.compress(raw)


def declared_size(data: bytes) -> int:
    """The raw size that a zstd frame declares. Raises NotZstd; MissingDependencyError without zstandard."""
    library = _library()
    try:
        size: int = library.frame_content_size(data)
    except library.ZstdError as exc:
        raise NotZstd("not a zstd frame") from exc
    if size < 0:
        raise NotZstd("a zstd frame that does not declare its size")
    return size


def decompress(data: bytes, raw_length: int) -> bytes:
    """The raw bytes of `compress`, which must be `raw_length` (above 0). Raises NotZstd and allocates no more."""
    size = declared_size(data)
    if size != raw_length or size == 0:
        raise NotZstd(f"a zstd frame of {size} raw bytes, not {raw_length}")
    library = _library()
    if _mine.decompressor is None:
        _mine.decompressor = library.ZstdDecompressor()
    try:
        # python-zstandard allocates what the frame declares, whatever max_output_size says: hence the check above.
        raw: bytes = _mine.decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except library.ZstdError as exc:
        raise NotZstd(f"damaged zstd data: {exc}") from exc
    if len(raw) != size:
        raise NotZstd(f"{len(raw)} raw bytes, not {raw_length}")
    return raw
