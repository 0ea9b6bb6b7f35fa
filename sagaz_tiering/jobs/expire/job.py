"""Expire: what is past its retention goes, in every tier.

Readers stop seeing a snapshot at the instant itself; this job removes rows and bytes. Order: other policies than
those that were accepted before are accepted, or the run stops there (`mass_delete`); packs whose dates come from other
policies are dated anew (`mass_delete`), and sagas that went on since part of them was archived; then hot copies,
durable rows and places in packs go (only those that the policies call expired and no hold keeps), then packs without a
live snapshot retire, and after their grace the bytes are deleted.
Each step can be repeated.

All of it goes by the batch: many sagas are looked at in one trip, what expired of them is asked for holds and goes in
one transaction, and the object store is asked once for many dead packs.

Of a saga that went on the expiry of all that is archived is decided anew. The catalog marks those that it learnt of
(`sagas.changed`); of those that would lose something now Redis is asked, and nothing of them goes while it cannot be.
Dates get later; earlier only where `retention: policy` says so. A crash leaves a saga marked, and the next run decides
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack, PackLife
from sagaz_tiering.catalog.sagas import Archived, NewDates
from sagaz_tiering.jobs.claims import SagaEnds, due_sagas, fill_sagas, headers_of, saga_ends
from sagaz_tiering.jobs.context import JobContext, Tally, each_pack, pages
from sagaz_tiering.jobs.expire.mass_delete import (
    accept_policies,
    durable_rows,
    keeps_promises,
    outdated_packs,
    question,
)
from sagaz_tiering.jobs.expire.near import expire_durable, expire_hot, expire_noted, expired_rows
from sagaz_tiering.jobs.mending import finish_deletions, mark_holds, mend_due, vacuum_erased, vacuum_is_due
from sagaz_tiering.jobs.ownership import put_policies_in_force, still_owner
from sagaz_tiering.jobs.times import with_sure_clock
from sagaz_tiering.logs import Logger
from sagaz_tiering.packs.reader import attributes_key, footer_key
from sagaz_tiering.policy import NOT_PROMISED, PolicySet, SagaEnd, latest
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_PACKS = 100
_PLACES = 10_000
_DECIDED_AT_ONCE = 200
_ASKED_AT_ONCE = 1_000
_FIRST = UUID(int=0)


async def preview(context: JobContext, tally: Tally) -> None:
    """Count what a run would remove now, and what legal holds keep; where it would stop and ask, it is `refused`, and
    the numbers are those of `--allow-mass-delete`."""
    tally.add("vacuumed", await vacuum_is_due(context))
    sure = await with_sure_clock(context, tally)
    if sure is None:
        return
    if (error := await question(sure, Tally(None))) is not None:
        tally.refused = str(error)
        tally.note(f"a run stops: {error}; {error.hint}")
    promised = sure.policies.before is None or keeps_promises(sure.policies)
    has_changed, context = sure.policies.before is not None, sure.by(sure.policies.own)
    async for saga_ids in context.hot.saga_ids() if has_changed else due_sagas(context, expiring=True):
        expired: list[SnapshotMeta] = []
        ends = await _ends(context, saga_ids, promised)
        async for page in headers_of(context, saga_ids):
            expired += _expired(context, page.metas, ends)
        tally.add("held", await _count(context, "hot", expired, ends, tally))
        if not has_changed and expired:
            # Durable rows of sagas that end by what Redis has of them, where no noted expiry says so.
            beside = await context.catalog.durable.of_sagas({meta.saga_id for meta in expired})
            noted = {meta.saga_id for meta, us in beside if us is not None and us <= context.now_us}
            await _preview_durable(context, [row for row in beside if row[0].saga_id not in noted], promised, tally)
    async for rows in durable_rows(context) if has_changed else expired_rows(context):
        await _preview_durable(context, rows, promised, tally)
    await _preview_archived(context, sure.policies, tally)
    async for pack in each_pack(lambda last: context.catalog.packs.deletable(context.now, last, _PACKS)):
        _count_deleted(pack, tally)


def _count_deleted(pack: Pack, tally: Tally) -> None:
    tally.add("packs_deleted")
    tally.add("bytes_deleted", pack.byte_size)


def _count_retired(context: JobContext, pack: Pack, gone: int, tally: Tally) -> None:
    """Of a pack of which so many snapshots go; without a grace its bytes go in the same run."""
    if gone == pack.live_count:
        tally.add("packs_retired")
        if not context.settings.jobs.retire_grace:
            _count_deleted(pack, tally)


def _expired(context: JobContext, metas: Iterable[SnapshotMeta], ends: SagaEnds) -> list[SnapshotMeta]:
    decide, now_us = context.policies.decide, context.now_us
    return [meta for meta in metas if decide(meta, ends.of(meta), now_us).expired]


async def _preview_durable(
    context: JobContext, rows: Sequence[tuple[SnapshotMeta, int | None]], promised: bool, tally: Tally
) -> None:
    """Rows of saves that Redis has too go with them, and were counted there."""
    hot = await context.hot.owners([meta.snapshot_id for meta, _ in rows])
    alone = [meta for meta, _ in rows if meta.snapshot_id not in hot]
    ends = await _ends(context, {meta.saga_id for meta in alone}, promised)
    await _count(context, "durable", _expired(context, alone, ends), ends, tally)


async def _ends(context: JobContext, saga_ids: Iterable[UUID], promised: bool) -> SagaEnds:
    """Where sagas end; without what earlier rules promised where a run will have dated their packs anew."""
    ends = await saga_ends(context, saga_ids)
    return ends if promised else ends.unpromised()


async def _preview_archived(context: JobContext, policies: PolicySet, tally: Tally) -> None:
    """By the dates that packs have, or, where those are of other policies, by those that they would get."""
    packs, revision = context.catalog.packs, context.policies.retention_revision
    ended: Counter[int] = Counter()  # by pack, of sagas that went on and end now all the same
    async for new in changed(context, None):
        ended += await _unheld(context, new)
    async for pack in each_pack(lambda last: packs.expiring(context.now, revision, last, _PACKS)):
        went = [new async for new in went_on(context, None, pack)]
        gone = ended.pop(pack.pack_id, 0) + sum([(await _unheld(context, new))[pack.pack_id] for new in went])
        besides = [saga_id for new in went for saga_id in new.seen]
        gone += await packs.count_expired(pack.pack_id, context.now, besides)
        tally.add("archived", gone)
        _count_retired(context, pack, gone, tally)
    for pack in await packs.active(ended):
        if pack.retention_revision == revision:
            tally.add("archived", ended[pack.pack_id])
            _count_retired(context, pack, ended[pack.pack_id], tally)
    async for dates in outdated_packs(context, None, tally, promised=keeps_promises(policies)):
        ends = [(meta, dates.expires_us[meta.snapshot_id]) for meta in dates.metas]
        expired = [meta for meta, ends_us in ends if ends_us is not None and ends_us <= context.now_us]
        held = await _count(context, "archived", expired, dates.ends, tally)
        tally.add("packs_redated")
        _count_retired(context, dates.pack, len(expired) - held, tally)


async def _unheld(context: JobContext, new: NewDates) -> Counter[int]:
    """How many of each pack go by these dates."""
    gone = [one for one, us in new.expiries if us is not None and us <= context.now_us]
    held = await context.catalog.holds.covering([one.meta for one in gone], ends=new.seen)
    return Counter(one.pack_id for one in gone if one.meta.snapshot_id not in held)


async def _count(context: JobContext, kind: str, expired: Sequence[SnapshotMeta], ends: SagaEnds, tally: Tally) -> int:
    """Count what no hold keeps; how many are held."""
    held = await context.catalog.holds.covering(expired, ends=ends.known)
    tally.add(kind, len(expired) - len(held))
    return len(held)


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Remove everything that is past its retention. Nothing where the clock is not sure."""
    await mend_due(context, tally)
    await put_policies_in_force(context)
    await fill_sagas(context)
    await finish_deletions(context, tally)
    await mark_holds(context)
    await vacuum_erased(context, tally)
    sure = await with_sure_clock(context, tally)
    if sure is None:
        return
    context = await accept_policies(sure, lease, tally)
    if context.stopping.is_set():
        return
    await expire_hot(context, lease, tally)
    await expire_durable(context, lease, tally)
    await expire_noted(context, lease)
    async for _ in changed(context, lease):
        pass  # each is decided, and recorded, before anything goes
    await _expire_archived(context, lease, tally)
    await _delete_retired(context, lease, tally)


async def _expire_archived(context: JobContext, lease: Lease, tally: Tally) -> None:
    packs, revision = context.catalog.packs, context.policies.retention_revision
    async for pack in each_pack(lambda last: packs.expiring(context.now, revision, last, _PACKS)):
        if pack.live_count:
            async for _ in went_on(context, lease, pack):
                pass
        life = PackLife.EXPIRING
        while life is PackLife.EXPIRING:
            if context.stopping.is_set():
                return
            delete_after = context.now + context.settings.jobs.retire_grace
            gone, life = await packs.expire(pack.pack_id, lease, context.now, limit=_PLACES, delete_after=delete_after)
            tally.add("archived", gone)
        if life is PackLife.RETIRED:
            tally.add("packs_retired")


async def _delete_retired(context: JobContext, lease: Lease, tally: Tally) -> None:
    packs = context.catalog.packs
    async for page in pages(lambda last: packs.deletable(context.now, last, _PACKS), 0, lambda pack: pack.pack_id):
        if context.stopping.is_set():
            return
        keys: dict[str, Pack] = {}
        for pack in page:
            for key in (pack.object_key, footer_key(pack.pack_uuid), attributes_key(pack.pack_uuid)):
                keys[key] = pack
        await still_owner(context)
        failures = await context.objects.delete(list(keys))
        failed = {keys[failure.key].pack_id for failure in failures}
        for failure in failures:
            tally.failed(failure.key, failure.reason)
            _log.error("object.not_deleted", object_key=failure.key, reason=failure.reason)
        gone = await packs.deleted([pack.pack_id for pack in page if pack.pack_id not in failed], lease, context.now)
        for pack in page:
            if pack.pack_id in gone:
                _count_deleted(pack, tally)


def plan(seen: Mapping[UUID, SagaEnd], archived: Iterable[Archived], policies: PolicySet) -> NewDates:
    """What is to be recorded of these sagas, that end so. Pure; what is archived of one agrees afterwards."""
    archived = list(archived)
    kept: dict[UUID, int | None] = dict.fromkeys(seen, NOT_PROMISED)
    for one in archived:
        saga_id = one.meta.saga_id
        kept[saga_id] = latest(kept[saga_id], policies.promise_us(one.meta, seen[saga_id]))
    ends = {saga_id: end._replace(kept_us=kept[saga_id]) for saga_id, end in seen.items()}
    expiries = [(one, one.expires_us(policies, ends[one.meta.saga_id])) for one in archived]
    return NewDates(seen=seen, kept=kept, expiries=expiries)


async def changed(context: JobContext, lease: Lease | None) -> AsyncIterator[NewDates]:
    """What is decided of all that the catalog knows to have gone on, a page at a time; recorded with a `lease`."""
    after = _FIRST
    while not context.stopping.is_set() and (page := await context.catalog.sagas.changed(after, _DECIDED_AT_ONCE)):
        yield await _decided(context, lease, page, await _ahead(context, page))
        after = max(page)


async def went_on(context: JobContext, lease: Lease | None, pack: Pack) -> AsyncIterator[NewDates]:
    """The same of sagas that would lose something of a pack now, though by Redis they went on."""
    after, sagas = _FIRST, context.catalog.sagas
    while page := await sagas.losing(pack.pack_id, context.now, after, _ASKED_AT_ONCE):
        unknown = [saga_id for saga_id, end in page.items() if end is None]
        known = {saga_id: end for saga_id, end in page.items() if end is not None}
        if unknown:
            known.update(await sagas.ends(unknown))
        if ahead := await _ahead(context, known):
            if lease is not None and (new := ahead.keys() & set(unknown)):
                await sagas.take_in(new)
            yield await _decided(context, lease, {}, ahead)
        after = max(page)


async def _ahead(context: JobContext, known: Mapping[UUID, SagaEnd]) -> dict[UUID, SagaEnd]:
    """Of these sagas, those of which Redis has newer snapshots than are known. Raises HotTierUnavailable."""
    found = await context.hot.ends(list(known)) if known else {}
    return {
        saga_id: end._replace(kept_us=known[saga_id].kept_us)
        for saga_id, end in found.items()
        if end.order_key > known[saga_id].order_key
    }


async def _decided(
    context: JobContext, lease: Lease | None, known: Mapping[UUID, SagaEnd], ahead: Mapping[UUID, SagaEnd]
) -> NewDates:
    sagas, seen = context.catalog.sagas, {**known, **ahead}
    if lease is not None and ahead:
        await sagas.note(ahead)
    new = plan(seen, await sagas.archived(seen), context.policies)
    if lease is not None:
        await sagas.date_anew(new, lease)
    return new
