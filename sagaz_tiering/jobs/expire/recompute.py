"""New retention rules apply to what is archived already: expiry dates are computed anew from the packs' footers.

Until a pack is dated anew nothing in it is deleted, so a policy that retains longer never comes too late.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.sagas import promised_us
from sagaz_tiering.errors import CorruptPack, ObjectStoreError
from sagaz_tiering.jobs.context import JobContext, Tally, each_pack
from sagaz_tiering.jobs.saga_ends import SagaEnds, saga_ends
from sagaz_tiering.jobs.vouching import compare_frames, vouched
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.reader import PackReader
from sagaz_tiering.policy import NOT_PROMISED, SagaEnd, latest
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Dates:
    """The live snapshots of a pack, when they expire as recorded, and when by the policies of a run (None: never).

    `kept_us`: until when those keep their sagas.
    """

    pack: Pack
    metas: list[SnapshotMeta]
    recorded_us: dict[UUID, int | None]
    expires_us: dict[UUID, int | None]
    ends: SagaEnds
    kept_us: dict[UUID, int | None]

    @property
    def earlier(self) -> list[SnapshotMeta]:
        """Those that would end earlier than recorded."""
        return [m for m in self.metas if ends_earlier(self.expires_us[m.snapshot_id], self.recorded_us[m.snapshot_id])]


def ends_earlier(one_us: int | None, other_us: int | None) -> bool:
    """Whether the first expiry comes before the second; None: never."""
    return one_us is not None and (other_us is None or one_us < other_us)


async def outdated_packs(
    context: JobContext, lease: Lease | None, tally: Tally, *, promised: bool = False
) -> AsyncIterator[Dates]:
    """Packs whose dates are of other retention rules than the run's; one small GET a pack. What cannot be read, or does
    not fit the catalog, is told and left out: nothing of it expires. Without a `lease` nothing is noted.

    `promised`: what the rules before promised still counts.
    """
    revision = context.policies.retention_revision
    async for pack in each_pack(lambda last: context.catalog.packs.outdated(revision, last, _PAGE)):
        if context.stopping.is_set():
            return
        try:
            dates = await _dates(context, lease, pack, promised)
        except (ObjectStoreError, CorruptPack) as exc:
            tally.failed(pack.object_key, f"not dated anew, nothing of it expires: {exc}")
            _log.error("pack.not_redated", pack_id=pack.pack_id, object_key=pack.object_key, error=str(exc))
        else:
            yield dates


async def recompute_expiry(context: JobContext, lease: Lease, dates: Dates, tally: Tally) -> None:
    """From now on the pack's snapshots expire by the policies of the run."""
    expiries, revision = list(dates.expires_us.items()), context.policies.retention_revision
    await context.catalog.packs.recompute_expiry(dates.pack.pack_id, expiries, revision, lease, kept_us=dates.kept_us)
    tally.add("packs_redated")


async def _dates(context: JobContext, lease: Lease | None, pack: Pack, promised: bool) -> Dates:
    if lease is not None and not pack.storage_class.is_archive:
        pack = await vouched(context, lease, pack, "expire")
    footer = await PackReader(context.objects).footer(pack)
    if compare_frames(pack, await context.catalog.scrubbing.frames(pack.pack_id), footer).wrong:
        raise CorruptPack(f"{pack.object_key}: its footer has frames elsewhere than the catalog")
    recorded_us = await context.catalog.packs.expiries(pack.pack_id)
    metas = [e.meta for frame in footer.frames for e in frame.snapshots if e.meta.snapshot_id in recorded_us]
    ends = await saga_ends(context, {meta.saga_id for meta in metas})
    packed: dict[UUID, SagaEnd] = {}
    for entry in (entry for frame in footer.frames for entry in frame.snapshots):
        known = packed.get(entry.meta.saga_id)
        packed[entry.meta.saga_id] = SagaEnd.of(entry.meta) if known is None else known.and_of(entry.meta)
    policies = context.policies
    kept_us: dict[UUID, int | None] = dict.fromkeys(packed, NOT_PROMISED)
    for meta in metas:
        promise_us = policies.promise_us(meta, ends.of(meta, promised=promised))
        kept_us[meta.saga_id] = latest(kept_us[meta.saga_id], promise_us)
    expires_us = {}
    for meta in metas:
        end = ends.of(meta)._replace(kept_us=kept_us[meta.saga_id])
        found = policies.expires_us(meta, end)
        recorded = recorded_us[meta.snapshot_id]
        if ends_earlier(found, recorded):  # if the end of the saga was deleted since, that is no other rule
            as_packed = policies.expires_us(meta, end.and_of(packed[meta.saga_id]))
            found = latest(found, recorded if ends_earlier(recorded, as_packed) else as_packed)
            kept_us[meta.saga_id] = latest(kept_us[meta.saga_id], promised_us(meta, found))
        expires_us[meta.snapshot_id] = found
    return Dates(pack=pack, metas=metas, recorded_us=recorded_us, expires_us=expires_us, ends=ends, kept_us=kept_us)
