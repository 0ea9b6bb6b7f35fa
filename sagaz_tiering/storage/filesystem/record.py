"""Snapshots and replay records as JSON documents for people, and back. Pure: bytes in, values out.

A snapshot is the object of `SagaSnapshot.to_dict`, a replay record that of `ReplayResult.to_dict`, with two more keys
at its end:

    "encoding": "plain"                the values are what they look like
                "typed"                some are not JSON's (a datetime, NaN, bytes, ..): tagged as in `typed_json`
    "checksum": "sha256:<64 digits>"   of the whole text without these 64 digits (before gzip, if any)

A document without a checksum is taken as it is: this is how `sagaz` writes them, and how a person edits one on
purpose. A lone surrogate is written as its escape, so that the text is valid UTF-8; only where two of them would
read as one character, the second is written as the three bytes that UTF-8 forbids.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import orjson

from sagaz_tiering.clock import from_micros
from sagaz_tiering.codec import typed_json
from sagaz_tiering.codec.typed_json import LARGE, Encoding, too_deep
from sagaz_tiering.codec.value import Record
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot
from sagaz_tiering.snapshot import ReplayStatus, SagaSnapshot, as_utc
from sagaz_tiering.storage.filesystem.files import MAX_FILE_BYTES

_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_LEVEL: Final = 6
_NO_DIGEST: Final = b"0" * 64
_UNSEALED: Final = {"checksum": f"sha256:{_NO_DIGEST.decode()}"}
_SEAL: Final = re.compile(
    rb'(?:"encoding": ?"(?P<encoding>plain|typed)",\s*)?"checksum": ?"sha256:(?P<digest>[0-9a-f]{64})"\s*\}\s*$'
)
_SEAL_BYTES: Final = 200
_SURROGATES: Final = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf](?:\xed[\xa0-\xbf][\x80-\xbf])*")
_LONE: Final = re.compile("(?<![\ud800-\udbff])[\ud800-\udfff]")
_BODY: Final = ("context", "completed_steps", "external_refs")
_INDENTED_LEVELS: Final = 10
"""A large body is indented if it is no deeper: each of its elements may become a line with that many indentations."""
_REPLAY_KEYS: Final = (
    *("replay_id", "original_saga_id", "new_saga_id", "checkpoint_step", "replay_status", "initiated_by"),
    *("context_override", "error_message", "created_at", "completed_at"),
)
_EDITED_HINT: Final = (
    'undo the change; or, if it was meant, remove the "checksum" line (and the comma before it): '
    "the file is then taken as it is"
)


def snapshot_document(record: Record, *, pretty: bool, compress: bool) -> bytes:
    """The file of a snapshot."""
    meta, until = record.meta, record.meta.retention_us
    head = {
        "snapshot_id": str(meta.snapshot_id),
        "saga_id": str(meta.saga_id),
        "saga_name": meta.saga_name,
        "step_name": meta.step_name,
        "step_index": meta.step_index,
        "status": meta.status,
    }
    tail = {
        "created_at": from_micros(meta.created_us).isoformat(),
        "retention_until": None if until is None else from_micros(until).isoformat(),
    }
    data = _document(head, record.encoding, record.body, tail, pretty=pretty)
    return _gzipped(data) if compress else data


def read_snapshot(data: bytes, *, snapshot_id: UUID, saga_id: UUID, where: str) -> SagaSnapshot:
    """The snapshot of `snapshot_document`, or of a file that `sagaz` wrote. Raises CorruptRecord, naming `where`."""
    fields = unsealed(data, where)
    try:
        body = {key: fields[key] for key in _BODY[:2]} | {"external_refs": fields.get("external_refs") or {}}
        if (type(body["context"]), type(body["completed_steps"]), type(body["external_refs"])) != (dict, list, dict):
            raise ValueError("context, completed_steps or external_refs is of another type")
        until = fields.get("retention_until")
        snapshot = SagaSnapshot(
            **{k: fields[k] for k in ("snapshot_id", "saga_id", "saga_name", "step_name", "step_index", "status")},
            **body,
            created_at=moment(fields["created_at"]),
            retention_until=None if until is None else moment(until),
        )
    except (KeyError, TypeError, ValueError, InvalidSnapshot) as exc:
        raise _not_a("snapshot", where, exc) from exc
    if (snapshot.snapshot_id, snapshot.saga_id) != (snapshot_id, saga_id):
        raise CorruptRecord(
            f"{where} holds snapshot {snapshot.snapshot_id} of saga {snapshot.saga_id}, which its name does not say",
            hint="move it to snapshots/<saga_id>/<snapshot_id>.json, or remove it if it is a copy",
        )
    return snapshot


def replay_document(record: Mapping[str, Any], *, pretty: bool) -> bytes:
    """The file of a replay record (of `replay_record`). Raises NotSerializable."""
    encoding, body = typed_json.dumps(dict(record), path="")
    return _document({}, encoding, body, {}, pretty=pretty)


def read_replay(data: bytes, *, replay_id: UUID, where: str) -> dict[str, Any]:
    """The record of `replay_document`, or of a file that `sagaz` wrote. Raises CorruptRecord, naming `where`."""
    fields = unsealed(data, where)
    try:
        record: dict[str, Any] = {key: fields.get(key) for key in _REPLAY_KEYS}
        for key in ("replay_id", "original_saga_id", "new_saga_id"):
            record[key] = str(UUID(record[key]))
        record["replay_status"] = ReplayStatus(record["replay_status"]).value
        record["created_at"] = moment(record["created_at"]).isoformat()
        if record["completed_at"] is not None:
            record["completed_at"] = moment(record["completed_at"]).isoformat()
    except (AttributeError, TypeError, ValueError, InvalidSnapshot) as exc:
        raise _not_a("replay record", where, exc) from exc
    if record["replay_id"] != str(replay_id):
        raise CorruptRecord(f"{where} holds replay {record['replay_id']}, which its name does not say")
    return record


def sealed(fields: Mapping[str, Any], *, pretty: bool) -> bytes:
    """A JSON object with its checksum as the last key."""
    return _with_digest(_to_json({**fields, **_UNSEALED}, pretty=pretty))


def unsealed(data: bytes, where: str) -> dict[str, Any]:
    """The object of `sealed`, or any JSON object without a checksum; values of typed JSON are what they stand for.

    Raises CorruptRecord, naming `where`.
    """
    text = _gunzipped(data, where) if data.startswith(_GZIP_MAGIC) else data
    start = max(0, len(text) - _SEAL_BYTES)
    seal = _SEAL.search(text[start:])
    if seal is None:
        return _foreign(text, where)
    if _digest(text, start + seal.start("digest"), start + seal.end("digest")) != seal["digest"]:
        _parsed(text, where)
        raise _edited(where)
    encoding = Encoding.TYPED if seal["encoding"] == b"typed" else Encoding.PLAIN
    try:
        fields = typed_json.loads(encoding, text)
    except CorruptRecord:
        if encoding is Encoding.TYPED:
            raise
        return _parsed(text, where)  # plain, but for a lone surrogate in a name
    return _object(fields, where)


def moment(text: str) -> datetime:
    """A time in a document. Only `sagaz` writes one without a zone, if its caller gave such a one; its own are UTC."""
    found = datetime.fromisoformat(text)
    return as_utc(found.replace(tzinfo=UTC) if found.utcoffset() is None else found, "a time")


def _document(
    head: Mapping[str, Any], encoding: Encoding, body: bytes, tail: Mapping[str, Any], *, pretty: bool
) -> bytes:
    """One object of `head`, the members of `body` (a JSON object), and `tail`."""
    tail = {**tail, "encoding": encoding.name.lower(), **_UNSEALED}
    objects = (_to_json(head, pretty=False), _escaped(body), _to_json(tail, pretty=False))
    members = (each.rstrip(b"\n")[1:-1] for each in objects)
    text = b"{" + b",".join(each for each in members if each) + b"}\n"
    if pretty:
        # Other tasks may change the values that the body was made from, so it is read for its indentation.
        fields = _loaded(text)
        if len(body) < LARGE or not too_deep(fields, _INDENTED_LEVELS):
            text = _to_json(fields, pretty=True)
    return _with_digest(text)


def _with_digest(text: bytes) -> bytes:
    at = text.rindex(_NO_DIGEST)
    end = at + len(_NO_DIGEST)
    return b"".join((text[:at], _digest(text, at, end), text[end:]))


def _digest(text: bytes, at: int, end: int) -> bytes:
    """Of the text without what is between."""
    view = memoryview(text)
    digest = sha256(view[:at])
    digest.update(view[end:])
    return digest.hexdigest().encode()


def _to_json(fields: Mapping[str, Any], *, pretty: bool) -> bytes:
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if pretty else 0))
    except TypeError:  # a lone surrogate, or nested more deeply than orjson goes
        compact: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
        try:
            text = json.dumps(fields, **({**compact, "indent": 2, "separators": (",", ": ")} if pretty else compact))
        except RecursionError:  # indenting needs more of the stack
            text = json.dumps(fields, **compact)
    return _escaped((text + "\n").encode("utf-8", "surrogatepass"))


def _escaped(text: bytes) -> bytes:
    """Lone surrogates as their escapes, except one behind another."""
    return _SURROGATES.sub(_escapes, text)


def _escapes(found: re.Match[bytes]) -> bytes:
    surrogates = found[0].decode("utf-8", "surrogatepass")
    return _LONE.sub(lambda each: f"\\u{ord(each[0]):04x}", surrogates).encode("utf-8", "surrogatepass")


def _loaded(text: bytes) -> Any:
    """JSON values, exact for what we write."""
    try:
        return typed_json.loads(Encoding.PLAIN, text)
    except CorruptRecord:  # what only the standard library reads: lone surrogates, deep nesting
        return json.loads(text.decode("utf-8", "surrogatepass"))


def _foreign(text: bytes, where: str) -> dict[str, Any]:
    """A document without a checksum at its end."""
    fields = _parsed(text, where)
    if "checksum" in fields:
        raise _edited(where)
    encoding = fields.get("encoding", "plain")
    if encoding == "plain":
        return fields
    if encoding != "typed":
        raise CorruptRecord(
            f"{where} has encoding {encoding!r:.40}, which this version does not know",
            hint="it was written by a newer sagaz-tiering, or edited by hand",
        )
    return _object(typed_json.loads(Encoding.TYPED, text), where)


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """Any JSON object, by the standard library: orjson makes large integers floats, and refuses NaN."""
    try:
        return _object(json.loads(text.decode("utf-8", "surrogatepass")), where)
    except (ValueError, RecursionError) as exc:
        raise CorruptRecord(
            f"{where} is not a JSON document: truncated, or damaged ({exc})",
            hint="restore it from a backup, or delete the snapshot by its id",
        ) from exc


def _object(value: Any, where: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise CorruptRecord(f"{where} is valid JSON, but not an object")
    return value


def _edited(where: str) -> CorruptRecord:
    return CorruptRecord(
        f"{where} is valid JSON, but not as it was written: it was edited by hand, or altered on disk",
        hint=_EDITED_HINT,
    )


def _not_a(kind: str, where: str, exc: Exception) -> CorruptRecord:
    reason = f"{exc} is missing" if isinstance(exc, KeyError) else str(exc)
    return CorruptRecord(
        f"{where} is valid JSON, but not the document of a {kind}: {reason}",
        hint="if it was edited by hand, undo the change; otherwise restore it from a backup",
    )


def _gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, wbits=31)
    return packer.compress(data) + packer.flush()


def _gunzipped(data: bytes, where: str) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, MAX_FILE_BYTES)
    except zlib.error as exc:
        raise CorruptRecord(f"{where} is not a whole gzip file: {exc}") from exc
    if not unpacker.eof or unpacker.unused_data:
        raise CorruptRecord(f"{where} is not a whole gzip file: truncated, or followed by something else")
    return text
