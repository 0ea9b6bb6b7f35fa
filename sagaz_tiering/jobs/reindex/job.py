"""Reindex: what was saved before an attribute was configured gets it: durable rows, Redis, packs.

Ordered by an operator, never by a schedule: it reads every pack that has sagas of a configured name. Everything that is
saved after it began has its attributes by itself, if the applications were configured before it: so `age` packs what is
older with what it finds in it (`age.frames`), and no pack that comes later need be looked into. But runs of `age` that
were at work as it began may have built frames already: it is not done while one of them goes on, and not any more once
somebody publishes a pack that was built by other definitions.

The order, each step repeatable: durable rows, by id; Redis, a value's header at a time; packs (`archived`), by id. A
run that was stopped goes on where it was, in Redis from the start. One that was done begins anew when it is ordered
again: packs that were looked into by these definitions are left out. Of packs in archive classes those are read that
are readable now; with `thaw` the others are asked for, and the next run finds them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.catalog.reindexing import PackWork, Reindexing
from sagaz_tiering.costs import Cost, restore_cost
from sagaz_tiering.errors import CorruptPack, MasterKeyUnavailable, ObjectStoreError
from sagaz_tiering.jobs.attributes import definitions_revision
from sagaz_tiering.jobs.budget import thaw
from sagaz_tiering.jobs.context import JobContext, Tally, each_pack
from sagaz_tiering.jobs.reindex.archived import put_cost, reindex_pack
from sagaz_tiering.jobs.reindex.near import durable_rows, redis
from sagaz_tiering.logs import Logger
from sagaz_tiering.objects.base import RestoreState
from sagaz_tiering.storage_class import StorageClass

_log = Logger(__name__)
_PAGE: Final = 100


@dataclass(slots=True)
class _Share:
    """Packs of a class, and what reading them takes."""

    packs: int = 0
    bytes: int = 0
    cost: Cost = field(default_factory=Cost)


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
    found: dict[tuple[StorageClass, bool], _Share] = {}
    async for work in _left(context):
        pack = work.pack
        if not _concerns(context, work):
            tally.add("packs_without")
            continue
        state = await _state(context, pack)
        readable = state is RestoreState.READABLE
        tally.add("packs_asked", context.thaw and state is RestoreState.NONE)
        entry = found.setdefault((pack.storage_class, readable), _Share())
        entry.packs, entry.bytes = entry.packs + 1, entry.bytes + pack.byte_size
        entry.cost += _cost(context, pack, readable)
    for (storage_class, readable), each in sorted(found.items()):
        tally.add("packs" if readable else "packs_archived", each.packs)
        tally.add("packs_left", 0 if readable else each.packs)
        tally.add("bytes" if readable else "bytes_archived", each.bytes)
        tally.add("requests", each.cost.requests if readable else 0)
        what = "to read them and to write their attributes" if readable else "to ask for them (--thaw), else left out"
        tally.note(
            f"{each.packs:,} packs in {storage_class}, {each.bytes:,} bytes: {each.cost.requests:,} requests, "
            f"${each.cost.usd:.4f} {what}"
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
                await thaw(context, "reindex", pack)
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
