"""Which of several packs has a snapshot, where no catalog tells: a rebuild decides so that a forged pack gains nothing.

Of saves of one snapshot the newest counts, and of the same save the younger pack (compaction wrote it). But two packs
that cannot both be true contradict each other: the same save with other contents, a snapshot of another saga, a later
save that is not encrypted where the earlier one is. Whoever can write to the bucket can make a second pack, but none
that the store says is older: so the older object counts, and both are named in the quarantine under the kind `claim`.
What is listed there is neither written anew nor deleted, until someone has looked and dropped it from the list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import structlog

from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.objects.base import ObjectInfo
from sagaz_tiering.pack.entries import Footer
from sagaz_tiering.pack.reader import PackReader
from sagaz_tiering.snapshot import SnapshotMeta

_log = structlog.get_logger(__name__)


class Claim(NamedTuple):
    """A pack says that it has this save."""

    meta: SnapshotMeta
    encrypted: bool
    pack_created_us: int


@dataclass(slots=True, kw_only=True)
class Settlement:
    """Snapshots that are not taken from a pack, and the objects that contradict it."""

    elsewhere: set[UUID] = field(default_factory=set)
    contradicts: set[str] = field(default_factory=set)


def claims(footer: Footer) -> dict[UUID, Claim]:
    """What a pack says that it has."""
    return {
        entry.meta.snapshot_id: Claim(entry.meta, frame.key_id is not None, footer.created_us)
        for frame in footer.frames
        for entry in frame.snapshots
    }


def contradict(one: Claim, other: Claim) -> bool:
    """Whether no history of saves explains both. Pure."""
    earlier, later = sorted((one, other), key=lambda claim: claim.meta.saved_us)
    if earlier.meta.saga_id != later.meta.saga_id or (earlier.encrypted and not later.encrypted):
        return True
    return earlier.meta.saved_us == later.meta.saved_us and earlier.meta != later.meta


async def settle(context: JobContext, info: ObjectInfo, footer: Footer) -> Settlement:
    """How the packs that are in the catalog already stand to this one. Raises what reading footers raises."""
    mine, found = claims(footer), Settlement()
    places = await context.catalog.locations.packs_of(list(mine))
    for pack in {place.pack_id: place for place in places.values()}.values():
        theirs = claims(await PackReader(context.objects).footer(pack))
        shared = {i for i in places if places[i].pack_id == pack.pack_id and i in theirs}
        disputed = {i for i in shared if contradict(mine[i], theirs[i])}
        if disputed:
            found.contradicts.add(pack.object_key)
            if (await context.objects.head(pack.object_key)).modified_at <= info.modified_at:
                found.elsewhere |= disputed
        found.elsewhere |= {i for i in shared - disputed if _rank(mine[i]) < _rank(theirs[i])}
    return found


def _rank(claim: Claim) -> tuple[int, int]:
    return claim.meta.saved_us, claim.pack_created_us


async def name_them(context: JobContext, key: str, contradicts: set[str], tally: Tally) -> None:
    """The packs that contradict each other, for people."""
    for one, other in ((key, ", ".join(sorted(contradicts))), *((each, key) for each in sorted(contradicts))):
        reason = f"claims snapshots that {other} has otherwise: the older object counts, neither is deleted"
        tally.add("contradictions")
        tally.note(f"{one}: {reason}")
        _log.error("pack.contradicted", object_key=one, by=other)
        await context.catalog.quarantine.record("claim", one, reason, context.now, budget=1)
