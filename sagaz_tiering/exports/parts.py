"""One file of an export, written from its beginning to its end with its digest; blocking. Raises OSError."""

from __future__ import annotations

import contextlib
import io
import os
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, BinaryIO, cast
from uuid import UUID

from sagaz_tiering.drivers.files import flush_file, new_file
from sagaz_tiering.exports.manifest import ExportPart, RowKind
from sagaz_tiering.exports.parquet import ParquetRows
from sagaz_tiering.exports.rows import LINES, Row


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
