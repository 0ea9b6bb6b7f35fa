"""Which of several packs has a snapshot, where no catalog tells: a rebuild decides so that a forged pack gains nothing.

Of saves of one snapshot the newest counts, and of the same save the encrypted one, then the younger pack (compaction
wrote it). But two packs that cannot both be true contradict each other: the same save with other contents, a snapshot
of another saga, a later save that is not encrypted where the earlier one is. Nothing tells which is forged, so neither
is believed: what they contradict each other about raises CorruptPack when it is read, and both are in the quarantine
under the kind `claim`, neither written anew, dated anew nor deleted, and no erasure takes what they contradict each
other about. Whoever removes the forged object from the bucket rebuilds once more, into an empty catalog.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.errors import CorruptPack, ObjectArchived, ObjectNotFound
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo
from sagaz_tiering.packs.entries import Footer
from sagaz_tiering.packs.frame import DISPUTED_FRAME
from sagaz_tiering.packs.reader import DISPUTED_FOOTER, PackReader
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)


class RivalClaim(NamedTuple):
    """A pack says that it has this save."""

    meta: SnapshotMeta
    encrypted: bool
    pack_created_us: int

    @property
    def rank(self) -> tuple[int, bool, int]:
        """Of two that do not contradict each other the higher counts."""
        return self.meta.saved_us, self.encrypted, self.pack_created_us


@dataclass(slots=True, kw_only=True)
class Settlement:
    """What of a pack has its place `elsewhere`, and what it contradicts which objects about."""

    elsewhere: set[UUID] = field(default_factory=set)
    disputed: set[UUID] = field(default_factory=set)
    contradicts: set[str] = field(default_factory=set)


def claims(footer: Footer) -> dict[UUID, RivalClaim]:
    """What a pack says that it has; not what that is found by, which a later pack may know more of."""
    return {
        entry.meta.snapshot_id: RivalClaim(
            entry.meta._replace(attributes=""), frame.key_id is not None, footer.created_us
        )
        for frame in footer.frames
        for entry in frame.snapshots
    }


def contradict(one: RivalClaim, other: RivalClaim) -> bool:
    """Whether no history of saves explains both. Pure."""
    if one.meta.saved_us == other.meta.saved_us:
        return one.meta != other.meta
    earlier, later = sorted((one, other), key=lambda claim: claim.rank)
    return earlier.meta.saga_id != later.meta.saga_id or (earlier.encrypted and not later.encrypted)


async def settle(context: JobContext, footer: Footer) -> Settlement:
    """How the packs that are in the catalog already stand to this one; what has one that cannot be read stays there."""
    mine, found = claims(footer), Settlement()
    places = await context.catalog.locations.packs_of(list(mine))
    for place in {place.pack_id: place for place in places.values()}.values():
        is_doubted = place.footer_digest == DISPUTED_FOOTER
        try:
            reader = PackReader(context.objects)
            other = await reader.footer(replace(place, footer_digest=None) if is_doubted else place)
        except (CorruptPack, ObjectNotFound, ObjectArchived) as exc:
            if not await _is_gone(context, place.object_key):
                _log.error("footer.unreadable", object_key=place.object_key, error=str(exc))
                found.elsewhere |= {i for i in places if places[i].pack_id == place.pack_id}
            continue  # else the catalog is older than the bucket, and that pack was written anew since
        theirs = claims(other)
        shared = {i for i in places if places[i].pack_id == place.pack_id and i in theirs}
        doubted = await _doubted(context, place.pack_id, other) if is_doubted else set()
        disputed = {i for i in shared if i in doubted or contradict(mine[i], theirs[i])}
        if disputed:
            found.contradicts.add(place.object_key)
        found.disputed |= disputed
        found.elsewhere |= {i for i in shared if i in disputed or mine[i].rank < theirs[i].rank}
    return found


async def _is_gone(context: JobContext, key: str) -> bool:
    try:
        await context.objects.head(key)
    except ObjectNotFound:
        return True
    return False


async def _doubted(context: JobContext, pack_id: int, footer: Footer) -> set[UUID]:
    """What others contradict a pack about already: a third that agrees with it does not make it true."""
    return {
        entry.meta.snapshot_id
        for row in await context.catalog.scrubbing.frames(pack_id)
        if row.digest == DISPUTED_FRAME
        for entry in footer.frames[row.frame_no].snapshots
    }


async def dispute(context: JobContext, lease: Lease, info: ObjectInfo, found: Settlement, tally: Tally) -> None:
    """Take away the trust in the packs that another one contradicts, before that one is entered; name them all."""
    keys = sorted(found.contradicts)
    await context.catalog.scrubbing.dispute(
        keys, sorted(found.disputed), lease, footer=DISPUTED_FOOTER, frame=DISPUTED_FRAME
    )
    for one, other in ((info.key, ", ".join(keys)), *((key, info.key) for key in keys)):
        reason = f"has snapshots that {other} has otherwise: one is forged, neither is believed, nothing is deleted"
        tally.add("contradictions")
        tally.note(f"{one}: {reason}; remove the forged object, then rebuild into an empty catalog")
        _log.error("pack.contradicted", object_key=one, by=other)
        await context.catalog.quarantine.record("claim", one, reason, context.now, budget=1)
