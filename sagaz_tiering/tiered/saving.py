"""The write path: Redis, PostgreSQL or both, as the snapshot's policy asks.

`durable`: acknowledged once PostgreSQL has it; Redis gets it first, so that no reader trusts a Redis that lacks
an acknowledged snapshot. `hot`: acknowledged once Redis has it. A save that finds Redis down is spilled:
acknowledged once PostgreSQL has it and every reader can know (see `catalog.durable`).

Concurrent saves travel together (`storage.redis_lane`, `catalog.group_commit`); saves of one id take turns, so that
of two the later one stays, also within one microsecond.
"""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import structlog

from sagaz_tiering.catalog.durable import DurableCopies
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable
from sagaz_tiering.policy import Durability, PolicySet
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage.hot import HotTier

_log = structlog.get_logger(__name__)
_PAUSE_SECONDS = 1.0


class _Turn:
    """Who saves one id, one after the other."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Saver:
    """Puts encoded snapshots where their policy wants them."""

    def __init__(self, hot: HotTier, durable: DurableCopies) -> None:
        self._hot = hot
        self._durable = durable
        self._pause_until = 0.0
        self._turns: dict[UUID, _Turn] = {}

    async def save(self, meta: SnapshotMeta, value: bytes, policies: PolicySet, now_us: int) -> Durability:
        """Returns when the snapshot is acknowledged, and how; raises TierUnavailable if it is not."""
        turn = self._turns.get(meta.snapshot_id)
        if turn is None:
            turn = self._turns[meta.snapshot_id] = _Turn()
        turn.users += 1
        try:
            async with turn.lock:
                return await self._save(meta, value, policies, now_us)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[meta.snapshot_id]

    async def _save(self, meta: SnapshotMeta, value: bytes, policies: PolicySet, now_us: int) -> Durability:
        decision = policies.decide(meta, now_us)
        durability = decision.rule.durability
        hot_error: HotTierUnavailable | None = None
        try:
            await self._save_hot(meta, value, decision.due_us, decision.expires_us)
        except HotTierUnavailable as exc:
            hot_error = exc
        if durability is Durability.HOT and hot_error is None:
            return durability
        try:
            await self._durable.put(
                meta,
                value,
                due_us=decision.due_us,
                expires_us=decision.expires_us,
                spilled=hot_error is not None,
            )
        except CatalogUnavailable as exc:
            raise exc if hot_error is None else hot_error from exc
        if hot_error is not None:
            _log.warning("snapshot.spilled", snapshot_id=str(meta.snapshot_id), error=str(hot_error))
        return durability

    async def _save_hot(self, meta: SnapshotMeta, value: bytes, due_us: int | None, expires_us: int | None) -> None:
        """A Redis that just failed is left alone for a second: each try would cost its whole time-out."""
        if time.monotonic() < self._pause_until:
            raise HotTierUnavailable("Redis failed a moment ago and is left alone for a second")
        try:
            await self._hot.save(meta, value, due_us=due_us, expires_us=expires_us)
        except HotTierUnavailable:
            self._pause_until = time.monotonic() + _PAUSE_SECONDS
            raise
