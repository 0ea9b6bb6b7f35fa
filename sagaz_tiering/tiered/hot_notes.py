"""Tells the catalog, in the background, what Redis alone acknowledged: at most twice a second, many saves at once.

Redis has a queue of it too: what a process that was killed left there, some daemon tells (`tell_others`). While nobody
could tell Redis may have lost its past and been reconciled: what is not there any more has it reconciled once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, TypeAlias

from sagaz_tiering import metrics
from sagaz_tiering.catalog import Catalog
from sagaz_tiering.clock import Clock, to_micros
from sagaz_tiering.errors import CatalogUnavailable, ConfigError, HotTierUnavailable
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.logs import Logger
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_EVERY_S: Final = 0.5
_AT_ONCE: Final = 2_000
_MOST: Final = 100_000
"""So many wait while PostgreSQL is away; of more nobody will know that Redis had them, should it lose them."""
_CLOSING_S: Final = 5.0
_LEFT_US: Final = 2_000_000
"""What waits for longer in Redis' queue was left by a process that will not tell any more."""


_Saves: TypeAlias = dict[int, tuple[SnapshotMeta, int | None, int | None]]
"""By the integer of the snapshot's id: what `HotNotes.add` is given."""


class HotNotes:
    """`add` what was acknowledged; `flush` waits until the catalog knows of all of it."""

    def __init__(self, catalog: Catalog, hot: HotTier, clock: Clock) -> None:
        self._saves = catalog.hot_saves
        self._known = catalog.hot_tier
        self._hot = hot
        self._clock = clock
        self._waiting: _Saves = {}
        self._under_way: _Saves = {}
        self._telling: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    def add(self, meta: SnapshotMeta, expires_us: int | None, changes: int | None) -> None:
        """Redis alone acknowledged this save; it had been found to be another one so often before (None: unknown)."""
        if len(self._waiting) + len(self._under_way) >= _MOST:
            metrics.HOT_SAVES_UNNOTED.inc()
            return
        self._waiting[meta.snapshot_id.int] = meta, expires_us, changes
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())

    async def flush(self) -> None:
        """Tell all that waits now. Raises CatalogUnavailable; then it waits on."""
        async with self._one_at_a_time:
            waiting = self._under_way = self._waiting
            self._waiting = {}
            try:
                while waiting:
                    batch = dict(islice(waiting.items(), _AT_ONCE))
                    await self._note(list(batch.values()))
                    for snapshot_id in batch:
                        del waiting[snapshot_id]
            finally:
                self._waiting, self._under_way = waiting | self._waiting, {}

    async def _note(self, batch: Sequence[tuple[SnapshotMeta, int | None, int | None]]) -> None:
        metas, expiries_us, _ = zip(*batch, strict=True)
        changes = await self._saves.note_each(metas, expiries_us)
        with suppress(HotTierUnavailable):
            await self._hot.noted([(meta.saga_id, meta.snapshot_id, meta.saved_us) for meta in metas])
        late = [meta for meta, _, known in batch if known != changes]
        if late:
            await self._look_for(late)

    async def tell_others(self, policies: PolicySet) -> None:
        """Tell what other processes left in Redis' queue, since they were killed or PostgreSQL was away."""
        until_us = to_micros(self._clock.now()) - _LEFT_US
        while found := await self._hot.unnoted(until_us, _AT_ONCE):
            metas = [each.meta for each in found if each.meta is not None]
            if metas:
                await self._saves.note_each(metas, [policies.expires_us(meta, SagaEnd.of(meta)) for meta in metas])
            await self._hot.noted([(each.saga_id, each.snapshot_id, each.saved_us) for each in found])
            if len(found) < _AT_ONCE:
                return

    async def _look_for(self, late: Sequence[SnapshotMeta]) -> None:
        """These were saved before Redis was found to be another one, or nobody knows."""
        try:
            there = await self._hot.queue.saves([meta.snapshot_id for meta in late])
        except HotTierUnavailable:
            there = {}
        gone = [m for m in late if m.snapshot_id not in there or there[m.snapshot_id].saved_us < m.saved_us]
        if gone and await self._saves.noted(gone):
            await self._known.doubt(
                "what it had acknowledged before it changed was told later, and is gone", self._clock.now()
            )

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
