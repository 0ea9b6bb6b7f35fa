"""Any life of a store against a model of it: what `find` gives is what there is, by any filter, whatever happened."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from integration.test_saga_model import NAMES, OPTIONS, STATUSES, Life, Model, policies_of
from support.tiers import Places, config, product

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import encode, to_value
from sagaz_tiering.config.patterns import matcher
from sagaz_tiering.snapshot import SagaSnapshot, Tier

SEEDS = int(os.environ.get("SAGAZ_TIERING_TEST_MODEL_SEEDS", "3"))
FIRST = int(os.environ.get("SAGAZ_TIERING_TEST_MODEL_FIRST", "0"))
ATTRIBUTES = [
    {"name": "order_id", "path": "order.id"},
    {"name": "tag", "path": "tags"},
    {"name": "secret", "path": "secret", "hashed": True},
]
TAGS = ("red", "grün", "\ud800", "a=b\x1f")


@dataclass
class FoundLife(Life):
    """A life whose sagas have attributes, and are looked for."""

    orders: list[int] = field(default_factory=lambda: list(range(100, 130)))

    def context(self) -> dict[str, Any]:
        """Values that several sagas have, and several of one."""
        rnd = self.rnd
        return {
            "order": {"id": rnd.choice(self.orders)},
            "tags": rnd.sample(TAGS, rnd.randint(0, 3)),
            "secret": rnd.choice(["s1", "s2", None]),
            "noise": rnd.randbytes(20).hex(),
        }

    def fresh(self, saga_id: UUID, name: str, created_at: datetime) -> SagaSnapshot:
        made = super().fresh(saga_id, name, created_at)
        object.__setattr__(made, "context", self.context())
        return made

    async def save_anew(self) -> None:
        """Another outcome and other attributes under an id that was saved."""
        if (one := self.any_of(self.whole())) is not None:
            made = self.fresh(one.saga_id, one.saga_name, one.created_at)
            object.__setattr__(made, "snapshot_id", one.snapshot_id)
            await self.put(made)

    async def forget(self) -> None:
        """A saga is erased."""
        if (one := self.any_of(self.whole())) is not None and one.saga_id not in self.model.held:
            await self.shop.storage.forget(one.saga_id)
            for each in self.model.of(one.saga_id):
                del self.model.saved[each.snapshot_id]
                self.model.promised.pop(each.snapshot_id, None)
            self.model.promised.pop(one.saga_id, None)

    async def crash(self) -> None:
        """The application that saved in Redis alone died before it told the catalog."""
        begun = self.shop.clock.now()
        snapshot = self.fresh(UUID(int=self.rnd.getrandbits(128), version=4), self.rnd.choice(NAMES), begun)
        column = self.shop.runtime.in_force.attributes.of(snapshot.saga_name, snapshot.context).column
        record = encode(snapshot, saved_us=to_micros(begun), attributes=column)
        hot = self.shop.runtime.hot
        assert (
            await hot.save(record.meta, to_value(record, level=None), due_us=None, expires_us=None, alone=True) is None
        )
        self.model.saved[snapshot.snapshot_id] = snapshot
        self.model.saved_at[snapshot.snapshot_id] = begun

    async def rebuild(self) -> None:
        """A new catalog knows neither what has expired of a saga nor what Redis alone has until that is packed."""
        await super().rebuild()
        self.model.blurred |= {self.model.saved[each].saga_id for each in self.model.purged & self.model.saved.keys()}
        for saga_id in self.sagas():
            if any(ref.tier is not Tier.COLD for ref in await self.shop.storage.timeline(saga_id)):
                self.model.blurred.add(saga_id)

    async def look(self, sagas: list[UUID]) -> None:
        """Every search finds what the model has, in its order, in pages of any size."""
        await self.told()
        for _ in range(3):
            await self.search()

    async def search(self) -> None:
        asked, rnd = self.question(), self.order
        found, cursor = list[UUID](), None
        while True:
            page = await self.shop.storage.find(
                **asked, limit=rnd.randint(1, 7), cursor=cursor, count=rnd.random() < 0.2
            )
            found += [each.saga_id for each in page]
            cursor = page.cursor
            if cursor is None:
                break
        expected = self.expected(asked)
        assert [each for each in found if each not in self.model.blurred] == expected, asked
        assert self.model.blurred or page.count in (None, len(expected))

    def question(self) -> dict[str, Any]:
        """Any filters, most of which something matches."""
        rnd, times = self.order, sorted(each.created_at for each in self.model.saved.values())
        asked: dict[str, Any] = {}
        if rnd.random() < 0.4:
            asked["saga_name"] = rnd.choice(["payment", "pay*", "*", ["order", "none"], "none"])
        if rnd.random() < 0.4:
            asked["status"] = rnd.sample(STATUSES, 2)
        if rnd.random() < 0.2:
            asked["step"] = rnd.choice(["step_1", "step_[2-5]"])
        if times and rnd.random() < 0.4:
            first, last = sorted(rnd.choices(times, k=2))
            asked["created"] = rnd.choice(
                [(first, None), (None, last + timedelta(microseconds=1)), (first, last + timedelta(1))]
            )
        wanted: dict[str, object] = {}
        if rnd.random() < 0.5:
            wanted["order_id"] = rnd.choice([rnd.choice(self.orders), rnd.sample(self.orders, 5)])
        if rnd.random() < 0.3:
            wanted["tag"] = rnd.choice(TAGS)
        if rnd.random() < 0.2:
            wanted["secret"] = rnd.choice(["s1", ["s1", "s2"]])
        if wanted:
            asked["attributes"] = wanted
        if rnd.random() < 0.15:
            asked["held"] = rnd.random() < 0.5
        return asked

    def expected(self, asked: dict[str, Any]) -> list[UUID]:
        """The sagas that the model has."""
        found = [saga_id for saga_id in self.sagas() if self.is_meant(saga_id, asked)]
        return sorted(found, key=self.place, reverse=True)

    def place(self, saga_id: UUID) -> tuple[int, int]:
        return to_micros(self.model.of(saga_id)[0].created_at) << 11 | saga_id.int & 2047, saga_id.int

    def is_meant(self, saga_id: UUID, asked: dict[str, Any]) -> bool:
        alive, whole = self.model.alive(saga_id), self.model.of(saga_id)
        begun, end = whole[0], whole[-1]
        first, last = asked.get("created", (None, None))
        values = {"order_id": set[str](), "tag": set[str](), "secret": set[str]()}
        for each in alive:
            values["order_id"].add(str(each.context.get("order", {}).get("id")))
            values["tag"] |= set(each.context.get("tags", ()))
            values["secret"].add(str(each.context.get("secret")))
        return (
            bool(alive)
            and matcher(_listed(asked.get("saga_name", "*")))(end.saga_name)
            and matcher(_listed(asked.get("status", "*")))(end.status)
            and matcher(_listed(asked.get("step", "*")))(end.step_name)
            and (first is None or begun.created_at >= first)
            and (last is None or begun.created_at < last)
            and ("held" not in asked or asked["held"] == (saga_id in self.model.held))
            and all(
                values[name] & set(map(str, _listed(wanted))) for name, wanted in asked.get("attributes", {}).items()
            )
        )

    async def live(self) -> None:
        """Rounds of events, jobs and time."""
        events = (self.begin, self.go_on, self.save_anew, self.delete, self.hold, self.restore, self.forget, self.crash)
        for _ in range(int(os.environ.get("SAGAZ_TIERING_TEST_MODEL_ROUNDS", "6"))):
            for event in self.rnd.choices(events, [8, 4, 3, 2, 1, 1, 1, 2], k=self.rnd.randint(3, 8)):
                await event()
                await self.look([])
            await self.jobs()
            self.shop.clock.advance(timedelta(hours=self.rnd.choice([1, 24 * 12, 24 * 25, 24 * 45])))
            self.model.time_passes(self.shop.clock.now())
            await self.look([])
            if self.rnd.random() < self.lost:
                await self.rebuild()
                await self.look([])


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
async def test_find_gives_what_there_is_whatever_happens(places: Places, seed: int) -> None:
    """Saves, saves anew, deletions, moves, expiries, erasures, rebuilds, crashes: each search is answered."""
    chance = Random(seed)
    by = chance.choice(["outcome", "outcome", "status", None])
    policies = [rule for name in NAMES for rule in policies_of(chance, name, by=by)]
    settings = config(
        **places, policies=policies, **{**OPTIONS, "attributes": ATTRIBUTES, "attribute_hash_key": "k" * 40}
    )
    async with product(settings) as shop:
        order = Random(os.environ.get("SAGAZ_TIERING_TEST_MODEL_ORDER", seed))
        model = Model(policies, of_sagas=by in ("outcome", None))
        life = FoundLife(seed, shop, model, order, lost=chance.choice([0.0, 0.3]))
        await life.live()
