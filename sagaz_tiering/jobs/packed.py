"""Which hot snapshots are in a pack already: after a crash between publishing and evicting, for example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sagaz_tiering.catalog.locations import Packed
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.errors import CorruptPack, ObjectStoreError
from sagaz_tiering.jobs.context import JobContext, each_pack
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.entries import Footer
from sagaz_tiering.packs.reader import PackReader
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_PAGE = 20


@dataclass(frozen=True, slots=True)
class InPacks:
    """Saves compared with what packs hold: in the same version or a newer one (`safe`), or in an older one (`older`, by
    the pack's id). Of the others in `places` it could not be told."""

    places: dict[UUID, Packed] = field(default_factory=dict)
    safe: set[UUID] = field(default_factory=set)
    older: dict[UUID, int] = field(default_factory=dict)


async def already_packed(context: JobContext, metas: Sequence[SnapshotMeta]) -> set[UUID]:
    """Of these saves, the ones that a pack holds in the same version or a newer one."""
    return (await compared_with_packs(context, metas)).safe


async def compared_with_packs(context: JobContext, metas: Sequence[SnapshotMeta]) -> InPacks:
    """Which of these saves packs hold, and how new."""
    if not metas:
        return InPacks()
    places = await context.catalog.locations.packs_of([meta.snapshot_id for meta in metas])
    found = InPacks(places)
    for pack in {place.pack_id: place for place in places.values()}.values():
        footer = await _footer(context, pack)
        if footer is None:
            continue
        packed = {s.meta.snapshot_id: s.meta.version for frame in footer.frames for s in frame.snapshots}
        for meta in metas:
            version = packed.get(meta.snapshot_id)
            place = places.get(meta.snapshot_id)
            if version is None or place is None or place.pack_id != pack.pack_id:
                continue
            if version == meta.version or version[0] > meta.saved_us:
                found.safe.add(meta.snapshot_id)
            else:
                found.older[meta.snapshot_id] = pack.pack_id
    return found


async def finish_evictions(context: JobContext) -> int:
    """Remove the hot copies of packs whose run was killed after it published them; how many went."""
    evicted = 0
    async for pack in each_pack(lambda last: context.catalog.packs.unevicted(last, _PAGE)):
        footer = await _footer(context, pack)
        if footer is not None:
            metas = [entry.meta for frame in footer.frames for entry in frame.snapshots]
            gone, _ended = await context.hot.queue.evict_claimed(metas, {})
            evicted += gone
            await context.catalog.packs.evicted(pack.pack_id, context.now)
    return evicted


async def _footer(context: JobContext, pack: Packed | Pack) -> Footer | None:
    """None where it cannot be read: then its snapshots are packed once more, which loses nothing."""
    try:
        return await PackReader(context.objects).footer(pack)
    except (ObjectStoreError, CorruptPack) as exc:
        _log.warning("footer.unreadable", object_key=pack.object_key, error=str(exc))
        return None
