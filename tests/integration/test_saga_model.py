"""Any life of a store against a model of it: a saga has one expiry, every read agrees, and no order of jobs matters."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from support.snapshots import make
from support.tiers import DAY, Places, Product, config, product, rebuilt_from_bucket

from sagaz_tiering.attributes import Attribute, Attributes, values_of
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.config.patterns import outcome_of
from sagaz_tiering.errors import LegalHold, SnapshotArchived
from sagaz_tiering.jobs import JOBS
from sagaz_tiering.snapshot import SagaSnapshot, Tier

NAMES = ("payment", "order")
STATUSES = ("executing", "executing", "completed", "failed", "rolled_back")
TENANTS = ("acme", "globex", "initech")
CLASSES = ("STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE")
ROUNDS = int(os.environ.get("SAGAZ_TIERING_TEST_MODEL_ROUNDS", "8"))
SEEDS = int(os.environ.get("SAGAZ_TIERING_TEST_MODEL_SEEDS", "2"))
FIRST = int(os.environ.get("SAGAZ_TIERING_TEST_MODEL_FIRST", "4"))
"""From here on two seeds have rules by outcome, by step and by tenant, and catalogs that are lost."""
NEVER = datetime.max.replace(tzinfo=make().created_at.tzinfo)
ATTRIBUTES = Attributes([Attribute(name="tenant", path=("tenant",), of_saga=lambda _: True)])
OPTIONS: dict[str, Any] = {
    "attributes": [{"name": "tenant", "path": "tenant"}],
    "dictionaries": {"min_sagas": 20},
    "jobs": {"expire_max_share": 1.0, "compact_live_share": 0.9, "retire_grace": "0s"},
}


def match_of(by: str | None, matched: list[str] | None) -> dict[str, Any]:
    """A match by that of these, of nothing by anything."""
    if matched is None or by is None:
        return {}
    return {"attributes": {by: matched}} if by == "tenant" else {by: matched}


def policies_of(rnd: Random, name: str, *, by: str | None) -> list[dict[str, Any]]:
    """Two rules by outcome, tenant, status or step perhaps, then one for the rest: each moves and keeps as it likes."""
    # What asks for another rule later does not know when each snapshot of a pack was saved.
    clocks = [
        "saga_end",
        "saga_end",
        "saga_end",
        "created_at",
        *(["saved_at"] if by not in ("outcome", "tenant") else []),
    ]
    alike = {
        "clock": rnd.choice(clocks),
        "retention": rnd.choice(["longest", "longest", "longest", "policy", "snapshot"]),
    }
    kinds = {
        None: [],
        "outcome": ["failed", "rolled_back", "completed", "running"],
        "status": sorted(set(STATUSES)),
        "step_name": [f"step_{at}" for at in range(8)],
        "tenant": list(TENANTS),
    }[by]
    some = rnd.sample(kinds, min(3, len(kinds)))
    found: list[dict[str, Any]] = []
    for at, matched in enumerate([some[:1], some[1:], None] if by else [None]):
        days = sorted(rnd.sample(range(3, 60), rnd.randint(0, 3)))
        classes = sorted(rnd.sample(range(len(CLASSES)), len(days)))
        found.append(
            {
                "name": f"{name}-{at}",
                "match": {"saga_name": name} | match_of(by, matched),
                "move": [{"to": CLASSES[to], "after": f"{after}d"} for to, after in zip(classes, days, strict=True)],
                "retain": rnd.choice(["forever", f"{(days or [9])[-1] + rnd.randint(1, 30)}d", "200d"]),
                "running_at_most": rnd.choice(["5d", "30d"]),
                "durability": rnd.choice(["hot", "durable"]),
                "linger": "0s",
                **alike,
            }
        )
    return found


@dataclass
class Model:
    """What was saved and must be answered. `promised`: per saga, or snapshot (see `unit`), once it is packed.

    `of_sagas`: no rule parts the snapshots of a saga. `blurred`: sagas of which only a catalog knew that was lost.
    """

    policies: list[dict[str, Any]]
    of_sagas: bool
    saved: dict[UUID, SagaSnapshot] = field(default_factory=dict)
    saved_at: dict[UUID, datetime] = field(default_factory=dict)
    blurred: set[UUID] = field(default_factory=set)
    purged: set[UUID] = field(default_factory=set)
    held: set[UUID] = field(default_factory=set)
    packed: set[UUID] = field(default_factory=set)
    promised: dict[UUID, datetime] = field(default_factory=dict)

    def of(self, saga_id: UUID) -> list[SagaSnapshot]:
        """What was ever saved of a saga and not deleted, oldest first."""
        found = [each for each in self.saved.values() if each.saga_id == saga_id]
        return sorted(found, key=lambda each: (each.created_at, each.step_index, each.snapshot_id.int))

    def ruled(self, one: SagaSnapshot) -> tuple[dict[str, Any], datetime]:
        """The rule of a snapshot's saga as it ends now, and until when that keeps the snapshot."""
        end = self.of(one.saga_id)[-1]
        about = {"outcome": outcome_of(end.status), "status": one.status, "step_name": one.step_name}
        matching = [rule for rule in self.policies if rule["match"]["saga_name"] == one.saga_name]
        tenants = values_of(ATTRIBUTES.of(end.saga_name, end.context).column).get("tenant", [])
        rule = next(
            rule
            for rule in matching
            if all(is_ in rule["match"].get(key, [is_]) for key, is_ in about.items())
            if "attributes" not in rule["match"] or not set(tenants).isdisjoint(rule["match"]["attributes"]["tenant"])
        )
        clock = {
            "saga_end": end.created_at,
            "created_at": one.created_at,
            "saved_at": max(one.created_at, self.saved_at[one.snapshot_id]),
        }[rule["clock"]]
        return rule, NEVER if rule["retain"] == "forever" else clock + int(rule["retain"][:-1]) * DAY

    def expiry(self, one: SagaSnapshot) -> datetime:
        """When a snapshot expires."""
        rule, kept = self.ruled(one)
        if rule["retention"] in ("snapshot", "policy"):
            return self.unpromised(one)
        return max(self.unpromised(one), self.promised.get(self.unit(one, rule), kept))

    def unpromised(self, one: SagaSnapshot) -> datetime:
        """The same, whatever was promised."""
        rule, kept = self.ruled(one)
        if rule["retention"] == "snapshot":
            return one.retention_until or NEVER
        return kept if rule["retention"] == "policy" else max(kept, one.retention_until or kept)

    def unit(self, one: SagaSnapshot, rule: dict[str, Any]) -> UUID:
        """What a promise is for."""
        return one.saga_id if rule["clock"] == "saga_end" and self.of_sagas else one.snapshot_id

    def rebuilt(self, saga_id: UUID, told: dict[UUID, datetime], now: datetime) -> None:
        """A catalog from the bucket alone tells this: nothing is shorter than the rules, nor longer than before."""
        if any(each.snapshot_id in self.purged for each in self.of(saga_id)):
            self.blurred.add(saga_id)
            return
        alive = self.alive(saga_id)
        assert told.keys() <= {each.snapshot_id for each in alive}
        self.purged |= {each.snapshot_id for each in alive} - told.keys()
        promised: dict[UUID, datetime] = {}
        for one in alive:
            least, until = self.unpromised(one), told.get(one.snapshot_id, now)
            assert least <= until <= max(now, self.expiry(one)), (one, least, until, self.expiry(one))
            if until > least:
                unit = self.unit(one, self.ruled(one)[0])
                promised[unit] = min(until, promised.get(unit, until))
        for one in alive:
            self.promised.pop(self.unit(one, self.ruled(one)[0]), None)
        self.promised |= promised

    def jobs_ran(self) -> None:
        """What is packed of a saga keeps all of it as long as the rule says today."""
        for one in (self.saved[each] for each in self.packed & self.saved.keys()):
            rule, kept = self.ruled(one)
            unit = self.unit(one, rule)
            self.promised[unit] = max(kept, self.promised.get(unit, kept))

    def time_passes(self, now: datetime) -> None:
        """What has expired by now while no hold kept it never comes back."""
        self.purged |= {
            each.snapshot_id
            for each in self.saved.values()
            if each.saga_id not in self.held and self.expiry(each) <= now
        }

    def alive(self, saga_id: UUID) -> list[SagaSnapshot]:
        """Oldest first."""
        return [each for each in self.of(saga_id) if each.snapshot_id not in self.purged]


@dataclass
class Life:
    """What may happen to a store: the same for a seed, whatever the order of jobs. `lost`: how often its catalog is."""

    seed: int
    shop: Product
    model: Model
    order: Random
    lost: float
    rnd: Random = field(init=False)
    of_tenants: Random = field(init=False)
    answered: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rnd, self.of_tenants = Random(self.seed), Random(self.seed + 1)

    def sagas(self) -> list[UUID]:
        """Those of which something may be there."""
        return sorted({each.saga_id for each in self.model.saved.values()} - self.model.blurred)

    def whole(self) -> list[SagaSnapshot]:
        """Snapshots of sagas of which nothing has expired: of others what is left when is open."""
        ended = {self.model.saved[each].saga_id for each in self.model.purged} | self.model.blurred
        found = [each for each in self.model.saved.values() if each.saga_id not in ended]
        return sorted(found, key=lambda each: each.snapshot_id)

    def tenant(self) -> Any:
        """One, several, or none."""
        return self.of_tenants.choice([*TENANTS, *TENANTS, None, list(TENANTS[1:])])

    def any_of(self, found: list[Any]) -> Any:
        return self.rnd.choice(found) if found else None

    async def put(self, snapshot: SagaSnapshot) -> None:
        with suppress(LegalHold):
            await self.shop.storage.save_snapshot(snapshot)
            self.model.saved[snapshot.snapshot_id] = snapshot
            self.model.saved_at[snapshot.snapshot_id] = self.shop.clock.now()
            self.model.packed.discard(snapshot.snapshot_id)

    def fresh(self, saga_id: UUID, name: str, created_at: datetime) -> SagaSnapshot:
        rnd, own = self.rnd, self.rnd.random() < 0.2
        return make(
            rnd.randint(0, 9),
            snapshot_id=UUID(int=rnd.getrandbits(128), version=4),
            saga_id=saga_id,
            saga_name=name,
            status=rnd.choice(STATUSES),
            created_at=created_at,
            context={"noise": rnd.randbytes(rnd.choice([20, 2000])).hex(), "tenant": self.tenant()},
            retention_until=created_at + rnd.randint(1, 150) * DAY if own else None,
        )

    async def begin(self) -> None:
        """A saga of some snapshots, that ends in any way."""
        saga_id, name = UUID(int=self.rnd.getrandbits(128), version=4), self.rnd.choice(NAMES)
        begun = self.shop.clock.now() - timedelta(minutes=9)
        for minute in range(self.rnd.randint(1, 5)):
            await self.put(self.fresh(saga_id, name, begun + timedelta(minutes=minute)))

    async def go_on(self) -> None:
        """A late compensation, a replay into the same id, or one that is dated back."""
        if (one := self.any_of(self.whole())) is not None:
            back = timedelta(hours=self.rnd.choice([0, 0, 0, 1, 24 * 8]))
            await self.put(self.fresh(one.saga_id, one.saga_name, self.shop.clock.now() - back))

    async def save_anew(self) -> None:
        """Another outcome, or other bytes, under an id that was saved."""
        if (one := self.any_of(self.whole())) is not None:
            context = {"anew": self.rnd.random(), "tenant": self.tenant()}
            await self.put(replace(one, status=self.rnd.choice(STATUSES), context=context))

    async def delete(self) -> None:
        """One snapshot, the end of its saga perhaps, or all of a saga."""
        if (one := self.any_of(self.whole())) is None:
            return
        gone = [one] if self.rnd.random() < 0.8 else self.model.of(one.saga_id)
        with suppress(LegalHold):
            if len(gone) == 1:
                assert await self.shop.storage.delete_snapshot(one.snapshot_id)
            else:
                assert await self.shop.storage.cleanup_saga(one.saga_id) == len(gone)
            for each in gone:
                del self.model.saved[each.snapshot_id]
                self.model.promised.pop(each.snapshot_id, None)
            if not self.model.of(one.saga_id):
                self.model.promised.pop(one.saga_id, None)

    async def hold(self) -> None:
        """A hold is placed, or ends."""
        one = self.any_of(self.whole())
        if self.model.held and self.rnd.random() < 0.5:
            saga_id = self.rnd.choice(sorted(self.model.held))
            await self.shop.storage.release(saga_id)
            self.model.held.discard(saga_id)
            self.model.time_passes(self.shop.clock.now())
        elif one is not None and one.saga_id not in self.model.held:
            await self.shop.storage.hold(one.saga_id, "case")
            self.model.held.add(one.saga_id)

    async def restore(self) -> None:
        """Somebody wants what may be archived."""
        if (one := self.any_of(self.whole())) is not None:
            into, days = self.rnd.choice(["hot", "in-place"]), self.rnd.randint(1, 9)
            await self.shop.storage.restore(one.saga_id, into=into, days=days)

    async def jobs(self) -> None:
        """All of them, in any order; what Redis alone acknowledged is told to the catalog first."""
        await self.told()
        names = list(JOBS)
        self.order.shuffle(names)
        for name in names:
            report = await self.shop.run(name)
            assert not report.counts.get("failed"), report
            await self.look(self.sample())
        for saga_id in self.sagas():
            refs = await self.shop.storage.timeline(saga_id)
            self.model.packed |= {ref.snapshot_id for ref in refs if ref.tier is Tier.COLD}
        self.model.jobs_ran()

    async def rebuild(self) -> None:
        """PostgreSQL is gone; a new catalog has the bucket alone, and what Redis has is put right."""
        await self.told()
        await self.shop.storage.publish_journal()
        await self.shop.runtime.db.execute("DROP SCHEMA sagaz_tiering CASCADE")
        await migrate(self.shop.runtime.db)
        await rebuilt_from_bucket(self.shop)
        await self.shop.run("reconcile")
        for saga_id in self.sagas():
            refs = await self.shop.storage.timeline(saga_id)
            told = {ref.snapshot_id: ref.expires_at or NEVER for ref in refs}
            self.model.rebuilt(saga_id, told, self.shop.clock.now())

    async def told(self) -> None:
        """Within seconds the catalog knows what Redis alone acknowledged."""
        self.shop.clock.advance(timedelta(seconds=3))
        self.model.time_passes(self.shop.clock.now())
        await self.shop.storage.note_hot_saves()

    def sample(self) -> list[UUID]:
        """A few sagas; not of the life's own chance, so that looking changes nothing."""
        sagas = self.sagas()
        return self.order.sample(sagas, min(3, len(sagas)))

    async def look(self, sagas: list[UUID]) -> None:
        """Every read of these sagas says what the model says."""
        for saga_id in sagas:
            alive = self.model.alive(saga_id)
            refs = await self.shop.storage.timeline(saga_id)
            told = {ref.snapshot_id: ref.expires_at or NEVER for ref in refs}
            assert list(told.items()) == [(each.snapshot_id, self.model.expiry(each)) for each in alive], alive
            await self.look_at_reads(saga_id, alive)
            self.answered.append(sorted(told.items()))

    async def look_at_reads(self, saga_id: UUID, alive: list[SagaSnapshot]) -> None:
        storage, newest = self.shop.storage, alive[::-1]
        with suppress(SnapshotArchived):
            assert await storage.list_snapshots(saga_id) == newest
        with suppress(SnapshotArchived):
            assert await storage.get_latest_snapshot(saga_id) == (newest[0] if newest else None)
        for each in self.model.of(saga_id):
            with suppress(SnapshotArchived):
                assert await storage.get_snapshot(each.snapshot_id) == (each if each in alive else None)
            at_time = next((one for one in newest if one.created_at <= each.created_at), None)
            with suppress(SnapshotArchived):
                assert await storage.get_snapshot_at_time(saga_id, each.created_at) == at_time

    async def live(self) -> None:
        """Rounds of events, jobs and time."""
        events = (self.begin, self.go_on, self.save_anew, self.delete, self.hold, self.restore)
        for _ in range(ROUNDS):
            for event in self.rnd.choices(events, [5, 5, 2, 2, 1, 1], k=self.rnd.randint(1, 7)):
                await event()
            await self.look(self.sample())
            await self.jobs()
            await self.look(self.sagas())
            self.shop.clock.advance(timedelta(hours=self.rnd.choice([1, 30, 24 * 5, 24 * 12, 24 * 45])))
            self.model.time_passes(self.shop.clock.now())
            await self.look(self.sagas())
            if self.rnd.random() < self.lost:
                await self.rebuild()
                await self.look(self.sagas())


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("by_tenant", [False, True])
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
async def test_saga_has_one_expiry_and_all_reads_whatever_happens(places: Places, seed: int, by_tenant: bool) -> None:
    """At every instant, in whatever order the jobs run, the store answers what a model of it does."""
    chance = Random(seed)
    by = chance.choice(["outcome", "outcome", "outcome", "status", "step_name", None])
    by = "tenant" if by_tenant else by
    policies = [rule for name in NAMES for rule in policies_of(chance, name, by=by)]
    async with product(config(**places, policies=policies, **OPTIONS)) as shop:
        order = Random(os.environ.get("SAGAZ_TIERING_TEST_MODEL_ORDER", seed))
        model = Model(policies, of_sagas=by in ("outcome", "tenant", None))
        life = Life(seed, shop, model, order, lost=chance.choice([0.0, 0.0, 0.2]))
        await life.live()


@pytest.mark.guarantee("G3")
async def test_saga_whose_end_is_deleted_keeps_one_expiry(places: Places) -> None:
    """Also where no rule looks at outcomes: what is packed keeps its promise, and the rest of the saga with it."""
    policies = [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "30d"}]
    async with product(config(**places, policies=policies, **OPTIONS)) as shop:
        first = make(0, created_at=shop.clock.now())
        await shop.storage.save_snapshot(first)
        shop.clock.advance(8 * DAY)
        assert (await shop.run("age")).counts["archived"] == 1
        late, end = make(1, created_at=shop.clock.now()), make(2, created_at=shop.clock.now() + DAY)
        shop.clock.advance(DAY)
        for each in (late, end):
            await shop.storage.save_snapshot(each)
        await shop.run("expire")
        assert await shop.storage.delete_snapshot(end.snapshot_id)
        refs = await shop.storage.timeline(first.saga_id)
        assert {ref.expires_at for ref in refs} == {end.created_at + 30 * DAY}
        assert {ref.tier for ref in refs} == {Tier.HOT, Tier.COLD}
