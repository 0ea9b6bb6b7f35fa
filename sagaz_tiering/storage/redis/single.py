"""Snapshots in the standalone storage's keys, on one server: each change is one script, all of it or nothing.

What differs on a Cluster is in `cluster`. Layout: `keys`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.drivers.redis.client import RedisClient, time_of
from sagaz_tiering.drivers.redis.scripts import load_script
from sagaz_tiering.drivers.server_clock import ClockSample, sampled
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotMeta
from sagaz_tiering.storage.redis import keys as redis_keys
from sagaz_tiering.storage.redis.keys import SHARDS, RedisKeys, SagaHome

PAGE: Final = 200
"""Snapshots, or entries of an index, that one script answers or removes at most."""

_PAGE_BYTES: Final = 4 * 2**20
_IDS_OF_A_SHARD: Final = 32
_AT_ONCE: Final = 16
_SHORTEST_MS: Final = 60_000
_HOUSEKEEPING_US: Final = 24 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """A snapshot to store, and when it stops existing (microseconds; None: never)."""

    meta: SnapshotMeta
    value: bytes
    expires_us: int | None

    @property
    def ttl_ms(self) -> int | str:
        """How long Redis keeps it, '' for ever. What is expired already is known for another minute."""
        if self.expires_us is None:
            return ""
        left_ms = -(-(self.expires_us - self.meta.saved_us) // 1000)
        return left_ms if left_ms > 0 else _SHORTEST_MS


class IndexCursor(NamedTuple):
    """A place in a saga's index to go on behind."""

    member: bytes
    score: bytes


class Stored(NamedTuple):
    """A snapshot as bytes, and what the index of its saga says of it."""

    snapshot_id: UUID
    member: bytes
    score: bytes
    value: bytes

    def check_order(self, found: SagaSnapshot) -> None:
        """Raise CorruptRecord unless the snapshot stands where it belongs in the order."""
        if (redis_keys.step_as_member(found.step_index), float(self.score)) != (
            self.member[:8].decode("latin-1"),
            to_micros(found.created_at),
        ):
            raise CorruptRecord(f"snapshot {self.snapshot_id} is not where the index of saga {found.saga_id} has it")


class Totals(NamedTuple):
    """Live snapshots and the bytes of their values; `with_expired` if the bytes include some of the expired."""

    snapshots: int
    size: int
    with_expired: bool


class SingleServerStore:
    """Snapshots under one key prefix of one server."""

    def __init__(self, redis: RedisClient, keys: RedisKeys) -> None:
        self.redis = redis
        self.keys = keys

    async def save(self, entry: NewEntry) -> None:
        """Store a snapshot; what was stored under its id is gone with that, whatever saga it was of."""
        meta, place, nonce = entry.meta, SagaHome.of(entry.meta.saga_id), new_nonce()
        pointer = redis_keys.pointer(place, nonce, meta.saved_us)
        keys = [self.keys.value(place, meta.snapshot_id.hex), self.keys.pointer(meta.snapshot_id.hex)]
        await self.run("save", keys, self._save_arguments(entry, place, nonce, pointer=pointer))

    async def time(self) -> ClockSample:
        """What the server's clock says; on a Cluster one node's."""
        return await sampled(partial(self.run, "time", [self.keys.totals(SHARDS[0])], []), time_of)

    async def get(self, snapshot_id: UUID, now_us: int) -> bytes | None:
        """The value of a live snapshot. Raises CorruptRecord if it cannot be found for damage."""
        args = [self.keys.prefix, snapshot_id.hex, now_us]
        found = await self.run("get", [self.keys.pointer(snapshot_id.hex)], args)
        if found == 0:
            raise damaged_pointer(snapshot_id)
        value: bytes | None = found
        return value

    async def delete(self, snapshot_id: UUID) -> bool:
        """Remove a snapshot, expired or not; False if there was none."""
        args = [self.keys.prefix, snapshot_id.hex]
        return bool(await self.run("delete", [self.keys.pointer(snapshot_id.hex)], args))

    async def page(
        self,
        saga_id: UUID,
        now_us: int,
        *,
        limit: int = PAGE,
        newest_first: bool = True,
        not_after_us: int | None = None,
        step_name: str | None = None,
        behind: IndexCursor | None = None,
    ) -> tuple[list[Stored], IndexCursor | None]:
        """Some live snapshots of a saga in order, at most `limit`, maybe none; and where to go on (None: that was all).

        `not_after_us` only with `newest_first`. With `step_name` one of another step may be among them (its name's
        hash is the same).
        """
        place = SagaHome.of(saga_id)
        args = [self.keys.base(place.shard), place.saga, now_us, "1" if newest_first else "0"]
        args += ["+inf" if not_after_us is None else not_after_us, *(behind or ("", ""))]
        args += ["" if step_name is None else redis_keys.step_tag(step_name), min(limit, PAGE), _PAGE_BYTES]
        found = await self.run("page", [self.keys.index(place), self.keys.facts(place)], args)
        cursor = IndexCursor(found[0], found[1]) if found[0] else None
        return await self._settled(place, found[2:]), cursor

    async def clear(self, saga_id: UUID) -> int:
        """Remove every snapshot of a saga; how many there were."""
        place, gone = SagaHome.of(saga_id), 0
        while True:
            args = [self.keys.prefix, place.shard, place.saga, PAGE, self._with_pointers]
            removed = await self.run("clear", [self.keys.index(place)], args)
            await self._cleared(place, list(zip(removed[::2], removed[1::2], strict=True)))
            gone += len(removed) // 2
            if len(removed) < 2 * PAGE:
                return gone

    async def sweep(self, now_us: int) -> int:
        """Remove what is expired; how many."""
        total, shards = 0, list(SHARDS)
        while shards:
            answers = await self._of_shards("sweep", shards, self.keys.expiring, now_us, PAGE, self._with_pointers)
            total += sum(removed for _, (removed, _) in answers)
            shards = [shard for group, (_, seen) in answers if seen >= PAGE for shard in group]
        return total

    async def totals(self, now_us: int) -> Totals:
        """What is held, from counters that every change keeps; looks at no value."""
        answers = [answer for _, answer in await self._of_shards("totals", SHARDS, self.keys.totals, now_us)]
        snapshots, size, over = (sum(column) for column in zip(*answers, strict=True))
        return Totals(snapshots, size, bool(over))

    async def saga_ids(self, behind: UUID | None, now_us: int) -> AsyncIterator[UUID]:
        """Sagas that have a live snapshot, ascending."""
        async for page in self._ids(self.keys.sagas, behind, now_us):
            for saga in page:
                yield saga

    async def replay_ids(self, behind: UUID | None) -> AsyncIterator[list[UUID]]:
        """Ids of all replay records, ascending, a page at a time."""
        async for page in self._ids(self.keys.replays, behind, None):
            for start in range(0, len(page), PAGE):
                yield page[start : start + PAGE]

    async def _ids(self, directory: Any, behind: UUID | None, now_us: int | None) -> AsyncIterator[list[UUID]]:
        """Ids from the directories of all shards: each gives its next few, a page goes up to where all are known."""
        after: str | None = "" if behind is None else behind.hex
        while after is not None:
            answers = await self._of_shards(
                "ids", SHARDS, directory, after, _IDS_OF_A_SHARD, "" if now_us is None else now_us
            )
            pages = [page for _, group in answers for page in group]
            ends = [page[0] for page in pages if page[0]]
            known_to = min(ends) if ends else None
            found = sorted(each for page in pages for each in page[1:] if known_to is None or each <= known_to)
            after = None if known_to is None else known_to.decode()
            yield [UUID(hex=each.decode()) for each in found]

    async def _of_shards(
        self, name: str, shards: Sequence[str], key: Any, *args: Any
    ) -> list[tuple[Sequence[str], Any]]:
        """What a script answers for groups of shards: for all at once where they are on one server, else for each."""
        groups = [shards] if self._shards_are_together else [[shard] for shard in shards]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def ask(group: Sequence[str]) -> tuple[Sequence[str], Any]:
            async with gate:
                keys = [key(shard) for shard in group]
                return group, await self.run(name, keys, [self.keys.prefix, *args, *group])

        return await asyncio.gather(*(ask(group) for group in groups))

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """What a script answers."""
        return await self.redis.run(load_script(__package__, name, behind="common"), keys, args)

    def _save_arguments(
        self, entry: NewEntry, place: SagaHome, nonce: str, *, pointer: str = "", over_forward: bool = False
    ) -> list[Any]:
        meta = entry.meta
        facts = redis_keys.facts(meta, nonce=nonce, size=len(entry.value), expires_us=entry.expires_us)
        stored = [self.keys.prefix, *place, meta.snapshot_id.hex, entry.value, meta.created_us, facts, entry.ttl_ms]
        return [*stored, pointer, meta.saved_us - _HOUSEKEEPING_US, "1" if over_forward else "0"]

    # What a Cluster does in another way.

    _shards_are_together = True
    _with_pointers = "1"

    async def _settled(self, place: SagaHome, found: Sequence[bytes]) -> list[Stored]:
        """Members, scores, values and where they are moving to, by turns: on one server nothing moves half-way."""
        return [
            Stored(_uuid(member[8:]), member, score, value)
            for member, score, value in zip(found[::4], found[1::4], found[2::4], strict=True)
        ]

    async def _cleared(self, place: SagaHome, removed: Sequence[tuple[bytes, bytes]]) -> None:
        """(id, facts) of snapshots that were just removed with their saga: their pointers went in the same script."""


def new_nonce() -> str:
    """What tells one save from the next."""
    return secrets.token_hex(4)


def damaged_pointer(snapshot_id: UUID) -> CorruptRecord:
    """The pointer under an id is not one of ours."""
    return CorruptRecord(f"snapshot {snapshot_id}: what says which saga it is of cannot be read")


def _uuid(text: bytes) -> UUID:
    return UUID(hex=text.decode())
