"""An export as something to transfer from: verified first, then read saga by saga."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from sqlite3 import Connection
from typing import Any, BinaryIO, Final, NamedTuple, Self
from uuid import UUID

from sagaz_tiering.drivers.scratch import Scratch
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.files import open_files
from sagaz_tiering.exports.manifest import AlteredExport, Manifest, RowKind
from sagaz_tiering.exports.verify import verify_export
from sagaz_tiering.snapshot import SagaSnapshot, as_uuid
from sagaz_tiering.storage.base import Health
from sagaz_tiering.storage.filesystem.record import read_replay, read_snapshot

_TABLES: Final = """
CREATE TABLE sagas (saga BLOB PRIMARY KEY, part INTEGER, place INTEGER, snapshots INTEGER) WITHOUT ROWID;
CREATE TABLE replays (replay BLOB PRIMARY KEY, part INTEGER, place INTEGER) WITHOUT ROWID;
"""
_COUNT: Final = "INSERT INTO sagas VALUES (?, ?, ?, 1) ON CONFLICT (saga) DO UPDATE SET snapshots = snapshots + 1"
_UUID: Final = rb'"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"'
_SNAPSHOT: Final = re.compile(rb'\{"snapshot_id":' + _UUID + rb',"saga_id":' + _UUID)
_REPLAY: Final = re.compile(rb'\{"replay_id":' + _UUID)
_PAGE: Final = 100


class _OpenedExport(NamedTuple):
    manifest: Manifest
    folder: Path
    parts: dict[int, Path]


class ExportSource(Scratch):
    """The snapshots and replays of an export of JSON lines, in a folder or a ZIP file. `async with`, or `close()`.

    The first use verifies all of it and takes as long (a ZIP file is unpacked beside TMPDIR). Raises AlteredExport for
    one that is not as it was made, ConfigError for none, for Parquet, or for one that is not signed with `key`.
    """

    def __init__(self, path: str | Path, *, key: str | Path | None = None) -> None:
        """`key`: the PEM file of the public key that it must be signed with."""
        super().__init__(_TABLES)
        self._path, self._key = Path(path), None if key is None else Path(key)
        self._opening = asyncio.Lock()
        self._opened: _OpenedExport | None = None
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop what was made of it; the next call makes it again."""
        self._opened = None
        await super().close()
        if self._unpacked is not None:
            await asyncio.to_thread(self._unpacked.cleanup)
            self._unpacked = None

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that a snapshot was exported of, ascending by id, from behind `after` on."""
        await self._ready()
        last = b"" if after is None else as_uuid(after, "after").bytes
        query = "SELECT saga FROM sagas WHERE saga > ? ORDER BY saga LIMIT 1000"
        while page := await self._rows(query, last):
            for (saga,) in page:
                yield UUID(bytes=saga)
            last = page[-1][0]

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every snapshot of one saga, oldest first; without `saga_id` of every saga in the order of `saga_ids`."""
        opened = await self._ready()
        if saga_id is None:
            async for each in self.saga_ids(after=after):
                async for snapshot in self.iter_snapshots(each):
                    yield snapshot
            return
        saga = as_uuid(saga_id, "saga_id")
        for part, place, left in await self._rows(
            "SELECT part, place, snapshots FROM sagas WHERE saga = ?", saga.bytes
        ):
            path = opened.parts[part]
            while left > 0:
                lines, place = await asyncio.to_thread(_lines, path, place, min(left, _PAGE))
                left -= len(lines)
                for line in lines:
                    yield _snapshot(line, path.name)

    async def get_latest_snapshot(self, saga_id: UUID | str) -> SagaSnapshot | None:
        """The newest of a saga."""
        newest = None
        async for snapshot in self.iter_snapshots(saga_id):
            newest = snapshot
        return newest

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record in the shape of `ReplayResult.to_dict`, ascending by replay id, from behind `after`."""
        opened = await self._ready()
        last = b"" if after is None else as_uuid(after, "after").bytes
        query = f"SELECT replay, part, place FROM replays WHERE replay > ? ORDER BY replay LIMIT {_PAGE}"
        while page := await self._rows(query, last):
            for replay, part, place in page:
                [line], _ = await asyncio.to_thread(_lines, opened.parts[part], place, 1)
                yield read_replay(line, replay_id=UUID(bytes=replay), where=opened.parts[part].name)
            last = page[-1][0]

    async def health_check(self) -> Health:
        """How much is in it, once it is verified."""
        counts = (await self._ready()).manifest.counts
        return Health(status="healthy", latency_ms=0.0, snapshot_count=counts.exported, total_size_bytes=counts.bytes)

    async def _rows(self, query: str, *values: Any) -> list[Any]:
        return await self.run(lambda db: db.execute(query, values).fetchall())

    async def _ready(self) -> _OpenedExport:
        async with self._opening:
            if self._opened is None:
                opened = await asyncio.to_thread(self._verified)
                await self.open()
                await self.run(lambda db: _take_stock(db, opened))
                self._opened = opened
            return self._opened

    def _verified(self) -> _OpenedExport:
        found = verify_export(self._path, key=self._key)
        if not found.is_intact or found.manifest is None:
            first = found.problems[0]
            raise AlteredExport(
                f"{self._path} is not as it was made: {first.part}: {first.problem}; nothing is read from it",
                hint="all that is wrong with it says: sagaz-tiering export verify",
                part=first.part,
            )
        if found.manifest.form == "parquet":
            raise ConfigError(f"{self._path} is Parquet, which is not read back", hint="export it as jsonl or zip")
        folder = self._path
        if not folder.is_dir():
            self._unpacked = tempfile.TemporaryDirectory(prefix="sagaz-tiering-export-")
            folder = Path(self._unpacked.name)
            _unpack(self._path, folder, found.manifest)
        parts = {number: folder / part.name for number, part in enumerate(found.manifest.parts)}
        return _OpenedExport(found.manifest, folder, parts)


def _unpack(path: Path, folder: Path, manifest: Manifest) -> None:
    """Raises ConfigError where there is no room."""
    try:
        with open_files(path) as files:
            for part in manifest.parts:
                with files.open(part.name) as member, open(folder / part.name, "wb") as file:
                    shutil.copyfileobj(member, file, 1024 * 1024)
    except OSError as exc:
        raise ConfigError(
            f"{path} cannot be unpacked into {folder}: {exc.strerror or exc}",
            hint="make room, or set TMPDIR to a folder that has some",
        ) from exc


def _take_stock(db: Connection, opened: _OpenedExport) -> None:
    """Where each saga and each replay record is."""
    for number, part in enumerate(opened.manifest.parts):
        if part.kind not in (RowKind.SNAPSHOTS, RowKind.REPLAYS):
            continue
        with open(opened.parts[number], "rb") as file:
            place = 0
            for row in count(1):
                line = file.readline()
                if not line:
                    break
                if part.kind is RowKind.SNAPSHOTS:
                    saga = UUID(_head(_SNAPSHOT, line, part.name, row)[2].decode()).bytes
                    db.execute(_COUNT, (saga, number, place))
                else:
                    replay = UUID(_head(_REPLAY, line, part.name, row)[1].decode()).bytes
                    db.execute("INSERT OR REPLACE INTO replays VALUES (?, ?, ?)", (replay, number, place))
                place += len(line)


def _head(form: re.Pattern[bytes], line: bytes, name: str, row: int) -> re.Match[bytes]:
    found = form.match(line)
    if found is None:
        raise AlteredExport(f"line {row} is not one of an export", part=name)
    return found


def _lines(path: Path, place: int, most: int) -> tuple[list[bytes], int]:
    """So many lines of a file from there on, and where they end."""
    file: BinaryIO
    with open(path, "rb") as file:
        file.seek(place)
        lines = [file.readline() for _ in range(most)]
        return lines, file.tell()


def _snapshot(line: bytes, name: str) -> SagaSnapshot:
    head = _head(_SNAPSHOT, line, name, 0)
    return read_snapshot(
        line, snapshot_id=UUID(head[1].decode()), saga_id=UUID(head[2].decode()), where=f"a line of {name}"
    )
