"""The rows of an export as Parquet, by pyarrow. Names and contexts are text: a lone surrogate is its escape there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any, BinaryIO, Final

import orjson

from sagaz_tiering.clock import from_micros
from sagaz_tiering.errors import MissingDependencyError
from sagaz_tiering.exports.manifest import RowKind
from sagaz_tiering.exports.rows import SnapshotRow
from sagaz_tiering.terminal import plain

_GROUP_BYTES: Final = 4 * 1024 * 1024
"""Of text in a row group: what is in memory while a part is written."""
_ROW_BYTES: Final = 500
"""What a row has beside its text, roughly."""

_ORIGIN: Final = "tier storage_class saved_at:time body_crc32 pack frame_offset:int64 frame_length:int64 frame_digest"
_NAMING: Final = "saga_id saga_name snapshot_id step_index:int32 step_name status created_at:time"
_COLUMNS: Final = {
    RowKind.SNAPSHOTS: f"{_NAMING} retention_until:time context completed_steps:list external_refs encoding {_ORIGIN}",
    RowKind.TIMELINE: f"{_NAMING} expires_at:time held:bool unreadable left_out why {_ORIGIN}",
    RowKind.REPLAYS: "replay_id original_saga_id new_saga_id checkpoint_step replay_status initiated_by "
    "context_override error_message created_at:time completed_at:time",
    RowKind.HOLDS: "entry_id:int64 hold_id action at:time who reason saga_id match",
}
"""Of each kind of part; a column without a type is text."""
_AS_JSON: Final = ("context", "external_refs")


class ParquetRows:
    """Writes the rows of one part into an open file."""

    def __init__(self, file: BinaryIO, kind: RowKind) -> None:
        """Raises MissingDependencyError."""
        self._types = _types(kind)
        self._row = _ROWS[kind]
        self._schema = _schema(kind)
        self._writer = _pyarrow(".parquet").ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: Any) -> None:
        """Write it, with those that come after it."""
        found = self._row(row)
        cells = {name: _cell(kind, found[name]) for name, kind in self._types.items()}
        self._waiting.append(cells)
        self._bytes += _ROW_BYTES + sum(map(_size, cells.values()))
        if self._bytes >= _GROUP_BYTES:
            self._write()

    def finish(self) -> None:
        """Write what is left, and the end of the file."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(_pyarrow().Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting, self._bytes = [], 0


def check_installed() -> None:
    """Raise MissingDependencyError without pyarrow."""
    _pyarrow(".parquet")


def _pyarrow(module: str = "") -> Any:
    try:
        return import_module(f"pyarrow{module}")
    except ImportError as exc:
        raise MissingDependencyError("sagaz-tiering[parquet]", "an export as Parquet") from exc


@cache
def _schema(kind: RowKind) -> Any:
    pyarrow = _pyarrow()
    types = {"text": pyarrow.string(), "time": pyarrow.timestamp("us", tz="UTC"), "bool": pyarrow.bool_()}
    types |= {"int32": pyarrow.int32(), "int64": pyarrow.int64(), "list": pyarrow.list_(pyarrow.string())}
    return pyarrow.schema([(name, types[type_]) for name, type_ in _types(kind).items()])


def _types(kind: RowKind) -> dict[str, str]:
    columns = (column.partition(":") for column in _COLUMNS[kind].split())
    return {name: type_ or "text" for name, _, type_ in columns}


def _cell(kind: str, value: Any) -> Any:
    if isinstance(value, str):
        return datetime.fromisoformat(value) if kind == "time" else _text(value)
    return [_text(each) for each in value] if kind == "list" else value


def _size(cell: Any) -> int:
    """Of its text, and what each element of a list takes beside it."""
    if isinstance(cell, list):
        return sum(8 + len(each) for each in cell)
    return len(cell) if isinstance(cell, str) else 0


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _snapshot(row: SnapshotRow) -> Mapping[str, Any]:
    meta, entry = row.record.meta, row.entry.to_dict()
    return {
        **entry,
        **{name: getattr(meta, name) for name in ("saga_name", "step_name", "step_index", "status")},
        "created_at": from_micros(meta.created_us),
        "retention_until": None if meta.retention_us is None else from_micros(meta.retention_us),
        **_body(row.record.body),
        "encoding": row.record.encoding.name.lower(),
    }


def _body(body: bytes) -> dict[str, Any]:
    """Context and references as JSON text, and the completed steps."""
    try:
        found = orjson.loads(body)
        return {**found, **{name: orjson.dumps(found[name]).decode() for name in _AS_JSON}}
    except (orjson.JSONDecodeError, TypeError):  # lone surrogates, deep nesting
        found = json.loads(body.decode("utf-8", "surrogatepass"))
        return {
            **found,
            **{name: json.dumps(found[name], ensure_ascii=False, separators=(",", ":")) for name in _AS_JSON},
        }


def _json(value: Any) -> str | None:
    from sagaz_tiering.codec import typed_json

    return None if value is None else typed_json.dumps(value, path="")[1].decode("utf-8", "surrogatepass")


_ROWS: Final[dict[RowKind, Callable[[Any], Mapping[str, Any]]]] = {
    RowKind.SNAPSHOTS: _snapshot,
    RowKind.TIMELINE: lambda entry: entry.to_dict(),
    RowKind.REPLAYS: lambda row: {**row, "context_override": _json(row["context_override"])},
    RowKind.HOLDS: lambda row: {**plain(row), "match": _json(row["match"])},
}
