"""Which Redis this is: a nonce and a number that it carries among the snapshots, and the id of its process.

A Redis that was started from an older file has an older number, an empty one has no nonce, and one that was started
again or took over has another run id. What becomes of that is not decided here.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sagaz_tiering.codec.value import OFFSET_HEADER_LENGTH
from sagaz_tiering.hot import keys as hot_keys
from sagaz_tiering.hot.connection import HotConnection
from sagaz_tiering.logs import Logger
from sagaz_tiering.snapshot import SnapshotMeta

_log = Logger(__name__)
_READ_ONLY, _PUT_ASIDE = 1, 2
_PAGE = 1000
_HEAD = 256
"""So many bytes have most headers in them."""
_MEMBER = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisIdentity:
    """What Redis says of itself. `nonce` None: nobody was here before; `run_id` "": it does not tell.

    `number` is above that of the last look, or the same while nothing can be written (`can_write`); `seen_us` is when
    it was last seen with all it should have (None: never, as far as it knows).
    """

    nonce: str | None
    number: int
    run_id: str
    seen_us: int | None
    can_write: bool = True


class HotIdentity:
    """Look at it, replace it, and what it takes to compare all of it with the catalog."""

    def __init__(self, connection: HotConnection) -> None:
        self._connection = connection
        self.keys = connection.keys

    async def look(self, *, nonce: str | None, number: int, run_id: str, now_us: int | None) -> RedisIdentity:
        """What Redis is; if it is what is expected here it goes on by one, and notes that it was whole at `now_us`."""
        args = ["" if nonce is None else nonce, number, run_id, "" if now_us is None else now_us]
        key = self.keys.incarnation()
        aside = f"{key}:set-aside"
        raw = await self._connection.ask("incarnation", [key, aside], args)
        if raw[4:] == [_PUT_ASIDE]:
            _log.error("value.foreign", kind="entry", item=aside, reason="it was in the place of the incarnation")
        return RedisIdentity(
            nonce=None if raw[0] is None else raw[0].decode("ascii", "replace"),
            number=int(raw[1]),
            run_id=raw[2].decode("ascii", "replace"),
            seen_us=int(raw[3]) if raw[3] is not None and raw[3].isdigit() else None,
            can_write=raw[4:] != [_READ_ONLY],
        )

    async def become(self, nonce: str, number: int, seen_us: int | None) -> None:
        """Be this incarnation from now on, which was whole at `seen_us` last (None: nobody knows)."""
        seen = "" if seen_us is None else seen_us
        await self._connection.ask("become", [self.keys.incarnation()], [nonce, number, seen])

    async def saves(self, snapshot_ids: Sequence[UUID]) -> dict[UUID, SnapshotMeta]:
        """Which save Redis has of each of these, as far as its pointer tells (no names); one trip."""
        found: dict[UUID, SnapshotMeta] = {}
        if snapshot_ids:
            async with self._connection.pool() as client:
                raw: list[Any] = await client.mget([self.keys.pointer(each.hex) for each in snapshot_ids])
            for snapshot_id, pointer in zip(snapshot_ids, raw, strict=True):
                if pointer is not None:
                    with suppress(struct.error, ValueError):  # none of ours: nobody will find what it leads to
                        found[snapshot_id] = hot_keys.pointed(snapshot_id, pointer)
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
        if not snapshot_ids:
            return {}
        async with self._connection.pool() as client:
            marks: list[Any] = await client.mget([self.keys.delete_mark(each.hex) for each in snapshot_ids])
        found = zip(snapshot_ids, marks, strict=True)
        return {each: hot_keys.read_instant(mark) for each, mark in found if mark is not None}

    async def members(self, saga_ids: Sequence[UUID]) -> AsyncIterator[list[UUID]]:
        """The snapshots of these sagas, a page at a time."""
        more, first = list(saga_ids), 0
        while more:
            ranges = [("ZRANGE", self.keys.index(saga_id.hex), first, first + _PAGE - 1) for saga_id in more]
            pages = await self._connection.pipelined(ranges)
            yield [hot_keys.member_id(member) for page in pages for member in page if len(member) == _MEMBER]
            more = [saga_id for saga_id, page in zip(more, pages, strict=True) if len(page) == _PAGE]
            first += _PAGE

    async def be_looked_at(self, saga_ids: Sequence[UUID], now_us: int) -> None:
        """Have `age` look at these sagas once more: when they are due was noted by the policies of that time."""
        await self._connection.pipelined(
            [("ZADD", self.keys.due(saga_id.hex[0]), "LT", now_us, saga_id.hex) for saga_id in saga_ids]
        )

    async def mark_lost(self, metas: Sequence[SnapshotMeta]) -> list[bool]:
        """Note where these saves were, for reads to say that they are lost; False for one that is there, or a newer."""
        calls = []
        for meta in metas:
            member, pointer = hot_keys.member(meta.step_index, meta.snapshot_id), hot_keys.pointer(meta)
            args = [meta.created_us, member, pointer, meta.saved_us, self.keys.prefix, meta.snapshot_id.hex]
            calls.append((self._keys_of(meta), args))
        return [answer == 1 for answer in await self._connection.run_many("lost", calls)]

    async def set_aside(self, saves: Sequence[SnapshotMeta], prefix: str) -> int:
        """Move these saves to the same names under another prefix; how many were there still."""
        calls = []
        for meta in saves:
            member, pointer = hot_keys.member(meta.step_index, meta.snapshot_id), hot_keys.pointer(meta)
            args = [prefix, meta.saga_id.hex, meta.snapshot_id.hex, member, meta.created_us, pointer]
            calls.append((self._keys_of(meta), args))
        return sum(await self._connection.run_many("aside", calls))

    def _keys_of(self, save: SnapshotMeta) -> list[str]:
        return [self.keys.index(save.saga_id.hex), self.keys.pointer(save.snapshot_id.hex)]
