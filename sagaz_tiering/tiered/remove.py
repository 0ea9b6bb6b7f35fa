"""Deleting and erasing: PostgreSQL first, in one transaction, then Redis.

A crash, or a caller that is cancelled, between the two leaves copies in Redis that the job `expire` removes. Each
removal is of saves until an instant: what is saved after it stays, whoever finishes the removal.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sagaz_tiering.catalog.erasures import ErasureReceipt
from sagaz_tiering.catalog.locations import Doomed
from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.errors import CorruptRecord, SnapshotLost
from sagaz_tiering.snapshot import Tier
from sagaz_tiering.tiered.merge import Copy, damaged_ref, saved_until
from sagaz_tiering.tiered.read import Reader


class Remover:
    """Takes snapshots out of every tier."""

    def __init__(self, reader: Reader) -> None:
        self._hot, self._catalog, self._clock = reader.tiers.hot, reader.tiers.catalog, reader.tiers.clock
        self._reader = reader

    async def delete(self, snapshot_id: UUID) -> bool:
        """One snapshot; False if no tier had it. Raises LegalHold, TierUnavailable."""
        try:
            copies = await self._reader.copies(snapshot_id)
        except (CorruptRecord, SnapshotLost):
            owner = (await self._hot.owners([snapshot_id])).get(snapshot_id, UUID(int=0))
            copies = [Copy(ref=damaged_ref(snapshot_id, owner, to_micros(self._clock.now())), saved_us=None)]
        if not copies:
            return False
        until_us = saved_until(copies, self._clock.now())
        doomed = [Doomed(snapshot=copies[0].ref, until=from_micros(until_us))]
        known = await self._catalog.locations.delete(doomed)
        return await self._follow(doomed) > 0 or bool(known)

    async def cleanup(self, saga_id: UUID) -> int:
        """Every snapshot of a saga; how many there were. Raises LegalHold (nothing was removed), TierUnavailable."""
        doomed = self._doomed(await self._reader.timeline(saga_id, expired_too=True))
        await self._catalog.locations.delete(doomed)
        await self._follow(doomed)
        return len(doomed)

    async def forget(self, saga_id: UUID, *, who: str, reason: str) -> ErasureReceipt:
        """Erase a saga; see `TieredStorage.forget`."""
        erasures = self._catalog.erasures
        copies = await self._reader.timeline(saga_id, expired_too=True)
        hot = sum(copy.ref.tier is Tier.HOT for copy in copies)
        erasure = await erasures.erase(saga_id, self._doomed(copies), hot, who=who, reason=reason, clock=self._clock)
        await erasures.clear(erasure, self._hot, self._clock.now())
        await self._catalog.locations.gone_from_redis(erasure.doomed)
        receipt = await erasures.receipt(erasure.erasure_id)
        assert receipt is not None  # it was committed above
        return receipt

    async def _follow(self, doomed: Sequence[Doomed]) -> int:
        """Redis does as PostgreSQL did; how many snapshots it had."""
        saves = [(one.snapshot.snapshot_id, one.until) for one in doomed]
        gone = await self._hot.delete_many([(snapshot_id, to_micros(until)) for snapshot_id, until in saves])
        await self._catalog.locations.gone_from_redis(saves)
        return gone

    def _doomed(self, copies: Sequence[Copy]) -> list[Doomed]:
        now = self._clock.now()
        return [Doomed(snapshot=copy.ref, until=from_micros(saved_until([copy], now))) for copy in copies]
