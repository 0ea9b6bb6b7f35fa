"""Tells the catalog, in the background, what Redis alone acknowledged: at most twice a second, many saves at once.

A process that is killed before takes at most that half second with it.
"""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.hot_saves import HotSave, HotSaves
from sagaz_tiering.errors import CatalogUnavailable, ConfigError
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_EVERY_S: Final = 0.5
_AT_ONCE: Final = 2_000
_MOST: Final = 100_000
"""So many wait while PostgreSQL is away; of more nobody will know that Redis had them, should it lose them."""
_CLOSING_S: Final = 5.0


class HotNotes:
    """`add` what was acknowledged; `flush` waits until the catalog knows of all of it."""

    def __init__(self, saves: HotSaves) -> None:
        self._saves = saves
        self._waiting: dict[UUID, HotSave] = {}
        self._telling: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    def add(self, meta: SnapshotMeta, expires_us: int | None) -> None:
        """Redis alone acknowledged this save."""
        if len(self._waiting) >= _MOST:
            metrics.HOT_SAVES_UNNOTED.inc()
            return
        self._waiting[meta.snapshot_id] = HotSave(meta=meta, expires_us=expires_us)
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())

    async def flush(self) -> None:
        """Tell all that waits. Raises CatalogUnavailable; then it waits on."""
        async with self._one_at_a_time:
            while self._waiting:
                batch = dict(list(self._waiting.items())[:_AT_ONCE])
                await self._saves.note(list(batch.values()))
                for snapshot_id, save in batch.items():
                    if self._waiting.get(snapshot_id) is save:
                        del self._waiting[snapshot_id]

    async def close(self) -> None:
        """Tell what waits, as far as that takes no longer than some seconds."""
        telling, self._telling = self._telling, None
        if telling is not None:
            telling.cancel()
            await asyncio.wait((telling,))
        try:
            async with asyncio.timeout(_CLOSING_S):
                await self.flush()
        except (CatalogUnavailable, ConfigError, TimeoutError) as exc:
            metrics.HOT_SAVES_UNNOTED.inc(len(self._waiting))
            _log.warning("hot_saves.not_noted", saves=len(self._waiting), error=str(exc) or type(exc).__name__)

    async def _tell(self) -> None:
        told = False
        while not told:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.flush()
                told = not self._waiting
            except (CatalogUnavailable, ConfigError) as exc:
                _log.debug("hot_saves.waiting", saves=len(self._waiting), error=str(exc))
        self._telling = None
