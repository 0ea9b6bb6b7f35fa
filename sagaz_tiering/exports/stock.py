"""What is in an export and where, noted while it is verified: what is read later is what was verified; blocking.

A page is some lines of one saga (or a replay record) that lie beside each other, with the SHA-256 of their bytes:
whoever alters a part between its verification and its reading is seen.
"""

from __future__ import annotations

import io
import re
import shutil
from hashlib import sha256
from pathlib import Path
from sqlite3 import Connection
from typing import BinaryIO, Final
from uuid import UUID

from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.files import UNREADABLE, read_at
from sagaz_tiering.exports.manifest import AlteredExport, ExportPart, Manifest, RowKind
from sagaz_tiering.storage.filesystem.files import MAX_FILE_BYTES

TABLES: Final = """
CREATE TABLE pages (kind TEXT, id BLOB, number INTEGER, part TEXT, place INTEGER, bytes INTEGER, digest BLOB,
                    PRIMARY KEY (kind, id, number)) WITHOUT ROWID;
"""
"""`id`: of a saga if `kind` is snapshots, of a replay record if it is replays."""
_UUID: Final = rb'"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"'
HEADS: Final = {
    RowKind.SNAPSHOTS: re.compile(rb'\{"snapshot_id":' + _UUID + rb',"saga_id":' + _UUID),
    RowKind.REPLAYS: re.compile(rb'\{"replay_id":' + _UUID),
}
"""How lines begin; the last id is that of their page."""
_LINES, _BYTES = 100, 1024 * 1024


class Stock:
    """Is given what is read of an export while it is verified, so that nothing is read a second time.

    Fills `pages`, and unpacks what they are of into `folder` (None: it lies in one already).
    """

    def __init__(self, db: Connection, folder: Path | None) -> None:
        self._db, self._folder = db, folder
        self._part: ExportPart | None = None
        self._copy: BinaryIO | None = None
        self._begun = bytearray()
        self._id, self._page, self._number, self._place = b"", list[bytes](), 0, 0

    def begin(self, manifest: Manifest) -> None:
        """Nothing is wrong with the manifest; its parts follow. Raises ConfigError for Parquet, and where there is no
        room to unpack it."""
        if manifest.form == "parquet":
            raise ConfigError("a Parquet export is not read back", hint="export it as jsonl or zip")
        if self._folder is not None:
            needed, free = sum(part.bytes for part in manifest.parts), shutil.disk_usage(self._folder).free
            if needed > free:
                raise self._no_room(f"it takes {needed:,} bytes, {free:,} are free")

    def take(self, part: ExportPart, data: bytes) -> None:
        """The next bytes of a part. Raises AlteredExport for a line that is none of an export, ConfigError where there
        is no room."""
        if part.kind not in HEADS:
            return
        if part is not self._part:
            self.finish()
            self._part, self._place = part, 0
        try:
            if self._folder is not None:
                self._copy = self._copy or open(self._folder / part.name, "wb")  # noqa: SIM115  # `close` does
                self._copy.write(data)
        except OSError as exc:
            raise self._no_room(exc.strerror or str(exc)) from exc
        end = data.rfind(b"\n") + 1
        if end:
            for line in io.BytesIO(self._begun + data[:end]):
                self._add(part, line)
            self._begun.clear()
        self._begun += data[end:]
        if len(self._begun) > MAX_FILE_BYTES:
            raise AlteredExport("it has a line that is longer than any of an export", part=part.name)

    def finish(self) -> None:
        """The part is whole. Raises AlteredExport if its last line is not."""
        if self._part is not None:
            self._put(self._part)
            if self._begun:
                raise AlteredExport("its last line does not end", part=self._part.name)
        self.close()

    def close(self) -> None:
        """The copy that is being written."""
        if self._copy is not None:
            self._copy.close()
        self._copy = None

    def _add(self, part: ExportPart, line: bytes) -> None:
        head = HEADS[part.kind].match(line)
        if head is None:
            raise AlteredExport("it has a line that is not one of an export", part=part.name)
        found = UUID(head[head.re.groups].decode()).bytes
        if found != self._id or len(self._page) == _LINES or sum(map(len, self._page)) >= _BYTES:
            self._put(part)
        self._id = found
        self._page.append(line)

    def _put(self, part: ExportPart) -> None:
        if self._page:
            data = b"".join(self._page)
            row = (part.kind.value, self._id, self._number, part.name, self._place, len(data), sha256(data).digest())
            self._db.execute("INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._place, self._number, self._page = self._place + len(data), self._number + 1, []

    def _no_room(self, why: str) -> ConfigError:
        hint = "make room, or set TMPDIR to a folder that has some"
        return ConfigError(f"the export cannot be unpacked into {self._folder}: {why}", hint=hint)


def lines_of(folder: Path, part: str, place: int, size: int, digest: bytes) -> list[bytes]:
    """The lines of a page. Raises AlteredExport if they are not those that were verified."""
    try:
        data = read_at(folder / part, place, size)
    except UNREADABLE as exc:
        raise AlteredExport(f"it cannot be read: {exc}", part=part) from exc
    if sha256(data).digest() != digest:
        raise AlteredExport("it was altered after it had been verified", part=part)
    return io.BytesIO(data).readlines()
