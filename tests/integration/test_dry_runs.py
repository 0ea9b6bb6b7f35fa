"""A dry run is the plan that the run then executes: the same numbers, of all kinds, for every job and any store."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis.asyncio
from support.snapshots import make
from support.tiers import Places, Product, config, product

from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import HotTierUnavailable, LegalHold, MassDelete
from sagaz_tiering.hot.queue import HotQueue
from sagaz_tiering.jobs import JOBS, JobReport, run_job
from sagaz_tiering.storage_class import StorageClass

NAMES = ("payment-a", "payment-b", "order", "audit")
CLASSES = ("STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE")
WORDS = [f"whether_{word}_was_asked_for" for word in range(40)]
ROUNDS = 5
ONLY_DONE = {
    *("bytes", "bytes_after", "bytes_read", "requests"),
    *("packs_sound", "packs_changed", "footers_read", "dictionaries_sound"),
}
"""The size of packs that are not written yet, what a dry run expects to pay, and what only looking into one tells."""
LOOKED_AT = {"hot_tier", "b'sagaz:incarnation'"}
"""Looks at Redis are counted."""


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
    attributes = rnd.choice([[], [{"name": "tenant", "path": "tenant"}], [{"name": "tenant", "path": "order.tenant"}]])
    return config(**places, policies=rules, jobs=jobs, attributes=attributes, dictionaries={"min_sagas": 20})


@dataclass(slots=True)
class Life:
    """What may happen to a store between two runs."""

    rnd: Random
    shop: Product
    places: dict[str, Any]
    redis_url: str
    saved: list[tuple[UUID, UUID]] = field(default_factory=list)
    dumped: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)

    async def save(self, name: str | None = None) -> None:
        """A saga of a few snapshots, old or new when they are saved."""
        rnd, clock = self.rnd, self.shop.clock
        saga, name, age = UUID(int=rnd.getrandbits(128), version=4), name or rnd.choice(NAMES), rnd.randint(0, 200)
        for step in range(rnd.randint(1, 4)):
            one = make(
                step,
                snapshot_id=UUID(int=rnd.getrandbits(128), version=4),
                saga_id=saga,
                saga_name=name,
                created_at=clock.now() - timedelta(hours=age),
                context={
                    "noise": rnd.randbytes(rnd.choice([20, 2000])).hex(),
                    "tenant": rnd.choice(["acme", "umbrella"]),
                    "order": {"tenant": "acme", **dict.fromkeys(rnd.sample(WORDS, 20), "no")},
                },
            )
            await self.shop.storage.save_snapshot(one)
            self.saved.append((saga, one.snapshot_id))

    async def crowd(self) -> None:
        """So many sagas of one name that a dictionary may pay."""
        name = self.rnd.choice(NAMES)
        for _ in range(25):
            await self.save(name)

    async def reload(self) -> None:
        """Other policies and limits."""
        await self.shop.runtime.reload(settings(self.rnd, self.places))

    async def stray(self) -> None:
        """Objects in the bucket: of somebody else's, and one that is named like ours."""
        foreign, ours = f"{self.rnd.randint(0, 10**9)}.txt", f"{UUID(int=self.rnd.getrandbits(128), version=4)}.pack"
        packs = "packs/2026/01/never"
        for key in (f"{packs}/{foreign}", f"{packs}/{ours}", f"dictionaries/{foreign}"):
            data = key.encode()
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
        hot = self.shop.runtime.hot
        there = await hot.queue.saves([self.rnd.choice(self.saved)[1]])
        await hot.queue.evict_claimed(list(there.values()), {})

    async def lose_dictionary(self) -> None:
        """The bucket or the catalog has lost what it had of them."""
        if self.rnd.random() < 0.5:
            objects = self.shop.runtime.objects
            await objects.delete([info.key async for info in objects.list("dictionaries/") if ".txt" not in info.key])
        else:
            await self.shop.runtime.db.execute("DELETE FROM sagaz_tiering.dictionaries")

    async def half_delete(self) -> None:
        """A delete of which only Redis knows."""
        await self.shop.runtime.hot.delete(self.rnd.choice(self.saved)[1], until_us=to_micros(self.shop.clock.now()))

    async def go_back(self) -> None:
        """Redis is as it was some time ago (or empty, the first time); what it is now it may go back to."""
        async with redis.asyncio.Redis.from_url(self.redis_url) as client:
            now = {key: (await client.dump(key), await client.pttl(key)) async for key in client.scan_iter()}
            await client.flushdb()
            for key, (value, ttl) in self.dumped.items():
                await client.restore(key, max(0, ttl), value)
        self.dumped = now

    async def forget(self) -> None:
        """A saga is erased."""
        with suppress(LegalHold):
            await self.shop.storage.forget(self.rnd.choice(self.saved)[0])

    async def delete(self) -> None:
        """A delete, which a hold may forbid."""
        with suppress(LegalHold):
            await self.shop.storage.delete_snapshot(self.rnd.choice(self.saved)[1])

    async def restore(self) -> None:
        """Somebody wants what may be archived."""
        into, days = self.rnd.choice(["hot", "in-place"]), self.rnd.randint(1, 9)
        for saga, _ in self.rnd.sample(self.saved, min(5, len(self.saved))):
            await self.shop.storage.restore(saga, into=into, days=days)

    async def go_on(self) -> None:
        """Some of all that; then time passes."""
        for _ in range(self.rnd.randint(1, 12)):
            await self.save()
        await self.shop.storage._notes.flush()
        events = (
            self.crowd,
            self.reload,
            self.stray,
            self.hold,
            self.release,
            self.lose,
            self.lose_dictionary,
            self.half_delete,
            self.delete,
            self.restore,
            self.forget,
            self.go_back,
        )
        for event in self.rnd.sample(events, 4):
            await event()
        await self.shop.storage._notes.flush()
        self.shop.clock.advance(timedelta(hours=self.rnd.choice([1, 30, 24 * 12, 24 * 45])))


def told(report: JobReport) -> dict[str, int]:
    """What both must say alike."""
    return {kind: count for kind, count in report.counts.items() if kind not in ONLY_DONE}


async def everything(shop: Product, redis_url: str) -> dict[str, Any]:
    """All that Redis, PostgreSQL and the bucket have, but for what every process moves that looks at Redis."""
    found: dict[str, Any] = {info.key: info async for info in shop.runtime.objects.list("")}
    tables = await shop.runtime.db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'sagaz_tiering'")
    rows = "SELECT '{0}', coalesce(array_agg(t::text ORDER BY t::text), '{{}}') FROM sagaz_tiering.{0} t"
    found |= dict(await shop.runtime.db.fetch(" UNION ALL ".join(rows.format(row["tablename"]) for row in tables)))
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        keys = [key async for key in client.scan_iter(count=1000)]
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.dump(key)
        found |= dict(zip(map(str, keys), await pipe.execute(), strict=True))
    return {name: value for name, value in found.items() if name not in LOOKED_AT}


async def compare(shop: Product, job: str, redis_url: str, **wishes: bool) -> None:
    """Dry, which changes nothing, then not; where it asks first, the same again once an operator said yes."""
    context = replace(shop.runtime.job_context(), **wishes)
    await context.incarnation.look()  # as every reader does, and notes
    before = await everything(shop, redis_url)
    dry = await run_job(job, context, dry_run=True)
    assert await everything(shop, redis_url) == before, job
    if dry.refused is not None:
        with pytest.raises(MassDelete):
            await run_job(job, context)
        context = replace(context, allow_mass_delete=True)
        dry = await run_job(job, context, dry_run=True)
    assert dry.refused is None
    real = await run_job(job, context)
    assert (job, told(dry)) == (job, told(real)), (dry.notes, real.notes)


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("seed", range(3))
async def test_dry_run_counts_what_the_run_does(places: Places, redis_url: str, seed: int) -> None:
    """Whatever happened to a store: what a dry run says of a job is what the run does."""
    rnd = Random(seed)
    async with product(settings(rnd, places)) as shop:
        life = Life(rnd, shop, places, redis_url)
        for _ in range(ROUNDS):
            await life.go_on()
            for job in ("reconcile", *JOBS):  # the others believe Redis, and would reconcile it first
                wishes = {"accept_lost": rnd.random() < 0.3, "thaw": rnd.random() < 0.3}
                await compare(shop, job, redis_url, **wishes)


async def test_dry_run_of_age_tells_what_a_run_puts_right_first(
    places: Places, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed run published is evicted, not packed again; rows that Redis could not take come back first."""
    rules = [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "linger": "0s"}]
    async with product(config(**places, policies=rules)) as shop:
        hot, durable = shop.runtime.hot, shop.runtime.catalog.durable
        published, missed = (make(at, saga_id=uuid4(), created_at=shop.clock.now()) for at in range(2))
        await shop.storage.save_snapshot(published)
        shop.clock.advance(timedelta(days=8))
        with monkeypatch.context() as patched:
            patched.setattr(HotQueue, "evict_claimed", killed)
            with pytest.raises(HotTierUnavailable):
                await shop.run("age")
        await shop.storage.save_snapshot(missed)
        await hot.queue.evict_claimed(list((await hot.queue.saves([missed.snapshot_id])).values()), {})
        await durable.mark_fallback([(row.snapshot_id, row.saved_at) for row in await durable.page(UUID(int=0), 9)])
        before = await everything(shop, redis_url)
        dry = await shop.run("age", dry_run=True)
        assert await everything(shop, redis_url) == before
        real = await shop.run("age")
        for kind in ("refilled", "snapshots", "raw_bytes", "archived", "packs"):
            assert dry.counts[kind] == real.counts[kind] > 0, (kind, dry, real)
        assert (dry.counts["evicted"], real.counts["evicted"]) == (1, 2)  # the one that comes back goes again


async def test_dry_run_of_age_counts_whole_sagas_of_durable_rows(places: Places) -> None:
    """Also rows that no move was noted for, since the saga ended under another rule than it was saved by."""
    move = [{"to": "STANDARD_IA", "after": "7d"}]
    rules = [{"name": "failed", "match": {"outcome": "failed"}, "move": move}, {"name": "rest", "match": {}}]
    async with product(config(**places, policies=rules)) as shop:
        hot, durable = shop.runtime.hot, shop.runtime.catalog.durable
        await shop.run("age")  # whose policies are in force then
        saved = [make(at, status="failed" if at == 3 else "executing") for at in range(4)]
        for each in saved:
            await shop.storage.save_snapshot(each)
        there = await hot.queue.saves([each.snapshot_id for each in saved])
        await hot.queue.evict_claimed(list(there.values()), {})
        await durable.mark_fallback([(row.snapshot_id, row.saved_at) for row in await durable.page(UUID(int=0), 9)])
        shop.clock.advance(timedelta(days=10))
        dry, real = await shop.run("age", dry_run=True), await shop.run("age")
        assert dry.counts["snapshots"] == real.counts["snapshots"] == 4


async def killed(*_: object) -> None:
    """As Redis, when the process is killed before it answers."""
    raise HotTierUnavailable("killed")
