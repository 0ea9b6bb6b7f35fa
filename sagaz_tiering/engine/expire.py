"""Expire: what is past its retention goes, in every tier.

Readers stop seeing a snapshot at the instant itself; this job removes rows and bytes. Order: packs whose expiry
dates come from other policies are dated anew; a run that would remove too large a share stops there; then hot
copies, durable rows and places in packs go (only those that today's policies call expired and no hold keeps), then
packs without a live snapshot retire, and after their grace the bytes are deleted. Each step can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from sagaz_tiering.catalog.durable import ExpiredRow, Postponement
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.codec import read_meta
from sagaz_tiering.engine.breaker import refuse_mass_delete
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.engine.journal import publish_journal
from sagaz_tiering.engine.ownership import put_policies_in_force, retention_revision
from sagaz_tiering.engine.redate import redate_packs
from sagaz_tiering.engine.turns import Turn, claims, give_back, settle
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.pack.reader import footer_key
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage.hot_keys import SHARDS
from sagaz_tiering.storage.hot_values import Header
from sagaz_tiering.units import micros

_log = structlog.get_logger(__name__)
_PAGE = 100
_ROWS = 10_000
_HELD_US = micros(timedelta(hours=1))
"""After so long a saga with held or unreadable snapshots is looked at again."""
_BEGINNING = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


def plan(headers: list[Header], policies: PolicySet, now_us: int) -> tuple[list[SnapshotMeta], list[SnapshotMeta]]:
    """(expired, alive) of a saga's hot snapshots. Pure; what cannot be read is left to `age`, which reports it."""
    expired: list[SnapshotMeta] = []
    alive: list[SnapshotMeta] = []
    for header in headers:
        if header.head is None:
            continue
        try:
            meta = read_meta(header.head)
        except CorruptRecord:
            continue
        (expired if policies.decide(meta, now_us).expired else alive).append(meta)
    return expired, alive


async def preview(context: JobContext, tally: Tally) -> None:
    """Count what a run would remove now, and what legal holds keep."""
    for shard in SHARDS:
        async for saga_id in context.hot.due_sagas(shard, expiring=True, now_us=context.now_us):
            async for headers in context.hot.headers(saga_id):
                await _count(context, "hot", plan(headers, context.policies, context.now_us)[0], tally)
    after = _BEGINNING
    while rows := await context.catalog.durable.expired(context.now, after, _PAGE):
        metas = [meta for row in rows if (meta := _readable(row)) is not None]
        expired = [meta for meta in metas if context.policies.decide(meta, context.now_us).expired]
        await _count(context, "durable", expired, tally)
        after = (rows[-1].expires_at, rows[-1].snapshot_id)
    last = 0
    while packs := await context.catalog.packs.expiring(context.now, retention_revision(context.policies), last, _PAGE):
        for pack in packs:
            tally.add("archived", await context.catalog.packs.count_expired(pack.pack_id, context.now))
        last = packs[-1].pack_id
    tally.add("packs_deleted", len(await context.catalog.packs.deletable(context.now, 0, _ROWS)))


async def _count(context: JobContext, kind: str, expired: Sequence[SnapshotMeta], tally: Tally) -> None:
    held = await context.catalog.holds.covering(expired)
    tally.add(kind, len(expired) - len(held))
    tally.add("held", len(held))


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Remove everything that is past its retention."""
    await put_policies_in_force(context)
    await publish_journal(context)
    await redate_packs(context, lease, tally)
    await refuse_mass_delete(context, preview)
    await _expire_hot(context, lease, tally)
    await _expire_durable(context, lease, tally)
    await _expire_archived(context, lease, tally)
    await _delete_retired(context, lease, tally)


async def _expire_hot(context: JobContext, lease: Lease, tally: Tally) -> None:
    async for claimed in claims(context, expiring=True):
        turns = [Turn(saga) for saga in claimed]
        try:
            for turn in turns:
                await _expire_saga(context, lease, turn, tally)
            await settle(context, turns)
        finally:
            await give_back(context, [turn for turn in turns if not turn.read])


async def _expire_saga(context: JobContext, lease: Lease, turn: Turn, tally: Tally) -> None:
    """The expired hot copies of a saga, and the durable rows of the same saves with them."""
    expired: list[SnapshotMeta] = []
    async for headers in context.hot.headers(turn.claimed.saga_id):
        gone, alive = plan(headers, context.policies, context.now_us)
        expired += gone
        unreadable = len(headers) - len(gone) - len(alive)
        turn.left += len(alive) + unreadable
        if unreadable:
            turn.expire_at(context.now_us + _HELD_US)
        for meta in alive:
            turn.keep(context, meta)
    async with context.catalog.holds.steady() as conn:
        held = await context.catalog.holds.covering(expired, conn)
        tally.add("hot", await context.hot.evict([meta for meta in expired if meta.snapshot_id not in held]))
    if expired:
        await context.catalog.durable.delete_unheld(expired, lease)
    if held:
        tally.add("held", len(held))
        turn.left += len(held)
        turn.expire_at(context.now_us + _HELD_US)
    turn.read = True


async def _expire_durable(context: JobContext, lease: Lease, tally: Tally) -> None:
    durable, after = context.catalog.durable, _BEGINNING
    while not context.stopping.is_set():
        rows = await durable.expired(context.now, after, _PAGE)
        if not rows:
            return
        metas = [meta for row in rows if (meta := _readable(row)) is not None]
        expired = [meta for meta in metas if context.policies.decide(meta, context.now_us).expired]
        tally.add("durable", await durable.delete_unheld(expired, lease))
        gone = {meta.snapshot_id for meta in expired}
        await durable.postpone([_postponement(context, meta) for meta in metas if meta.snapshot_id not in gone])
        after = (rows[-1].expires_at, rows[-1].snapshot_id)


async def _expire_archived(context: JobContext, lease: Lease, tally: Tally) -> None:
    packs, last = context.catalog.packs, 0
    while page := await packs.expiring(context.now, retention_revision(context.policies), last, _PAGE):
        for pack in page:
            if context.stopping.is_set():
                return
            while gone := await packs.expire_batch(pack.pack_id, lease, context.now, _ROWS):
                tally.add("archived", gone)
            delete_after = context.now + context.options.retire_grace
            if await packs.settle_expiry(pack.pack_id, lease, context.now, delete_after):
                tally.add("packs_retired")
        last = page[-1].pack_id


async def _delete_retired(context: JobContext, lease: Lease, tally: Tally) -> None:
    last = 0
    while page := await context.catalog.packs.deletable(context.now, last, _PAGE):
        if context.stopping.is_set():
            return
        keys: dict[str, Pack] = {}
        for pack in page:
            keys[pack.object_key] = keys[footer_key(pack.pack_uuid)] = pack
        failures = await context.objects.delete(list(keys))
        failed = {keys[failure.key].pack_id for failure in failures}
        for failure in failures:
            tally.add("failed")
            tally.note(f"{failure.key}: {failure.reason}")
            _log.error("object.not_deleted", object_key=failure.key, reason=failure.reason)
        for pack in page:
            if pack.pack_id not in failed and await context.catalog.packs.deleted(pack.pack_id, lease, context.now):
                tally.add("packs_deleted")
                tally.add("bytes_deleted", pack.byte_size)
        last = page[-1].pack_id


def _readable(row: ExpiredRow) -> SnapshotMeta | None:
    try:
        return read_meta(row.head)
    except CorruptRecord as exc:
        _log.error("snapshot.unreadable", snapshot_id=str(row.snapshot_id), tier="durable", error=str(exc))
        return None


def _postponement(context: JobContext, meta: SnapshotMeta) -> Postponement:
    decision = context.policies.decide(meta, context.now_us)
    return Postponement(
        snapshot_id=meta.snapshot_id,
        saved_us=meta.saved_us,
        due_us=decision.due_us,
        expires_us=decision.expires_us,
    )
