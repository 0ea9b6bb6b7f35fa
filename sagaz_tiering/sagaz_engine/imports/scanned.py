"""Sources over stores that have no order of their own: everything is walked over once, then read in order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.sagaz_engine.imports.records import ReadRecord, record_of
from sagaz_tiering.sagaz_engine.imports.source import PAGE, FoundRecord, Inventory, Place, SagazSource, batches_of
from sagaz_tiering.snapshot import SagaSnapshot, as_uuid

_BEFORE = (-(2**63), -(2**31) - 1, b"")
_BEHIND = (2**63 - 1, 2**31, b"\xff" * 17)


class ScannedRecord(NamedTuple):
    """One record as the store has it: its bytes, or why they cannot be read; neither where it is gone meanwhile.

    `written` grows with every rewrite, where the store may have several records of one id.
    """

    key: bytes
    data: bytes | None
    problem: str = ""
    written: int = 0
    is_replay: bool = False


class ScannedSource(SagazSource):
    """The indexes of the store are not looked at. What is read is read twice: to place it, and to give it.

    The first use walks over the whole store and takes as long; what is saved after that may not be seen.
    """

    @abstractmethod
    def _listed(self) -> AsyncIterator[list[tuple[ScannedRecord, int]]]:
        """Every snapshot and replay record that is there, in any order, without its bytes but with their number."""

    @abstractmethod
    async def _loaded(self, listed: Sequence[ScannedRecord]) -> list[ScannedRecord]:
        """These records with their bytes, in this order."""

    async def saga_ids(self, *, after: UUID | str | None = None) -> AsyncIterator[UUID]:
        """Every saga that has a live snapshot, ascending by id, from behind `after` on."""
        inventory = await self._opened()
        last = b"" if after is None else as_uuid(after, "after").bytes
        while page := await inventory.sagas(last, to_micros(self._clock.now()), PAGE):
            for saga in page:
                yield saga
            last = page[-1].bytes

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        """Every live snapshot of one saga, oldest first; without `saga_id` of every saga behind `after`, by id."""
        place = (b"" if after is None else as_uuid(after, "after").bytes, *_BEHIND)
        if saga_id is not None:
            place = (as_uuid(saga_id, "saga_id").bytes, *_BEFORE)
        inventory = await self._opened()
        async for found, snapshot in self._walk(inventory, place, in_saga=saga_id is not None):
            # One that was saved again meanwhile, under another saga, has no place here any more.
            if snapshot.saga_id.bytes == found.saga_id and await self._is_live(inventory, found.key, snapshot):
                yield snapshot

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record in the shape of `ReplayResult.to_dict`, ascending by id, from behind `after` on."""
        last = b"" if after is None else as_uuid(after, "after").bytes
        async for _, record in self._walk(await self._opened(), (b"", 0, 0, last), in_saga=True):
            yield record

    async def _walk(
        self, inventory: Inventory, place: Place, *, in_saga: bool
    ) -> AsyncIterator[tuple[FoundRecord, Any]]:
        """What is there behind a place, read once more."""
        while page := await inventory.behind(place, PAGE, in_saga=in_saga):
            for batch in batches_of([found.size for found in page]):
                by_key = {found.key: found for found in page[batch]}
                again = [ScannedRecord(found.key, None, is_replay=not found.saga_id) for found in page[batch]]
                for stored, record in await self._read_batch(inventory, again):
                    yield by_key[stored.key], record.value
            place = page[-1].place

    async def _take_stock(self, inventory: Inventory) -> None:
        async for page in self._listed():
            for batch in batches_of([size for _, size in page]):
                listed = [stored for stored, _ in page[batch]]
                await inventory.add([_found(*each) for each in await self._read_batch(inventory, listed)])
        self.expired = await inventory.settle(to_micros(self._clock.now()))

    async def _read_batch(
        self, inventory: Inventory, listed: Sequence[ScannedRecord]
    ) -> list[tuple[ScannedRecord, ReadRecord]]:
        """What can be read of those that are there; the rest is accounted for."""
        loaded = await self._loaded(listed)
        there = {stored.key: stored for stored in loaded if stored.problem or stored.data is not None}
        return [(there[key], record) for key, record in (await self._read(inventory, there, _decoded)).items()]


def _decoded(stored: ScannedRecord) -> ReadRecord:
    if stored.problem or stored.data is None:
        raise CorruptRecord(stored.problem)
    return record_of(stored.data, is_replay=stored.is_replay)


def _found(stored: ScannedRecord, record: ReadRecord) -> FoundRecord:
    if stored.is_replay:
        replay_id = UUID(record.value["replay_id"]).bytes
        return FoundRecord(b"", 0, 0, replay_id, None, stored.written, record.size, stored.key)
    snapshot: SagaSnapshot = record.value
    until = snapshot.retention_until
    return FoundRecord(
        saga_id=snapshot.saga_id.bytes,
        created_us=to_micros(snapshot.created_at),
        step_index=snapshot.step_index,
        record_id=snapshot.snapshot_id.bytes,
        retention_us=None if until is None else to_micros(until),
        written=stored.written,
        size=record.size,
        key=stored.key,
    )
