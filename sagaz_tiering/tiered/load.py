"""The snapshots that a timeline's copies stand for: each in the save that was seen there, or a newer one.

Between the look at a timeline and the fetch of its values a snapshot may leave Redis for a pack, be saved anew or be
deleted; Redis may go away, or lose what it had. Where it has not got the save any more PostgreSQL and the packs are
asked, and an older save that they or Redis may have is no answer. Which copies in Redis stand for anything while it is
not believed PostgreSQL is asked for each (`Loader.sift`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from sagaz_tiering import metrics
from sagaz_tiering.catalog.hot_saves import HotSave
from sagaz_tiering.catalog.locations import SaveKey, SnapshotLocation
from sagaz_tiering.codec.threaded import decode_record, record_in
from sagaz_tiering.codec.value import Record, read_header, read_meta
from sagaz_tiering.drivers import traces
from sagaz_tiering.errors import CorruptData, HotTierUnavailable, SnapshotLost, Unreadable
from sagaz_tiering.hot.layout import Gone, IndexedHeader
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef, Tier
from sagaz_tiering.storage.answers import check_answer, check_place
from sagaz_tiering.storage.reporting import Gaps
from sagaz_tiering.tiered.cold import ColdTier
from sagaz_tiering.tiered.hot_notes import HotNotes
from sagaz_tiering.tiered.merge import Copy, alive, damaged_copy
from sagaz_tiering.tiers import Tiers


class Loaded(NamedTuple):
    """What a snapshot holds, or why it cannot be read; `located` is where PostgreSQL or a pack has it (None: Redis)."""

    record: Record | Unreadable
    located: SnapshotLocation | None


class Loader:
    """Fetches and decodes what copies stand for, and sifts those in a Redis that is not believed."""

    def __init__(self, tiers: Tiers, notes: HotNotes) -> None:
        self._tiers, self._notes, self._cold = tiers, notes, ColdTier(tiers)

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
            values: Sequence[bytes | None] = [None] * len(some)
            with suppress(HotTierUnavailable):
                values = await self._tiers.hot.fetch(saga_id, [copy.ref.snapshot_id for copy in some])
            for copy, value in zip(some, values, strict=True):
                if (found := await self._found(copy, value, packed)) is not None:
                    loaded[copy.ref.snapshot_id] = found
        in_packs = await self._cold.read(packed)
        for located in packed:
            if located.ref.snapshot_id in in_packs:
                loaded[located.ref.snapshot_id] = Loaded(in_packs[located.ref.snapshot_id], located)
        return loaded

    async def _found(self, copy: Copy, value: bytes | None, packed: list[SnapshotLocation]) -> Loaded | None:
        """What Redis has of a snapshot; of one whose save it has not got any more what the durable copy holds.

        None where it was deleted, or with its place added to `packed`, if that is where it is.
        """
        if value is not None:
            record = await self._record(value, copy, copy.located)
            if not isinstance(record, Record) or _is_as_new(record.meta.saved_us, copy):
                return Loaded(record, None)
        wanted = copy.ref.snapshot_id
        located = await self._tiers.catalog.locations.find(wanted)
        for item in located:
            if item.value is not None and _is_as_new(item.saved_us, copy):
                return Loaded(await self._record(item.value, copy, item), item)
        for item in located:
            if item.place is not None and _is_as_new((await self._cold.saved_us([wanted])).get(wanted, -1), copy):
                packed.append(item)
                return None
        last = await self._by_id(copy, is_located=bool(located))
        return None if last is None else Loaded(last, None)

    async def _by_id(self, copy: Copy, *, is_located: bool) -> Record | Unreadable | None:
        """What Redis has of a snapshot whose save no other tier has, or that it is lost.

        None where it was deleted, or is of another saga now, or nobody knew of the save that Redis lost. Raises
        HotTierUnavailable: without Redis there is no telling.
        """
        found, left = await self._tiers.hot.get(copy.ref.snapshot_id), list[Copy]()
        if isinstance(found, bytes):
            try:
                meta = read_meta(found)
                check_answer(meta, snapshot_id=copy.ref.snapshot_id)
            except CorruptData as exc:
                return exc
            if _is_as_new(meta.saved_us, copy):
                return await self._record(found, copy, None) if meta.saga_id == copy.ref.saga_id else None
            left.append(replace(copy, saved_us=meta.saved_us))
        for lost in alive(await self.lost(left, snapshot_id=copy.ref.snapshot_id), self._tiers.clock.now()):
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
            known = self._tiers.dictionaries.at_hand(header.dictionary_id)
            if known is None:
                known = await self._tiers.dictionaries.need(header.dictionary_id)
            return await record_in(value, header, known)
        except CorruptData as exc:
            return exc

    async def sift(self, hot: Sequence[Copy], located: Sequence[Copy]) -> tuple[list[Copy], list[Copy]]:
        """The copies in Redis that live, and the `located` ones, with when they were saved where that decides.

        Of a Redis that may have gone back to an older state, or be another server: what was deleted, forgotten or put
        under another saga since it was saved is left out. Raises CatalogUnavailable, ColdTierUnavailable.
        """
        # One that cannot be read may be of any save: a deletion of the snapshot counts.
        saves = [SaveKey(copy.ref.snapshot_id, copy.ref.saga_id, copy.saved_us or 0) for copy in hot]
        dead = await self._tiers.catalog.locations.buried(saves) | await self._tiers.catalog.locations.moved(saves)
        living = [copy for copy in hot if copy.ref.snapshot_id not in dead]
        both = {copy.ref.snapshot_id for copy in living}
        packed = [copy.ref.snapshot_id for copy in located if copy.ref.snapshot_id in both and copy.value is None]
        saved = await self._cold.saved_us(packed)
        known = [c if c.saved_us is not None else replace(c, saved_us=saved.get(c.ref.snapshot_id)) for c in located]
        return living, known

    async def lost(
        self, hot: Sequence[Copy], *, saga_id: UUID | None = None, snapshot_id: UUID | None = None
    ) -> list[Copy]:
        """Of a saga or one snapshot: what Redis alone acknowledged, and has not got any more, each with its `error`."""
        await self._notes.flush()
        saved = {copy.ref.snapshot_id: copy.saved_us for copy in hot}
        noted = await self._tiers.catalog.hot_saves.not_elsewhere(saga_id=saga_id, snapshot_id=snapshot_id)
        missing = [each for each in noted if (saved.get(each.meta.snapshot_id) or -1) < each.meta.saved_us]
        in_packs = await self._cold.saved_us([each.meta.snapshot_id for each in missing if each.packed])
        return [_lost(each) for each in missing if in_packs.get(each.meta.snapshot_id, -1) < each.meta.saved_us]


def _lost(save: HotSave) -> Copy:
    meta = save.meta
    error = SnapshotLost(
        f"snapshot {meta.snapshot_id} (step {meta.step_name!r} of saga {meta.saga_id}) was acknowledged by Redis "
        "alone, which has lost it"
    )
    ref = replace(SnapshotRef.of(meta, expires_us=save.expires_us, tier=Tier.HOT), unreadable=str(error))
    return Copy(ref=ref, saved_us=meta.saved_us, error=error)


def nameless(saga_id: UUID, header: IndexedHeader) -> Copy:
    """What an index in Redis tells of a snapshot whose value is gone."""
    return damaged_copy(saga_id, header, nobody_has(header.snapshot_id))


def nobody_has(snapshot_id: UUID) -> SnapshotLost:
    """Of a snapshot that only the index in Redis tells of."""
    return SnapshotLost(f"Redis names snapshot {snapshot_id}, but neither Redis nor PostgreSQL has it")


def _is_as_new(saved_us: int | None, copy: Copy) -> bool:
    """Whether a save is the one that was seen, or a later one."""
    return saved_us is not None and (copy.saved_us is None or saved_us >= copy.saved_us)
