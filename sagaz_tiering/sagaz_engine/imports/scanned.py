"""Sources over stores that have no order of their own: everything is walked over once, then read in order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sagaz_tiering.clock import to_micros
from sagaz_tiering.errors import CorruptRecord
from sagaz_tiering.sagaz_engine.imports import records
from sagaz_tiering.sagaz_engine.imports.inventory import FoundReplay, FoundSnapshot, Inventory
from sagaz_tiering.sagaz_engine.imports.source import PAGE, SagazSource, batches_of
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


class _Readable(NamedTuple):
    stored: ScannedRecord
    record: records.Snapshot | records.Replay
    size: int

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.record.remarks


class ScannedSource(SagazSource):
    """The indexes of the store are not looked at. What is read is read twice: to place it, and to give it.

    The first use walks over the whole store and takes as long; what is saved after that may not be seen.
    """

    @abstractmethod
    def _scan(self) -> AsyncIterator[list[ScannedRecord]]:
        """Every snapshot and replay record that is there, in any order, one batch in memory at a time."""

    @abstractmethod
    async def _fetch(self, keys: Sequence[bytes]) -> list[ScannedRecord]:
        """These records again, in this order."""

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
        inventory = await self._opened()
        if saga_id is not None:
            read, place = inventory.of_saga, (as_uuid(saga_id, "saga_id").bytes, *_BEFORE)
        else:
            read, place = inventory.of_all, (b"", *_BEFORE)
            if after is not None:
                place = (as_uuid(after, "after").bytes, *_BEHIND)
        while page := await read(place, PAGE):
            for batch in batches_of([found.size for found in page]):
                async for snapshot in self._snapshots(inventory, page[batch]):
                    yield snapshot
            place = page[-1].place

    async def iter_replay_logs(self, *, after: UUID | str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every replay record in the shape of `ReplayResult.to_dict`, ascending by id, from behind `after` on."""
        inventory = await self._opened()
        last = b"" if after is None else as_uuid(after, "after").bytes
        while page := await inventory.replays(last, PAGE):
            for batch in batches_of([found.size for found in page]):
                again = await self._fetch([found.key for found in page[batch]])
                for readable in await self._read_batch(
                    inventory, [stored._replace(is_replay=True) for stored in again]
                ):
                    if isinstance(readable.record, records.Replay):
                        yield readable.record.value
            last = page[-1].replay_id

    async def _snapshots(self, inventory: Inventory, page: Sequence[FoundSnapshot]) -> AsyncIterator[SagaSnapshot]:
        sagas = {found.key: found.saga_id for found in page}
        for readable in await self._read_batch(inventory, await self._fetch(list(sagas))):
            key, snapshot = readable.stored.key, readable.record.value
            # One that was saved again meanwhile, under another saga, has no place here any more.
            if not isinstance(snapshot, SagaSnapshot) or snapshot.saga_id.bytes != sagas[key]:
                continue
            if await self._is_live(inventory, key, snapshot):
                yield snapshot

    async def _take_stock(self, inventory: Inventory) -> None:
        async for batch in self._scan():
            found, replays = list[FoundSnapshot](), list[FoundReplay]()
            for readable in await self._read_batch(inventory, batch):
                if isinstance(readable.record, records.Replay):
                    replays.append(_place_of_replay(readable, readable.record.value))
                else:
                    found.append(_place_of(readable, readable.record.value))
            await inventory.add(found, replays)
        self.expired = await inventory.settle(to_micros(self._clock.now()))

    async def _read_batch(self, inventory: Inventory, batch: Sequence[ScannedRecord]) -> list[_Readable]:
        """What can be read of those that are there; the rest is accounted for."""
        there = [(stored.key, stored) for stored in batch if stored.problem or stored.data is not None]
        return await self._read(inventory, there, _decoded)


def _decoded(stored: ScannedRecord) -> _Readable:
    if stored.problem or stored.data is None:
        raise CorruptRecord(stored.problem)
    raw = records.unpacked(stored.data)
    record = records.replay_of(raw) if stored.is_replay else records.snapshot_of(raw)
    return _Readable(stored, record, len(raw))


def _place_of(readable: _Readable, snapshot: SagaSnapshot) -> FoundSnapshot:
    until = snapshot.retention_until
    return FoundSnapshot(
        saga_id=snapshot.saga_id.bytes,
        created_us=to_micros(snapshot.created_at),
        step_index=snapshot.step_index,
        snapshot_id=snapshot.snapshot_id.bytes,
        retention_us=None if until is None else to_micros(until),
        written=readable.stored.written,
        size=readable.size,
        key=readable.stored.key,
    )


def _place_of_replay(readable: _Readable, record: dict[str, Any]) -> FoundReplay:
    replay_id = UUID(record["replay_id"]).bytes
    return FoundReplay(
        replay_id=replay_id, written=readable.stored.written, size=readable.size, key=readable.stored.key
    )
