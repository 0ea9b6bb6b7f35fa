"""Age: hot and durable snapshots that are due go into packs on the object store.

Sagas come from the due index in Redis, a claimed batch at a time; durable rows that Redis does not know (it was
down, or lost them) come after. Memory is bounded by the batch and the open packs, whatever the backlog. The
order of writes is described in `archive`; claims only keep two daemons from doing the same work, safety does
not depend on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import TypeVar
from uuid import UUID, uuid4

import structlog

from sagaz_tiering.catalog.durable import ClaimedRow, Postponement
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec import OFFSET_RAW_LENGTH, Record, from_value, read_meta
from sagaz_tiering.engine.archive import Packer, Part, expiry_bucket
from sagaz_tiering.engine.frame_keys import LOOK_AGAIN_US, RunKeys, needs_key
from sagaz_tiering.engine.job import JobContext, Tally
from sagaz_tiering.engine.ownership import put_policies_in_force
from sagaz_tiering.engine.packed import already_packed
from sagaz_tiering.engine.refill import refill
from sagaz_tiering.engine.turns import UNKNOWN, Turn, claims, give_back, settle
from sagaz_tiering.errors import CorruptRecord, HotTierUnavailable
from sagaz_tiering.pack.encryption import FrameKey
from sagaz_tiering.pack.frame import build_frame
from sagaz_tiering.policy import Decision, PolicySet
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage.hot_keys import SHARDS
from sagaz_tiering.storage.hot_values import ClaimedSaga, Header

_log = structlog.get_logger(__name__)
_DURABLE_ROWS = 1000
_CHUNK_BYTES = 16 * 2**20
_RETRY_UNREADABLE_US = 24 * 3600 * 1_000_000
_BEGINNING = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Due:
    """A snapshot to pack, and its uncompressed size in bytes."""

    meta: SnapshotMeta
    raw_length: int


def plan(headers: Sequence[Header], policies: PolicySet, now_us: int, turn: Turn) -> list[Due]:
    """Which of a saga's snapshots are to be packed; notes in `turn` when the others need a look. Pure."""
    due = []
    for header in headers:
        if header.head is None:
            continue
        turn.left += 1
        try:
            meta = read_meta(header.head)
        except CorruptRecord as exc:
            _log.error("snapshot.unreadable", snapshot_id=str(header.snapshot_id), tier="hot", error=str(exc))
            turn.look_at(now_us + _RETRY_UNREADABLE_US)
            continue
        decision = policies.decide(meta, now_us)
        turn.expire_at(decision.expires_us)
        if decision.due and not decision.expired:
            raw_length = int.from_bytes(header.head[OFFSET_RAW_LENGTH : OFFSET_RAW_LENGTH + 4], "big")
            due.append(Due(meta, raw_length))
        elif not decision.expired:
            turn.look_at(decision.due_us)
    return due


async def preview(context: JobContext, tally: Tally) -> None:
    """Count what a run would pack (a snapshot that is both hot and durable counts once, as hot)."""
    for shard in SHARDS:
        async for saga_id in context.hot.due_sagas(shard, expiring=False, now_us=context.now_us):
            turn = Turn(ClaimedSaga(saga_id, ""))
            async for headers in context.hot.headers(saga_id):
                due = plan(headers, context.policies, context.now_us, turn)
                tally.add("snapshots", len(due))
                tally.add("raw_bytes", sum(d.raw_length for d in due))
            tally.add("sagas")
    after = _BEGINNING
    while rows := await context.catalog.durable.peek_due(context.now, after, _DURABLE_ROWS):
        known = await context.hot.owners([row.snapshot_id for row in rows])
        for row in rows:
            if row.snapshot_id not in known and _to_pack(context, row.head) is not None:
                tally.add("snapshots")
                tally.add("durable_only")
        after = (rows[-1].due_at, rows[-1].snapshot_id)


async def run(context: JobContext, lease: Lease, tally: Tally) -> None:
    """Pack everything that is due, until nothing is or the process is stopping.

    Raises MasterKeyUnavailable after all else, where encrypted policies had to wait for their keys.
    """
    await put_policies_in_force(context)
    tally.add("refilled", await refill(context))
    packer, keys = Packer(context, lease, tally), RunKeys(context)
    await keys.begin()
    turns: list[Turn] = []
    try:
        async for claimed in claims(context, expiring=False):
            turns = [turn for turn in turns if turn.open_parts]
            held = {turn.claimed.saga_id for turn in turns}
            batch = [Turn(saga) for saga in claimed if saga.saga_id not in held]
            turns += batch
            await _pack_sagas(context, packer, batch, keys, tally)
        if not context.stopping.is_set():
            await _pack_durable(context, packer, keys, tally)
            await packer.finish()
    finally:
        with suppress(HotTierUnavailable):
            await give_back(context, [turn for turn in turns if turn.open_parts or not turn.read])
    keys.check()


async def _pack_sagas(context: JobContext, packer: Packer, turns: Sequence[Turn], keys: RunKeys, tally: Tally) -> None:
    planned = await asyncio.gather(*(_look(context, turn) for turn in turns))
    due = await _unpinned(context, [(turn, item) for turn, items in zip(turns, planned, strict=True) for item in items])
    safe = await already_packed(context, [item.meta for _, item in due])
    tally.add("evicted", await context.hot.evict([item.meta for _, item in due if item.meta.snapshot_id in safe]))
    for turn, item in due:
        turn.left -= item.meta.snapshot_id in safe
    todo = [(turn, item) for turn, item in due if item.meta.snapshot_id not in safe]
    if keys.failed:  # spare Redis the reading of what would have to wait
        todo = [pair for pair in todo if not _waits_for_key(context, *pair)]
    for chunk in chunks(todo, lambda pair: pair[1].raw_length, _CHUNK_BYTES):
        for part in await _read_and_build(context, chunk, keys, tally):
            await packer.add(part)
    for turn in turns:
        turn.read = True
    await settle(context, turns)
    tally.add("sagas", len(turns))


async def _unpinned(context: JobContext, due: Sequence[tuple[Turn, Due]]) -> list[tuple[Turn, Due]]:
    """Without what a restore brought back: it is looked at again when its pin ends."""
    pins = await context.catalog.restores.pinned([item.meta.snapshot_id for _, item in due], context.now)
    for turn, item in due:
        if item.meta.snapshot_id in pins:
            turn.look_at(to_micros(pins[item.meta.snapshot_id]))
    return [(turn, item) for turn, item in due if item.meta.snapshot_id not in pins]


async def _look(context: JobContext, turn: Turn) -> list[Due]:
    due: dict[UUID, Due] = {}
    async for headers in context.hot.headers(turn.claimed.saga_id):
        due.update((item.meta.snapshot_id, item) for item in plan(headers, context.policies, context.now_us, turn))
    return list(due.values())


async def _read_and_build(
    context: JobContext, chunk: Sequence[tuple[Turn, Due]], keys: RunKeys, tally: Tally
) -> list[Part]:
    """Fetch the values of a chunk (bounded bytes) and build their frames on a thread."""
    groups = [(turn, [due.meta.snapshot_id for _, due in pairs]) for turn, pairs in groupby(chunk, lambda p: p[0])]
    values = await asyncio.gather(*(context.hot.fetch(turn.claimed.saga_id, ids) for turn, ids in groups))
    work: list[tuple[Turn, list[bytes]]] = []
    for (turn, ids), found in zip(groups, values, strict=True):
        present = [value for value in found if value is not None]
        turn.left -= len(ids) - len(present)
        work.append((turn, present))
    saga_keys = await keys.of(_encrypted(context, [due.meta for _, due in chunk]))
    return await asyncio.to_thread(_build, context, work, saga_keys, tally)


def _waits_for_key(context: JobContext, turn: Turn, item: Due) -> bool:
    waits = needs_key(context.policies.for_meta(item.meta))
    if waits:
        turn.look_at(context.now_us + LOOK_AGAIN_US)
    return waits


def _waiting(context: JobContext, metas: Sequence[SnapshotMeta], keyless: set[UUID]) -> list[Postponement]:
    """Durable rows of sagas whose keys could not be had."""
    return [
        Postponement(
            snapshot_id=meta.snapshot_id,
            saved_us=meta.saved_us,
            due_us=context.now_us + LOOK_AGAIN_US,
            expires_us=context.policies.expires_us(meta),
        )
        for meta in metas
        if meta.saga_id in keyless and needs_key(context.policies.for_meta(meta))
    ]


def _encrypted(context: JobContext, metas: Sequence[SnapshotMeta]) -> set[UUID]:
    """Sagas of which something is to be encrypted."""
    return {meta.saga_id for meta in metas if needs_key(context.policies.for_meta(meta))}


def _build(
    context: JobContext, work: Sequence[tuple[Turn, Sequence[bytes]]], keys: Mapping[UUID, FrameKey], tally: Tally
) -> list[Part]:
    """Frames of each saga's values, by policy and expiry bucket. Values that are not due any more stay, and those
    that need a key which is not there."""
    parts, options, now_us = [], context.options, context.now_us
    for turn, values in work:
        groups: dict[tuple[str, str, str], list[tuple[Record, Decision]]] = {}
        for value in values:
            try:
                record = from_value(value)
            except CorruptRecord as exc:
                _log.error("snapshot.unreadable", tier="hot", error=str(exc))
                tally.note(f"unreadable: {exc}")
                turn.look_at(now_us + _RETRY_UNREADABLE_US)
                continue
            decision = context.policies.decide(record.meta, now_us)
            if decision.due and not decision.expired:
                if needs_key(decision.rule) and record.meta.saga_id not in keys:
                    turn.look_at(now_us + LOOK_AGAIN_US)
                    tally.add("waiting_for_key")
                    continue
                group = (decision.policy, expiry_bucket(decision.expires_us), record.meta.saga_name)
                groups.setdefault(group, []).append((record, decision))
            else:
                turn.keep(context, record.meta)
        for (_, bucket, _), members in groups.items():
            for frame in chunks(members, lambda pair: len(pair[0].body), options.max_frame):
                key = keys[frame[0][0].meta.saga_id] if needs_key(frame[0][1].rule) else None
                parts.append(_part(frame, bucket, turn, options.level, key))
    return parts


def _part(
    members: Sequence[tuple[Record, Decision]], bucket: str, turn: Turn, level: int, key: FrameKey | None
) -> Part:
    return Part(
        policy=members[0][1].rule,
        bucket=bucket,
        frame=build_frame([(record, decision.expires_us) for record, decision in members], level=level, key=key),
        turn=turn,
        oldest_due_us=min(decision.due_us or 0 for _, decision in members),
        max_clock_us=max(decision.clock_us for _, decision in members),
    )


async def _pack_durable(context: JobContext, packer: Packer, keys: RunKeys, tally: Tally) -> None:
    """Due rows that no saga in Redis accounted for."""
    durable, options = context.catalog.durable, context.options
    token = f"{context.owner}/{uuid4().hex}"
    while not context.stopping.is_set():
        rows = await durable.claim_due(context.now, _DURABLE_ROWS, options.claim_ttl)
        if not rows:
            return
        mine = await context.hot.claim_these(sorted({row.saga_id for row in rows}), ttl=options.claim_ttl, token=token)
        due = {row.snapshot_id: _to_pack(context, row.value) for row in rows if row.saga_id in mine}
        await durable.postpone([_postponement(context, row) for row in rows if due.get(row.snapshot_id, row) is None])
        # The rows were read before their sagas were ours: another run may have packed them in between.
        safe = await already_packed(context, [meta for meta in due.values() if meta is not None])
        todo = [
            row
            for row in rows
            if due.get(row.snapshot_id) is not None
            and row.snapshot_id not in safe
            and not packer.holds(row.snapshot_id)
        ]
        todo.sort(key=lambda row: row.saga_id)
        # What Redis has of these sagas is not looked at here, so their turns there stay as they are.
        turns = {saga_id: Turn(ClaimedSaga(saga_id, token), left=UNKNOWN) for saga_id in mine}
        for chunk in chunks(todo, lambda row: len(row.value) * 4, _CHUNK_BYTES):
            work = [(turns[saga], [row.value for row in group]) for saga, group in groupby(chunk, lambda r: r.saga_id)]
            metas = [meta for row in chunk if (meta := due[row.snapshot_id]) is not None]
            encrypted = _encrypted(context, metas)
            saga_keys = await keys.of(encrypted)
            await durable.postpone(_waiting(context, metas, encrypted - saga_keys.keys()))
            for part in await asyncio.to_thread(_build, context, work, saga_keys, tally):
                await packer.add(part)
        for turn in turns.values():
            turn.read = True
        await settle(context, turns.values())
        tally.add("durable_only", len(todo))


def _to_pack(context: JobContext, value: bytes) -> SnapshotMeta | None:
    try:
        meta = read_meta(value)
    except CorruptRecord as exc:
        _log.error("snapshot.unreadable", tier="durable", error=str(exc))
        return None
    decision = context.policies.decide(meta, context.now_us)
    return meta if decision.due and not decision.expired else None


def _postponement(context: JobContext, row: ClaimedRow) -> Postponement:
    try:
        meta = read_meta(row.value)
    except CorruptRecord:
        later = context.now_us + _RETRY_UNREADABLE_US
        return Postponement(
            snapshot_id=row.snapshot_id, saved_us=to_micros(row.saved_at), due_us=later, expires_us=None
        )
    decision = context.policies.decide(meta, context.now_us)
    due_us = None if decision.expired else decision.due_us
    return Postponement(
        snapshot_id=row.snapshot_id, saved_us=meta.saved_us, due_us=due_us, expires_us=decision.expires_us
    )


def chunks(items: Sequence[T], size: Callable[[T], int], limit: int) -> list[list[T]]:
    """Consecutive runs of `items` of at most `limit` together (a larger one is alone)."""
    found: list[list[T]] = []
    total = 0
    for item in items:
        if not found or total + size(item) > limit:
            found.append([])
            total = 0
        found[-1].append(item)
        total += size(item)
    return found
