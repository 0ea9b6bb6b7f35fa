"""Years of a busy store, seeded: all that can happen in random order, and a model that knows what must be true."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from support.payload import saga
from support.tiers import DAY, Places, Product, config, product, rule

from sagaz_tiering.errors import LegalHold, SnapshotArchived
from sagaz_tiering.jobs import JOBS
from sagaz_tiering.snapshot import SagaSnapshot

pytestmark = pytest.mark.guarantee("G1")

POLICIES: list[dict[str, Any]] = [
    rule("records", "record", {"STANDARD_IA": "20d", "GLACIER": "120d"}),
    rule("payments", "payment", {"STANDARD_IA": "10d", "GLACIER": "60d"}, retain="400d"),
    rule("fast", "fast", {"STANDARD_IA": "7d"}, durability="hot", retain="90d"),
]
RETAIN = {"record": None, "payment": 400 * DAY, "fast": 90 * DAY}
STEPS = int(os.environ.get("SAGAZ_TIERING_TEST_YEARS_STEPS", "120"))
SCHEDULED = [name for name, job in JOBS.items() if job.scheduled]
OPTIONS: dict[str, Any] = {
    "dictionaries": {"min_sagas": 20},
    "jobs": {"expire_max_share": 1.0, "compact_live_share": 0.9, "collect_min_age": "24h"},
}


@dataclass
class Model:
    """What was saved, and what must still be there."""

    saved: dict[UUID, SagaSnapshot] = field(default_factory=dict)
    removed: set[UUID] = field(default_factory=set)
    held: set[UUID] = field(default_factory=set)
    purged: set[UUID] = field(default_factory=set)

    def expired(self, snapshot: SagaSnapshot, now: datetime) -> bool:
        """By its policy's retention, if nothing holds it."""
        retain = RETAIN[snapshot.saga_name]
        return retain is not None and snapshot.saga_id not in self.held and now >= snapshot.created_at + retain

    def alive(self, now: datetime) -> dict[UUID, list[SagaSnapshot]]:
        """Per saga, oldest first. What was once expired while no hold kept it may be gone for good."""
        found: dict[UUID, list[SagaSnapshot]] = {}
        for snapshot in self.saved.values():
            gone = snapshot.snapshot_id in self.removed | self.purged or self.expired(snapshot, now)
            if not gone:
                found.setdefault(snapshot.saga_id, []).append(snapshot)
        for snapshots in found.values():
            snapshots.sort(key=lambda s: (s.created_at, s.step_index, s.snapshot_id.int))
        return found

    def time_passes(self, now: datetime) -> None:
        """What has expired by now never comes back, whatever is held later."""
        self.purged |= {s.snapshot_id for s in self.saved.values() if self.expired(s, now)}


class Years:
    """One seeded run."""

    def __init__(self, shop: Product, seed: int) -> None:
        self.shop = shop
        self.random = Random(seed)
        self.model = Model()
        self.number = seed * 10_000
        self.done: Counter[str] = Counter()

    def any_saga(self) -> UUID | None:
        sagas = sorted({s.saga_id for s in self.model.saved.values()}, key=str)
        return self.random.choice(sagas) if sagas else None

    async def save(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            name = self.random.choice(list(RETAIN))
            self.number += 1
            for snapshot in saga(self.number, begun=self.shop.clock.now(), saga_name=name)[: self.random.randint(1, 5)]:
                await self.shop.storage.save_snapshot(snapshot)
                self.model.saved[snapshot.snapshot_id] = snapshot

    async def wait(self) -> None:
        self.shop.clock.advance(timedelta(hours=self.random.randint(6, 24 * 20)))
        self.model.time_passes(self.shop.clock.now())

    async def job(self) -> None:
        name = self.random.choice(("age", *SCHEDULED))
        report = await self.shop.run(name)
        self.done[name] += 1
        assert not report.counts.get("failed"), report

    async def restore(self) -> None:
        saga_id = self.any_saga()
        if saga_id is not None:
            into = self.random.choice(["hot", "in-place"])
            asked = await self.shop.storage.restore(saga_id, days=self.random.randint(1, 20), into=into)
            if asked is not None and self.random.random() < 0.2:
                await self.shop.storage.cancel_restore(asked.restore_id)

    async def hold(self) -> None:
        saga_id = self.any_saga()
        if saga_id is None:
            return
        if saga_id in self.model.held:
            await self.shop.storage.release(saga_id)
            self.model.held.discard(saga_id)
            self.model.time_passes(self.shop.clock.now())
        elif saga_id in self.model.alive(self.shop.clock.now()) and not self.has_purged(saga_id):
            await self.shop.storage.hold(saga_id, "case")
            self.model.held.add(saga_id)

    def has_purged(self, saga_id: UUID) -> bool:
        """Some of it has expired already: whether that is still there is open, so such a saga is not held."""
        return any(s.snapshot_id in self.model.purged for s in self.model.saved.values() if s.saga_id == saga_id)

    async def remove(self) -> None:
        saga_id = self.any_saga()
        if saga_id is None:
            return
        ids = [s.snapshot_id for s in self.model.saved.values() if s.saga_id == saga_id]
        try:
            if self.random.random() < 0.4:
                await self.shop.storage.forget(saga_id)
                self.model.removed |= set(ids)
            else:
                await self.shop.storage.delete_snapshot(ids[0])
                self.model.removed.add(ids[0])
        except LegalHold:
            assert saga_id in self.model.held

    async def look(self, saga_ids: list[UUID] | None = None) -> None:
        """Some sagas, or all: exactly what the model says, or the typed promise."""
        alive = self.model.alive(self.shop.clock.now())
        if saga_ids is None:
            saga_ids = [found for _ in range(3) if (found := self.any_saga()) is not None]
        for saga_id in saga_ids:
            expected = alive.get(saga_id, [])
            refs = await self.shop.storage.timeline(saga_id)
            assert [ref.snapshot_id for ref in refs] == [s.snapshot_id for s in expected], saga_id
            for snapshot in expected:
                with suppress(SnapshotArchived):
                    assert await self.shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
            for snapshot in self.model.saved.values():
                if snapshot.saga_id == saga_id and snapshot not in expected:
                    assert await self.shop.storage.get_snapshot(snapshot.snapshot_id) is None

    async def run(self, steps: int) -> None:
        kinds = [self.save, self.wait, self.job, self.job, self.restore, self.hold, self.remove, self.look]
        weights = [6, 6, 8, 6, 1, 2, 2, 2]
        for _ in range(steps):
            await self.random.choices(kinds, weights)[0]()

    async def settle(self) -> None:
        """The daemon catches up."""
        for _ in range(4):
            for name in SCHEDULED:
                await self.shop.run(name)
            await self.wait_days(3)

    async def wait_days(self, days: int) -> None:
        self.shop.clock.advance(days * DAY)
        self.model.time_passes(self.shop.clock.now())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_model_and_store_agree_after_years(seed: int, places: Places) -> None:
    """On every snapshot ever saved; the bucket holds what the catalog says and little more than what lives."""
    async with product(
        config(**places, pack={"target": "256KiB", "max_frame": "64KiB"}, policies=POLICIES, **OPTIONS)
    ) as shop:
        years = Years(shop, seed)
        await years.run(STEPS)
        await years.settle()
        await years.look(sorted({s.saga_id for s in years.model.saved.values()}, key=str))
        rows = await shop.runtime.db.fetch("SELECT * FROM sagaz_tiering.packs WHERE state IN ('ACTIVE', 'RETIRING')")
        infos = [info async for info in shop.runtime.objects.list("packs/")]
        assert sorted(info.key for info in infos) == sorted(row["object_key"] for row in rows)
        live = sum(row["byte_size"] * row["live_count"] / row["snapshot_count"] for row in rows)
        held = sum(info.size for info in infos)
        assert held <= 1.3 * live + 20_000, (held, live, years.done)
