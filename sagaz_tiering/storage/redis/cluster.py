"""Snapshots on Redis Cluster: all of a saga is in one slot and changes in one script, an id's pointer is in another.

A save writes the pointer, then the rest: a crash in between leaves a pointer that leads nowhere, which reads take
for nothing and remove once it is old.

A save under another saga than before crosses slots with the snapshot itself. Its steps: (1) the old saga notes where
the snapshot goes, (2) the new saga gets it: that instant is the save, (3) the pointer leads there, (4) the old saga
forgets it. Whoever meets the note looks whether the new saga has it already, and then does (3) and (4) itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.storage.redis import keys as redis_keys
from sagaz_tiering.storage.redis.keys import SagaHome
from sagaz_tiering.storage.redis.single import NewEntry, SingleServerStore, Stored, damaged_pointer, new_nonce

_OLD_US: Final = 3600 * 1_000_000
"""No save takes that long: a pointer of this age that leads nowhere is garbage."""
_TRIES: Final = 5


class ClusterStore(SingleServerStore):
    """Snapshots under one key prefix of a Cluster."""

    _shards_are_together = False
    _with_pointers = "0"

    async def save(self, entry: NewEntry) -> None:
        """Store a snapshot, in the order that this module's docstring tells."""
        for _ in range(_TRIES):
            if await self._try_to_save(entry):
                return
        raise HotTierUnavailable(
            f"snapshot {entry.meta.snapshot_id} is being saved under several sagas at the same time",
            hint="save it again; one snapshot id belongs to one saga",
        )

    async def _try_to_save(self, entry: NewEntry) -> bool:
        """False if others were in the way; they are out of it now."""
        meta, place, nonce = entry.meta, SagaHome.of(entry.meta.saga_id), new_nonce()
        pointer = redis_keys.pointer(place, nonce, meta.saved_us)
        old, shorten = await self._point(meta.snapshot_id, pointer, entry)
        elsewhere = SagaHome.parse(old)
        if elsewhere is None or elsewhere == place:
            if not await self._put(entry, place, nonce):
                return False
        else:
            noted = await self._forward(meta.snapshot_id, elsewhere, place)
            if noted is not None and noted != place and await self._has_moved(meta.snapshot_id, elsewhere, noted):
                return False
            if not await self._put(entry, place, nonce):
                return False
            _, shorten = await self._point(meta.snapshot_id, pointer, entry, force=True)
            await self._forget(meta.snapshot_id, elsewhere, moving_to=place)
        if shorten:
            async with self.redis.use() as client:
                await client.pexpire(self.keys.pointer(meta.snapshot_id.hex), entry.ttl_ms)
        return True

    async def get(self, snapshot_id: UUID, now_us: int) -> bytes | None:
        """The value of a live snapshot. Raises CorruptRecord if it cannot be found for damage."""
        pointer = await self._pointer(snapshot_id)
        if pointer is None:
            return None
        place = SagaHome.parse(pointer)
        if place is None:
            raise damaged_pointer(snapshot_id)
        found = await self._read(snapshot_id, place, now_us)
        if found is None:
            await self._remove_if_garbage(snapshot_id, place, pointer, now_us)
            return None
        value, forward = found
        if forward is not None and await self._has_moved(snapshot_id, place, forward):
            found = await self._read(snapshot_id, forward, now_us)
            return None if found is None else found[0]
        return value

    async def delete(self, snapshot_id: UUID) -> bool:
        """Remove a snapshot, expired or not; False if there was none."""
        place = SagaHome.parse(await self._pointer(snapshot_id) or b"")
        if place is None:
            return False
        facts = await self._forget(snapshot_id, place)
        if facts is None:
            return False
        forward = SagaHome.parse(facts.rpartition(b",")[2])
        moved = None if forward is None else await self._forget(snapshot_id, forward)
        await self._unpoint(snapshot_id, place, facts)
        if forward is not None and moved is not None:
            await self._unpoint(snapshot_id, forward, moved)
        return True

    async def _settled(self, place: SagaHome, found: Sequence[bytes]) -> list[Stored]:
        settled = []
        pages = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
        for member, score, value, forward in pages:
            snapshot_id, target = UUID(hex=member[8:].decode()), SagaHome.parse(forward)
            if target is None or not await self._has_moved(snapshot_id, place, target):
                settled.append(Stored(snapshot_id, member, score, value))
        return settled

    async def _cleared(self, place: SagaHome, removed: Sequence[tuple[bytes, bytes]]) -> None:
        await asyncio.gather(
            *(self._clear_pointer(place, UUID(hex=i.decode()), facts) for i, facts in removed if facts)
        )

    async def _clear_pointer(self, place: SagaHome, snapshot_id: UUID, facts: bytes) -> None:
        target = SagaHome.parse(facts.rpartition(b",")[2])
        if target is None or not await self._has_moved(snapshot_id, place, target):
            await self._unpoint(snapshot_id, place, facts)

    async def _put(self, entry: NewEntry, place: SagaHome, nonce: str) -> bool:
        """Store all but the pointer; False if an earlier save has moved the snapshot away from here, half-way."""
        keys = [self.keys.value(place, entry.meta.snapshot_id.hex)]
        for over_forward in (False, True):
            args = self._save_arguments(entry, place, nonce, over_forward=over_forward)
            target = SagaHome.parse(await self.run("save", keys, args))
            if target is None:
                break
            if await self._has_moved(entry.meta.snapshot_id, place, target):
                return False
        return True

    async def _has_moved(self, snapshot_id: UUID, old: SagaHome, new: SagaHome) -> bool:
        """Whether the new saga has the snapshot; then the old one has it no more."""
        async with self.redis.use() as client:
            facts = await client.hget(self.keys.facts(new), snapshot_id.hex)
        if facts is None:
            return False
        pointer = await self._pointer(snapshot_id)
        if pointer is not None and SagaHome.parse(pointer) == old:
            moved = redis_keys.pointer(new, redis_keys.nonce_of(facts), int(pointer.rpartition(b",")[2]))
            await self.run("point", [self.keys.pointer(snapshot_id.hex)], [moved, "", "1"])
        await self._forget(snapshot_id, old, moving_to=new)
        return True

    async def _pointer(self, snapshot_id: UUID) -> bytes | None:
        async with self.redis.use() as client:
            pointer: bytes | None = await client.get(self.keys.pointer(snapshot_id.hex))
        return pointer

    async def _point(
        self, snapshot_id: UUID, pointer: str, entry: NewEntry, *, force: bool = False
    ) -> tuple[bytes, bool]:
        args = [pointer, entry.ttl_ms, "1" if force else "0"]
        old, shorten = await self.run("point", [self.keys.pointer(snapshot_id.hex)], args)
        return old, bool(shorten)

    async def _unpoint(self, snapshot_id: UUID, place: SagaHome, facts: bytes) -> None:
        """Remove the pointer that belongs to this very save; another save may have begun."""
        beginning = f"{place.text},{redis_keys.nonce_of(facts)},"
        await self.run("unpoint", [self.keys.pointer(snapshot_id.hex)], [beginning])

    async def _remove_if_garbage(self, snapshot_id: UUID, place: SagaHome, pointer: bytes, now_us: int) -> None:
        saved_us = int(pointer.rpartition(b",")[2])
        async with self.redis.use() as client:
            listed = await client.hexists(self.keys.facts(place), snapshot_id.hex)
        if not listed and now_us - saved_us > _OLD_US:
            await self.run("unpoint", [self.keys.pointer(snapshot_id.hex)], [pointer])

    async def _read(self, snapshot_id: UUID, place: SagaHome, now_us: int) -> tuple[bytes, SagaHome | None] | None:
        keys = [self.keys.facts(place), self.keys.value(place, snapshot_id.hex)]
        found = await self.run("read", keys, [snapshot_id.hex, now_us])
        return None if found is None else (found[0], SagaHome.parse(found[1]))

    async def _forward(self, snapshot_id: UUID, old: SagaHome, new: SagaHome) -> SagaHome | None:
        noted = await self.run("forward", [self.keys.facts(old)], [snapshot_id.hex, new.text])
        return None if noted is None else SagaHome.parse(noted)

    async def _forget(self, snapshot_id: UUID, place: SagaHome, *, moving_to: SagaHome | None = None) -> bytes | None:
        args = [self.keys.base(place.shard), place.saga, snapshot_id.hex, "" if moving_to is None else moving_to.text]
        facts: bytes | None = await self.run("forget", [self.keys.index(place)], args)
        return facts
