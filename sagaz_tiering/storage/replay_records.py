"""Replay records as every storage keeps them: one shape, one encoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from sagaz_tiering.codec import typed_json
from sagaz_tiering.errors import CorruptRecord

P = ParamSpec("P")
T = TypeVar("T")


def attempted(
    replay_id: UUID, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> tuple[UUID, T | CorruptRecord]:
    """What `read` gives, or why it cannot, with whose record it is."""
    try:
        return replay_id, read(*args, **kwargs)
    except CorruptRecord as exc:
        return replay_id, exc


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
