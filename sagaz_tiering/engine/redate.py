"""New retention rules apply to what is archived already: expiry dates are computed anew from the packs' footers.

Until a pack is dated anew nothing in it is deleted, so a policy that retains longer never comes too late.
"""

from __future__ import annotations

import structlog

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.engine.ownership import retention_revision
from sagaz_tiering.engine.vouching import compare_frames, vouched
from sagaz_tiering.errors import CorruptPack, ObjectStoreError
from sagaz_tiering.pack.reader import PackReader

_log = structlog.get_logger(__name__)
_PAGE = 50


async def redate_packs(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Date every pack anew whose dates come from other retention rules; one small GET a pack."""
    revision, last = retention_revision(context.policies), 0
    while page := await context.catalog.packs.outdated(revision, last, _PAGE):
        for pack in page:
            if context.stopping.is_set():
                return
            try:
                await _redate(context, lease, pack, revision)
                tally.add("packs_redated")
            except (ObjectStoreError, CorruptPack) as exc:
                tally.add("failed")
                tally.note(f"{pack.object_key}: not dated anew, nothing of it expires: {exc}")
                _log.error("pack.not_redated", pack_id=pack.pack_id, object_key=pack.object_key, error=str(exc))
        last = page[-1].pack_id


async def _redate(context: JobContext, lease: Lease, pack: Pack, revision: str) -> None:
    if not pack.storage_class.is_archive:
        pack = await vouched(context, lease, pack, "expire")
    footer = await PackReader(context.objects).footer(pack)
    if compare_frames(pack, await context.catalog.scrubbing.frames(pack.pack_id), footer).wrong:
        raise CorruptPack(f"{pack.object_key}: its footer has frames elsewhere than the catalog")
    metas = [entry.meta for frame in footer.frames for entry in frame.snapshots]
    expiries = [(meta.snapshot_id, context.policies.expires_us(meta)) for meta in metas]
    await context.catalog.packs.redate(pack.pack_id, expiries, revision, lease)
