"""Policies that change: a longer `retain` counts at once, a shorter one only when `expire` has accepted it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.payload import snapshots
from support.snapshots import SAGA, ids_of, make, save_all
from support.tiers import DAY, NOW, Product, config, product

from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.costs.plan import plan as make_plan
from sagaz_tiering.errors import MassDelete
from sagaz_tiering.jobs import JobReport, run_job
from sagaz_tiering.operations.survey import survey
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.snapshot import SagaSnapshot

MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
PAYMENTS = {"name": "payments", "match": {"saga_name": "payment-*"}, "move": MOVE, "retain": "2555d"}
DEFAULT = {"name": "default", "match": {}, "move": MOVE, "retain": "30d"}
RENAMED = {**PAYMENTS, "match": {"saga_name": "pay-*"}}


@pytest.fixture
def places(database: str, redis_url: str, tmp_path: Path) -> dict[str, Any]:
    """Servers of a test's own."""
    return {"database": database, "redis_url": redis_url, "cold": tmp_path / "cold"}


def keeping(places: dict[str, Any], retain: str, **policy: Any) -> TieringConfig:
    """One policy for everything."""
    return config(**places, policies=[{"name": "all", "match": {}, "move": MOVE, "retain": retain, **policy}])


async def allowed(shop: Product) -> JobReport:
    """`job expire --once --allow-mass-delete`."""
    return await run_job("expire", replace(shop.runtime.job_context(), allow_mass_delete=True))


async def put_in(shop: Product, tier: str, saved: list[SagaSnapshot]) -> None:
    """Have the snapshots in that tier alone."""
    if tier == "archived":
        shop.clock.advance(8 * DAY)
        assert (await shop.run("age")).counts["archived"] == len(saved)
    if tier == "durable":
        for snapshot in saved:
            await shop.runtime.hot.delete(snapshot.snapshot_id, until_us=to_micros(shop.clock.now()))


@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("longer", ["400d", "forever"])
@pytest.mark.parametrize("tier", ["hot", "durable", "archived"])
async def test_longer_retain_counts_for_every_read_at_once(places: dict[str, Any], tier: str, longer: str) -> None:
    """Nothing that the new policy keeps is ever hidden, by any query; `expire` then keeps it too."""
    async with product(keeping(places, "10d")) as shop:
        saved = await save_all(shop.storage, [make(at) for at in range(5)])
        await put_in(shop, tier, saved)
        shop.clock.advance(11 * DAY)
        assert await ids_of(shop.storage) == []
        await shop.runtime.reload(keeping(places, longer))
        for _ in range(2):
            assert await ids_of(shop.storage) == [each.snapshot_id for each in saved]
            assert await shop.storage.get_snapshot(saved[2].snapshot_id) == saved[2]
            assert await shop.storage.get_snapshot_at_time(SAGA, saved[3].created_at) == saved[3]
            assert await shop.storage.get_latest_snapshot(SAGA, before_step="step_1") == saved[1]
            assert [s async for s in shop.storage.iter_snapshots()] == saved
            assert len(await shop.storage.timeline(SAGA)) == 5
            explained = await shop.storage.explain(saved[0].snapshot_id)
            assert explained.expires_at == (None if longer == "forever" else saved[-1].created_at + 400 * DAY)
            counts = (await shop.run("expire")).counts
            assert not {"hot", "durable", "archived"} & counts.keys()


@pytest.mark.guarantee("G3")
async def test_newest_that_lives_is_found_behind_many_that_expired(places: dict[str, Any]) -> None:
    """Expired ones that nobody removed yet take no place in an answer, however many there are."""
    async with product(keeping(places, "400d", retention="snapshot")) as shop:
        old = [make(at) for at in range(3)]
        gone = [make(at, retention_until=NOW + 20 * DAY) for at in range(3, 40)]
        await save_all(shop.storage, [*old, *gone])
        await put_in(shop, "archived", [*old, *gone])
        shop.clock.advance(20 * DAY)
        assert await shop.storage.get_latest_snapshot(SAGA) == old[2]
        assert await shop.storage.list_snapshots(SAGA, 2) == [old[2], old[1]]
        assert await shop.storage.get_snapshot_at_time(SAGA, gone[-1].created_at) == old[2]
        assert await ids_of(shop.storage) == [each.snapshot_id for each in old]


@pytest.mark.guarantee("G9")
@pytest.mark.guarantee("G14")
@pytest.mark.parametrize("tier", ["hot", "durable", "archived"])
async def test_shorter_retain_counts_only_when_expire_has_accepted_it(places: dict[str, Any], tier: str) -> None:
    """Until then every process reads what was promised and no job removes it; afterwards it is gone for all."""
    long, short = keeping(places, "400d"), keeping(places, "30d")
    async with product(long) as shop, product(short, now=NOW, schema=False) as other:
        saved = await save_all(shop.storage, [make(at) for at in range(5)])
        await shop.run("expire")
        await put_in(shop, tier, saved)
        other.clock.advance(shop.clock.now() - other.clock.now())
        for each in (shop, other):
            each.clock.advance(40 * DAY)
        for _ in range(2):
            with pytest.raises(
                MassDelete, match=r"5 of 5 snapshots of policy 'all'.*retain 400d.*retain 30d"
            ) as caught:
                await other.run("expire")
            assert "or place holds" in caught.value.hint
            for each in (shop, other):
                assert await ids_of(each.storage) == [snapshot.snapshot_id for snapshot in saved]
        await shop.storage.hold(SAGA, "wrong policy")
        with pytest.raises(MassDelete) as caught:
            await other.run("expire")
        assert "place holds" not in caught.value.hint
        assert "holds in force keep" in caught.value.hint
        await shop.storage.release(SAGA, "right policy")
        explained = await other.storage.explain(saved[0].snapshot_id)
        assert explained.expires_at == saved[-1].created_at + 400 * DAY
        assert (await shop.run("expire")).counts.get(tier) is None  # the old file goes on as before
        dry = await other.run("expire", dry_run=True)
        assert (await allowed(other)).counts.get(tier) == dry.counts.get(tier) == 5
        assert await ids_of(other.storage) == []


@pytest.mark.guarantee("G9")
@pytest.mark.guarantee("G14")
@pytest.mark.parametrize("count", [20, 140])
async def test_renamed_service_does_not_lose_its_archive(places: dict[str, Any], count: int) -> None:
    """It fell from its seven-year rule to the default: refused, in small stores too, and all of it stays readable."""
    async with product(config(**places, policies=[PAYMENTS, DEFAULT])) as shop:
        saved = [make(at, saga_name="payment-capture", saga_id=uuid4(), snapshot_id=uuid4()) for at in range(count)]
        await save_all(shop.storage, saved)
        await save_all(shop.storage, [make(at) for at in range(60)])
        await put_in(shop, "archived", [*saved, *range(60)])
        await shop.runtime.reload(config(**places, policies=[RENAMED, DEFAULT]))
        shop.clock.advance(400 * DAY)
        told = rf"{count} of {count} snapshots of policy 'payments'.*{count} of them at once.*'default' \(retain 30d\)"
        dry = await shop.run("expire", dry_run=True)
        assert "a run stops" in dry.notes[0]
        with pytest.raises(MassDelete, match=told) as caught:
            await shop.run("expire")
        assert "--allow-mass-delete" in (caught.value.hint or "")
        for snapshot in saved[::7]:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
        await shop.runtime.reload(config(**places, policies=[PAYMENTS, DEFAULT]))
        assert (await shop.run("expire")).counts["archived"] == 60
        assert await shop.storage.get_latest_snapshot(saved[0].saga_id) == saved[0]


@pytest.mark.guarantee("G9")
async def test_dry_run_of_expire_tells_what_the_run_then_does(places: dict[str, Any]) -> None:
    """After `retain` was shortened: the same numbers, and that a run asks first."""
    async with product(keeping(places, "400d")) as shop:
        await save_all(shop.storage, snapshots(40, created_at=NOW))
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        await save_all(shop.storage, snapshots(4, start=100, created_at=NOW))
        held = next(snapshots(1, created_at=NOW))
        await shop.storage.hold(held.saga_id, "case")
        shop.clock.advance(60 * DAY)
        await shop.runtime.reload(keeping(places, "30d"))
        dry = await shop.run("expire", dry_run=True)
        assert "200 of 220 snapshots" in dry.notes[0] or "220 of 220 snapshots" in dry.notes[0]
        real = await allowed(shop)
        assert dry.counts["archived"] == 195
        for kind in ("archived", "packs_redated", "packs_retired", "hot", "durable", "held"):
            assert dry.counts.get(kind) == real.counts.get(kind), kind


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize(("retain", "asks"), [("30d", True), ("400d", False), ("forever", False)])
async def test_plan_says_when_expire_may_ask(places: dict[str, Any], retain: str, asks: bool) -> None:
    """By rules that end something earlier than those that were accepted last; by longer ones it does not."""
    async with product(keeping(places, "400d")) as shop:
        await shop.run("expire")
        runtime, policies = shop.runtime, PolicySet(keeping(places, retain).policies)
        inputs = await survey(runtime.job_context(), policies, NOW)
        planned = make_plan(inputs, policies, runtime.prices, NOW, in_force=runtime.policies)
        assert any("expire` stops and asks" in warning for warning in planned.warnings) is asks


@pytest.mark.guarantee("G9")
async def test_ordinary_expiry_of_everything_needs_no_question(places: dict[str, Any]) -> None:
    """What goes at the date and by the rule that it was packed with may be all there is."""
    async with product(keeping(places, "30d")) as shop:
        await save_all(shop.storage, [make(at) for at in range(20)])
        await put_in(shop, "archived", [*range(20)])
        shop.clock.advance(40 * DAY)
        assert (await shop.run("expire", dry_run=True)).counts["archived"] == 20
        assert (await shop.run("expire")).counts["archived"] == 20


async def test_hot_and_durable_copies_count_too(places: dict[str, Any]) -> None:
    """A wrong `retain` for what is not packed yet: refused, and each snapshot is counted once."""
    async with product(keeping(places, "400d")) as shop:
        saved = await save_all(shop.storage, [make(at) for at in range(20)])
        for snapshot in saved[:8]:
            await shop.runtime.hot.delete(snapshot.snapshot_id, until_us=to_micros(shop.clock.now()))
        await shop.run("age")
        await shop.runtime.reload(keeping(places, "8d"))
        with pytest.raises(MassDelete, match=r"20 of 20 snapshots of policy 'all' .* 0 of them at once"):
            await shop.run("expire")
        shop.clock.advance(9 * DAY)
        assert UUID(str(saved[0].snapshot_id)) in await ids_of(shop.storage)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("retention", ["longest", "policy"])
async def test_snapshot_that_counts_from_its_save_keeps_its_date_in_a_pack(
    places: dict[str, Any], retention: str
) -> None:
    """Though others in the pack were saved later."""
    async with product(keeping(places, "30d", clock="saved_at", retention=retention)) as shop:
        saved = []
        for at in range(3):
            saved.append((shop.clock.now(), make(at, saga_id=uuid4())))
            await shop.storage.save_snapshot(saved[-1][1])
            shop.clock.advance(DAY)
        shop.clock.advance(8 * DAY)
        assert (await shop.run("age")).counts["packs"] == 1
        for _ in range(2):
            for saved_at, one in saved:
                (ref,) = await shop.storage.timeline(one.saga_id)
                assert ref.expires_at == saved_at + 30 * DAY
                (found,) = [each for each in (await shop.storage.find()).items if each.saga_id == one.saga_id]
                assert found.expires_at == ref.expires_at
            await shop.run("expire")


@pytest.mark.guarantee("G3")
async def test_own_date_counts_again_after_policies_that_did_not_ask_it(places: dict[str, Any]) -> None:
    """`retention` goes from `longest` to `policy` and back, accepted each time."""
    async with product(keeping(places, "50d")) as shop:
        one = make(0, retention_until=NOW + 200 * DAY)
        await shop.storage.save_snapshot(one)
        shop.clock.advance(8 * DAY)
        assert (await shop.run("age")).counts["archived"] == 1

        async def expiry() -> Any:
            return (await shop.storage.timeline(SAGA))[0].expires_at

        assert await expiry() == one.retention_until
        await shop.runtime.reload(keeping(places, "50d", retention="policy"))
        await allowed(shop)
        assert await expiry() == one.created_at + 50 * DAY
        await shop.runtime.reload(keeping(places, "50d"))
        await allowed(shop)
        assert await expiry() == one.retention_until


@pytest.mark.guarantee("G3")
async def test_own_date_of_what_redis_alone_has_counts_though_another_was_noted(places: dict[str, Any]) -> None:
    """Its note is by policies that did not ask it."""
    async with product(keeping(places, "10d", durability="hot", retention="policy", move=[])) as shop:
        one = make(0, retention_until=NOW + 200 * DAY)
        await shop.storage.save_snapshot(one)
        await shop.storage._notes.flush()
        await shop.runtime.reload(keeping(places, "10d", durability="hot", move=[]))
        await allowed(shop)
        shop.clock.advance(20 * DAY)
        await shop.run("expire")
        assert await shop.storage.get_snapshot(one.snapshot_id) == one
        assert len(await shop.runtime.catalog.hot_saves.page(UUID(int=0), 9)) == 1  # should Redis lose it, that is told
        shop.clock.advance(200 * DAY)
        await shop.run("expire")
        assert await shop.hot_count() == 0
        assert await shop.runtime.catalog.hot_saves.page(UUID(int=0), 9) == []
