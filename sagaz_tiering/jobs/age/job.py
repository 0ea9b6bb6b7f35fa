"""Age: hot and durable snapshots that are due go into packs on the object store.

Three things go on at once: the next sagas are read (of Redis, then rows that only PostgreSQL has), frames are built of
the ones before on a thread (`frames`), and a full pack is uploaded and published (`publish`; `writes` has the order of
writes). Each waits for the next, so memory is bounded by a batch and the open packs, whatever the backlog. Claims only
keep two daemons from doing the same work, safety does not depend on them.

A claimed saga is read in one piece with hundreds of others; one that is too large for that page by page, headers
first. Of due durable rows come those that no saga in Redis accounted for: it was down when they were saved, or lost
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import groupby
from typing import TypeVar
from uuid import UUID

from sagaz_tiering.catalog.durable import ClaimedRow, Postponement
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import dictionary_id, is_in_pack, raw_length, snapshot_id, stands_for
from sagaz_tiering.errors import CorruptRecord, HotTierUnavailable, SagazTieringError
from sagaz_tiering.hot.layout import IndexedHeader, member
from sagaz_tiering.jobs.age.frames import CHUNK_BYTES, RETRY_UNREADABLE_US, Batch, FrameSupplies, Work, build, raw_bytes
from sagaz_tiering.jobs.age.publish import Packer
from sagaz_tiering.jobs.age.writes import REQUEUE_AFTER_US, AgeWrites, needs_key
from sagaz_tiering.jobs.attributes import definitions_revision
from sagaz_tiering.jobs.claims import UNKNOWN, Claim, OpenClaims, SagaEnds, saga_ends
from sagaz_tiering.jobs.context import JobContext, Tally, chunks
from sagaz_tiering.jobs.mending import Strange, durable_meta, meta_of, readable_metas, set_aside, sort_out, strange_of
from sagaz_tiering.jobs.ownership import secure
from sagaz_tiering.jobs.pack_objects import already_packed
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
WORTH_SHARING = 4_000
"""Sagas that are due, from which on several processes are faster than one: each takes a second to begin."""
T = TypeVar("T")
_ROWS = 1_000


async def preview(context: JobContext, tally: Tally) -> None:
    """Count what a run of one process would pack and what waits, by its own decisions (`writes`), packs built and all.

    A snapshot that is both hot and durable counts once, as hot. Raises MasterKeyUnavailable as a run.
    """
    writes = AgeWrites(context, None)
    await writes.prepare(tally)
    await context.dictionaries.freshen()
    await _pack_all(context, writes, tally)


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Pack everything that is due, until nothing is or the process is stopping.

    Raises MasterKeyUnavailable after all else, where encrypted policies had to wait for their keys.
    """
    if not await AgeWrites(context, lease).prepare(tally):
        return
    await context.dictionaries.freshen()
    due = (await context.hot.queue.counts(context.now_us))["sagas_due"]
    workers = context.workers
    try:
        if workers is None or workers.processes == 1 or due < WORTH_SHARING:
            await run_share(context, lease, tally)
            return
        async with workers.share("age", context.stopping, tally, context.policies):
            await run_share(context.shared_by(workers.processes), lease, tally)
    finally:
        if tally.counts["packs"]:
            # A dump from before these packs is behind from now on, though nobody should move the mark again.
            with suppress(SagazTieringError):  # the next run tells
                await secure(context, move=True)


async def run_share(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Pack what is due and nobody else works on. Raises as `run`."""
    await _pack_all(context, AgeWrites(context, lease), tally)


async def _pack_all(context: JobContext, writes: AgeWrites, tally: Tally) -> None:
    open_claims, twice = OpenClaims(), set[UUID]()
    await writes.keys.begin()
    try:
        async with Packer(context, writes, tally) as packer:
            durable = durable_batches(context, open_claims, writes, packer.has)
            for source in (hot_batches(context, open_claims, writes), durable):
                async with aclosing(_ahead(source)) as batches:
                    async for batch in batches:
                        await _pack(context, packer, batch, writes, twice, tally)
            if not context.stopping.is_set():
                await packer.finish()
    finally:
        with suppress(HotTierUnavailable):
            await writes.nack(open_claims.unfinished())
    writes.keys.check()


async def _pack(
    context: JobContext, packer: Packer, batch: Batch, writes: AgeWrites, twice: set[UUID], tally: Tally
) -> None:
    keys, values = writes.keys, batch.values
    tally.add("quarantined", batch.strange)
    tally.add("sagas", batch.sagas)
    tally.add("durable_only", batch.durable_only)
    metas = readable_metas(values) if keys.needed else []
    ends = await saga_ends(context, {claim.saga.saga_id for claim, _ in batch.work})
    encrypted = [meta for meta in metas if needs_key(context.policies.for_meta(meta, ends.of(meta)))]
    twice_us = await _kept_twice_us(context, values, twice, tally)
    pins_us = {**await _pins_us(context, values), **twice_us}
    supplies = FrameSupplies(
        keys=await keys.of({meta.saga_id for meta in encrypted}),
        known=await context.dictionaries.need(*set(map(dictionary_id, values))),
        chosen=context.dictionaries.chosen(),
        pins_us=pins_us,
        ends=ends,
        evicted=await _evict_packed(context, writes, values, pins_us, ends, tally),
        reindexed=await context.catalog.reindexed.run(definitions_revision(context.settings)),
    )
    stay = [meta for meta in encrypted if meta.saga_id not in supplies.keys]
    if twice_us:
        stay += [meta for meta in readable_metas(values) if meta.snapshot_id in twice_us]
    await writes.postpone(later(context, stay, ends))
    size = sum(map(raw_length, values))
    for part in await context.compute(size, build, context, batch.work, supplies, tally):
        tally.add("snapshots", len(part.frame.entry.snapshots))
        tally.add("raw_bytes", part.frame.entry.raw_length)
        await packer.add(part)
    for claim in batch.complete:
        claim.read = True
    await writes.ack(batch.complete)


async def _pins_us(context: JobContext, values: Sequence[bytes]) -> dict[UUID, int]:
    """What a restore brought back, and when its pin ends: it is looked at again then."""
    if not await context.catalog.restores.any_pins(context.now):
        return {}
    ids = [found for value in values if (found := snapshot_id(value)) is not None]
    pins = await context.catalog.restores.pinned(ids, context.now)
    return {pinned: to_micros(until) for pinned, until in pins.items()}


async def _kept_twice_us(
    context: JobContext, values: Sequence[bytes], told: set[UUID], tally: Tally
) -> dict[UUID, int]:
    """Saves that went past a legal hold on what a pack has: both stay, until the hold is released; and told once."""
    ids = [found for value in values if not is_in_pack(value) and (found := snapshot_id(value)) is not None]
    frozen = await context.catalog.holds.frozen_in_packs(ids) if ids else set()
    if not frozen:
        return {}
    metas = [meta for meta in readable_metas(values) if meta.snapshot_id in frozen]
    twice = frozen - await already_packed(context, metas)
    for one in sorted(twice - told):
        _log.error("snapshot.kept_twice", snapshot_id=str(one), hint="a save went past a legal hold: both are kept")
        tally.note(f"snapshot {one} was saved anew though it is held: the original stays in its pack, the save hot")
    tally.add("kept_twice", len(twice - told))
    told |= twice
    return dict.fromkeys(twice, context.now_us + REQUEUE_AFTER_US)


async def _evict_packed(
    context: JobContext,
    writes: AgeWrites,
    values: Sequence[bytes],
    pins_us: Mapping[UUID, int],
    ends: SagaEnds,
    tally: Tally,
) -> set[UUID]:
    """What a restore brought back, nothing pins any more and a pack holds still leaves Redis again; which."""
    brought_back = [meta for meta in readable_metas(writes.maybe_packed(values)) if meta.snapshot_id not in pins_us]
    if not brought_back:
        return set()
    now_us, decide = context.now_us, context.policies.decide
    decided = [(meta, decide(meta, ends.of(meta), now_us)) for meta in brought_back]
    due = [meta for meta, decision in decided if decision.due and not decision.expired]
    packed = await already_packed(context, due)
    gone, _ended = await writes.evict([meta for meta in due if meta.snapshot_id in packed], {})
    tally.add("evicted", gone)
    return packed


async def _ahead(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items; the next one is on its way while the last one is worked on."""
    async with aclosing(source):
        coming = asyncio.ensure_future(anext(source))
        try:
            while True:
                try:
                    item = await coming
                except StopAsyncIteration:
                    return
                coming = asyncio.ensure_future(anext(source))
                yield item
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


async def hot_batches(context: JobContext, open_claims: OpenClaims, writes: AgeWrites) -> AsyncGenerator[Batch, None]:
    """Claimed sagas with their values, until none is due. `open_claims` are those under way; new ones are added."""
    async for claimed in writes.sagas():
        new = open_claims.begin(claimed)
        found = await context.hot.queue.gather([claim.saga.saga_id for claim in new])
        small: list[Work] = []
        large: list[Claim] = []
        quarantined = 0
        for claim, whole in zip(new, found, strict=True):
            if whole is None:
                large.append(claim)
                continue
            present, gone, strange = sort_out(claim.saga.saga_id, whole)
            claim.left = whole.count
            for lost in gone:
                _note_gone(lost, claim, context.now_us)
            small.append((claim, present))
            if strange:
                quarantined += await _set_aside(context, writes, claim, strange)
        if quarantined:
            yield Batch(work=[], strange=quarantined)
        for work in chunks(small, raw_bytes, CHUNK_BYTES):
            sagas = sum(bool(values) for _, values in work)
            yield Batch(work=work, complete=[claim for claim, _ in work], sagas=sagas)
        for claim in large:
            async for batch in _page_by_page(context, writes, claim):
                yield batch


async def _page_by_page(context: JobContext, writes: AgeWrites, claim: Claim) -> AsyncGenerator[Batch, None]:
    """A saga that is too large to be read at once. Snapshots that others evict meanwhile may hide some: it is looked
    at again then."""
    strange: list[Strange] = []
    saga_id = claim.saga.saga_id
    async for headers in context.hot.headers(saga_id):
        strange += strange_of(saga_id, headers)
        due = _due_of(context, headers, await saga_ends(context, [saga_id]), claim)
        for some in chunks(due, lambda item: item[1], CHUNK_BYTES):
            values = await context.hot.fetch(saga_id, [meta.snapshot_id for meta, _ in some])
            claim.left -= values.count(None)
            # Others may have come into their places since the headers were read.
            places = [member(meta.step_index, meta.snapshot_id) for meta, _ in some]
            found = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
            yield Batch(work=[(claim, [value for value, place in found if stands_for(value, saga_id.bytes, place)])])
    quarantined = await _set_aside(context, writes, claim, strange)
    yield Batch(work=[], complete=[claim], sagas=1, strange=quarantined)


def _due_of(
    context: JobContext, headers: Sequence[IndexedHeader], ends: SagaEnds, claim: Claim
) -> list[tuple[SnapshotMeta, int]]:
    """Which of a saga's snapshots are to be packed, and their uncompressed sizes in bytes; notes in `claim` when the
    others need a look."""
    due, now_us = [], context.now_us
    for header in headers:
        claim.left += 1
        if not header.is_ours():
            continue
        if header.head is None:
            _note_gone(header.snapshot_id, claim, now_us)
            continue
        try:
            meta = meta_of(claim.saga.saga_id, header)
        except CorruptRecord as exc:
            _log.error("snapshot.unreadable", snapshot_id=str(header.snapshot_id), tier="hot", error=str(exc))
            claim.look_at(now_us + RETRY_UNREADABLE_US)
            continue
        decision = context.policies.decide(meta, ends.of(meta), now_us)
        if decision.due and not decision.expired:
            claim.expire_at(decision.expires_us)
            due.append((meta, raw_length(header.head)))
        else:
            claim.follow(decision)
    return due


async def _set_aside(context: JobContext, writes: AgeWrites, claim: Claim, strange: Sequence[Strange]) -> int:
    """Into quarantine with these; the saga is looked at again some day. How many."""
    claim.left -= await set_aside(context, claim.saga.saga_id, strange, dry=writes.dry)
    if not all(each.extra for each in strange):
        claim.look_at(context.now_us + RETRY_UNREADABLE_US)
    return len(strange)


def _note_gone(snapshot_id: UUID, claim: Claim, now_us: int) -> None:
    _log.error("snapshot.lost", snapshot_id=str(snapshot_id), tier="hot", error="its index names it, its value is gone")
    claim.look_at(now_us + RETRY_UNREADABLE_US)


async def durable_batches(
    context: JobContext, open_claims: OpenClaims, writes: AgeWrites, waiting: Callable[[UUID], bool]
) -> AsyncGenerator[Batch, None]:
    """Claimed rows, whole sagas, until none is due. `waiting` tells what waits in an open pack of this run already."""
    async for claimed in writes.rows(_ROWS):
        rows = {row.snapshot_id: row for row in claimed if not waiting(row.snapshot_id)}
        mine = {saga.saga_id: saga for saga in await writes.claim_these({row.saga_id for row in rows.values()})}
        due, rest = await _sorted(context, [row for row in rows.values() if row.saga_id in mine], dry=writes.dry)
        await writes.postpone(rest)
        # The rows were read before their sagas were ours: another run may have packed them in between.
        safe = await already_packed(context, due)
        # What Redis has of these sagas is not looked at here, so their next due times there stay as they are.
        new = {claim.saga.saga_id: claim for claim in open_claims.begin(mine.values(), left=UNKNOWN)}
        todo = [
            rows[meta.snapshot_id]
            for meta in sorted(due, key=lambda meta: meta.saga_id)
            if meta.snapshot_id not in safe and meta.saga_id in new
            if not waiting(meta.snapshot_id)  # meanwhile it was put into one
        ]
        for chunk in chunks(todo, lambda row: raw_length(row.value), CHUNK_BYTES):
            grouped = groupby(chunk, lambda row: row.saga_id)
            work = [(new[saga_id], [row.value for row in group]) for saga_id, group in grouped]
            yield Batch(work=work, durable_only=len(chunk))
        yield Batch(work=[], complete=list(new.values()))


async def _sorted(
    context: JobContext, rows: Iterable[ClaimedRow], *, dry: bool
) -> tuple[list[SnapshotMeta], list[Postponement]]:
    """Those that are due, and when the others are looked at again."""
    due, rest, metas = list[SnapshotMeta](), list[Postponement](), list[SnapshotMeta]()
    for row in rows:
        meta = await durable_meta(context, row.snapshot_id, row.value, saga_id=row.saga_id, dry=dry)
        if meta is not None:
            metas.append(meta)
            continue
        due_us, saved_us = context.now_us + RETRY_UNREADABLE_US, to_micros(row.saved_at)
        rest.append(Postponement(snapshot_id=row.snapshot_id, saved_us=saved_us, due_us=due_us, expires_us=None))
    ends = await saga_ends(context, {meta.saga_id for meta in metas})
    for meta in metas:
        decision = context.policies.decide(meta, ends.of(meta), context.now_us)
        if decision.due and not decision.expired:
            due.append(meta)
        else:
            rest.append(Postponement.of(meta, None if decision.expired else decision.due_us, decision.expires_us))
    return due, rest


def later(context: JobContext, metas: Iterable[SnapshotMeta], ends: SagaEnds) -> list[Postponement]:
    """Durable rows that stay though they are due: they are looked at again."""
    due_us, expires_us = context.now_us + REQUEUE_AFTER_US, context.policies.expires_us
    return [Postponement.of(meta, due_us, expires_us(meta, ends.of(meta))) for meta in metas]
