"""What a value's header ends with: names, and the attributes of what has some.

saga name, step name, status: each u32 length + UTF-8 (surrogatepass), then, if the flag says so, a column of
attributes (see `attributes`) in UTF-8 (surrogatepass) + u16 its length
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SnapshotMeta

_U32: Final = struct.Struct(">I")
_U16: Final = struct.Struct(">H")
_SHORT: Final = 512


def write_names(meta: SnapshotMeta) -> bytes:
    """The bytes; with attributes where the meta has some."""
    texts = meta.saga_name, meta.step_name, meta.status
    names = _known_bytes(*texts) if sum(map(len, texts)) <= _SHORT else _bytes(*texts)
    if not meta.attributes:
        return names
    attributes = meta.attributes.encode("utf-8", "surrogatepass")
    return b"".join((names, attributes, _U16.pack(len(attributes))))


def read_names(raw: bytes, *, with_attributes: bool) -> tuple[str, str, str, str]:
    """Saga name, step name, status and column of attributes. Raises CorruptRecord."""
    attributes = ""
    if with_attributes:
        try:
            size = _U16.unpack_from(raw, len(raw) - _U16.size)[0] + _U16.size
            attributes = raw[-size : -_U16.size].decode("utf-8", "surrogatepass")
        except (struct.error, UnicodeDecodeError) as exc:
            raise CorruptRecord("a stored value's attributes are damaged") from exc
        if not attributes or size > len(raw):
            raise CorruptRecord("a stored value's attributes are damaged")
        raw = raw[:-size]
    saga_name, step_name, status = _known(raw) if len(raw) <= _SHORT else _read(raw)
    return saga_name, step_name, status, attributes


def _bytes(*texts: str) -> bytes:
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join([_U32.pack(len(each)) + each for each in raw])


def _read(raw: bytes) -> tuple[str, str, str]:
    names, at = [], 0
    try:
        for _ in range(3):
            start = at + _U32.size
            at = start + _U32.unpack_from(raw, at)[0]
            names.append(raw[start:at].decode("utf-8", "surrogatepass"))
    except (struct.error, UnicodeDecodeError) as exc:
        raise CorruptRecord("a stored value's names are damaged") from exc
    if at != len(raw):
        raise CorruptRecord("a stored value's names do not end where its header does")
    return names[0], names[1], names[2]


_known: Final = lru_cache(maxsize=4096)(_read)
_known_bytes: Final = lru_cache(maxsize=4096)(_bytes)
"""Few names differ, and many values are written and read: the last ones are remembered, if they are short."""
