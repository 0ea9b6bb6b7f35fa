"""What the facade reads whole: every saga in turn, for transfers and backups, and exports."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Unpack
from uuid import UUID

from sagaz_tiering.errors import ConfigError
from sagaz_tiering.exports.report import ExportProgress, ExportReport, ExportWish
from sagaz_tiering.snapshot import SagaSnapshot, as_uuid
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.tiered import iterate as iterating
from sagaz_tiering.tiered.export import Exporter
from sagaz_tiering.tiered.find import MOST_ON_A_PAGE, Finder
from sagaz_tiering.tiered.found import SagaFilters
from sagaz_tiering.tiered.read import Reader
from sagaz_tiering.tiers import Tiers


class ReadWhole(AnyLoop):
    """The part of the facade that walks over everything."""

    _tiers: Tiers
    _reader: Reader
    _exporter: Exporter
    _finder: Finder

    @abstractmethod
    def get_storage_info(self) -> dict[str, Any]:
        """What this storage is made of; asks no server."""

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga with a live snapshot in any tier, ascending by id, from behind `after` on."""
        async for saga in self._sagas(after):
            if await self._reader.timeline(saga, limit=1):
                yield saga

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first, or of every saga in the order of `saga_ids`.

        Raises SnapshotArchived where it comes to bytes that must be restored first, and at its end Unreadable for
        what it could not read on the way.
        """
        sagas = self._sagas(after) if saga_id is None else iterating.each([as_uuid(saga_id, "saga_id")])
        async for snapshot in iterating.snapshots(self._reader, sagas):
            yield snapshot

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record, ascending by replay id, from behind `after` on. Raises where one cannot be read."""
        start = None if after is None else as_uuid(after, "after")
        async for record in iterating.replay_logs(self._tiers.catalog, start):
            yield record

    async def export(
        self,
        out: str | Path,
        *,
        form: str = "jsonl",
        saga_ids: Iterable[UUID | str] | None = None,
        sign_with: str | Path | None = None,
        who: str = "application",
        overwrite: bool = False,
        restart: bool = False,
        progress: Callable[[ExportProgress], None] | None = None,
        stop: asyncio.Event | None = None,
        **filters: Unpack[SagaFilters],
    ) -> ExportReport:
        """Write snapshots, timeline, replays and holds log of sagas to `out`, with a manifest.

        Of those of `saga_ids`, or that `find` finds by `filters`; without either of all.
        `form`: "jsonl" or "parquet" (a folder), "zip" (one file); `sign_with`: a PEM file with a private Ed25519 key.
        What cannot be read is left out and named. The same call goes on where a run before was stopped, unless
        `restart`. Raises ConfigError where `out` is there (unless `overwrite`) or cannot be written, TierUnavailable.
        """
        ids = None if saga_ids is None else sorted({as_uuid(each, "saga_ids") for each in saga_ids})
        if ids is not None and filters:
            raise ConfigError("sagas are exported by their ids or by what they are found by", hint="give one of both")
        sagas = self._found(filters) if filters else self._sagas(None) if ids is None else iterating.each(ids)
        options = {"sign_with": None if sign_with is None else Path(sign_with), "overwrite": overwrite}
        store = self.get_storage_info()
        wish = ExportWish.of(store, out, form=form, saga_ids=ids, filters=filters, who=who, restart=restart, **options)
        return await self._exporter.export(wish, sagas, progress=progress, stop=stop)

    async def _found(self, filters: SagaFilters) -> AsyncIterator[UUID]:
        cursor = None
        while True:
            page = await self._finder.page(filters, limit=MOST_ON_A_PAGE, cursor=cursor, count=False)
            for one in page:
                yield one.saga_id
            cursor = page.cursor
            if cursor is None:
                return

    def _sagas(self, after: UUID | str | None) -> AsyncIterator[UUID]:
        start = None if after is None else as_uuid(after, "after")
        return iterating.saga_ids(self._tiers.hot, self._tiers.catalog, start)
