"""What the transfer tests need: stores with something in them, stores that fail on purpose, and what is in a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import HotTierUnavailable, SnapshotArchived
from sagaz_tiering.snapshot import ReplayResult, SagaSnapshot
from sagaz_tiering.storage.base import SnapshotSource
from sagaz_tiering.storage.memory import InMemorySnapshotStorage
from sagaz_tiering.transfer import TransferReport
from support.exact import exactly
from support.snapshots import make, number, replay
from support.tiers import NOW


def saga_number(value: int) -> UUID:
    """A saga id that sorts by `value`."""
    return UUID(int=0xC0000000_0000_4000_8000_000000000000 + value)


class Store(InMemorySnapshotStorage):
    """A memory storage that fails where it is told to, and remembers how it was used.

    `failing` maps snapshot ids to what saving them raises, `left` to how often (absent: always). `archived` ids
    answer SnapshotArchived. `saves` and `walked` are the ids that were saved and the sagas that were read.
    """

    def __init__(self) -> None:
        super().__init__(clock=VirtualClock(NOW))
        self.failing: dict[UUID, Exception] = {}
        self.left: dict[UUID, int] = {}
        self.archived: set[UUID] = set()
        self.saves: list[UUID] = []
        self.walked: list[UUID] = []
        self.before_save: Callable[[SagaSnapshot], None] | None = None
        self.in_flight = self.most_in_flight = 0
        self.is_down = False

    async def save_snapshot(self, snapshot: SagaSnapshot) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            if self.before_save is not None:
                self.before_save(snapshot)
            self._fail(snapshot.snapshot_id)
            await super().save_snapshot(snapshot)
            self.saves.append(snapshot.snapshot_id)
        finally:
            self.in_flight -= 1

    async def get_snapshot(self, snapshot_id: UUID | str) -> SagaSnapshot | None:
        if self.is_down:
            raise HotTierUnavailable("down")
        if snapshot_id in self.archived:
            raise archived(UUID(str(snapshot_id)))
        return await super().get_snapshot(snapshot_id)

    async def get_latest_snapshot(self, saga_id: UUID | str, before_step: str | None = None) -> SagaSnapshot | None:
        found = await super().get_latest_snapshot(saga_id, before_step)
        if found is not None and found.snapshot_id in self.archived:
            raise archived(found.snapshot_id)
        return found

    async def iter_snapshots(
        self, saga_id: UUID | str | None = None, *, after: UUID | str | None = None
    ) -> AsyncIterator[SagaSnapshot]:
        if saga_id is not None:
            self.walked.append(UUID(str(saga_id)))
        async for snapshot in super().iter_snapshots(saga_id, after=after):
            if snapshot.snapshot_id in self.archived:
                raise archived(snapshot.snapshot_id)
            yield snapshot

    async def list_snapshots(self, saga_id: UUID | str, limit: int = 100) -> list[SagaSnapshot]:
        found = await super().list_snapshots(saga_id, limit)
        for snapshot in found:
            if snapshot.snapshot_id in self.archived:
                raise archived(snapshot.snapshot_id)
        return found

    def _fail(self, snapshot_id: UUID) -> None:
        if self.is_down:
            raise HotTierUnavailable("down")
        left = self.left.get(snapshot_id, 1)
        if snapshot_id in self.failing and left > 0:
            self.left[snapshot_id] = left - 1 if snapshot_id in self.left else left
            raise self.failing[snapshot_id]


def archived(snapshot_id: UUID) -> SnapshotArchived:
    """What a storage says of bytes in an archive class."""
    return SnapshotArchived(
        storage_class="GLACIER", snapshot_ids=[snapshot_id], how_to_restore="run: restore and try again"
    )


def snapshots(sagas: int, each: int = 3, **fields: Any) -> list[SagaSnapshot]:
    """`each` snapshots of every saga; ids count up over all."""
    return [
        make(saga * each + at, saga_id=saga_number(saga), step_index=at, **fields)
        for saga in range(sagas)
        for at in range(each)
    ]


def replays(count: int) -> list[ReplayResult]:
    """Replay records, one a saga."""
    return [
        replay(at, original_saga_id=saga_number(at), context_override={"retry": at, "price": 1.0})
        for at in range(count)
    ]


async def filled(sagas: int = 10, each: int = 3, logs: int = 5) -> Store:
    """A store with snapshots and replay records."""
    store = Store()
    for snapshot in snapshots(sagas, each):
        await store.save_snapshot(snapshot)
    for result in replays(logs):
        await store.save_replay_log(result)
    store.saves.clear()
    return store


async def contents(source: SnapshotSource) -> list[Any]:
    """Everything in it, to the type of every value."""
    found = [exactly(snapshot.to_dict()) async for snapshot in source.iter_snapshots()]
    return found + [exactly(record) async for record in source.iter_replay_logs()]


def adds_up(report: TransferReport) -> bool:
    """Whether every item that was found is in exactly one column."""
    return all(
        c.found == c.copied + c.already_there + c.failed + c.skipped for c in (report.snapshots, report.replay_logs)
    )


__all__ = ["NOW", "Store", "adds_up", "archived", "contents", "filled", "number", "replays", "saga_number", "snapshots"]
