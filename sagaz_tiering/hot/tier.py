"""The hot tier: snapshots in Redis, each operation one round trip, each change all or nothing.

Saves and reads of single snapshots share one connection (`drivers.redis.multiplexed`), the jobs another, the
rest a pool (`hot.connection`).

Every multi-key change is one Lua script, so a crash cannot leave a value that no index finds. No value has a
time to live: Redis alone may hold it. Names and bytes: `hot.layout`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Self
from uuid import UUID

from sagaz_tiering.config.tiers import HotSettings
from sagaz_tiering.hot import layout
from sagaz_tiering.hot.connection import HotConnection
from sagaz_tiering.hot.queue import FIRST_HEADERS, HotQueue
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta

__all__ = ["FIRST_HEADERS", "HEADERS_PAGE", "HotTier"]

_PAGE = 500
HEADERS_PAGE = 500
"""So many headers of a saga are asked for at once."""
_ENDS_PAGE = 50
"""Of so many sagas one call asks, which applications wait for."""
_LONG_VALUE = 256 * 1024
"""A value from this size on is sent by itself, so that none waits behind it."""


class HotTier:
    """Snapshots in Redis. `async with HotTier(settings) as hot`; connects when first used.

    What applications call is here; beside it on the same connection stands `queue`, which jobs call.
    """

    def __init__(self, settings: HotSettings) -> None:
        """Nothing is connected to. Raises ConfigError for a URL of no use."""
        self.connection = HotConnection(settings)
        self.queue = HotQueue(self.connection)
        self.keys = self.connection.keys

    async def __aenter__(self) -> Self:
        await self.connection.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    async def save(
        self, meta: SnapshotMeta, value: bytes, *, due_us: int | None, expires_us: int | None, **more: bool
    ) -> layout.NotTaken | None:
        """Store one snapshot. None: it is there now, else nothing was changed. `more`: see `store`."""
        return layout.NotTaken.of(await self.store(meta, value, due_us=due_us, expires_us=expires_us, **more))

    def store(
        self,
        meta: SnapshotMeta,
        value: bytes,
        *,
        due_us: int | None,
        expires_us: int | None,
        held_too: bool = True,
        replacing_too: bool = True,
        alone: bool = False,
    ) -> Awaitable[Any]:
        """The same, as `NotTaken.of` reads it.

        Without `held_too` nothing is stored where a hold is on it or its saga: somebody must look first (`held`).
        Without `replacing_too` either nor where Redis has another save of it, which any match may hold. `alone`: nobody
        else is to have it, so the catalog must be told (`unnoted`).
        """
        saga_id, snapshot_id = meta.saga_id.bytes, meta.snapshot_id.bytes
        saga, snapshot = saga_id.hex(), snapshot_id.hex()
        run = self.connection.ask if len(value) < _LONG_VALUE else self.connection.run
        return run(
            "save",
            self.keys.of_save(saga, snapshot),
            [
                value,
                meta.created_us,
                layout.member(meta.step_index, meta.snapshot_id),
                layout.pointer(meta),
                meta.saved_us,
                saga,
                "" if due_us is None else due_us,
                "" if expires_us is None else expires_us,
                self.keys.prefix,
                snapshot,
                "1" if held_too else "0" if replacing_too else "2",
                saga_id + snapshot_id if alone else b"",
            ],
        )

    async def mark_held(self, saga_ids: Sequence[UUID], *, held: bool) -> None:
        """Note that a hold is on these sagas, or on none of them any more; a mark too many costs a look, no answer."""
        await self._mark([self.keys.held_mark(saga_id.hex) for saga_id in saga_ids], there=held)

    async def mark_held_ids(self, snapshot_ids: Sequence[UUID], *, held: bool) -> None:
        """The same of single snapshots of such sagas, those that Redis does not have too."""
        await self._mark([self.keys.held_id_mark(snapshot_id.hex) for snapshot_id in snapshot_ids], there=held)

    async def _mark(self, marks: Sequence[str], *, there: bool) -> None:
        async with self.connection.pool() as client:
            for start in range(0, len(marks), _PAGE):
                some = marks[start : start + _PAGE]
                if there:
                    await client.mset(dict.fromkeys(some, b"1"))
                else:
                    await client.delete(*some)

    async def get(self, snapshot_id: UUID) -> bytes | layout.Gone | None:
        """The value of one snapshot; None where Redis knows nothing of it."""
        found = await self.find(snapshot_id)
        return found.value if isinstance(found, layout.HotValue) else found

    async def find(self, snapshot_id: UUID) -> layout.HotValue | layout.Gone | None:
        """The same, with where its saga ends."""
        found = await self.connection.read(
            self.connection.ask, "get", [self.keys.pointer(snapshot_id.hex)], [self.keys.prefix, snapshot_id.hex]
        )
        if found is None:
            return None
        return layout.Gone(snapshot_id) if found == 0 else layout.HotValue(*found)

    async def newest(
        self, saga_id: UUID, *, not_after_us: int | None = None, step_name: str | None = None
    ) -> tuple[layout.Indexed, bytes | None] | None:
        """The newest snapshot of a saga, at or before a time, of a step; and `HotValue.newest`."""
        saga = saga_id.hex
        step = (step_name or "").encode("utf-8", "surrogatepass")
        until = "+inf" if not_after_us is None else not_after_us
        args = [self.keys.value_prefix(saga), until, step, "0" if step_name is None else "1"]
        found = await self.connection.read(self.connection.ask, "newest", [self.keys.index(saga)], args)
        return (layout.indexed(*found[:3]), found[3]) if found else None

    async def unnoted(self, until_us: int, limit: int) -> list[layout.Unnoted]:
        """The oldest saves until then that Redis alone acknowledged and the catalog was not told of; one trip."""
        raw = await self.connection.run("unnoted", [self.keys.unnoted()], [self.keys.prefix, until_us, limit])
        return layout.unnoted(raw)

    async def noted(self, saves: Sequence[tuple[UUID, UUID, int]]) -> None:
        """The catalog was told of these (saga, snapshot, saved at) or later saves; one trip."""
        packed = b"".join(saga.bytes + one.bytes + layout.instant(saved_us) for saga, one, saved_us in saves)
        await self.connection.run("noted", [self.keys.unnoted()], [packed])

    async def ends(self, saga_ids: Sequence[UUID]) -> dict[UUID, SagaEnd]:
        """Where these sagas end in Redis, those of which it has something that can be read; few trips for all."""
        indexes = [self.keys.index(saga_id.hex) for saga_id in saga_ids]
        calls = [(indexes[start : start + _ENDS_PAGE], ()) for start in range(0, len(indexes), _ENDS_PAGE)]
        heads = [head for page in await self.connection.run_many("ends", calls) for head in page]
        there = [(saga, head) for saga, head in zip(saga_ids, heads, strict=True) if head is not None]
        return {saga: end for saga, head in there if (end := layout.end_of(saga, head)) is not None}

    async def values(self, saga_id: UUID, limit: int) -> list[layout.Indexed]:
        """The newest `limit` values of a saga, newest first."""
        saga = saga_id.hex
        args = [self.keys.value_prefix(saga), 0, limit - 1]
        raw = await self.connection.read(self.connection.run, "list", [self.keys.index(saga)], args)
        return list(map(layout.indexed, raw[::3], raw[1::3], raw[2::3]))

    async def headers(self, saga_id: UUID) -> AsyncIterator[list[layout.IndexedHeader]]:
        """What is known of a saga's snapshots without their bodies, oldest first, a page at a time.

        Under concurrent saves a snapshot may be seen twice, under concurrent deletes one may be missed.
        """
        first = 0
        while True:
            page = await self.headers_from(saga_id, first)
            if page:
                yield page
            if len(page) < HEADERS_PAGE:
                return
            first += HEADERS_PAGE

    async def headers_from(self, saga_id: UUID, first: int) -> list[layout.IndexedHeader]:
        """One page of `headers`, from a rank on: HEADERS_PAGE of them, fewer at the end."""
        saga = saga_id.hex
        ranks = [first, first + HEADERS_PAGE - 1]
        args = [self.keys.value_prefix(saga), *ranks]
        raw = await self.connection.read(self.connection.run, "headers", [self.keys.index(saga)], args)
        return layout.headers_of(raw)

    async def fetch(self, saga_id: UUID, snapshot_ids: Sequence[UUID]) -> list[bytes | None]:
        """The values of these snapshots of one saga, in one trip."""
        saga = saga_id.hex
        return await self.connection.mget([self.keys.value(saga, s.hex) for s in snapshot_ids])

    async def owners(self, snapshot_ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Of these snapshots, those that Redis has, and the saga that each belongs to there; one trip."""
        pointers = await self.connection.mget([self.keys.pointer(snapshot_id.hex) for snapshot_id in snapshot_ids])
        owners = {s: layout.owner(pointer) for s, pointer in zip(snapshot_ids, pointers, strict=True) if pointer}
        return {snapshot_id: owner for snapshot_id, owner in owners.items() if owner is not None}

    async def delete(self, snapshot_id: UUID, *, until_us: int) -> bool:
        """Remove one snapshot, unless it was saved after `until_us` (microseconds); False if it was not there.

        A save that comes afterwards with that instant or an earlier one is told so (`NotTaken`).
        """
        return bool(await self.connection.run("delete", *self._deletion(snapshot_id, until_us)))

    async def delete_many(self, saves: Sequence[tuple[UUID, int]]) -> int:
        """`delete` of these snapshots, each until its own instant; how many went. Few trips for all."""
        return sum(await self.connection.run_many("delete", [self._deletion(*save) for save in saves]))

    def _deletion(self, snapshot_id: UUID, until_us: int) -> tuple[list[str], list[Any]]:
        keys, snapshot = self.keys, snapshot_id.hex
        mark_ms = int(layout.DELETE_MARK.total_seconds() * 1000)
        args = [keys.prefix, snapshot, snapshot_id.bytes, until_us, layout.instant(until_us), mark_ms]
        return [keys.pointer(snapshot), keys.delete_mark(snapshot)], args

    async def erase(self, saga_id: UUID, members: Sequence[bytes], until_us: int) -> int:
        """Remove these members of a saga's index with their values, readable or not, but for what was saved after."""
        saga, ours = saga_id.hex, b"".join(member for member in members if layout.is_member(member))
        return int(
            await self.connection.run("erase", [self.keys.index(saga)], [self.keys.prefix, saga, until_us, ours])
        )

    async def snapshots(self) -> AsyncIterator[tuple[UUID, UUID, int]]:
        """(saga id, snapshot id, value bytes) of every snapshot, by SCAN: for totals, never for reads."""
        prefix = f"{self.keys.prefix}:{{".encode()
        async for keys in self.connection.scan(f"{self.keys.prefix}:{{*}}:*"):
            for found in await self._lengths(keys, prefix):
                yield found

    async def saga_ids(self) -> AsyncIterator[list[UUID]]:
        """Every saga that Redis has something of, in no order, some twice, by SCAN: for transfer and backup."""
        start = len(self.keys.index(""))
        async for keys in self.connection.scan(self.keys.index("?" * 32)):
            found = (layout.saga_of(key[start - 1 : -1]) for key in keys)
            yield [saga for saga in found if saga is not None]

    async def renew_due(self, index: str) -> str:
        """Move what is in the place of an index aside (where to), and enter every saga of its shard, due now."""
        aside = f"{index}:set-aside"
        async with self.connection.pool() as client:
            await client.rename(index, aside)
            async for page in self.saga_ids():
                sagas: dict[Any, int] = {
                    saga.hex: 0 for saga in page if index in (self.keys.due(saga.hex[0]), self.keys.expiry(saga.hex[0]))
                }
                if sagas:
                    await client.zadd(index, sagas, lt=True)
        return aside

    async def _lengths(self, keys: Sequence[bytes], prefix: bytes) -> list[tuple[UUID, UUID, int]]:
        lengths = await self.connection.pipelined([("STRLEN", key) for key in keys], errors_too=True)
        names = [key.removeprefix(prefix).partition(b"}:") for key in keys]
        found = [(layout.saga_of(saga), layout.saga_of(snapshot)) for saga, _, snapshot in names]
        return [
            (saga, snapshot, length)
            for (saga, snapshot), length in zip(found, lengths, strict=True)
            if saga is not None and snapshot is not None and isinstance(length, int)  # else it is none of ours
        ]
