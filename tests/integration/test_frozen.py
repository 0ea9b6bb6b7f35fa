"""A hold freezes: what is held cannot be replaced nor slip out of its match, in any tier, by any way of saving."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.snapshots import make
from support.tiers import DAY, NOW, Places, Product, config, product

from sagaz_tiering.config.patterns import Match
from sagaz_tiering.errors import CatalogUnavailable, HotTierUnavailable, LegalHold, RewriteRefused
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.tiered import hold as module

pytestmark = pytest.mark.guarantee("G14")
MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
POLICIES: list[dict[str, Any]] = [
    {"name": "fast", "match": {"saga_name": "fast"}, "durability": "hot", "move": MOVE, "retain": "30d"},
    {"name": "slow", "match": {"saga_name": "slow"}, "durability": "hot", "move": MOVE, "retain": "30d"},
    {"name": "once", "match": {"saga_name": "once"}, "move": MOVE, "rewrite": "refuse"},
    {"name": "default", "match": {}, "move": MOVE, "retain": "30d"},
]
NAMES = pytest.mark.parametrize("name", ["fast", "order"])


SECTIONS: dict[str, Any] = {"policies": POLICIES}
"""A product with a hot policy, a durable one and one that refuses to write anew."""


async def saved(shop: Product, name: str, *, packed: bool = False, **fields: Any) -> SagaSnapshot:
    """One snapshot, in Redis or in a pack."""
    fields = {"status": "failed", "created_at": shop.clock.now(), **fields}
    snapshot = make(0, snapshot_id=uuid4(), saga_id=uuid4(), saga_name=name, **fields)
    await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(timedelta(seconds=1))
    if packed:
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        assert await shop.hot_count() == 0
    return snapshot


def other(snapshot: SagaSnapshot, **fields: Any) -> SagaSnapshot:
    """The same id with other content."""
    return replace(snapshot, context={"amount": 1}, **fields)


async def is_untouched(shop: Product, snapshot: SagaSnapshot) -> None:
    """By every way to read it."""
    assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
    assert await shop.storage.list_snapshots(snapshot.saga_id) == [snapshot]
    assert await shop.storage.get_latest_snapshot(snapshot.saga_id) == snapshot


async def _as_after_a_second(shop: Product) -> None:
    """The storage knows which holds are in force, however long that took."""
    shop.storage._freshness.follow(timedelta(days=7))
    await shop.storage._freshness.known()


async def hold_failed(shop: Product) -> None:
    """A hold on what has failed, by match."""
    match = Match(saga_name=("fast", "order"), status=("failed",))
    await shop.runtime.catalog.holds.place(match, reason="audit", who="x", now=shop.clock.now())
    await _as_after_a_second(shop)


@NAMES
@pytest.mark.parametrize("packed", [False, True], ids=["hot", "packed"])
async def test_held_snapshot_is_not_replaced(shop: Product, name: str, packed: bool) -> None:
    """By its saga's id: other content raises, the same is nothing, new ones are taken; after the release it is."""
    held = await saved(shop, name, packed=packed)
    await shop.storage.hold(held.saga_id, "case 12/345")
    with pytest.raises(LegalHold, match="case 12/345"):
        await shop.storage.save_snapshot(other(held))
    with pytest.raises(LegalHold):
        await shop.storage.save_snapshot(other(held, saga_id=uuid4()) if not packed else other(held, status="x"))
    await shop.storage.save_snapshot(held)
    await is_untouched(shop, held)
    new = replace(held, snapshot_id=uuid4(), created_at=shop.clock.now())
    await shop.storage.save_snapshot(new)
    assert await shop.storage.list_snapshots(held.saga_id) == [new, held]
    shop.clock.advance(50 * DAY)
    for job in ("age", "compact", "expire"):
        await shop.run(job)
    assert await shop.storage.list_snapshots(held.saga_id) == [new, held]
    await shop.storage.release(held.saga_id)
    again = other(new, created_at=shop.clock.now())
    await shop.storage.save_snapshot(again)
    assert await shop.storage.get_snapshot(new.snapshot_id) == again


@NAMES
@pytest.mark.parametrize("packed", [False, True], ids=["hot", "packed"])
async def test_changed_status_does_not_slip_out_of_a_match(shop: Product, name: str, packed: bool) -> None:
    """What is stored counts, not what it would become; what does not match may be replaced."""
    held, free = await saved(shop, name, packed=packed), await saved(shop, name, packed=packed, status="completed")
    await hold_failed(shop)
    with pytest.raises(LegalHold, match="audit"):
        await shop.storage.save_snapshot(other(held, status="completed"))
    await is_untouched(shop, held)
    again = other(free, status="rolled_back")
    await shop.storage.save_snapshot(again)
    await is_untouched(shop, again)
    with pytest.raises(LegalHold):
        await shop.storage.delete_snapshot(held.snapshot_id)


@pytest.mark.parametrize("name", ["fast", "slow", "order"])
@pytest.mark.parametrize("packed", [False, True], ids=["hot", "packed"])
async def test_name_that_does_not_match_frees_nothing(shop: Product, name: str, packed: bool) -> None:
    """Held by the name it was saved under: under another one the id is refused all the same, in its saga or another."""
    held, free = await saved(shop, name, packed=packed), await saved(shop, "other", packed=packed)
    await shop.runtime.catalog.holds.place(Match(saga_name=(name,)), reason="audit", who="x", now=shop.clock.now())
    await _as_after_a_second(shop)
    for thief in {"fast", "slow", "order"} - {name}:
        for saga_id in (held.saga_id, uuid4()):
            with pytest.raises(LegalHold, match="audit"):
                await shop.storage.save_snapshot(other(held, saga_name=thief, saga_id=saga_id))
        await is_untouched(shop, held)
        new = replace(held, snapshot_id=uuid4(), saga_id=uuid4(), saga_name=thief)
        again = other(free, saga_name=thief, created_at=shop.clock.now())
        for taken in (new, again):
            await shop.storage.save_snapshot(taken)
            await is_untouched(shop, taken)


async def test_saves_of_other_names_ask_together_whether_their_ids_are_held(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred at once are few questions; while PostgreSQL does not answer Redis acknowledges them as ever."""
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 300.0)  # a busy machine is not silent
    held = await saved(shop, "order", packed=True)
    await shop.runtime.catalog.holds.place(Match(saga_name=("order",)), reason="audit", who="x", now=shop.clock.now())
    await _as_after_a_second(shop)
    real, questions = shop.runtime.catalog.holds.frozen, []

    async def frozen(ids: Any) -> set[Any]:
        questions.append(len(ids))
        return await real(ids)

    monkeypatch.setattr(shop.runtime.catalog.holds, "frozen", frozen)
    many = [replace(held, snapshot_id=uuid4(), saga_id=uuid4(), saga_name="fast") for _ in range(100)]
    thief = other(held, saga_name="fast")
    outcomes = await asyncio.gather(*map(shop.storage.save_snapshot, (*many, thief)), return_exceptions=True)
    assert [type(one).__name__ for one in outcomes] == ["NoneType"] * 100 + ["LegalHold"]
    assert sum(questions) == 101
    assert len(questions) <= 10

    async def away(*_: Any) -> set[Any]:
        questions.append(0)
        raise CatalogUnavailable("away")

    monkeypatch.setattr(shop.runtime.catalog.holds, "frozen", away)
    questions.clear()
    for _ in range(2):
        await shop.storage.save_snapshot(replace(held, snapshot_id=uuid4(), saga_id=uuid4(), saga_name="fast"))
    assert questions == [0]
    shop.storage._saver._freezer._silent_until = 0.0
    monkeypatch.setattr(shop.runtime.catalog.holds, "frozen", real)
    with pytest.raises(LegalHold):
        await shop.storage.save_snapshot(thief)


@pytest.mark.parametrize("packed", [False, True], ids=["durable", "packed"])
async def test_postgresql_refuses_what_no_process_knew(shop: Product, packed: bool) -> None:
    """Without the mark in Redis, and without Redis: the original is what is read, also from Redis."""
    held = await saved(shop, "order", packed=packed)
    await shop.runtime.catalog.holds.place(held.saga_id, reason="case", who="x", now=shop.clock.now())
    with pytest.raises(LegalHold, match="case"):
        await shop.storage.save_snapshot(other(held))
    await is_untouched(shop, held)
    assert await shop.hot_count() == (0 if packed else 1)
    await shop.storage.save_snapshot(held)
    shop.storage._saver._hot_pause.begin(3600)
    with pytest.raises(LegalHold):
        await shop.storage.save_snapshot(other(held))
    await shop.storage.save_snapshot(held)
    many = [replace(held, snapshot_id=uuid4()) for _ in range(5)]
    outcomes = await asyncio.gather(
        *(shop.storage.save_snapshot(one) for one in (*many, other(held))), return_exceptions=True
    )
    assert [type(one).__name__ for one in outcomes] == ["NoneType"] * 5 + ["LegalHold"]


@NAMES
async def test_what_goes_past_a_hold_is_kept_twice_and_told(shop: Product, name: str) -> None:
    """A save that neither Redis nor a process stopped: `age` packs it over nothing, nothing removes the original."""
    held = await saved(shop, name, packed=True)
    past = other(held, status="completed", created_at=shop.clock.now())
    await shop.storage.save_snapshot(past)  # before the hold is known
    await hold_failed(shop)
    shop.clock.advance(9 * DAY)
    for _ in range(2):
        report = await shop.run("age")
        assert report.counts["kept_twice"] == 1
        assert str(held.snapshot_id) in "".join(report.notes)
        shop.clock.advance(timedelta(minutes=20))
    assert await shop.storage.get_snapshot(held.snapshot_id) == past
    copies = {ref.tier.value: ref.status for ref in await shop.storage.locate(held.snapshot_id)}
    assert copies["cold"] == "failed"
    assert copies["hot"] == "completed"
    with pytest.raises(LegalHold):
        await shop.storage.delete_snapshot(held.snapshot_id)
    with pytest.raises(LegalHold):
        await shop.storage.forget(held.saga_id)
    shop.clock.advance(60 * DAY)
    for job in ("age", "compact", "expire"):
        await shop.run(job)
    assert await shop.storage.get_snapshot(held.snapshot_id) == held
    [hold] = await shop.runtime.catalog.holds.in_force()
    await shop.storage.holder.release([hold], reason="over", who="x")
    await shop.run("expire")
    assert await shop.storage.get_snapshot(held.snapshot_id) is None


async def test_mark_of_a_hold_comes_back(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Placed while Redis is away: `expire` marks it, so does a hold placed again; the release takes it away."""
    held = await saved(shop, "fast")
    mark = shop.runtime.hot.keys.held_mark(held.saga_id.hex)

    async def marked() -> bool:
        async with shop.runtime.hot.connection.pool() as client:
            return bool(await client.exists(mark))

    async def away(*_: Any, **__: Any) -> None:
        raise HotTierUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(shop.runtime.hot, "mark_held", away)
        await shop.storage.hold(held.saga_id, "case")
    assert not await marked()
    await shop.run("expire")
    assert await marked()
    async with shop.runtime.hot.connection.pool() as client:
        await client.delete(mark)
    await shop.storage.hold(held.saga_id, "case again")
    assert await marked()
    with pytest.raises(LegalHold):
        await shop.storage.save_snapshot(other(held))
    assert await shop.storage.release(held.saga_id) == 2
    assert not await marked()
    assert await shop.hot_count() == 1
    assert [page async for page in shop.runtime.hot.saga_ids() if page] == [[held.saga_id]]


async def marked(shop: Product, *snapshots: SagaSnapshot) -> bool:
    """Whether Redis has a mark of a hold for each of these ids; all have one, or none."""
    async with shop.runtime.hot.connection.pool() as client:
        count = await client.exists(*(shop.runtime.hot.keys.held_id_mark(one.snapshot_id.hex) for one in snapshots))
    assert count in (0, len(snapshots))
    return count > 0


async def is_not_stolen(shop: Product, held: SagaSnapshot) -> None:
    """An archived one: under another saga, of whatever policy, with other content or the same; as it is it is taken."""
    for name in ("fast", "order"):
        for thief in (other(held), held):
            with pytest.raises(LegalHold, match="case"):
                await shop.storage.save_snapshot(replace(thief, saga_id=uuid4(), saga_name=name))
    await shop.storage.save_snapshot(held)
    await is_untouched(shop, held)
    assert await shop.hot_count() == 0


@NAMES
@pytest.mark.parametrize("first", ["hold", "age"])
async def test_held_id_is_not_saved_under_another_saga(shop: Product, name: str, first: str) -> None:
    """Archived before the hold or after it: nothing of it is in Redis any more; after the last release it is taken."""
    held = await saved(shop, name, packed=first == "age")
    await shop.storage.hold(held.saga_id, "case 1")
    if first == "hold":
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        assert await shop.hot_count() == 0
    await is_not_stolen(shop, held)
    again = await shop.storage.hold(held.saga_id, "case 2")
    await shop.storage.holder.release([again], reason="over", who="x")
    await is_not_stolen(shop, held)
    assert await shop.storage.release(held.saga_id) == 1
    assert not await marked(shop, held)
    moved = other(held, saga_id=uuid4(), created_at=shop.clock.now())
    await shop.storage.save_snapshot(moved)
    await is_untouched(shop, moved)


async def test_marks_of_held_ids_come_back(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `expire` and by `reconcile`, page by page, for packed ones and what PostgreSQL alone has yet."""
    monkeypatch.setattr("sagaz_tiering.catalog.holds._IDS", 1)
    held = await saved(shop, "fast", packed=True)
    shop.storage._saver._hot_pause.begin(3600)
    durable = replace(held, snapshot_id=uuid4(), created_at=shop.clock.now())
    await shop.storage.save_snapshot(durable)
    shop.storage._saver._hot_pause.end()
    await shop.storage.hold(held.saga_id, "case")
    assert await marked(shop, held, durable)
    for job in ("expire", "reconcile"):
        async with shop.runtime.hot.connection.pool() as client:
            await client.flushdb()
        assert not await marked(shop, held, durable)
        await shop.run(job)
        assert await marked(shop, held, durable)
        with pytest.raises(LegalHold, match="case"):
            await shop.storage.save_snapshot(replace(other(held), saga_id=uuid4()))
    assert await shop.storage.release(held.saga_id) == 1
    assert not await marked(shop, held, durable)


async def test_hold_placed_during_a_release_stays_marked(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was seen that none is in force, before the marks go."""
    held = await saved(shop, "fast", packed=True)
    await shop.storage.hold(held.saga_id, "case 1")
    real = shop.runtime.hot.mark_held

    async def late(sagas: Any, *, held: bool) -> None:
        if not held:
            monkeypatch.undo()
            await shop.storage.hold(sagas[0], "case 2")
        await real(sagas, held=held)

    monkeypatch.setattr(shop.runtime.hot, "mark_held", late)
    await shop.storage.release(held.saga_id)
    assert len(await shop.runtime.catalog.holds.in_force(held.saga_id)) == 1
    await is_not_stolen(shop, held)


@pytest.mark.parametrize("packed", [False, True], ids=["hot", "packed"])
async def test_policy_refuses_to_write_anew(shop: Product, packed: bool) -> None:
    """`rewrite: refuse`: nothing is stored where the id is there with other content; the same is nothing."""
    first = await saved(shop, "once", packed=packed)
    with pytest.raises(RewriteRefused):
        await shop.storage.save_snapshot(other(first))
    await shop.storage.save_snapshot(first)
    await is_untouched(shop, first)
    assert await shop.hot_count() == (0 if packed else 1)
    await saved(shop, "once")
    allowed = await saved(shop, "order", packed=packed)
    again = other(allowed)
    await shop.storage.save_snapshot(again)
    await is_untouched(shop, again)


async def test_other_process_learns_of_a_match_within_a_second(shop: Product, places: Places) -> None:
    """It saves under way; from its next look on it is refused."""
    held = await saved(shop, "fast")
    async with product(config(**places, policies=POLICIES), now=NOW + DAY, schema=False) as process:
        await process.storage.save_snapshot(replace(held, snapshot_id=uuid4()))
        match = Match(saga_name=("fast",))
        await shop.runtime.catalog.holds.place(match, reason="audit", who="x", now=shop.clock.now())
        async with asyncio.timeout(300):
            while not process.storage._freshness.held:
                await asyncio.wait((process.storage._freshness._look_soon(),))
        with pytest.raises(LegalHold, match="audit"):
            await process.storage.save_snapshot(other(held))
