"""The jobs' side of the hot tier: who is due, whole sagas at a time, what leaves Redis, and which saves it has.

Jobs ask for hundreds of sagas in one trip, on a connection of their own.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sagaz_tiering.codec.header import OFFSET_HEADER_LENGTH
from sagaz_tiering.config.units import micros
from sagaz_tiering.hot import layout
from sagaz_tiering.hot.connection import HotConnection
from sagaz_tiering.hot.layout import SHARDS, ClaimedSaga, saga_of
from sagaz_tiering.snapshot import SnapshotMeta

_PAGE = 500
_HEAD = 256
"""So many bytes have most headers in them."""
FIRST_HEADERS = 50
"""So many snapshots of a saga are looked at together with those of other sagas; few sagas have more."""
GATHERED = 64
GATHERED_BYTES = 128 * 1024
"""A saga with more snapshots, or more bytes in Redis, is read page by page, so that a batch of sagas stays small."""


class HotQueue:
    """Claims, whole sagas, eviction, and what it takes to compare all of Redis with the catalog."""

    def __init__(self, connection: HotConnection) -> None:
        self._connection = connection
        self.keys = connection.keys

    async def claim(
        self, *, shard: str, expiring: bool, now_us: int, count: int, ttl: timedelta, token: str
    ) -> tuple[list[ClaimedSaga], list[bytes]]:
        """Up to `count` sagas of a shard that are due and that nobody works on; and entries that name no saga.

        They are due again after `ttl`, should nobody acknowledge them.
        """
        index = self.due_index(shard, expiring=expiring)
        ms = int(ttl.total_seconds() * 1000)
        args = [f"{self.keys.prefix}:claim:", now_us, count, ms, token, now_us + micros(ttl)]
        raw = await self._connection.run("claim", [index], args)
        origin = layout.ClaimedFrom.EXPIRE if expiring else layout.ClaimedFrom.AGE
        sagas = {entry: saga_of(entry) for entry in raw}
        claimed = [ClaimedSaga(saga, token, origin) for saga in sagas.values() if saga is not None]
        return claimed, [entry for entry, saga in sagas.items() if saga is None]

    def due_index(self, shard: str, *, expiring: bool) -> str:
        """The key of a due index."""
        return self.keys.expiry(shard) if expiring else self.keys.due(shard)

    async def drop_due(self, index: str, entries: Sequence[bytes]) -> None:
        """Take entries that name no saga out of a due index."""
        claims = [f"{self.keys.prefix}:claim:".encode() + entry for entry in entries]
        await self._connection.pipelined([("ZREM", index, *entries), ("DEL", *claims)])

    async def drop_members(self, saga_id: UUID, members: Sequence[bytes]) -> int:
        """Take entries that stand for no snapshot out of a saga's index; how many were there."""
        (count,) = await self._connection.pipelined([("ZREM", self.keys.index(saga_id.hex), *members)])
        return int(count)

    async def broken_due(self) -> list[str]:
        """Due indexes that something else is in the place of."""
        indexes = [self.due_index(shard, expiring=expiring) for shard in SHARDS for expiring in (False, True)]
        return await self._broken(indexes)

    async def broken_indexes(self, saga_ids: Sequence[UUID]) -> list[UUID]:
        """Of these sagas, those that something else is in the place of the index of; few trips for all."""
        broken = set(await self._broken([self.keys.index(saga_id.hex) for saga_id in saga_ids]))
        return [saga_id for saga_id in saga_ids if self.keys.index(saga_id.hex) in broken]

    async def _broken(self, indexes: Sequence[str]) -> list[str]:
        return [indexes[at] for at in await self._places("broken", indexes, [])]

    async def _places(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> list[int]:
        """Where among the keys those are that a script names, which is given a page of them at a time."""
        starts = range(0, len(keys), _PAGE)
        answers = await self._connection.run_many(script, [(keys[start : start + _PAGE], args) for start in starts])
        return [start + place - 1 for start, places in zip(starts, answers, strict=True) for place in places]

    async def renew_index(self, saga_id: UUID) -> str:
        """Move what is in the place of a saga's index aside (where to), and enter every save of the saga anew, by SCAN.

        Redis refuses what is saved meanwhile, so that is elsewhere.
        """
        index, found = self.keys.index(saga_id.hex), 0
        aside, new = f"{index}:set-aside", f"{index}:renewed"
        async with self._connection.pool() as client:
            await client.delete(new)
            async for keys in self._connection.scan(f"{index}:*"):
                ids = filter(None, (saga_of(key[len(index) + 1 :]) for key in keys))
                ours = [save for save in (await self.saves(list(ids))).values() if save.saga_id == saga_id]
                entries: dict[Any, int] = {layout.member(s.step_index, s.snapshot_id): s.created_us for s in ours}
                found += len(entries)
                if entries:
                    await client.zadd(new, entries)
            async with client.pipeline(transaction=True) as pipe:
                pipe.rename(index, aside)
                if found:
                    pipe.rename(new, index)
                await pipe.execute()
        for expiring in (False, True):
            await self.requeue([saga_id], expiring=expiring)
        return aside

    async def gather(self, saga_ids: Sequence[UUID]) -> list[layout.Gathered | None]:
        """Every value of each of these sagas, few trips for all; None for a saga that has too many or too large ones.

        At most GATHERED snapshots and GATHERED_BYTES of values a saga.
        """
        limits = [GATHERED, GATHERED_BYTES]
        calls = [([self.keys.index(s.hex)], [self.keys.value_prefix(s.hex), *limits]) for s in saga_ids]
        return [layout.gathered(raw) for raw in await self._connection.run_many("gather", calls)]

    async def claim_these(self, saga_ids: Sequence[UUID], *, ttl: timedelta, token: str) -> set[UUID]:
        """Of these sagas, the ones that nobody worked on; they are ours now."""
        ms = int(ttl.total_seconds() * 1000)
        claims = [self.keys.claim(saga_id.hex) for saga_id in saga_ids]
        return {saga_ids[at] for at in await self._places("claim_these", claims, [ms, token])}

    async def ack(self, open_claims: Sequence[tuple[ClaimedSaga, int, int | None, int | None]], now_us: int) -> None:
        """For each (saga, snapshots left, next due, next expiry): note when it is due next and let go of it."""
        calls = []
        for claimed, left, due_us, expires_us in open_claims:
            saga = claimed.saga_id.hex
            next_due = ["" if us is None else us for us in (due_us, expires_us)]
            calls.append((self._queue_keys(saga), [saga, left, *next_due, claimed.token, claimed.origin.value, now_us]))
        await self._connection.run_many("ack", calls)

    async def due_sagas(self, shard: str, *, expiring: bool, now_us: int) -> AsyncIterator[UUID]:
        """Sagas of a shard that are due, without claiming them (dry runs)."""
        index, first = self.due_index(shard, expiring=expiring), 0
        while True:
            (page,) = await self._connection.pipelined(
                [("ZRANGEBYSCORE", index, "-inf", now_us, "LIMIT", first, _PAGE)]
            )
            for saga_id in filter(None, map(saga_of, page)):
                yield saga_id
            if len(page) < _PAGE:
                return
            first += _PAGE

    async def requeue(self, saga_ids: Sequence[UUID], *, expiring: bool, at_us: int = 0) -> None:
        """Have `age` (or `expire`) look at these sagas once more, whenever they are due.

        With `at_us` as if they were due since then; what has been due for longer stays so.
        """
        index = partial(self.due_index, expiring=expiring)
        await self._connection.pipelined([("ZADD", index(each.hex[0]), "LT", at_us, each.hex) for each in saga_ids])

    async def counts(self, now_us: int) -> dict[str, int]:
        """`sagas_waiting` for a move some day and `sagas_due` now."""
        indexes = [self.keys.due(shard) for shard in SHARDS]
        waiting, due = [("ZCARD", index) for index in indexes], [("ZCOUNT", index, "-inf", now_us) for index in indexes]
        answers = await self._connection.pipelined([*waiting, *due])
        return {"sagas_waiting": sum(answers[: len(waiting)]), "sagas_due": sum(answers[len(waiting) :])}

    async def oldest_due_us(self, now_us: int) -> int | None:
        """Since when the saga is due that has been for longest; those that are only to be looked at again aside."""
        first = ("(0", now_us, "WITHSCORES", "LIMIT", 0, 1)
        answers = await self._connection.pipelined([("ZRANGEBYSCORE", self.keys.due(each), *first) for each in SHARDS])
        return min((int(float(score)) for answer in answers for score in _scores(answer)), default=None)

    async def untold(self) -> int:
        """Saves that Redis alone acknowledged and that the catalog was not told of yet."""
        (count,) = await self._connection.pipelined([("ZCARD", self.keys.unnoted())])
        return int(count)

    async def sample(self, limit: int, *, expiring: bool) -> tuple[list[UUID], int]:
        """About `limit` of the sagas that wait for a move (or an expiry) some day, and how many do.

        In no order; all of them, where there are few.
        """
        indexes = [self.due_index(shard, expiring=expiring) for shard in SHARDS]
        share, found = max(1, limit // len(SHARDS)), set[bytes]()
        sizes: list[int] = await self._connection.pipelined([("ZCARD", index) for index in indexes])
        async with self._connection.pool() as client:
            for index, size in zip(indexes, sizes, strict=True):
                cursor, seen = 0, 0
                while size and seen < share:
                    cursor, page = await client.zscan(index, cursor, count=share)
                    found |= {saga for saga, _score in page if isinstance(saga, bytes)}
                    seen += len(page)
                    if cursor == 0:
                        break
        return [saga for saga in map(saga_of, found) if saga is not None], sum(sizes)

    async def first_headers(self, saga_ids: Sequence[UUID]) -> list[list[layout.IndexedHeader]]:
        """The first FIRST_HEADERS of `headers` of each saga, few trips for all; a full page may not be all of it."""
        ends = [0, FIRST_HEADERS - 1]
        calls = [([self.keys.index(s.hex)], [self.keys.value_prefix(s.hex), *ends]) for s in saga_ids]
        return [layout.headers_of(raw) for raw in await self._connection.run_many("headers", calls)]

    async def evict_claimed(self, metas: Sequence[SnapshotMeta], tokens: Mapping[UUID, str]) -> tuple[int, set[UUID]]:
        """Compare-and-delete: remove exactly these saves, or older ones of the same ids; how many went.

        And the sagas with nothing left: they need not be acknowledged, their claims under `tokens` ended.
        """
        sagas: dict[UUID, list[SnapshotMeta]] = {}
        for meta in metas:
            sagas.setdefault(meta.saga_id, []).append(meta)
        calls, called = [], []
        for saga_id, group in sagas.items():
            saga, token = saga_id.hex, tokens.get(saga_id, "")
            for start in range(0, len(group), _PAGE):
                records = b"".join(map(layout.evictable, group[start : start + _PAGE]))
                calls.append((self._queue_keys(saga), [self.keys.prefix, saga, token, records]))
                called.append(saga_id)
        answers = await self._connection.run_many("evict", calls)
        ended = {saga_id for saga_id, (_gone, left) in zip(called, answers, strict=True) if left == 0}
        return sum(gone for gone, _left in answers), ended

    async def would_evict(self, metas: Sequence[SnapshotMeta]) -> list[SnapshotMeta]:
        """Of these saves, the ones that `evict_claimed` would remove now (dry runs)."""
        found = []
        for start in range(0, len(metas), _PAGE):
            page = metas[start : start + _PAGE]
            there = await self.saves([meta.snapshot_id for meta in page])
            for meta in page:
                save = there.get(meta.snapshot_id)
                if save is None or save.saga_id != meta.saga_id:
                    continue
                if save.version == meta.version or save.saved_us < meta.saved_us:
                    found.append(meta)
        return found

    async def put_headers(self, headers: Sequence[tuple[SnapshotMeta, bytes, bytes]]) -> int:
        """(meta, header as read, new header) of values: another save in the place of one stays; how many were put."""
        calls = [([self.keys.value(meta.saga_id.hex, meta.snapshot_id.hex)], [old, new]) for meta, old, new in headers]
        return sum(await self._connection.run_many("attributes", calls))

    async def saves(self, snapshot_ids: Sequence[UUID]) -> dict[UUID, SnapshotMeta]:
        """Which save Redis has of each of these, as far as its pointer tells (no names); one trip."""
        pointers = await self._connection.mget([self.keys.pointer(each.hex) for each in snapshot_ids])
        found: dict[UUID, SnapshotMeta] = {}
        for snapshot_id, pointer in zip(snapshot_ids, pointers, strict=True):
            if pointer is not None:
                with suppress(struct.error, ValueError):  # none of ours: nobody will find what it leads to
                    found[snapshot_id] = layout.pointed(snapshot_id, pointer)
        return found

    async def heads(self, saves: Sequence[SnapshotMeta]) -> list[bytes]:
        """The headers of the values of these saves, b"" where Redis has none (any more); few trips for all."""
        found: list[bytes] = []
        for start in range(0, len(saves), _PAGE):
            keys = [self.keys.value(save.saga_id.hex, save.snapshot_id.hex) for save in saves[start : start + _PAGE]]
            heads = await self._ranges([(key, _HEAD) for key in keys])
            lengths = [int.from_bytes(head[OFFSET_HEADER_LENGTH : OFFSET_HEADER_LENGTH + 4], "big") for head in heads]
            longer = [at for at, length in enumerate(lengths) if length > len(heads[at]) >= _HEAD]
            for at, head in zip(longer, await self._ranges([(keys[at], lengths[at]) for at in longer]), strict=True):
                heads[at] = head
            found += heads
        return found

    async def _ranges(self, wanted: Sequence[tuple[str, int]]) -> list[bytes]:
        commands = [("GETRANGE", key, 0, length - 1) for key, length in wanted]
        answers = await self._connection.pipelined(commands, errors_too=True)
        return [answer if isinstance(answer, bytes) else b"" for answer in answers]  # else it is none of ours

    async def deleted_us(self, snapshot_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Of these, the ones that were deleted, as far as Redis remembers: older saves are refused; one trip."""
        marks = await self._connection.mget([self.keys.delete_mark(each.hex) for each in snapshot_ids])
        found = zip(snapshot_ids, marks, strict=True)
        return {each: layout.read_instant(mark) for each, mark in found if mark is not None}

    async def members(self, saga_ids: Sequence[UUID]) -> AsyncIterator[list[UUID]]:
        """The snapshots of these sagas, a page at a time."""
        more, first = list(saga_ids), 0
        while more:
            ranges = [("ZRANGE", self.keys.index(saga_id.hex), first, first + _PAGE - 1) for saga_id in more]
            pages = await self._connection.pipelined(ranges)
            yield [layout.member_id(member) for page in pages for member in page if layout.is_member(member)]
            more = [saga_id for saga_id, page in zip(more, pages, strict=True) if len(page) == _PAGE]
            first += _PAGE

    async def mark_lost(self, metas: Sequence[SnapshotMeta]) -> list[bool]:
        """Note where these saves were, for reads to say that they are lost; False for one that is there, or a newer."""
        calls = []
        for meta in metas:
            args = [meta.created_us, *_entry(meta), meta.saved_us, self.keys.prefix, meta.snapshot_id.hex]
            calls.append((self._keys_of(meta), args))
        return [answer == 1 for answer in await self._connection.run_many("lost", calls)]

    async def set_aside(self, saves: Sequence[SnapshotMeta], prefix: str) -> int:
        """Move these saves to the same names under another prefix; how many were there still."""
        calls = []
        for meta in saves:
            member, pointer = _entry(meta)
            args = [prefix, meta.saga_id.hex, meta.snapshot_id.hex, member, meta.created_us, pointer]
            calls.append((self._keys_of(meta), args))
        return sum(await self._connection.run_many("aside", calls))

    def _keys_of(self, save: SnapshotMeta) -> list[str]:
        return [self.keys.index(save.saga_id.hex), self.keys.pointer(save.snapshot_id.hex)]

    def _queue_keys(self, saga: str) -> list[str]:
        keys, shard = self.keys, saga[0]
        return [keys.index(saga), keys.due(shard), keys.expiry(shard), keys.claim(saga)]


def _entry(meta: SnapshotMeta) -> tuple[bytes, bytes]:
    """The member and the pointer of a save."""
    return layout.member(meta.step_index, meta.snapshot_id), layout.pointer(meta)


def _scores(answer: Sequence[Any]) -> list[Any]:
    """Of members with scores: flat by RESP2, in pairs by RESP3."""
    return [pair[1] for pair in answer] if answer and isinstance(answer[0], list | tuple) else list(answer[1::2])
