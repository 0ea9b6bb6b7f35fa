"""Sagas are ruled by attributes of their newest snapshots, in every tier; each save keeps its own with the snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.commands import cli
from support.snapshots import OTHER_SAGA, SAGA, make, number
from support.tiers import DAY, Places, Product, config, product
from support.yaml_config import write_config

from sagaz_tiering import metrics
from sagaz_tiering.catalog.restores import Wanted
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.errors import ConfigError, LegalHold
from sagaz_tiering.policy import PolicySet, SagaEnd
from sagaz_tiering.snapshot import SagaSnapshot

YEARS, MONTH = 2555 * DAY, 30 * DAY
MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
POLICIES: Sequence[dict[str, Any]] = (
    {"name": "ours", "match": {"attributes": {"tenant": ["acme", "globex-*"]}}, "move": MOVE, "retain": "2555d"},
    {"name": "rest", "match": {}, "move": MOVE, "retain": "30d"},
)
ATTRIBUTES: Sequence[dict[str, Any]] = (
    {"name": "tenant", "path": "tenant"},
    {"name": "sku", "path": "lines.sku"},
    {"name": "email", "path": "email", "hashed": True},
)
KEY = "a key for hashes that is long enough"


@pytest.fixture
def opened(places: Places) -> Any:
    """Opens the product with policies by attribute, all of a durability."""

    @asynccontextmanager
    async def open_product(durability: str = "durable", **sections: Any) -> AsyncIterator[Product]:
        sections = {
            "policies": [{**each, "durability": durability} for each in POLICIES],
            "attributes": ATTRIBUTES,
            "attribute_hash_key": KEY,
            **sections,
        }
        async with product(config(**places, **sections)) as shop:
            yield shop

    return open_product


def of(tenant: object, at: int = 0, **fields: Any) -> SagaSnapshot:
    """Snapshot `at` of a saga, of a tenant."""
    return make(at, context={"tenant": tenant, "lines": [{"sku": "A1"}, {"sku": 2}], "email": "a@b.example"}, **fields)


async def saved(shop: Product, *tenants: object, saga_id: UUID = SAGA, first: int = 0) -> list[SagaSnapshot]:
    """One snapshot of each tenant, a minute apart."""
    snapshots = [of(tenant, first + at, saga_id=saga_id) for at, tenant in enumerate(tenants)]
    for snapshot in snapshots:
        await shop.storage.save_snapshot(snapshot)
    return snapshots


async def expiries(shop: Product, saga_id: UUID = SAGA) -> set[Any]:
    """When the snapshots of a saga expire, as every query tells."""
    refs = await shop.storage.timeline(saga_id)
    told = {ref.expires_at for ref in refs}
    assert {(await shop.storage.explain(ref.snapshot_id)).expires_at for ref in refs} == told
    return told


async def end(shop: Product, saga_id: UUID = SAGA) -> SagaEnd | None:
    """Where a saga ends, as the catalog knows once it was told all."""
    shop.clock.advance(timedelta(seconds=3))
    await shop.storage.note_hot_saves()
    return (await shop.runtime.catalog.sagas.ends([saga_id])).get(saga_id)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("durability", ["durable", "hot"])
@pytest.mark.parametrize(
    ("tenants", "kept"),
    [
        ((None, "other", "acme"), YEARS),
        (("acme", "other", ["x", "globex-eu"]), YEARS),
        (("acme", "acme", "other"), MONTH),
        (("acme", None), MONTH),
    ],
)
async def test_newest_attributes_decide_for_every_snapshot_of_a_saga(
    opened: Any, durability: str, tenants: tuple[object, ...], kept: timedelta
) -> None:
    """What the newest snapshot says rules all of the saga, in Redis, in PostgreSQL and in packs."""
    async with opened(durability) as shop:
        snapshots = await saved(shop, *tenants)
        last = snapshots[-1].created_at
        assert await expiries(shop) == {last + kept}
        shop.clock.advance(8 * DAY)
        assert (await shop.run("age")).counts["archived"] == len(tenants)
        assert await expiries(shop) == {last + kept}
        shop.clock.advance(last + kept - shop.clock.now() - timedelta(microseconds=1))
        assert len(await shop.storage.list_snapshots(SAGA)) == len(tenants)
        shop.clock.advance(timedelta(microseconds=1))
        assert await shop.storage.list_snapshots(SAGA) == []
        await shop.run("expire")
        assert await shop.storage.timeline(SAGA) == []


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_saga_that_goes_on_with_another_attribute_is_ruled_anew(opened: Any, durability: str) -> None:
    """Packed by the short rule, then its tenant says otherwise: every part is kept as long as that asks."""
    async with opened(durability) as shop:
        first = await saved(shop, "other", "other")
        shop.clock.advance(8 * DAY)
        assert (await shop.run("age")).counts["archived"] == 2
        late = of("acme", 9, created_at=shop.clock.now())
        await shop.storage.save_snapshot(late)
        await end(shop)
        assert await expiries(shop) == {late.created_at + YEARS}
        await shop.run("expire")
        shop.clock.advance(MONTH)
        await shop.run("expire")
        assert await shop.storage.list_snapshots(SAGA) == [late, first[1], first[0]]
        assert await expiries(shop) == {late.created_at + YEARS}


@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_catalog_knows_the_attributes_that_each_saga_ends_with(opened: Any, durability: str) -> None:
    """Whatever the order of saves, those of the newest snapshot; of an earlier one once that is gone."""
    async with opened(durability) as shop:
        tenant = shop.runtime.in_force.attributes.token("tenant", "acme\x1f\x00\\\ud800")
        await saved(shop, "first", "acme\x1f\x00\\\ud800", "last")
        found = await end(shop)
        assert found is not None
        assert "tenant=last" in found.attributes
        assert "a@b.example" not in found.attributes
        assert found.attributes == SagaEnd.of(read_meta(await shop.runtime.hot.get(number(2)))).attributes  # type: ignore[arg-type]
        await shop.storage.save_snapshot(of(None, 2))
        again = await end(shop)
        assert again is not None
        assert again.snapshot_id == number(2)
        assert "tenant" not in again.attributes
        assert "sku=A1" in again.attributes
        await shop.storage.delete_snapshot(number(2))
        before = await end(shop)
        assert before is not None
        assert tenant in before.attributes.split("\x1f")
        assert before.created_us == to_micros(make(1).created_at)


async def test_saves_of_a_killed_application_are_told_with_their_attributes(opened: Any) -> None:
    """What Redis alone acknowledged is told from its header, however long that is, and ruled by it."""
    async with opened("hot") as shop:
        snapshot = of([f"globex-{at:03}" + "x" * 240 for at in range(16)], 0)
        await shop.storage.save_snapshot(snapshot)
        shop.storage._saver._notes._waiting.clear()  # its application is killed before it tells
        found = await end(shop)
        assert found is not None
        assert found.attributes.count("tenant=globex-") == 16
        [noted] = await shop.runtime.catalog.hot_saves.not_elsewhere(saga_id=SAGA)
        assert noted.meta.attributes == found.attributes
        assert noted.expires_us == to_micros(snapshot.created_at + YEARS)


async def test_large_snapshots_have_attributes_too(opened: Any) -> None:
    """What a thread encodes is found as what is encoded at once."""
    async with opened() as shop:
        large = replace(of("acme"), context={**of("acme").context, "rows": ["x" * 1000] * 2000})
        await shop.storage.save_snapshot(large)
        assert await shop.storage.get_snapshot(large.snapshot_id) == large
        found = await end(shop)
        assert found is not None
        assert "tenant=acme" in found.attributes


async def test_what_is_over_the_limits_is_counted_and_saved(opened: Any) -> None:
    """Nothing in a context refuses a save for its attributes' sake."""
    counted = metrics.ATTRIBUTES_LEFT_OUT.labels(attribute="tenant", reason="too_long")
    before = counted._value.get()
    async with opened() as shop:
        long = of("x" * 257)
        await shop.storage.save_snapshot(long)
        assert await shop.storage.get_snapshot(long.snapshot_id) == long
        assert counted._value.get() == before + 1
        found = await end(shop)
        assert found is not None
        assert "tenant" not in found.attributes


@pytest.mark.guarantee("G14")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_hold_by_attribute_keeps_whole_sagas(opened: Any, durability: str) -> None:
    """Every snapshot of a saga whose newest one is the tenant's, in every tier and from that moment on."""
    async with opened(durability) as shop:
        match = Match(attributes={"tenant": ["oth?r", "nobody"], "sku": "A*"})
        hold = await shop.storage.holder.hold(match, reason="claims", who="auditor")
        assert hold.subject == "attributes.tenant=oth?r,nobody; attributes.sku=A*"
        held = await saved(shop, None, "third", "other")
        fine = await saved(shop, "other", "third", saga_id=OTHER_SAGA, first=10)
        await end(shop)
        covered = await shop.storage.covered(match)
        assert (covered.snapshots, covered.sagas) == (3, 1)
        assert all(ref.held for ref in await shop.storage.timeline(SAGA))
        assert not any(ref.held for ref in await shop.storage.timeline(OTHER_SAGA))
        with pytest.raises(LegalHold, match="claims"):
            await shop.storage.save_snapshot(replace(held[0], context={"changed": 1}))
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        shop.clock.advance(30 * DAY)
        for _ in range(2):
            assert await shop.storage.list_snapshots(SAGA) == held[::-1]
            assert await shop.storage.list_snapshots(OTHER_SAGA) == []
            assert (await shop.run("expire", dry_run=True)).counts == (await shop.run("expire")).counts
            shop.clock.advance(2 * DAY)
        assert await shop.storage.get_snapshot(fine[0].snapshot_id) is None
        assert "claims" in (await shop.storage.explain(held[0].snapshot_id)).blockers[0]
        with pytest.raises(LegalHold, match="claims"):
            await shop.storage.cleanup_saga(SAGA)
        await shop.storage.holder.release([hold], reason="settled", who="auditor")
        await shop.run("expire")
        assert await shop.storage.timeline(SAGA) == []


@pytest.mark.parametrize(
    ("patterns", "value", "matches"),
    [
        ("acme", "acme", True),
        ("acme", "acm", False),
        ("ac*", "acme", True),
        ("*me", "acme", True),
        ("a*e*", "acme", True),
        ("ac?e", "acme", True),
        ("ac[!m]e", "acme", False),
        ("ac[m-n]e", "acme", True),
        ("*z", "acme", False),
        ("ACME", "acme", False),
        ("a.me", "acme", False),
        ("*\x1f*", "a\x1fb", True),
        ("a\\b", "a\\b", True),
        ("a=b", "a=b", True),
        ("*", "acme", True),
        ("*", None, False),
    ],
)
async def test_patterns_mean_the_same_in_postgresql(
    opened: Any, patterns: str, value: str | None, matches: bool
) -> None:
    """A hold that PostgreSQL looks up covers what a policy of the same match rules; no wildcard leaves its value."""
    async with opened() as shop:
        match = Match(attributes={"tenant": patterns})
        context = {"tenant": value, "lines": [{"sku": "zz"}]}
        await shop.storage.save_snapshot(make(0, context=context))
        covered = await shop.storage.covered(match)
        assert bool(covered.snapshots) is matches


async def test_restore_by_attribute_asks_for_whole_sagas(opened: Any) -> None:
    """What is archived of sagas that end so."""
    policies = [{**each, "move": [{"to": "GLACIER", "after": "7d"}]} for each in POLICIES]
    async with opened(policies=policies) as shop:
        await saved(shop, "other", "acme")
        await saved(shop, "acme", "other", saga_id=OTHER_SAGA, first=10)
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        wanted = Wanted(match=Match(attributes={"tenant": "acme"}))
        found = await shop.storage.restorer.request(wanted, who="auditor")
        assert found is not None
        assert found.snapshot_count == 2


@pytest.mark.parametrize("name", ["tenent", "email"])
async def test_attribute_that_nobody_can_look_at_is_an_error(opened: Any, name: str) -> None:
    """One that is not defined, or whose values are hashed: never a hold or a restore of nothing."""
    async with opened() as shop:
        match = Match(attributes={name: "*"})
        with pytest.raises(ConfigError, match=f"attribute '{name}' is"):
            await shop.storage.holder.hold(match, reason="claims", who="auditor")
        with pytest.raises(ConfigError, match=f"attribute '{name}' is"):
            await shop.storage.covered(match)
        with pytest.raises(ConfigError, match=f"attribute '{name}' is"):
            await shop.storage.restorer.request(Wanted(match=match), who="auditor")


async def test_plan_and_transition_follow_the_attributes_that_rule(opened: Any) -> None:
    """What the catalog counts by rule agrees with what jobs do, in PostgreSQL and in packs."""
    async with opened() as shop:
        await saved(shop, "other", "acme")
        await saved(shop, "acme", "other", saga_id=OTHER_SAGA, first=10)
        policies, now = shop.runtime.in_force.policies, shop.clock.now() + 8 * DAY
        due, _, _ = await shop.runtime.catalog.surveys.durable(policies, now)
        assert {(each.policy, each.snapshots) for each in due} == {("ours", 2), ("rest", 2)}
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        packs = await shop.runtime.db.fetch("SELECT pack_id, policy FROM sagaz_tiering.packs ORDER BY policy")
        assert [row["policy"] for row in packs] == ["ours", "rest"]
        for row in packs:
            named = await shop.runtime.catalog.packs.names(row["pack_id"], policies.ruling_attributes)
            assert {policies.policy_for(*each).name for each in named} == {row["policy"]}
        shorter = [{**POLICIES[0], "retain": "20d"}, {**POLICIES[1], "retain": "10d"}]
        others = config(
            database="postgresql://h/d", redis_url="redis://h", cold="/x", policies=shorter, attributes=ATTRIBUTES[:2]
        )
        groups, _ = await shop.runtime.catalog.surveys.packs(
            PolicySet(others.policies), shop.clock.now() + 5 * DAY, policies
        )
        assert {(each.policy, each.expired) for each in groups} == {("ours", 0), ("rest", 2)}


async def test_rules_by_attribute_on_the_command_line(opened: Any, places: Places, tmp_path: Path) -> None:
    """`hold --match attributes.NAME=PATTERN`, and what is wrong with one that is not defined."""
    async with opened() as shop:
        await saved(shop, "acme")
        path = write_config(tmp_path / "tiering.yaml", **places, policies=POLICIES, attributes=list(ATTRIBUTES[:2]))
        done = await cli("hold", "--match", "attributes.tenant=ac*", "--reason", "case", "--config", path)
        assert done.code == 0, done.err
        assert "attributes.tenant=ac*" in done.out
        assert all(ref.held for ref in await shop.storage.timeline(SAGA))
        done = await cli("hold", "--match", "attributes.order=1", "--reason", "case", "--config", path)
        assert done.code == 2
        assert "no attribute 'order' is defined" in done.err
        done = await cli("explain", str(number(0)), "--config", path)
        assert "its newest snapshot has tenant acme or globex-*" in done.out
