"""What Redis says while it is not believed: it may have gone back to an older state, or be another server.

Then PostgreSQL is asked of everything: what was deleted, forgotten or put under another saga since it was saved is left
out, and of what a pack holds too it is found out which save is the newer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sagaz_tiering.catalog.locations import Locations
from sagaz_tiering.tiered.cold import ColdTier
from sagaz_tiering.tiered.merge import Copy


@dataclass(frozen=True, slots=True)
class _Save:
    snapshot_id: UUID
    saga_id: UUID
    saved_us: int


class Doubt:
    """Sifts copies in Redis by what the catalog and the packs say."""

    def __init__(self, locations: Locations, cold: ColdTier) -> None:
        self._locations = locations
        self._cold = cold

    async def sift(self, hot: Sequence[Copy], located: Sequence[Copy]) -> tuple[list[Copy], list[Copy]]:
        """The copies in Redis that live, and the `located` ones, with when they were saved where that decides.

        Raises CatalogUnavailable, ColdTierUnavailable.
        """
        # One that cannot be read may be of any save: a deletion of the snapshot counts.
        saves = [_Save(copy.ref.snapshot_id, copy.ref.saga_id, copy.saved_us or 0) for copy in hot]
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
