"""Snapshots and replay records <-> rows: columns for SQL, JSONB to be queried, and `body`, which is exact.

The columns are the truth, so that `UPDATE saga_snapshots SET retention_until = …` counts; `body` gives what JSONB
cannot: a snapshot's is the value of `codec.value.to_value`, a replay record's is the typed JSON of `context_override`
behind a byte for its encoding. Where there is none, JSONB is read: `body` is NULL in rows that sagaz wrote (their
names are as they are) and empty in rows that were edited by SQL (their names are escaped, as all of ours). What is not
JSON becomes, in JSONB, the text that people look for.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from operator import methodcaller
from typing import Any, Final
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec import typed_json
from sagaz_tiering.codec.threaded import LARGE_BYTES, is_large
from sagaz_tiering.codec.typed_json import Encoding, dumps, loads, stored_object
from sagaz_tiering.codec.unsupported import Texts
from sagaz_tiering.codec.value import MAX_SNAPSHOT_BYTES, decode, encode, from_value, to_value
from sagaz_tiering.drivers.postgresql.queries import from_column, replay_of_row, replay_row, to_column
from sagaz_tiering.errors import CorruptRecord, InvalidSnapshot, NotSerializable
from sagaz_tiering.snapshot import SagaSnapshot, as_utc
from sagaz_tiering.storage.answers import check_answer

Row = Any
"""A row by column names (`asyncpg.Record`, whose package need not be there to import this module)."""

_LEVEL: Final = 3
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_LARGEST_DECIMAL: Final = 2**4096
"""Integers from here on are written in hexadecimal, which takes no time that grows with their square."""
_CONTEXT: Final = b'{"context":'
_STEPS: Final = b',"completed_steps":'
_REFS: Final = b',"external_refs":'


async def row_of(snapshot: SagaSnapshot, saved_us: int, texts: Texts | None = None) -> tuple[Any, ...]:
    """The arguments of the query `save_snapshot`. `texts` as `encode_value`; raises what it raises."""
    try:
        return await _row_of(snapshot, saved_us)
    except NotSerializable:
        if texts is None:
            raise
        return await _row_of(await texts.instead(snapshot, MAX_SNAPSHOT_BYTES), saved_us)


async def _row_of(snapshot: SagaSnapshot, saved_us: int) -> tuple[Any, ...]:
    return await asyncio.to_thread(_row, snapshot, saved_us) if is_large(snapshot) else _row(snapshot, saved_us)


def _row(snapshot: SagaSnapshot, saved_us: int) -> tuple[Any, ...]:
    record = encode(snapshot, saved_us=saved_us)
    return (
        snapshot.snapshot_id,
        snapshot.saga_id,
        to_column(snapshot.saga_name),
        to_column(snapshot.step_name),
        snapshot.step_index,
        to_column(snapshot.status),
        snapshot.created_at,
        snapshot.retention_until,
        *queryable(record.encoding, record.body),
        to_value(record, level=_LEVEL),
    )


async def snapshot_of(row: Row) -> SagaSnapshot:
    """The snapshot in a row. Raises CorruptRecord."""
    is_short = len(row["body"] or row["context"] or "") < LARGE_BYTES // 8
    return _snapshot(row) if is_short else await asyncio.to_thread(_snapshot, row)


def step_as_stored(step_name: str) -> tuple[str, str | None]:
    """A step name as our rows have it, and as sagaz's may have it."""
    escaped = to_column(step_name)
    return escaped, None if escaped != step_name.replace("\\", "\\\\") else step_name


def _snapshot(row: Row) -> SagaSnapshot:
    body, text = row["body"], _texts(row)
    try:
        columns: dict[str, Any] = {
            "snapshot_id": UUID(bytes=row["snapshot_id"].bytes),
            "saga_id": UUID(bytes=row["saga_id"].bytes),
            "saga_name": text(row["saga_name"]),
            "step_name": text(row["step_name"]),
            "step_index": row["step_index"],
            "status": text(row["status"]),
        }
        created, until = as_utc(row["created_at"], "created_at"), row["retention_until"]
        if until is not None:
            until = as_utc(until, "retention_until")
        if not body:
            return SagaSnapshot(**columns, created_at=created, retention_until=until, **_jsonb_of(row))
        columns["created_us"] = to_micros(created)
        columns["retention_us"] = None if until is None else to_micros(until)
        record = from_value(body)
        check_answer(record.meta, snapshot_id=columns["snapshot_id"], saga_id=columns["saga_id"])
        return decode(record._replace(meta=record.meta._replace(**columns)))
    except (InvalidSnapshot, ValueError, RecursionError) as exc:
        raise CorruptRecord(f"snapshot {row['snapshot_id']}: {exc}") from exc


def _jsonb_of(row: Row) -> dict[str, Any]:
    """What the JSONB columns say; raises ValueError unless it is what a snapshot has."""
    context, steps, refs = (json.loads(row[name]) for name in ("context", "completed_steps", "external_refs"))
    if type(context) is not dict:
        raise ValueError("context is not an object")
    if type(steps) is not list or not all(type(step) is str for step in steps):
        raise ValueError("completed_steps is not a list of names")
    if type(refs) is not dict or not all(type(ref) is str for ref in refs.values()):
        raise ValueError("external_refs is not an object of texts")
    return {"context": context, "completed_steps": steps, "external_refs": refs}


def replay_row_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of the query `save_replay` (of `replay_record`). Raises InvalidSnapshot, NotSerializable."""
    override = record["context_override"]
    encoding, exact = typed_json.dumps(override, path="context_override")
    return (*replay_row(record, None if override is None else queryable_value(override)), bytes([encoding]) + exact)


def replay_of(row: Row) -> dict[str, Any]:
    """The record in a row, in the shape of `ReplayResult.to_dict`. Raises CorruptRecord."""
    try:
        return replay_of_row(row, _override(row), _texts(row))
    except (InvalidSnapshot, ValueError, RecursionError, CorruptRecord) as exc:
        raise CorruptRecord(f"replay {row['replay_id']}: {exc}") from exc


def _override(row: Row) -> Any:
    body, override = row["body"], row["context_override"]
    if body:
        return typed_json.loads(Encoding(body[0]), body[1:])
    return None if override is None else json.loads(override)


def _texts(row: Row) -> Any:
    """How names in this row are read."""
    return str if row["body"] is None else from_column


def queryable(encoding: Encoding, body: bytes) -> tuple[bytes, bytes, bytes]:
    """JSON of context, completed steps and external references of a snapshot, from its body as the codec wrote it.

    Exact up to what JSONB loses (the order of keys, 1.0 and 1.00 being one number) for JSON values, except: NUL and
    lone surrogates are written as `\\u0000`, NaN, infinities and integers over 64 bits as text. Times are ISO 8601,
    durations seconds, decimals and UUIDs text, bytes base64; sets and tuples are arrays, enum members their values,
    registered objects those of their fields, keys texts.
    """
    body = _as_jsonb_holds(encoding, body)
    # No text in JSON holds a bare quote, and what follows the context are texts only: the last ones are the keys.
    steps = body.rindex(_STEPS + b"[")
    refs = body.rindex(_REFS + b"{")
    return body[len(_CONTEXT) : steps], body[steps + len(_STEPS) : refs], body[refs + len(_REFS) : -1]


def queryable_value(value: Any) -> bytes:
    """JSON of any value that can be stored, in the same way."""
    return _as_jsonb_holds(*dumps(value, path=""))


def _as_jsonb_holds(encoding: Encoding, text: bytes) -> bytes:
    if encoding is Encoding.PLAIN and b"\\u0000" not in text:
        return text
    return dumps(_plain(loads(encoding, text)), path="")[1]


def _plain(value: Any) -> Any:
    """`value`, which nobody else has, as JSON has it; dicts and lists are changed in place.

    A copy of a large one would be so many new objects that the garbage collector stops all threads to look at them.
    """
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool:
        return value
    if kind is dict:
        return _dict(value)
    if kind is list:
        for index, item in enumerate(value):
            value[index] = _plain(item)
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    fields = stored_object(value)
    return _OTHERS[kind](value) if fields is None else _dict(dict(fields))


def _dict(value: dict[Any, Any]) -> dict[str, Any]:
    if not all(type(key) is str and _text(key) == key for key in value):
        value = {_key(key): item for key, item in value.items()}
    for key, item in value.items():
        value[key] = _plain(item)  # the key is there, so the loop goes on undisturbed
    return value


def _key(key: Any) -> str:
    plain = _plain(key)
    return plain if type(plain) is str else json.dumps(plain)


def _text(text: str) -> str:
    return _UNSTORABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _int(value: int) -> int | str:
    if -(2**63) <= value < 2**63:
        return value
    return str(value) if -_LARGEST_DECIMAL < value < _LARGEST_DECIMAL else hex(value)


def _float(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _array(items: Any) -> list[Any]:
    return [_plain(item) for item in items]


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


_OTHERS: Final[dict[type, Callable[[Any], Any]]] = {
    int: _int,
    float: _float,
    **dict.fromkeys((tuple, set, frozenset), _array),
    **dict.fromkeys((datetime, date, time), methodcaller("isoformat")),
    timedelta: timedelta.total_seconds,
    **dict.fromkeys((Decimal, UUID), str),
    **dict.fromkeys((bytes, bytearray), _base64),
}
