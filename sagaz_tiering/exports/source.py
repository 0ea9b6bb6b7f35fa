"""An export as something to transfer from: verified first, then read saga by saga."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

from sagaz_tiering.drivers.scratch import Scratch
from sagaz_tiering.exports.manifest import AlteredExport, Manifest, RowKind
from sagaz_tiering.exports.verify import HEADS, TABLES, Stock, lines_of, verify_export
from sagaz_tiering.snapshot import SagaSnapshot, as_uuid
from sagaz_tiering.storage.base import Health
from sagaz_tiering.storage.filesystem.record import read_replay, read_snapshot

_PAGE: Final = 100


class _OpenedExport(NamedTuple):
    manifest: Manifest
    folder: Path


class ExportSource(Scratch):
    """The snapshots and replays of an export of JSON lines, in a folder or a ZIP file. `async with`, or `close()`.

    The first use verifies all of it and takes as long (a ZIP file is unpacked into TMPDIR meanwhile). Raises
    AlteredExport for one that is not as it was made (also if it is altered later), or not signed with `key`, and
    ConfigError for none, and for Parquet.
    """

    def __init__(self, path: str | Path, *, key: str | Path | None = None) -> None:
        """`key`: the PEM file of the public key that it must be signed with."""
        super().__init__(TABLES)
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
        await asyncio.to_thread(self._clean)

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that a snapshot was exported of, ascending by id, from behind `after` on."""
        await self._ready()
        last = b"" if after is None else as_uuid(after, "after").bytes
        query = "SELECT DISTINCT id FROM pages WHERE kind = 'snapshots' AND id > ? ORDER BY id LIMIT 1000"
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
        query = "SELECT part, place, bytes, digest FROM pages WHERE kind = 'snapshots' AND id = ? ORDER BY number"
        for page in await self._rows(query, saga.bytes):
            for line in await asyncio.to_thread(lines_of, opened.folder, *page):
                yield _snapshot(line, page[0])

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
        query = (
            "SELECT id, part, place, bytes, digest FROM pages "
            f"WHERE kind = 'replays' AND id > ? ORDER BY id, number LIMIT {_PAGE}"
        )
        while found := await self._rows(query, last):
            for replay, *page in found:
                for line in await asyncio.to_thread(lines_of, opened.folder, *page):
                    yield read_replay(line, replay_id=UUID(bytes=replay), where=f"a line of {page[0]}")
            last = found[-1][0]

    async def health_check(self) -> Health:
        """How much is in it, once it is verified."""
        counts = (await self._ready()).manifest.counts
        return Health(status="healthy", latency_ms=0.0, snapshot_count=counts.exported, total_size_bytes=counts.bytes)

    async def _rows(self, query: str, *values: Any) -> list[Any]:
        return await self.run(lambda db: db.execute(query, values).fetchall())

    async def _ready(self) -> _OpenedExport:
        async with self._opening:
            if self._opened is None:
                await self.open()
                self._opened = await self.run(self._verified)
            return self._opened

    def _verified(self, db: Connection) -> _OpenedExport:
        self._clean()
        if not self._path.is_dir():
            self._unpacked = tempfile.TemporaryDirectory(prefix="sagaz-tiering-export-")
        folder = self._path if self._unpacked is None else Path(self._unpacked.name)
        with closing(Stock(db, None if self._unpacked is None else folder)) as stock:
            found = verify_export(self._path, key=self._key, stock=stock)
            if not found.is_intact or found.manifest is None:
                first = found.problems[0]
                raise AlteredExport(
                    f"{self._path} is not as it was made: {first.part}: {first.problem}; nothing is read from it",
                    hint="all that is wrong with it says: sagaz-tiering export verify",
                    part=first.part,
                )
            stock.finish()
        return _OpenedExport(found.manifest, folder)

    def _clean(self) -> None:
        if self._unpacked is not None:
            self._unpacked.cleanup()
            self._unpacked = None


def _snapshot(line: bytes, name: str) -> SagaSnapshot:
    head = HEADS[RowKind.SNAPSHOTS].match(line)
    assert head is not None  # it was when the page was noted
    ids = {"snapshot_id": UUID(head[1].decode()), "saga_id": UUID(head[2].decode())}
    return read_snapshot(line, **ids, where=f"a line of {name}")
