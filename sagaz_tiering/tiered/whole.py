"""What the facade reads whole: every saga in turn, in bounded memory, for transfers and backups, and exports."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack
from uuid import UUID

from sagaz_tiering.catalog.replays import Replay
from sagaz_tiering.drivers.scratch import SortedIds
from sagaz_tiering.errors import ConfigError, SnapshotArchived, Unreadable
from sagaz_tiering.exports.report import ExportProgress, ExportReport, ExportWish
from sagaz_tiering.snapshot import SagaSnapshot, as_uuid
from sagaz_tiering.storage.answers import checked_replay
from sagaz_tiering.storage.any_loop import AnyLoop
from sagaz_tiering.storage.base import checked_limit
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.tiered.export import Exporter
from sagaz_tiering.tiered.find import MOST_ON_A_PAGE, Finder, SagaFilters
from sagaz_tiering.tiered.read import Reader
from sagaz_tiering.tiers import Tiers

_PAGE = 1_000
_BODIES = 100
_KIND = "tiered"


class ReadWhole(AnyLoop):
    """The part of the facade that walks over everything, and its replay log."""

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
        gaps = Gaps(_KIND)
        async for saga in self._sagas(after) if saga_id is None else _each([as_uuid(saga_id, "saga_id")]):
            copies = (await self._reader.timeline(saga))[::-1]
            for start in range(0, len(copies), _BODIES):
                try:
                    found: Sequence[SagaSnapshot] = await self._reader.load(copies[start : start + _BODIES])
                except Unreadable as exc:
                    gaps.update(exc)
                    if isinstance(exc, SnapshotArchived):
                        raise gaps.attach(exc, exc.readable) from None
                    found = exc.readable
                for snapshot in found:
                    yield snapshot
        gaps.check()

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record, ascending by replay id, from behind `after` on. Raises where one cannot be read."""
        gaps, last = Gaps(_KIND), None if after is None else as_uuid(after, "after")
        while page := await self._tiers.catalog.replays.page(last, _PAGE):
            for found in page:
                for record in gaps.readable([found]):
                    yield record
                gaps.check()
            last = page[-1][0]

    async def get_replay_log(self, replay_id: UUID | str) -> dict[str, Any] | None:
        """The record of a replay in the shape of `ReplayResult.to_dict`, or None."""
        wanted = as_uuid(replay_id, "replay_id")
        found = await self._tiers.catalog.replays.get(wanted)
        return None if found is None else checked_replay(found, replay_id=wanted)

    async def list_replays(self, original_saga_id: UUID | str, limit: int = 100) -> list[dict[str, Any]]:
        """Records of replays of a saga, newest first. Raises CorruptRecord with those that can be read."""
        saga_id, gaps = as_uuid(original_saga_id, "original_saga_id"), Gaps(_KIND)
        records = gaps.readable(await self._tiers.catalog.replays.of_saga(saga_id, checked_limit(limit)))
        found: list[Replay] = [checked_replay(record, saga_id=saga_id) for record in records]
        gaps.check(found)
        return found

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
        sagas = self._found(filters) if filters else self._sagas(None) if ids is None else _each(ids)
        options = {"sign_with": None if sign_with is None else Path(sign_with), "overwrite": overwrite}
        store = self.get_storage_info()
        wish = ExportWish.of(store, out, form=form, saga_ids=ids, filters=filters, who=who, restart=restart, **options)
        return await self._exporter.export(wish, sagas, progress=progress, stop=stop)

    async def _found(self, filters: SagaFilters) -> AsyncIterator[UUID]:
        cursor, more = None, True
        while more:
            page = await self._finder.page(filters, limit=MOST_ON_A_PAGE, cursor=cursor)
            for one in page:
                yield one.saga_id
            cursor = page.cursor
            more = cursor is not None

    async def _sagas(self, after: UUID | str | None) -> AsyncIterator[UUID]:
        """Sagas that some tier has something of, ascending; all of that may have expired.

        Redis is walked first: a snapshot on its way into a pack is in PostgreSQL before it leaves Redis.
        """
        start = None if after is None else as_uuid(after, "after")
        async with SortedIds() as found:
            async for page in self._tiers.hot.saga_ids():
                await found.add(saga.bytes for saga in page if start is None or saga > start)
            in_redis, in_postgresql = found.ids(), self._in_postgresql(start)
            one, other = await anext(in_redis, None), await anext(in_postgresql, None)
            while one is not None or other is not None:
                least = min(each for each in (one, other) if each is not None)
                yield UUID(bytes=least)
                if one == least:
                    one = await anext(in_redis, None)
                if other == least:
                    other = await anext(in_postgresql, None)

    async def _in_postgresql(self, after: UUID | None) -> AsyncIterator[bytes]:
        while page := await self._tiers.catalog.locations.saga_ids(after, _PAGE):
            for saga_id in page:
                yield saga_id.bytes
            after = page[-1]


async def _each(saga_ids: Iterable[UUID]) -> AsyncIterator[UUID]:
    for saga_id in saga_ids:
        yield saga_id
