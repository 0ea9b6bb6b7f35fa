"""Reindex: what was saved before an attribute was configured gets it: durable rows, Redis, packs.

Ordered by an operator, never by a schedule: it reads every pack that has sagas of a configured name. Everything that is
saved after it began has its attributes by itself, if the applications were configured before it: so `age` packs what is
older with what it finds in it (`age.frames`), and no pack that comes later need be looked into. But runs of `age` that
were at work as it began may have built frames already: it is not done while one of them goes on, and not any more once
somebody publishes a pack that was built by other definitions.

The order, each step repeatable: durable rows, by id; Redis, a value's header at a time; packs, by id. A
run that was stopped goes on where it was, in Redis from the start. One that was done begins anew when it is ordered
again: packs that were looked into by these definitions are left out. Of packs in archive classes those are read that
are readable now; with `thaw` the others are asked for, and the next run finds them.

Durable rows and Redis: each value gets the header that a save of today would give it, where it has another. Without a
lease it is a dry run: the same is read, decided and counted, and nothing is written.

Packs: each is read whole, and what its snapshots carry by now is put beside it, sealed where they are encrypted. A pack
is never written anew for that. The order for each, and what a crash after each step leaves:

1. `footers/<pack id>.attributes`: the pack's footer with the new attributes
                                       -> a rebuild takes it; the catalog has other attributes until the next run
2. one transaction: attributes of its frames, the digest of that object, and that the pack was looked into
                                       -> done
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final
from uuid import UUID

from sagaz_tiering.attributes import Attributes
from sagaz_tiering.catalog.durable import DurableRow
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.packs_anew import LiveFrame, PackWork, Reindexing
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import dictionary_id, snapshot_id
from sagaz_tiering.codec.value import attributed, decode, decode_value, read_header
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.costs.economics import Cost, restore_cost
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.errors import CorruptPack, CorruptRecord, MasterKeyUnavailable, ObjectStoreError
from sagaz_tiering.jobs.age.frames import CHUNK_BYTES
from sagaz_tiering.jobs.attributes import column_of, definitions_revision, newest_footer, put_attributes, with_texts
from sagaz_tiering.jobs.context import JobContext, Tally, batched, chunks, each_pack
from sagaz_tiering.jobs.mending import durable_meta, readable_metas, sort_out
from sagaz_tiering.jobs.ownership import still_owner
from sagaz_tiering.jobs.pack_objects import vouched, whole
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.packs.attributes import parted, united
from sagaz_tiering.packs.entries import Footer
from sagaz_tiering.packs.format import check_frame
from sagaz_tiering.packs.frame import open_frame
from sagaz_tiering.packs.reader import PackReader, footer_part
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage_class import StorageClass

_log = Logger(__name__)
_PAGE: Final = 100
_ROWS: Final = 5_000
_SAGAS: Final = 64

Change = tuple[SnapshotMeta, bytes, bytes]
"""A save with its attributes as they should be, its value's header as it is, and its value as it should be."""


async def preview(context: JobContext, tally: Tally) -> None:
    """Count what a run would do, and what reading packs costs; what is archived by its class."""
    revision = definitions_revision(context.settings)
    progress = await context.catalog.reindexed.run(revision)
    if progress is None or progress.done_at is not None:  # it begins, or begins anew
        progress = Reindexing(
            revision=revision, began_at=context.now, durable_after=UUID(int=0), hot_done=False, done_at=None
        )
    await durable_rows(context, None, progress, tally)
    if not progress.hot_done:
        await redis(context, None, progress, tally)
    found: dict[tuple[StorageClass, bool], tuple[int, int, Cost]] = {}
    async for work in _left(context):
        pack = work.pack
        if not _concerns(context, work):
            tally.add("packs_without")
            continue
        state = await _state(context, pack)
        readable = state is RestoreState.READABLE
        tally.add("packs_asked", context.thaw and state is RestoreState.NONE)
        cost = _cost(context, pack, readable)
        packs, size, costs = found.get((pack.storage_class, readable), (0, 0, Cost()))
        found[pack.storage_class, readable] = packs + 1, size + pack.byte_size, costs + cost
        tally.add("packs" if readable else "packs_archived")
        tally.add("packs_left", not readable)
        tally.add("bytes" if readable else "bytes_archived", pack.byte_size)
        tally.add("requests", cost.requests if readable else 0)
    for (storage_class, readable), (packs, size, cost) in sorted(found.items(), key=lambda each: each[0]):
        what = "to read them and to write their attributes" if readable else "to ask for them (--thaw), else left out"
        tally.note(
            f"{packs:,} packs in {storage_class}, {size:,} bytes: {cost.requests:,} requests, ${cost.usd:.4f} {what}"
        )


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Go through everything, or what an earlier run left."""
    revision = definitions_revision(context.settings)
    progress = await context.catalog.reindexed.begin(revision, context.now)
    await durable_rows(context, lease, progress, tally)
    if not progress.hot_done and not context.stopping.is_set():
        await redis(context, lease, progress, tally)
    async for work in _left(context):
        if context.stopping.is_set():
            return
        await _one(context, lease, work, revision, tally)
    if not context.stopping.is_set():
        behind = await context.catalog.reindexed.done(revision, context.now)
        tally.add("packs_left", behind.packs)
        if behind.ageing:
            tally.add("age_runs_before", behind.ageing)
            tally.note("a run of `age` that began before this one packs still: once it is over, run reindex again")


async def _one(context: JobContext, lease: Lease, work: PackWork, revision: str, tally: Tally) -> None:
    """Look into a pack, unless it is to be left for a later run."""
    pack = work.pack
    if not _concerns(context, work):
        tally.add("packs_without")
        await context.catalog.reindexed.set_pack(pack, revision, {}, None, lease)
        return
    try:
        if (state := await _state(context, pack)) is not RestoreState.READABLE:
            tally.add("packs_archived")
            tally.add("bytes_archived", pack.byte_size)
            if context.thaw and state is RestoreState.NONE:
                await context.thaw_pack("reindex", pack)
                tally.add("packs_asked")
            return
        await reindex_pack(context, lease, pack, revision, tally)
    except MasterKeyUnavailable as exc:
        tally.add("waiting_for_key", note=f"{pack.object_key}: {exc}")
    except (ObjectStoreError, CorruptPack) as exc:
        tally.failed(pack.object_key, exc)
        _log.error("pack.not_reindexed", object_key=pack.object_key, error=str(exc))


def _left(context: JobContext) -> AsyncIterator[PackWork]:
    """Packs that nobody looked into by these definitions."""
    revision = definitions_revision(context.settings)
    return each_pack(lambda last: context.catalog.reindexed.packs(revision, last, _PAGE))


def _concerns(context: JobContext, work: PackWork) -> bool:
    """Whether what is in a pack may have attributes, or has some."""
    return work.has_attributes or any(map(context.in_force.attributes.are_of, work.saga_names))


async def _state(context: JobContext, pack: Pack) -> RestoreState:
    if not pack.storage_class.is_archive:
        return RestoreState.READABLE
    return (await context.objects.head(pack.object_key)).restore


def _cost(context: JobContext, pack: Pack, readable: bool) -> Cost:
    prices, size = context.prices, pack.byte_size
    if not readable:
        return restore_cost(prices, pack.storage_class, objects=1, total_bytes=size)
    reads = Cost(requests=1, usd=prices.get_usd(pack.storage_class, 1, total_bytes=size))
    return reads + put_cost(prices)


async def durable_rows(context: JobContext, lease: Lease | None, run: Reindexing, tally: Tally) -> None:
    """Every durable row that was saved before the run began, by id, from where an earlier one stopped."""
    after = run.durable_after
    while after is not None and not context.stopping.is_set():
        rows = await context.catalog.durable.page(after, _ROWS)
        old = [row for row in rows if row.saved_at < run.began_at]
        for some in chunks(old, lambda row: row.byte_length, CHUNK_BYTES):
            await _durable(context, lease, some, tally)
        after = rows[-1].snapshot_id if rows else None
        if lease is not None:
            await context.catalog.reindexed.durable_done(run.revision, after)


async def redis(context: JobContext, lease: Lease | None, run: Reindexing, tally: Tally) -> None:
    """Everything in Redis that was saved before the run began; what was stopped begins anew."""
    before_us = to_micros(run.began_at)
    async for saga_ids in context.hot.saga_ids():
        for some in batched(saga_ids, _SAGAS):
            for saga_id, gathered in zip(some, await context.hot.queue.gather(some), strict=True):
                if gathered is not None:
                    await _hot(context, lease, sort_out(saga_id, gathered)[0], before_us, tally)
                    continue
                async for headers in context.hot.headers(saga_id):
                    for header in headers:
                        values = await context.hot.fetch(saga_id, [header.snapshot_id])
                        await _hot(context, lease, [value for value in values if value is not None], before_us, tally)
        if context.stopping.is_set():
            return
    if lease is not None:
        await context.catalog.reindexed.hot_done(run.revision)


async def _durable(context: JobContext, lease: Lease | None, rows: Sequence[DurableRow], tally: Tally) -> None:
    found = await context.catalog.reindexed.durable_values([row.snapshot_id for row in rows])
    readable = [value for one, _, value in found if await durable_meta(context, one, value) is not None]
    changes = await _changes(context, readable)
    tally.add("durable", len(readable))
    if lease is None:
        tally.add("durable_changed", len(changes))
    elif changes:
        done = await context.catalog.reindexed.set_durable([(meta, value) for meta, _, value in changes], lease)
        tally.add("durable_changed", done)
        await _look_again(context, [meta for meta, _, _ in changes])


async def _hot(context: JobContext, lease: Lease | None, values: Sequence[bytes], before_us: int, tally: Tally) -> None:
    metas = {meta.snapshot_id: meta for meta in readable_metas(values) if meta.saved_us < before_us}
    old = [value for value in values if snapshot_id(value) in metas]
    changes = await _changes(context, old)
    tally.add("hot", len(old))
    if lease is None:
        tally.add("hot_changed", len(changes))
        return
    if changes:
        headers = [(meta, header, value[: read_header(value).length]) for meta, header, value in changes]
        tally.add("hot_changed", await context.hot.queue.put_headers(headers))
        await _look_again(context, [meta for meta, _, _ in changes])
    # Also where a run that was killed had put the header only.
    metas |= {meta.snapshot_id: meta for meta, _, _ in changes}
    if metas:
        await context.catalog.reindexed.set_hot(list(metas.values()), lease)


async def _changes(context: JobContext, values: Sequence[bytes]) -> list[Change]:
    """Of these values, those that should have other attributes."""
    known = await context.dictionaries.need(*set(map(dictionary_id, values)))
    size = sum(map(len, values))
    return await context.compute(size, _compared, context.in_force.attributes, values, known)


def _compared(attributes: Attributes, values: Sequence[bytes], known: Mapping[bytes, Dictionary]) -> list[Change]:
    found = []
    for value in values:
        try:
            header = read_header(value)
            column = column_of(attributes, decode_value(value, header, known))
        except CorruptRecord as exc:
            _log.error("snapshot.unreadable", error=str(exc))
            continue
        if column != header.meta.attributes:
            meta = header.meta._replace(attributes=column)
            found.append((meta, value[: header.length], attributed(value, header, column)))
    return found


async def _look_again(context: JobContext, metas: Sequence[SnapshotMeta]) -> None:
    """Other rules may hold for these sagas now."""
    if context.policies.ruling_attributes:
        sagas = sorted({meta.saga_id for meta in metas})
        for expiring in (False, True):
            await context.hot.queue.requeue(sagas, expiring=expiring)


async def reindex_pack(context: JobContext, lease: Lease, pack: Pack, revision: str, tally: Tally) -> None:
    """Look into a readable pack. Raises CorruptPack, ObjectStoreError, MasterKeyUnavailable, BudgetSpent, LeaseLost."""
    thawed = pack.storage_class.is_archive
    pack = await vouched(context, lease, pack, "reindex")
    await context.spend_reads("reindex", pack.storage_class, size=pack.byte_size, must=thawed)
    reader, data = PackReader(context.objects), await whole(context, pack)
    footer = await reader.vouched_footer(pack, footer_part(data))
    live = await context.catalog.compaction.live(pack.pack_id)
    keys = await context.keys.by_id(frame.key_id for frame in footer.frames)
    known = await context.dictionaries.need(*{frame.dictionary_id for frame in footer.frames})
    texts = await asyncio.to_thread(_texts, context.in_force.attributes, data, footer, live, keys, known)
    changed = {number: text for number, text in texts.items() if text != _as_known(live[number])}
    digest = None
    if changed:
        newest = await newest_footer(context, pack, thawed=thawed)
        await context.spend("reindex", put_cost(context.prices))
        await still_owner(context)
        digest = await put_attributes(context, pack, with_texts(newest, texts, keys))
    if not await context.catalog.reindexed.set_pack(pack, revision, changed, digest, lease):
        tally.add("overtaken")  # written anew meanwhile: the new one is looked into
        return
    tally.add("packs")
    tally.add("packs_changed", bool(changed))
    tally.add("bytes_read", len(data))
    closed = [frame for frame in footer.frames if frame.key_id is not None and frame.key_id not in keys]
    tally.add("frames_not_opened", len(closed))


def _as_known(live: LiveFrame) -> str:
    """What the catalog says of what lives of a frame, as it is said of that alone."""
    ids = sorted(live.expiries)
    return united(list(zip(ids, parted(live.attributes, ids), strict=True)))


def _texts(
    attributes: Attributes,
    data: bytes,
    footer: Footer,
    live: Mapping[int, LiveFrame],
    keys: Mapping[bytes, FrameKey],
    known: Mapping[bytes, Dictionary],
) -> dict[int, str]:
    """What the live snapshots of each frame carry by the definitions of now; nothing of frames without their keys."""
    found: dict[int, str] = {}
    for number, lives in live.items():
        if number >= len(footer.frames):
            raise CorruptPack(f"pack {footer.pack_id}: has {len(footer.frames)} frames, the catalog knows {number}")
        entry = footer.frames[number]
        key = None if entry.key_id is None else keys.get(entry.key_id)
        if entry.key_id is not None and key is None:
            continue
        payload = data[entry.offset : entry.offset + entry.length]
        check_frame(entry, payload, keys=keys, dictionaries=known)
        records = open_frame(payload, key=key, dictionaries=known, most=len(entry.snapshots))
        there = [record for record in records if record.meta.snapshot_id in lives.expiries]
        try:
            carried = [(record.meta.snapshot_id, column_of(attributes, decode(record))) for record in there]
        except CorruptRecord as exc:
            raise CorruptPack(f"frame: {exc}") from exc
        found[number] = united(sorted(carried))
    return found


def put_cost(prices: PriceList) -> Cost:
    """Of putting attributes beside a pack."""
    return Cost(requests=1, usd=prices.put_usd(StorageClass.STANDARD, 1))
