"""Replay records as every storage keeps them: one shape, one encoding."""

from __future__ import annotations

from typing import Any

from sagaz_tiering.codec import typed_json
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import replay_record as as_record

__all__ = ["as_record", "from_bytes", "to_bytes"]


def to_bytes(record: dict[str, Any]) -> bytes:
    """A record as bytes: one byte for the encoding, then typed JSON. Raises NotSerializable."""
    encoding, body = typed_json.dumps(record, path="")
    return bytes([encoding]) + body


def from_bytes(data: bytes) -> dict[str, Any]:
    """The record of `to_bytes`. Raises CorruptRecord."""
    try:
        encoding = typed_json.Encoding(data[0])
    except (IndexError, ValueError) as exc:
        raise CorruptRecord("a stored replay record is empty or of an unknown encoding") from exc
    record = typed_json.loads(encoding, data[1:])
    if type(record) is not dict or "replay_id" not in record:
        raise CorruptRecord("a stored replay record is not one")
    return record
