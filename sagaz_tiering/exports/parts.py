"""The rows of an export (a snapshot, a line of the timeline, a replay record, an entry of the holds log) and its parts:
files of them, written from their beginning to their end with their digest; blocking. Raises OSError.

A JSON line is one document in the form of the filesystem storage's files, with its own digest as the last key. Parquet
is written by pyarrow; names and contexts are text: a lone surrogate is its escape there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import file_digest, sha256
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast
from uuid import UUID

import orjson

from sagaz_tiering.clock import from_micros
from sagaz_tiering.codec.value import Record
from sagaz_tiering.drivers.files import flush_file, new_file
from sagaz_tiering.errors import MissingDependencyError
from sagaz_tiering.exports.manifest import ExportPart, LeftOut, RowKind
from sagaz_tiering.snapshot import SnapshotRef
from sagaz_tiering.storage.filesystem.record import replay_document, sealed, snapshot_document
from sagaz_tiering.terminal import document, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the timeline: where a snapshot was read from (the tier in `ref`), or why it was left out.

    `saved_at`: when the save was made that was read. `body_crc32`: of its JSON, 8 hex digits. One from a pack has the
    object's key there, the frame's bytes in it, and the digest by which the catalog vouches for the frame (32 hex
    digits; None for what was packed before there were any).
    """

    ref: SnapshotRef
    saved_at: datetime | None = None
    body_crc32: str | None = None
    pack: str | None = None
    frame_offset: int | None = None
    frame_length: int | None = None
    frame_digest: str | None = None
    left_out: LeftOut | None = None
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self.ref.to_dict(), **document(self, without=("ref",))}


class SnapshotRow(NamedTuple):
    """A snapshot as it was saved, and its line of the timeline."""

    record: Record
    entry: Entry


class Row(NamedTuple):
    """One row of a part: of the kind its `content` is a SnapshotRow, an Entry, or a mapping.

    That is a replay record in the shape of `ReplayResult.to_dict`, or an entry of the holds log: `entry_id`,
    `hold_id`, `action`, `at`, `who`, `reason`, `saga_id`, `match`, which may be of no one saga (`saga_id` None).
    """

    kind: RowKind
    saga_id: UUID | None
    content: Any


LINES: Final[dict[RowKind, Callable[[Any], bytes]]] = {
    RowKind.SNAPSHOTS: lambda row: snapshot_document(row.record, pretty=False, compress=False),
    RowKind.TIMELINE: lambda row: sealed(row.to_dict(), pretty=False),
    RowKind.REPLAYS: lambda row: replay_document(row, pretty=False),
    RowKind.HOLDS: lambda row: sealed(plain(row), pretty=False),
}
"""How the content of a row of each kind becomes a line, with its end of line."""


class PartFile:
    """A part that is being written: Parquet if its name says so, else JSON lines."""

    def __init__(self, path: Path, kind: RowKind) -> None:
        self._path, self._kind = path, kind
        self._file = _Digesting(new_file(path))
        self._rows = 0
        self._first: UUID | None = None
        self._last: UUID | None = None
        self._line = LINES[kind]
        self._parquet = ParquetRows(cast(BinaryIO, self._file), kind) if path.suffix == ".parquet" else None

    def add(self, row: Row) -> None:
        """One more."""
        if self._parquet is None:
            self._file.write(self._line(row.content))
        else:
            self._parquet.add(row.content)
        self._rows += 1
        self._first, self._last = self._first or row.saga_id, row.saga_id

    def finish(self) -> ExportPart:
        """It is whole, and on the disk."""
        if self._parquet is not None:
            self._parquet.finish()
        self._file.finish()
        return ExportPart(
            name=self._path.name,
            kind=self._kind,
            rows=self._rows,
            bytes=self._file.size,
            sha256=self._file.digest.hexdigest(),
            first_saga=self._first,
            last_saga=self._last,
        )

    def abandon(self) -> None:
        """Close it as it is: nobody will read it."""
        self._file.is_abandoned = True
        if self._parquet is not None:
            self._parquet.finish()
        self._file.close()


class _Digesting(io.RawIOBase):
    """A file that is only added to, and its digest. pyarrow writes to it too."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = sha256()
        self.size = 0
        self.is_abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.is_abandoned:
            self._file.write(data)
        self.digest.update(data)
        size = memoryview(data).nbytes
        self.size += size
        return size

    def flush(self) -> None:
        """By `finish` only: the file has a buffer."""

    def finish(self) -> None:
        flush_file(self._file)
        self.close()

    def close(self) -> None:
        # A full disk refuses what is in the buffer once more.
        with contextlib.suppress(OSError):
            self._file.close()
        super().close()


def digest_of(path: Path) -> tuple[int, str] | None:
    """Size and SHA-256 of a file; None where there is none."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size, file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


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
