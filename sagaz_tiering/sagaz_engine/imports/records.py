"""What sagaz 1.5.0 writes, as our values: plain JSON, or JSON in a zstd frame (Redis, S3) or in gzip (files).

Which of them is told from the first bytes: sagaz goes by a setting, and cannot read its own data once that changes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sagaz_tiering.codec.zstd import NotZstd, declared_size, decompress
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot
from sagaz_tiering.snapshot import MAX_TIME, ReplayResult, SagaSnapshot, replay_record

MAX_RAW_BYTES: Final = 256 * 1024 * 1024
"""What a compressed record is allowed to become; more is taken for damage."""

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_GZIP: Final = b"\x1f\x8b"
_OURS: Final = {"encoding", "checksum"}
"""What our FilesystemSnapshotStorage adds, whose values may be encoded in a way that sagaz does not have."""


class ReadRecord(NamedTuple):
    """What was read of a record: a snapshot, or a replay record in the shape of `ReplayResult.to_dict`.

    `remarks`: what had to be taken differently from how it is written. `size`: bytes of its JSON, where that is known.
    """

    value: Any
    remarks: tuple[str, ...]
    size: int = 0


def record_of(data: bytes, *, is_replay: bool) -> ReadRecord:
    """What is in a stored record, compressed or not. Raises CorruptRecord."""
    raw = _unpacked(data)
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise CorruptRecord(f"{len(raw)} bytes that are not JSON: {exc}") from exc
    if type(fields) is not dict:
        raise CorruptRecord("not a JSON object")
    if _OURS & fields.keys():
        raise CorruptRecord("written by sagaz-tiering, not by sagaz", hint="read this place without `sagaz+`")
    return (replay_from if is_replay else snapshot_from)(fields)._replace(size=len(raw))


def _unpacked(data: bytes) -> bytes:
    if data.startswith(_ZSTD):
        try:
            size = declared_size(data)
            if size > MAX_RAW_BYTES:
                raise CorruptRecord(f"a zstd frame that declares {size} bytes")
            return decompress(data, size)
        except NotZstd as exc:
            raise CorruptRecord(str(exc)) from exc
    if not data.startswith(_GZIP):
        return data
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        raw = stream.decompress(data, MAX_RAW_BYTES)
    except zlib.error as exc:
        raise CorruptRecord(f"damaged gzip data: {exc}") from exc
    if not stream.eof:
        raise CorruptRecord(f"gzip data that breaks off, or is more than {MAX_RAW_BYTES} bytes")
    return raw


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except KeyError as exc:
        raise CorruptRecord(f"not {what}: {exc.args[0]!r} is missing") from exc
    except (InvalidSnapshot, OverflowError) as exc:
        raise CorruptRecord(f"not {what}: {exc}") from exc


def snapshot_from(fields: Mapping[str, Any]) -> ReadRecord:
    """The snapshot of the fields that sagaz's `SagaSnapshot.to_dict` has. Raises CorruptRecord.

    A time without a zone is taken as UTC. A retention beyond what we can express is taken as none: it is for ever.
    """
    remarks: list[str] = []
    with _refusing("a snapshot"):
        created = _time(fields["created_at"], "created_at", remarks)
        until = fields.get("retention_until")
        snapshot = SagaSnapshot(
            snapshot_id=fields["snapshot_id"],
            saga_id=fields["saga_id"],
            saga_name=fields["saga_name"],
            step_name=fields["step_name"],
            step_index=fields["step_index"],
            status=fields["status"],
            context=fields["context"],
            completed_steps=fields["completed_steps"],
            external_refs=fields.get("external_refs") or {},
            created_at=created,
            retention_until=_retention(_time(until, "retention_until", remarks), remarks) if until else None,
        )
    _check_shapes(snapshot)
    return ReadRecord(snapshot, tuple(remarks))


def replay_from(fields: Mapping[str, Any]) -> ReadRecord:
    """The replay record of the fields that sagaz's `ReplayResult.to_dict` has. Raises CorruptRecord."""
    remarks: list[str] = []
    with _refusing("a replay record"):
        completed = fields.get("completed_at")
        result = ReplayResult(
            replay_id=fields["replay_id"],
            original_saga_id=fields["original_saga_id"],
            new_saga_id=fields["new_saga_id"],
            checkpoint_step=fields["checkpoint_step"],
            replay_status=fields["replay_status"],
            initiated_by=fields.get("initiated_by") or "system",
            context_override=fields.get("context_override"),
            error_message=fields.get("error_message"),
            created_at=_time(fields["created_at"], "created_at", remarks),
            completed_at=_time(completed, "completed_at", remarks) if completed else None,
        )
        return ReadRecord(replay_record(result), tuple(remarks))


def _time(value: object, name: str, remarks: list[str]) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as exc:
            raise CorruptRecord(f"{name} is not a time: {value!r:.100}") from exc
    if not isinstance(value, datetime):
        raise CorruptRecord(f"{name} is not a time: {value!r:.100}")
    if value.utcoffset() is None:
        remarks.append(f"{name} has no time zone; taken as UTC: {value.isoformat()}")
        return value.replace(tzinfo=UTC)
    return value


def _retention(until: datetime, remarks: list[str]) -> datetime | None:
    if until < MAX_TIME:
        return until
    remarks.append(f"retention_until is taken as never: {until.isoformat()}")
    return None


def _check_shapes(snapshot: SagaSnapshot) -> None:
    """Raise CorruptRecord for what no storage of ours would take."""
    context: Any = snapshot.context
    if type(context) is not dict:
        raise CorruptRecord(f"not a snapshot: context is a {type(context).__name__}")
    steps: Any = snapshot.completed_steps
    if type(steps) is not list or any(type(step) is not str for step in steps):
        raise CorruptRecord("not a snapshot: completed_steps is not a list of names")
    refs: Any = snapshot.external_refs
    if type(refs) is not dict or any(type(ref) is not str for ref in refs.values()):
        raise CorruptRecord("not a snapshot: external_refs does not map names to texts")
