"""The snapshots that a timeline's copies stand for: each in the save that was seen there, or a newer one.

Between the look at a timeline and the fetch of its values a snapshot may leave Redis for a pack, be saved anew or be
deleted; Redis may go away, or lose what it had. Where it has not got the save any more PostgreSQL and the packs are
asked, and an older save that they or Redis may have is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.locations import SnapshotLocation
from sagaz_tiering.codec.threaded import decode_record, record_in
from sagaz_tiering.codec.value import Record, read_header, read_meta
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import CorruptData, HotTierUnavailable, Unreadable
from sagaz_tiering.hot.values import Gone
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.answers import check_answer, check_place
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.tiered.cold import ColdTier
from sagaz_tiering.tiered.merge import Copy, alive
from sagaz_tiering.tiered.untrusted import UntrustedRedis, nobody_has
from sagaz_tiering.tiers import Tiers


class Loaded(NamedTuple):
    """What a snapshot holds, or why it cannot be read; `located` is where PostgreSQL or a pack has it (None: Redis)."""

    record: Record | Unreadable
    located: SnapshotLocation | None


class Loader:
    """Fetches and decodes what copies stand for."""

    def __init__(self, tiers: Tiers, cold: ColdTier, untrusted: UntrustedRedis) -> None:
        self._hot = tiers.hot
        self._locations = tiers.catalog.locations
        self._dictionaries = tiers.dictionaries
        self._clock = tiers.clock
        self._cold = cold
        self._untrusted = untrusted

    async def load(self, copies: Sequence[Copy]) -> list[SagaSnapshot]:
        """The snapshots of these copies, in their order; each is the one that its copy stands for, or a newer save.

        A hot one that left Redis meanwhile is read where it is; one that was deleted meanwhile is left out, and so is
        one that Redis lost before anybody knew of it: who asks for a timeline anew is told what there is. Raises
        Unreadable, with those that can be read, and TierUnavailable.
        """
        found, gaps = await self.records(copies), Gaps("tiered")
        readable: list[SagaSnapshot] = []
        for copy in copies:
            loaded = found.get(copy.ref.snapshot_id)
            record = None if loaded is None else loaded.record
            if isinstance(record, Unreadable):
                gaps.add(copy.ref.snapshot_id, record)
            elif record is not None:
                try:
                    readable.append(await decode_record(record))
                except CorruptData as exc:
                    gaps.add(copy.ref.snapshot_id, exc)
                else:
                    metrics.READS.labels(tier=copy.ref.tier.value).inc()
                    if traces.tracer is not None:
                        traces.note(tier=copy.ref.tier.value, storage_class=copy.ref.storage_class)
        gaps.check(readable)
        return readable

    async def records(self, copies: Sequence[Copy]) -> dict[UUID, Loaded]:
        """What each of these holds, or why it cannot be read; nothing for one that was deleted meanwhile."""
        loaded: dict[UUID, Loaded] = {}
        packed: list[SnapshotLocation] = []
        in_redis: dict[UUID, list[Copy]] = {}
        for copy in copies:
            if copy.error is not None:
                loaded[copy.ref.snapshot_id] = Loaded(copy.error, copy.located)
            elif copy.value is not None:
                record = await self._record(copy.value, copy, copy.located)
                loaded[copy.ref.snapshot_id] = Loaded(record, copy.located)
            elif copy.located is not None and copy.located.place is not None:
                packed.append(copy.located)
            else:
                in_redis.setdefault(copy.ref.saga_id, []).append(copy)
        for saga_id, some in in_redis.items():
            values = await self._values(saga_id, [copy.ref.snapshot_id for copy in some])
            for copy, value in zip(some, values, strict=True):
                found = await self._of_redis(copy, value) or await self._elsewhere(copy, packed)
                if found is not None:
                    loaded[copy.ref.snapshot_id] = found
        in_packs = await self._cold.read(packed)
        for located in packed:
            if located.ref.snapshot_id in in_packs:
                loaded[located.ref.snapshot_id] = Loaded(in_packs[located.ref.snapshot_id], located)
        return loaded

    async def _of_redis(self, copy: Copy, value: bytes | None) -> Loaded | None:
        """What Redis has under its id, unless that is an older save or nothing."""
        if value is None:
            return None
        record = await self._record(value, copy, copy.located)
        if isinstance(record, Record) and not _is_as_new(record.meta.saved_us, copy):
            return None
        return Loaded(record, None)

    async def _values(self, saga_id: UUID, ids: Sequence[UUID]) -> list[bytes | None]:
        with suppress(HotTierUnavailable):
            return await self._hot.fetch(saga_id, ids)
        return [None] * len(ids)

    async def _elsewhere(self, copy: Copy, packed: list[SnapshotLocation]) -> Loaded | None:
        """What the durable copy of a snapshot holds whose save Redis has not got any more, or cannot be asked for.

        None where it was deleted, or with its place added to `packed`, if that is where it is.
        """
        located = await self._locations.find(copy.ref.snapshot_id)
        for item in located:
            if item.value is not None and _is_as_new(item.saved_us, copy):
                return Loaded(await self._record(item.value, copy, item), item)
        for item in located:
            if item.place is not None and await self._pack_is_as_new(copy):
                packed.append(item)
                return None
        record = await self._by_id(copy, is_located=bool(located))
        return None if record is None else Loaded(record, None)

    async def _pack_is_as_new(self, copy: Copy) -> bool:
        saved = await self._cold.saved_us(await self._locations.packs_of([copy.ref.snapshot_id]))
        return _is_as_new(saved.get(copy.ref.snapshot_id, -1), copy)

    async def _by_id(self, copy: Copy, *, is_located: bool) -> Record | Unreadable | None:
        """What Redis has of a snapshot whose save no other tier has, or that it is lost.

        None where it was deleted, or is of another saga now, or nobody knew of the save that Redis lost. Raises
        HotTierUnavailable: without Redis there is no telling.
        """
        found, left = await self._hot.get(copy.ref.snapshot_id), list[Copy]()
        if isinstance(found, bytes):
            try:
                meta = read_meta(found)
                check_answer(meta, snapshot_id=copy.ref.snapshot_id)
            except CorruptData as exc:
                return exc
            if _is_as_new(meta.saved_us, copy):
                return await self._record(found, copy, None) if meta.saga_id == copy.ref.saga_id else None
            left.append(replace(copy, saved_us=meta.saved_us))
        for lost in alive(await self._untrusted.lost(left, snapshot_id=copy.ref.snapshot_id), self._clock.now()):
            return lost.error
        return nobody_has(copy.ref.snapshot_id) if isinstance(found, Gone) and not is_located else None

    async def _record(self, value: bytes, copy: Copy, located: SnapshotLocation | None) -> Record | CorruptData:
        """What a value holds, or why it is not what `copy` stands for. A hot one may have been saved anew since."""
        try:
            header = read_header(value)
            if located is None:
                check_answer(header.meta, snapshot_id=copy.ref.snapshot_id, saga_id=copy.ref.saga_id)
            else:
                check_place(header.meta, located.ref)
            known = self._dictionaries.at_hand(header.dictionary_id)
            if known is None:
                known = await self._dictionaries.need(header.dictionary_id)
            return await record_in(value, header, known)
        except CorruptData as exc:
            return exc


def _is_as_new(saved_us: int | None, copy: Copy) -> bool:
    """Whether a save is the one that was seen, or a later one."""
    return saved_us is not None and (copy.saved_us is None or saved_us >= copy.saved_us)
