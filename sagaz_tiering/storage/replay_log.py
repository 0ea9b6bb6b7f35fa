"""Replay records as every storage keeps them: one shape, one encoding."""

from __future__ import annotations

from typing import Any

from sagaz_tiering import typed_json
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot
from sagaz_tiering.snapshot import ReplayStatus, as_utc, as_uuid


def as_record(result: Any) -> dict[str, Any]:
    """The shape of `ReplayResult.to_dict` of a result (ours or sagaz's), checked; `context_override` is not copied.

    Raises InvalidSnapshot (or NaiveTimestamp) for what is not a replay result.
    """
    try:
        status = ReplayStatus(getattr(result.replay_status, "value", result.replay_status)).value
        completed = result.completed_at
        return {
            "replay_id": str(as_uuid(result.replay_id, "replay_id")),
            "original_saga_id": str(as_uuid(result.original_saga_id, "original_saga_id")),
            "new_saga_id": str(as_uuid(result.new_saga_id, "new_saga_id")),
            "checkpoint_step": result.checkpoint_step,
            "replay_status": status,
            "initiated_by": result.initiated_by,
            "context_override": result.context_override,
            "error_message": result.error_message,
            "created_at": as_utc(result.created_at, "created_at").isoformat(),
            "completed_at": None if completed is None else as_utc(completed, "completed_at").isoformat(),
        }
    except (AttributeError, ValueError) as exc:
        raise InvalidSnapshot(f"not a replay result: {exc}") from exc


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
