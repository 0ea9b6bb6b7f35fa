"""Before a job goes on: foreign entries are set aside, deletions and erasures end in Redis, holds are marked there.

What something else wrote into Redis, or into a row, is named in the quarantine item by item, so that the rest goes on.
An entry of an index that can be none of ours is taken out of it, and stays in the quarantine with its bytes. A value
that is of another snapshot than its index says is left where it is, and neither packed nor expired: it may be the only
copy of something.

Deletions and erasures are committed in PostgreSQL first, then done in Redis, then vacuumed. Only saves from before each
go; what was saved since stays. Each step can be repeated, also beside the process that began it and works on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from sagaz_tiering.catalog.erasures import VACUUM_COMMAND
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.header import OFFSET_NAMES, stands_for
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.errors import CatalogUnavailable, CorruptRecord, HotTierUnavailable
from sagaz_tiering.hot.layout import Gathered, IndexedHeader, check_indexed, is_member, member, member_id
from sagaz_tiering.jobs.context import JobContext, Tally, pages
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage.answers import check_answer

_log = Logger(__name__)
_BATCH = 1000
_HELD = 100
"""Sagas whose snapshots are looked up at once."""
_VACUUM_EVERY = timedelta(hours=1)
_VACUUM_TIMEOUT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Strange:
    """An entry of a saga's index that does not stand for the value that it leads to.

    `extra`: it is no entry of ours, or a second one for a snapshot that has its own.
    """

    member: bytes
    reason: str
    extra: bool = True


def sort_out(saga_id: UUID, whole: Gathered) -> tuple[list[bytes], list[UUID], list[Strange]]:
    """(values that are what the index says, snapshots whose values are gone, what is strange). Pure.

    A value that is too short to tell is among the first: who reads it finds it damaged.
    """
    present: list[bytes] = []
    gone: list[UUID] = []
    strange: list[Strange] = []
    saga = saga_id.bytes
    for entry, value in zip(whole.members, whole.values, strict=True):
        if not is_member(entry):
            strange.append(_no_entry(entry))
        elif value is None:
            gone.append(member_id(entry))
        elif len(value) < OFFSET_NAMES or stands_for(value, saga, entry):
            present.append(value)
        else:
            strange.append(_of_another(saga_id, entry, value, whole.members))
    return present, gone, strange


def strange_of(saga_id: UUID, headers: Sequence[IndexedHeader]) -> list[Strange]:
    """The same of headers. Pure."""
    saga = saga_id.bytes
    strange = [header for header in headers if not (header.is_ours() and _stands(saga, header))]
    members = [header.member for header in headers] if strange else []
    return [
        _of_another(saga_id, each.member, each.head or b"", members) if each.is_ours() else _no_entry(each.member)
        for each in strange
    ]


def _stands(saga: bytes, header: IndexedHeader) -> bool:
    """Whether an entry stands for what it leads to, as far as that can be told."""
    head = header.head
    return not head or len(head) < OFFSET_NAMES or stands_for(head, saga, header.member)


def meta_of(saga_id: UUID, header: IndexedHeader) -> SnapshotMeta:
    """What a header tells of the snapshot that it stands for. Raises CorruptRecord, also for another one's."""
    meta = read_meta(header.head or b"")
    check_indexed(meta, saga_id, header.member, meta.created_us)
    return meta


def readable_metas(values: Iterable[bytes]) -> list[SnapshotMeta]:
    """Of those that can be read; whoever packs or reads the others tells of them."""
    metas = []
    for value in values:
        with suppress(CorruptRecord):
            metas.append(read_meta(value))
    return metas


def readable(saga_id: UUID, headers: Iterable[IndexedHeader]) -> list[SnapshotMeta]:
    """The metas of those that are there, are what the index says and can be read; `age` reports the others."""
    found = []
    for header in headers:
        if header.head is not None and header.is_ours():
            with suppress(CorruptRecord):
                found.append(meta_of(saga_id, header))
    return found


async def set_aside(context: JobContext, saga_id: UUID, strange: Sequence[Strange], *, dry: bool = False) -> int:
    """Name these in the quarantine; how many of them were taken out of the saga's index. `dry`: neither is done."""
    index = context.hot.keys.index(saga_id.hex)
    extra = [each.member for each in strange if each.extra]
    if dry:
        return len(extra)
    for each in strange:
        if each.extra:
            await _quarantine(context, "entry", f"{index} {each.member.hex()}", each.reason)
        else:
            await _quarantine(context, "snapshot", str(member_id(each.member)), each.reason)
    return await context.hot.queue.drop_members(saga_id, extra) if extra else 0


async def set_due_aside(context: JobContext, index: str, entries: Sequence[bytes]) -> None:
    """The same with entries of a due index that name no saga."""
    for entry in entries:
        await _quarantine(context, "entry", f"{index} {entry.hex()}", f"it names no saga: {entry[:100]!r}")
    if entries:
        await context.hot.queue.drop_due(index, entries)


async def durable_meta(
    context: JobContext, snapshot_id: UUID, value: bytes, *, saga_id: UUID | None = None, dry: bool = False
) -> SnapshotMeta | None:
    """What the value of a durable row tells, if it is that of the row's own snapshot; another one is quarantined.

    `dry`: it is only left out.
    """
    try:
        meta = read_meta(value)
    except CorruptRecord as exc:
        _log.error("snapshot.unreadable", snapshot_id=str(snapshot_id), tier="durable", error=str(exc))
        return None
    try:
        check_answer(meta, snapshot_id=snapshot_id, saga_id=saga_id)
    except CorruptRecord as exc:
        if not dry:
            await _quarantine(context, "snapshot", str(snapshot_id), f"its durable row: {exc}")
        return None
    return meta


async def mended(context: JobContext, saga_ids: Sequence[UUID]) -> list[UUID]:
    """These sagas; where something else is in the place of one's index, that is put aside, and the index made anew.

    Until then reads of the saga say so, and its saves are in PostgreSQL.
    """
    for saga_id in await context.hot.queue.broken_indexes(saga_ids):
        aside = await context.hot.queue.renew_index(saga_id)
        reason = f"it was in the place of the index of saga {saga_id}, which was made anew"
        await _quarantine(context, "entry", aside, reason)
    return list(saga_ids)


async def mend_due(context: JobContext, tally: Tally) -> None:
    """Put a due index aside that something else was written in the place of, and make it anew."""
    for index in await context.hot.queue.broken_due():
        aside = await context.hot.renew_due(index)
        await _quarantine(context, "entry", aside, f"it was in the place of the index {index}, which was made anew")
        tally.add("quarantined")


async def _quarantine(context: JobContext, kind: str, item: str, reason: str) -> None:
    _log.error("value.foreign", kind=kind, item=item, reason=reason)
    await context.catalog.quarantine.record(kind, item, reason, context.now, budget=1)


def _no_entry(entry: bytes) -> Strange:
    return Strange(entry, f"it names no snapshot: {entry[:100]!r}")


def _of_another(saga_id: UUID, entry: bytes, value: bytes, members: Sequence[bytes]) -> Strange:
    own = b""
    try:
        meta = read_meta(value)
        own = member(meta.step_index, meta.snapshot_id) if meta.saga_id == saga_id else b""
        check_indexed(meta, saga_id, entry, meta.created_us)
        reason = "it does not stand for its value"
    except CorruptRecord as exc:
        reason = str(exc)
    return Strange(entry, reason, extra=own[4:] == entry[4:] and own in members)


async def finish_deletions(context: JobContext, tally: Tally) -> None:
    """Have Redis follow every deletion and every erasure that PostgreSQL has."""
    catalog, hot = context.catalog, context.hot
    while saves := await catalog.locations.half_deleted(_BATCH):
        tally.add("deleted_hot", await hot.delete_many([(one, to_micros(until)) for one, until in saves]))
        await catalog.locations.gone_from_redis(saves)
    for erasure in await catalog.erasures.uncleared():
        await mended(context, [erasure.saga_id])
        tally.add("erased_hot", await catalog.erasures.clear(erasure, hot, context.now))


async def mark_holds(context: JobContext, *, unmarked: bool = False) -> None:
    """Have Redis know which sagas and snapshots are held, where it was away when a hold was placed or has lost it.

    Only where it was away (`unmarked`), or all.
    """
    fetch = partial(context.catalog.holds.held_sagas, limit=_HELD, unmarked=unmarked)
    async for sagas in pages(fetch, None, lambda saga_id: saga_id):
        await context.catalog.holds.mark(sagas, context.hot)


async def mark_new_holds(context: JobContext) -> None:
    """Those that Redis was away for; whatever job runs next, which may do without Redis."""
    try:
        await mark_holds(context, unmarked=True)
    except HotTierUnavailable as exc:
        _log.warning("hold.not_marked", error=str(exc), hint=exc.hint)


async def vacuum_is_due(context: JobContext) -> bool:
    """Whether something was erased since the last vacuum, and that was an hour ago."""
    return await context.catalog.erasures.unvacuumed(context.now, _VACUUM_EVERY)


async def vacuum_erased(context: JobContext, tally: Tally) -> None:
    """Give up PostgreSQL's dead rows of what was erased, at most once an hour; a refusal is told once an erasure."""
    erasures = context.catalog.erasures
    if not await vacuum_is_due(context):
        return
    try:
        refused = await erasures.vacuum(context.now, _VACUUM_TIMEOUT)
    except CatalogUnavailable as exc:
        tally.note(f"the vacuum after an erasure did not end: {exc}")
        _log.warning("erasure.not_vacuumed", error=str(exc))
        return
    if refused:
        tally.note(f"an erasure waits for a vacuum that the catalog's role may not do: {', '.join(refused)}")
        _log.warning("erasure.vacuum_refused", tables=refused, hint=VACUUM_COMMAND)
    else:
        tally.add("vacuumed")
