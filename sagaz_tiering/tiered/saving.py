"""The write path: Redis, PostgreSQL or both, as the snapshot's policy asks.

`durable`: acknowledged once PostgreSQL has it; Redis gets it first, so that no reader trusts a Redis that lacks
an acknowledged snapshot. `hot`: acknowledged once Redis has it. A save that finds Redis down is spilled:
acknowledged once PostgreSQL has it and every reader can know (see `catalog.durable`).

Of two saves of one snapshot the one that comes later stays, whatever the clocks of their hosts say. A store takes no
save that is not newer than what was done to the snapshot there, and says when that was; the save is then given the next
instant once, and again where another of the same instant comes between. One that is refused still has been replaced by
a save that was made meanwhile. The other store is given the same instant; where that one refuses, so is the first
again. So both keep the same save in the end.

Concurrent saves travel together (`storage.redis_lane`, `catalog.group_commit`); saves of one id take turns in a
process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from sagaz_tiering.catalog.durable import DurableCopies
from sagaz_tiering.codec import saved_at
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable
from sagaz_tiering.policy import Durability, PolicySet
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage.hot import HotTier
from sagaz_tiering.tiered.watch import Watch

_log = structlog.get_logger(__name__)
_PAUSE_SECONDS = 1.0
_FIRST_LOOK_SECONDS = 1.0
"""A process that saves for the first time waits so long at most to learn which Redis it is."""


class _Turn:
    """Who saves one id, one after the other."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Saver:
    """Puts encoded snapshots where their policy wants them."""

    def __init__(self, hot: HotTier, durable: DurableCopies, watch: Watch) -> None:
        self._hot = hot
        self._watch = watch
        self._durable = durable
        self._pause_until = 0.0
        self._turns: dict[UUID, _Turn] = {}

    async def save(self, meta: SnapshotMeta, value: bytes, policies: PolicySet, now_us: int) -> Durability:
        """Returns when the snapshot is acknowledged, and how; raises TierUnavailable if it is not."""
        await self._watch.first_look(_FIRST_LOOK_SECONDS)
        self._watch.freshen()
        turn = self._turns.get(meta.snapshot_id)
        if turn is None:
            turn = self._turns[meta.snapshot_id] = _Turn()
        turn.users += 1
        try:
            async with turn.lock:
                return await self._save(_Save(meta, value, policies, now_us))
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[meta.snapshot_id]

    async def _save(self, save: _Save) -> Durability:
        durability = save.decision.rule.durability
        hot_error: HotTierUnavailable | None = None

        async def to_hot() -> int | None:
            return await self._save_hot(save)

        async def to_all() -> int | None:
            nonlocal hot_error
            try:
                await save.put(to_hot)
                hot_error = None
            except HotTierUnavailable as exc:
                hot_error = exc
            if durability is Durability.HOT and hot_error is None:
                return None
            times = save.times()
            return await self._durable.put(save.meta, save.value, **times, spilled=hot_error is not None)

        try:
            await save.put(to_all)
        except CatalogUnavailable as exc:
            raise exc if hot_error is None else hot_error from exc
        if hot_error is not None:
            _log.warning("snapshot.spilled", snapshot_id=str(save.meta.snapshot_id), error=str(hot_error))
        return durability

    async def _save_hot(self, save: _Save) -> int | None:
        """A Redis that just failed is left alone for a second: each try would cost its whole time-out."""
        if time.monotonic() < self._pause_until:
            raise HotTierUnavailable("Redis failed a moment ago and is left alone for a second")
        try:
            refused = await self._hot.save(save.meta, save.value, **save.times())
        except HotTierUnavailable:
            self._pause_until = time.monotonic() + _PAUSE_SECONDS
            raise
        return None if refused is None else refused.at_us


class _Save:
    """One save on its way; its instant may move on."""

    __slots__ = ("_now_us", "_policies", "decision", "meta", "value")

    def __init__(self, meta: SnapshotMeta, value: bytes, policies: PolicySet, now_us: int) -> None:
        self.meta = meta
        self.value = value
        self._policies = policies
        self._now_us = now_us
        self.decision = policies.decide(meta, now_us)

    def times(self) -> dict[str, int | None]:
        """When it is due and when it expires (microseconds)."""
        return {"due_us": self.decision.due_us, "expires_us": self.decision.expires_us}

    async def put(self, put: Callable[[], Awaitable[int | None]]) -> None:
        """Put it; if that is refused, once more an instant later. `put` tells when what is in the way was done."""
        in_the_way_us = await put()
        while in_the_way_us is not None:
            self.meta, self.value = saved_at(self.meta, self.value, in_the_way_us + 1)
            self.decision = self._policies.decide(self.meta, self._now_us)
            in_the_way_us = await put()
            if in_the_way_us != self.meta.saved_us:
                return  # stored, or replaced by a save that is later still; of two of the same instant both go on
