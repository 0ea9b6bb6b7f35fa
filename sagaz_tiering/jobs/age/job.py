"""Age: hot and durable snapshots that are due go into packs on the object store.

Three things go on at once: the next sagas are read (`due`), frames are built of the ones
before on a thread (`frames`), and a full pack is uploaded and published (`publish`; `writes` has the order of
writes). Each waits for the next, so memory is bounded by a batch and the open packs, whatever the backlog. Claims only
keep two daemons from doing the same work, safety does not depend on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import dictionary_id, is_in_pack, raw_length, snapshot_id
from sagaz_tiering.errors import HotTierUnavailable, SagazTieringError
from sagaz_tiering.jobs.age.due import durable_batches, hot_batches, later
from sagaz_tiering.jobs.age.frames import Batch, FrameSupplies, build
from sagaz_tiering.jobs.age.publish import Packer
from sagaz_tiering.jobs.age.writes import REQUEUE_AFTER_US, AgeWrites, needs_key
from sagaz_tiering.jobs.attributes import definitions_revision
from sagaz_tiering.jobs.claims import OpenClaims, SagaEnds, saga_ends
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.foreign import readable_metas
from sagaz_tiering.jobs.ownership import secure
from sagaz_tiering.jobs.pack_objects import already_packed
from sagaz_tiering.logs import Logger

_log = Logger(__name__)
WORTH_SHARING = 4_000
"""Sagas that are due, from which on several processes are faster than one: each takes a second to begin."""
T = TypeVar("T")


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
            async with aclosing(_ahead(hot_batches(context, open_claims, writes))) as hot:
                async for batch in hot:
                    tally.add("sagas", batch.sagas)
                    await _pack(context, packer, batch, writes, twice, tally)
            async with aclosing(_ahead(durable_batches(context, open_claims, writes, packer.has))) as durable:
                async for batch in durable:
                    tally.add("durable_only", len(batch.values))
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
