"""A dry run is the plan that the run then executes: the same numbers, of all kinds, for every job and any store."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from support.snapshots import make
from support.tiers import Product, config, product

from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import LegalHold, MassDelete
from sagaz_tiering.jobs import JOBS, JobReport, run_job
from sagaz_tiering.storage_class import StorageClass

NAMES = ("payment-a", "payment-b", "order", "audit")
CLASSES = ("STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE")
ROUNDS = 7
ONLY_DONE = {"bytes", "bytes_after", "bytes_read", "packs_sound", "footers_read"}
"""The size of packs that are not written yet, and what only looking into one tells."""


def policy(rnd: Random, name: str, match: dict[str, str]) -> dict[str, Any]:
    """Any policy: few or many classes, packs that wait for company or do not, kept long, short or for ever."""
    days = sorted(rnd.sample(range(3, 90), rnd.randint(1, 3)))
    classes = [CLASSES[at] for at in sorted(rnd.sample(range(len(CLASSES)), len(days)))]
    return {
        "name": name,
        "match": match,
        "move": [{"to": to, "after": f"{after}d"} for to, after in zip(classes, days, strict=True)],
        "retain": rnd.choice(["forever", f"{days[-1] + rnd.randint(1, 20)}d", "200d"]),
        "linger": rnd.choice(["0s", "6h", "3d"]),
        "durability": rnd.choice(["hot", "durable"]),
        "even_if_costlier": rnd.random() < 0.7,
    }


def settings(rnd: Random, places: dict[str, Any]) -> TieringConfig:
    """Any policies, and limits that are reached now and then."""
    rules = [policy(rnd, "payments", {"saga_name": "payment-*"}), policy(rnd, "all", {})]
    jobs = {
        "expire_max_share": rnd.choice([0.01, 0.5, 1.0]),
        "retire_grace": rnd.choice(["0s", "1d"]),
        "collect_max_deletes": rnd.choice([1, 1000]),
    }
    return config(**places, policies=rules, jobs=jobs)


@dataclass(slots=True)
class Life:
    """What may happen to a store between two runs."""

    rnd: Random
    shop: Product
    places: dict[str, Any]
    saved: list[tuple[UUID, UUID]] = field(default_factory=list)

    async def save(self) -> None:
        """A saga of a few snapshots, old or new when they are saved."""
        rnd, clock = self.rnd, self.shop.clock
        saga, name, age = UUID(int=rnd.getrandbits(128), version=4), rnd.choice(NAMES), rnd.randint(0, 200)
        for step in range(rnd.randint(1, 4)):
            one = make(
                step,
                snapshot_id=UUID(int=rnd.getrandbits(128), version=4),
                saga_id=saga,
                saga_name=name,
                created_at=clock.now() - timedelta(hours=age),
                context={"noise": rnd.randbytes(rnd.choice([20, 2000])).hex()},
            )
            await self.shop.storage.save_snapshot(one)
            self.saved.append((saga, one.snapshot_id))

    async def reload(self) -> None:
        """Other policies and limits."""
        await self.shop.runtime.reload(settings(self.rnd, self.places))

    async def stray(self) -> None:
        """Objects in the bucket: one of somebody else's, and one that is named like ours."""
        for name in (f"{self.rnd.randint(0, 10**9)}.txt", f"{UUID(int=self.rnd.getrandbits(128), version=4)}.pack"):
            key, data = f"packs/2026/01/never/{name}", name.encode()
            digest = sha256(data).digest()
            await self.shop.runtime.objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=digest)

    async def hold(self) -> None:
        """A legal hold."""
        await self.shop.storage.hold(self.rnd.choice(self.saved)[0], "case")

    async def release(self) -> None:
        """The end of one, perhaps."""
        await self.shop.storage.release(self.rnd.choice(self.saved)[0], "over")

    async def lose(self) -> None:
        """Redis has lost a copy."""
        await self.shop.runtime.hot.delete(self.rnd.choice(self.saved)[1], until_us=to_micros(self.shop.clock.now()))

    async def delete(self) -> None:
        """A delete, which a hold may forbid."""
        with suppress(LegalHold):
            await self.shop.storage.delete_snapshot(self.rnd.choice(self.saved)[1])

    async def restore(self) -> None:
        """Somebody wants what may be archived."""
        into, days = self.rnd.choice(["hot", "in-place"]), self.rnd.randint(1, 9)
        await self.shop.storage.restore(self.rnd.choice(self.saved)[0], into=into, days=days)

    async def go_on(self) -> None:
        """Some of all that; then time passes."""
        for _ in range(self.rnd.randint(1, 12)):
            await self.save()
        events = (self.reload, self.stray, self.hold, self.release, self.lose, self.delete, self.restore)
        for event in self.rnd.sample(events, 3):
            await event()
        self.shop.clock.advance(timedelta(hours=self.rnd.choice([1, 30, 24 * 12, 24 * 45])))


def told(report: JobReport) -> dict[str, int]:
    """What both must say alike."""
    return {kind: count for kind, count in report.counts.items() if kind not in ONLY_DONE}


async def compare(shop: Product, job: str) -> None:
    """Dry, then not; where it asks first, the same again once an operator said yes."""
    context = shop.runtime.job_context()
    dry = await run_job(job, context, dry_run=True)
    if dry.refused is not None:
        with pytest.raises(MassDelete):
            await run_job(job, context)
        context = replace(context, allow_mass_delete=True)
        dry = await run_job(job, context, dry_run=True)
    assert dry.refused is None
    real = await run_job(job, context)
    assert (job, told(dry)) == (job, told(real)), (dry.notes, real.notes)


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("seed", range(4))
async def test_dry_run_counts_what_the_run_does(database: str, redis_url: str, tmp_path: Path, seed: int) -> None:
    """Whatever happened to a store: what a dry run says of a job is what the run does."""
    rnd, places = Random(seed), {"database": database, "redis_url": redis_url, "cold": tmp_path / "cold"}
    async with product(settings(rnd, places)) as shop:
        life = Life(rnd, shop, places)
        for _ in range(ROUNDS):
            await life.go_on()
            await shop.run("age")
            for job in [job for job in JOBS if job != "age"]:
                await compare(shop, job)
