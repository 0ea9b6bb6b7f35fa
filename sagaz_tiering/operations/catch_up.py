"""Catch up with the bucket: what its journal tells goes to the tables, what its packs hold becomes rows.

The order, each step repeatable after a crash:

1. dictionaries are entered
2. the journal: holds and releases, deletions and erasures, to rows and durable copies that are there
3. each pack that the catalog does not know: its footer (of archived ones the readable copy) becomes its row, frames and
   places, one transaction a pack, without what was deleted; durable copies that are not newer go
4. what `reindex` put beside a pack that was taken so: attributes that its own footer does not have
5. each row whose pack is gone: it ends, if what is said to be in it lives elsewhere by now or has expired

Of a snapshot in several packs the newest save wins, and of the same save the younger pack, as it was before; of packs
that contradict each other neither is believed. Memory holds a few pages, whatever the size of the bucket.

Which of several packs has a snapshot, where no catalog tells, is decided so that a forged pack gains nothing.
Of saves of one snapshot the newest counts, and of the same save the encrypted one, then the younger pack (compaction
wrote it). But two packs that cannot both be true contradict each other: the same save with other contents, a snapshot
of another saga, a later save that is not encrypted where the earlier one is. Nothing tells which is forged, so neither
is believed: what they contradict each other about raises CorruptPack when it is read, and both are in the quarantine
under the kind `claim`, neither written anew, dated anew nor deleted, and no erasure takes what they contradict each
other about. Whoever removes the forged object from the bucket rebuilds once more, into an empty catalog.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import NewPack
from sagaz_tiering.dictionaries.cache import dictionary_key
from sagaz_tiering.errors import CorruptPack, ObjectArchived, ObjectNotFound
from sagaz_tiering.jobs.attributes import mend, with_attributes
from sagaz_tiering.jobs.collect import pack_of
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.dictionary_copies import learn
from sagaz_tiering.jobs.journal import Numbers, Told, read_journal
from sagaz_tiering.jobs.pack_objects import compare_frames
from sagaz_tiering.jobs.scrub import side_by_side
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import ObjectInfo, RestoreState, find_object, in_pages
from sagaz_tiering.packs.entries import Footer
from sagaz_tiering.packs.frame import DISPUTED_FRAME
from sagaz_tiering.packs.reader import (
    DISPUTED_FOOTER,
    PackReader,
    attributes_key,
    footer_digest,
    footer_key,
    most_attributes,
    read_attributes,
    read_footer,
)
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_AT_ONCE = 8
_REVISION = "rebuilt"
"""As the retention revision of a pack that was taken so: the next `expire` dates it by today's policies first."""


_MAY_LACK = "holds, releases, deletions and erasures that they told of are not in force here; order them again"


async def catch_up(
    context: JobContext, lease: Lease, tally: Tally, *, unsigned: bool = False, alone: bool = True, told: int = 0
) -> int:
    """All five steps, or as far as it comes before `stopping`; the newest number in the journal.

    `unsigned`: entries of the journal count that nobody signed, although there is a master key. `alone`: no job of
    this catalog runs, so that an upload which the catalog thinks under way is none. `told`: the newest number of the
    journal by the bucket's mark.
    """
    catalog_id = await context.catalog.identity()
    digests, _ = await learn(context, tally)
    newest = await _read_journal(context, lease, tally, catalog_id, unsigned=unsigned, told=told)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def fetch(info: ObjectInfo) -> tuple[ObjectInfo, bytes | None]:
        async with gate:
            return info, await _stored_footer(context, info, tally)

    async for page in in_pages(packs_in(context), _AT_ONCE * 4):
        todo = await _unknown(context, page, tally, alone=alone)
        for info, stored in await asyncio.gather(*(fetch(info) for info in todo)):
            footer = None if stored is None else await _take(context, lease, info, stored, catalog_id, tally)
            if footer is not None:
                await _name_dictionaries(context, footer, digests, tally)
        if context.stopping.is_set():
            return newest
    await _take_attributes(context, lease, tally)
    await _drop_lost(context, lease, tally)
    return newest


async def _read_journal(
    context: JobContext, lease: Lease, tally: Tally, catalog_id: UUID, *, unsigned: bool, told: int
) -> int:
    row = await context.catalog.ownership.look()
    newest, quarantine = row.journal_confirmed, context.catalog.quarantine
    numbers = Numbers(newest)
    async for part in read_journal(context, catalog_id, behind=row.journal_confirmed):
        left_out = part.doubtful and not unsigned
        for wrong in _complaints(part, left_out=left_out):
            tally.add("journal_left_out", note=f"{part.key}: {wrong}")
            _log.error("journal.left_out", object_key=part.key, reason=wrong)
            await quarantine.record("object", part.key, f"journal: {wrong}", context.now, budget=1)
        newest = max([newest, *(entry.number for entry in part.entries)])
        numbers.add(entry.number for entry in part.entries)
        if part.entries and not left_out:
            await context.catalog.catching_up.apply(part.entries, lease)
            tally.add("journal_entries", len(part.entries))
    for first, last in numbers.missing(max(newest, told)):
        why = f"journal entries {first} to {last} are not in the bucket: lost there, or never written: {_MAY_LACK}"
        tally.add("journal_missing", last - first + 1, note=why)
        _log.error("journal.missing", first=first, last=last, hint=_MAY_LACK)
    return newest


def _complaints(told: Told, *, left_out: bool) -> list[str]:
    if not left_out:
        return list(told.wrong)
    by = f"{told.signed_by} did" if told.signed_by else "nobody did"
    unsigned = f"no master key that is configured signed it, {by}; left out (--accept-unsigned takes it): {_MAY_LACK}"
    return [*told.wrong, unsigned]


async def _unknown(context: JobContext, page: Sequence[ObjectInfo], tally: Tally, *, alone: bool) -> list[ObjectInfo]:
    """Objects whose packs the catalog does not have; of the others the class is noted, which may have changed."""
    named = {info.key: uuid for info in page if (uuid := pack_of(info.key))}
    known = await context.catalog.catching_up.known(list(named.values()))
    todo = []
    for info in page:
        pack = known.get(named[info.key])
        if pack is None or (pack.state == "UPLOADING" and alone):
            todo.append(info)
            continue
        tally.add("already_there")
        if pack.state == "ACTIVE" and pack.storage_class is not info.storage_class:
            await context.catalog.scrubbing.set_class(pack.pack_id, info.storage_class, context.now)
            tally.add("class_noted")
    return todo


async def _stored_footer(context: JobContext, info: ObjectInfo, tally: Tally) -> bytes | None:
    """Footer and tail of a pack, as far as they can be seen to be its own; None for what is named and left out."""
    reader, pack_uuid = PackReader(context.objects), pack_of(info.key)
    try:
        if info.storage_class.is_archive and pack_uuid is not None:
            stored = await context.objects.get(footer_key(pack_uuid), most=info.size)
            if (await context.objects.head(info.key)).restore is RestoreState.READABLE:
                own = await reader.unvouched_footer_bytes(info.key, info.size)
                if own != stored:
                    raise CorruptPack(f"{footer_key(pack_uuid)} is not a copy of the footer of its pack")
        else:
            stored = await reader.unvouched_footer_bytes(info.key, info.size)
        await asyncio.to_thread(read_footer, stored, info.size)
    except (CorruptPack, ObjectNotFound, ObjectArchived) as exc:
        tally.add("unreadable", note=f"{info.key}: not in the catalog: {exc}")
        _log.error("pack.not_rebuilt", object_key=info.key, error=str(exc))
        await context.catalog.quarantine.record("object", info.key, f"not rebuilt: {exc}", context.now, budget=1)
        return None
    return stored


async def _take(
    context: JobContext, lease: Lease, info: ObjectInfo, stored: bytes, catalog_id: UUID, tally: Tally
) -> Footer | None:
    """One pack into the catalog, but for what was deleted and what a newer save elsewhere supersedes."""
    footer, digest = await asyncio.to_thread(read_footer, stored, info.size), footer_digest(stored)
    if f"/{footer.pack_id}.pack" not in info.key or footer.catalog_id != catalog_id:
        whose = f"pack {footer.pack_id} of catalog {footer.catalog_id}"
        tally.add("foreign", note=f"{info.key}: its footer is of {whose}; left out")
        return None
    footer = (await with_attributes(context, footer, tally)).footer
    settled = await _settle(context, footer)
    if settled.contradicts:
        await _dispute(context, lease, info, settled, tally)
        digest = DISPUTED_FOOTER
    frames = [
        replace(frame, snapshots=tuple(s for s in frame.snapshots if s.meta.snapshot_id not in settled.elsewhere))
        for frame in footer.frames
    ]
    published = await context.catalog.packs.enter(
        _new_pack(info, footer, digest, context.policies), frames, lease, context.now
    )
    await context.catalog.quarantine.resolve("object", info.key)
    tally.add("packs")
    tally.add("encrypted_frames", sum(frame.key_id is not None for frame in footer.frames))
    tally.add("snapshots", published)
    tally.add("superseded_or_deleted", sum(len(frame.snapshots) for frame in footer.frames) - published)
    return footer


async def _name_dictionaries(context: JobContext, footer: Footer, digests: set[bytes], tally: Tally) -> None:
    """Frames tell which saga names the dictionaries are of."""
    names = {frame.dictionary_id: frame.saga_name for frame in footer.frames if frame.dictionary_id is not None}
    await context.catalog.dictionaries.name_them(names)
    for digest in set(footer.dictionaries) - digests:
        why = f"pack {footer.pack_id}: {dictionary_key(digest)}, which it needs, is not in the bucket"
        tally.add("dictionaries_missing", note=why)


async def _take_attributes(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Of packs that were taken from the bucket; of others the catalog knows itself."""
    async for info in context.objects.list("footers/"):
        pack_uuid = pack_of(info.key)
        if pack_uuid is None or info.key != attributes_key(pack_uuid) or context.stopping.is_set():
            continue
        pack = await context.catalog.catching_up.taken(pack_uuid, _REVISION)
        if pack is None:
            continue
        try:
            data = await context.objects.get(info.key, most=most_attributes(pack.byte_size))
            footer = await asyncio.to_thread(read_attributes, data, pack_uuid, most=pack.snapshot_count)
            if compare_frames(pack, await context.catalog.scrubbing.frames(pack.pack_id), footer).wrong:
                raise CorruptPack(f"{info.key}: is of other frames than its pack has")
        except (CorruptPack, ObjectNotFound) as exc:
            tally.add("attributes_left_out", note=str(exc))
            _log.error("attributes.left_out", object_key=info.key, error=str(exc))
            continue
        await mend(context, lease, pack, footer, tally, sealed_too=True)
        await context.catalog.scrubbing.set_attributes_digest(pack.pack_id, footer_digest(data), lease)
        tally.add("attributes")


async def _drop_lost(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Rows of packs that are not in the bucket: compacted away or expired since, or lost."""
    async for pack, info in side_by_side(context):
        if pack is None or info is not None or context.stopping.is_set():
            continue
        if await context.catalog.catching_up.object_is_gone(pack.pack_id, lease, context.now):
            tally.add("rows_ended")
            await context.catalog.quarantine.resolve("pack", pack.object_key)
        elif pack.state == "ACTIVE":
            now = await context.catalog.scrubbing.by_key(pack.object_key)
            count = now.live_count if now else 0
            tally.add("missing", note=f"{pack.object_key} is not in the bucket, and {count} snapshots were in it")


def _new_pack(info: ObjectInfo, footer: Footer, digest: bytes, policies: PolicySet) -> NewPack:
    entries = [entry for frame in footer.frames for entry in frame.snapshots]
    metas = [entry.meta for entry in entries]
    expiries = [entry.expires_us for entry in entries if entry.expires_us is not None]
    created = [meta.created_us for meta in metas]
    end = SagaEnd.of(max(metas, key=lambda meta: meta.order_key))
    policy = policies.for_meta(metas[0], end)
    return NewPack(
        pack_uuid=footer.pack_id,
        object_key=info.key,
        storage_class=info.storage_class,
        policy=policy.name,
        retention_revision=_REVISION,
        byte_size=info.size,
        snapshot_count=len(metas),
        sha256=info.sha256 or b"",
        footer_digest=digest,
        min_created_us=min(created),
        max_created_us=max(created),
        max_clock_us=max(policies.decide(meta, SagaEnd.of(meta), 0).clock_us for meta in metas),
        next_expiry_us=min(expiries, default=None),
    )


async def packs_in(context: JobContext) -> AsyncIterator[ObjectInfo]:
    async for info in context.objects.list("packs/"):
        if pack_of(info.key) is not None:
            yield info


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


def _claims(footer: Footer) -> dict[UUID, RivalClaim]:
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


async def _settle(context: JobContext, footer: Footer) -> Settlement:
    """How the packs that are in the catalog already stand to this one; what has one that cannot be read stays there."""
    mine, found = _claims(footer), Settlement()
    places = await context.catalog.locations.packs_of(list(mine))
    for place in {place.pack_id: place for place in places.values()}.values():
        is_doubted = place.footer_digest == DISPUTED_FOOTER
        try:
            reader = PackReader(context.objects)
            other = await reader.footer(replace(place, footer_digest=None) if is_doubted else place)
        except (CorruptPack, ObjectNotFound, ObjectArchived) as exc:
            if await find_object(context.objects, place.object_key) is not None:
                _log.error("footer.unreadable", object_key=place.object_key, error=str(exc))
                found.elsewhere |= {i for i in places if places[i].pack_id == place.pack_id}
            continue  # else the catalog is older than the bucket, and that pack was written anew since
        theirs = _claims(other)
        shared = {i for i in places if places[i].pack_id == place.pack_id and i in theirs}
        doubted = await _doubted(context, place.pack_id, other) if is_doubted else set()
        disputed = {i for i in shared if i in doubted or contradict(mine[i], theirs[i])}
        if disputed:
            found.contradicts.add(place.object_key)
        found.disputed |= disputed
        found.elsewhere |= {i for i in shared if i in disputed or mine[i].rank < theirs[i].rank}
    return found


async def _doubted(context: JobContext, pack_id: int, footer: Footer) -> set[UUID]:
    """What others contradict a pack about already: a third that agrees with it does not make it true."""
    return {
        entry.meta.snapshot_id
        for row in await context.catalog.scrubbing.frames(pack_id)
        if row.digest == DISPUTED_FRAME
        for entry in footer.frames[row.frame_no].snapshots
    }


async def _dispute(context: JobContext, lease: Lease, info: ObjectInfo, found: Settlement, tally: Tally) -> None:
    """Take away the trust in the packs that another one contradicts, before that one is entered; name them all."""
    keys = sorted(found.contradicts)
    await context.catalog.scrubbing.dispute(
        keys, sorted(found.disputed), lease, footer=DISPUTED_FOOTER, frame=DISPUTED_FRAME
    )
    for one, other in ((info.key, ", ".join(keys)), *((key, info.key) for key in keys)):
        reason = f"has snapshots that {other} has otherwise: one is forged, neither is believed, nothing is deleted"
        what_to_do = "remove the forged object, then rebuild into an empty catalog"
        tally.add("contradictions", note=f"{one}: {reason}; {what_to_do}")
        _log.error("pack.contradicted", object_key=one, by=other)
        await context.catalog.quarantine.record("claim", one, reason, context.now, budget=1)
