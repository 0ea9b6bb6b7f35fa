"""What Redis says while it is not believed: it may have gone back to an older state, or be another server.

Then PostgreSQL is asked of everything: what was deleted, forgotten or put under another saga since it was saved is left
out, and of what a pack holds too it is found out which save is the newer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from sagaz_tiering.catalog import Catalog
from sagaz_tiering.catalog.hot_saves import HotSave
from sagaz_tiering.catalog.locations import SaveKey
from sagaz_tiering.errors import SnapshotLost
from sagaz_tiering.hot.values import IndexedHeader
from sagaz_tiering.snapshot import SnapshotRef, Tier
from sagaz_tiering.tiered.cold import ColdTier
from sagaz_tiering.tiered.hot_notes import HotNotes
from sagaz_tiering.tiered.merge import Copy, damaged_copy


class UntrustedRedis:
    """Sifts copies in Redis by what the catalog and the packs say."""

    def __init__(self, catalog: Catalog, cold: ColdTier, notes: HotNotes) -> None:
        self._locations = catalog.locations
        self._saves = catalog.hot_saves
        self._cold = cold
        self._notes = notes

    async def sift(self, hot: Sequence[Copy], located: Sequence[Copy]) -> tuple[list[Copy], list[Copy]]:
        """The copies in Redis that live, and the `located` ones, with when they were saved where that decides.

        Raises CatalogUnavailable, ColdTierUnavailable.
        """
        # One that cannot be read may be of any save: a deletion of the snapshot counts.
        saves = [SaveKey(copy.ref.snapshot_id, copy.ref.saga_id, copy.saved_us or 0) for copy in hot]
        dead = await self._locations.buried(saves) | await self._locations.moved(saves)
        living = [copy for copy in hot if copy.ref.snapshot_id not in dead]
        both = {copy.ref.snapshot_id for copy in living}
        packed = [copy.ref.snapshot_id for copy in located if copy.ref.snapshot_id in both and copy.value is None]
        places = await self._locations.packs_of(packed) if packed else {}
        saved = await self._cold.saved_us(places)
        return living, [
            replace(copy, saved_us=saved.get(copy.ref.snapshot_id)) if copy.saved_us is None else copy
            for copy in located
        ]

    async def lost(
        self, hot: Sequence[Copy], *, saga_id: UUID | None = None, snapshot_id: UUID | None = None
    ) -> list[Copy]:
        """Of a saga or one snapshot: what Redis alone acknowledged, and has not got any more, each with its `error`."""
        await self._notes.flush()
        saved = {copy.ref.snapshot_id: copy.saved_us for copy in hot}
        noted = await self._saves.not_elsewhere(saga_id=saga_id, snapshot_id=snapshot_id)
        missing = [each for each in noted if (saved.get(each.meta.snapshot_id) or -1) < each.meta.saved_us]
        packed = [each.meta.snapshot_id for each in missing if each.packed]
        in_packs = await self._cold.saved_us(await self._locations.packs_of(packed)) if packed else {}
        return [_lost(each) for each in missing if in_packs.get(each.meta.snapshot_id, -1) < each.meta.saved_us]


def _lost(save: HotSave) -> Copy:
    meta = save.meta
    error = SnapshotLost(
        f"snapshot {meta.snapshot_id} (step {meta.step_name!r} of saga {meta.saga_id}) was acknowledged by Redis "
        "alone, which has lost it"
    )
    ref = replace(SnapshotRef.of(meta, expires_us=save.expires_us, tier=Tier.HOT), unreadable=str(error))
    return Copy(ref=ref, saved_us=meta.saved_us, error=error)


def nameless(saga_id: UUID, header: IndexedHeader) -> Copy:
    """What an index in Redis tells of a snapshot whose value is gone."""
    return damaged_copy(saga_id, header, nobody_has(header.snapshot_id))


def nobody_has(snapshot_id: UUID) -> SnapshotLost:
    """Of a snapshot that only the index in Redis tells of."""
    return SnapshotLost(f"Redis names snapshot {snapshot_id}, but neither Redis nor PostgreSQL has it")
