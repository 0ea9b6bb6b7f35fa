"""A saga moves, expires and is known as a whole: outcomes, its end in the catalog, and who tells of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from sagaz.core.saga import Saga as ExecutedSaga
from support.outcomes import MONTH, YEARS, opener, saga_rows, saved
from support.payload import saga
from support.snapshots import BEGUN, OTHER_SAGA, SAGA, make, number
from support.tiers import DAY, NOW, Places, Product

from sagaz_tiering import ReplayConfig, SnapshotStrategy, capture, saga_uuid
from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import encode, to_value
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SagaSnapshot, Tier


@pytest.fixture
def opened(places: Places) -> Any:
    """Opens the product with policies by outcome."""
    return opener(places)


async def expiries(shop: Product, saga_id: UUID = SAGA) -> set[datetime | None]:
    """When the snapshots of a saga expire, as every query tells."""
    refs = await shop.storage.timeline(saga_id)
    told = {ref.expires_at for ref in refs}
    explained = {(await shop.storage.explain(ref.snapshot_id)).expires_at for ref in refs}
    assert explained == told
    return told


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("durability", ["durable", "hot"])
@pytest.mark.parametrize(("last", "kept"), [("failed", YEARS), ("rolled_back", YEARS), ("completed", MONTH)])
async def test_outcome_decides_for_every_snapshot_of_a_saga(
    opened: Any, durability: str, last: str, kept: timedelta
) -> None:
    """Steps that say `executing` are kept as long as the end of their saga asks for, hot and archived."""
    async with opened(durability) as shop:
        snapshots = await saved(shop, "executing", "executing", "executing", last)
        end = snapshots[-1].created_at
        assert await expiries(shop) == {end + kept}
        shop.clock.advance(8 * DAY)
        assert (await shop.run("age")).counts["archived"] == 4
        assert await expiries(shop) == {end + kept}
        shop.clock.advance(end + kept - shop.clock.now() - timedelta(microseconds=1))
        assert [each.snapshot_id for each in await shop.storage.list_snapshots(SAGA)] == [
            each.snapshot_id for each in reversed(snapshots)
        ]
        shop.clock.advance(timedelta(microseconds=1))
        assert await shop.storage.list_snapshots(SAGA) == []
        assert await shop.storage.get_snapshot(snapshots[0].snapshot_id) is None


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_late_compensation_keeps_what_is_archived_already(opened: Any, durability: str) -> None:
    """Completed and packed, then rolled back three weeks later: every read keeps all of it for seven years."""
    async with opened(durability) as shop:
        first = await saved(shop, "executing", "completed")
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        shop.clock.advance(13 * DAY)
        late = make(9, status="rolled_back", created_at=shop.clock.now())
        await shop.storage.save_snapshot(late)
        if durability == "hot":
            shop.clock.advance(timedelta(seconds=3))
            await shop.storage.note_hot_saves()
        assert await expiries(shop) == {late.created_at + YEARS}
        shop.clock.advance(MONTH)
        assert await shop.storage.get_snapshot(first[0].snapshot_id) == first[0]
        assert await shop.storage.get_snapshot_at_time(SAGA, first[1].created_at) == first[1]
        assert await shop.storage.list_snapshots(SAGA) == [late, first[1], first[0]]


@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_catalog_knows_where_each_saga_ends(opened: Any, durability: str) -> None:
    """The newest snapshot by time, step and id, whatever the order of saves; an earlier one once that is gone."""
    async with opened(durability) as shop:

        async def end() -> SagaEnd | None:
            if durability == "hot":
                shop.clock.advance(timedelta(seconds=3))
                await shop.storage.note_hot_saves()
            return (await shop.runtime.catalog.sagas.ends([SAGA])).get(SAGA)

        def as_end(snapshot: SagaSnapshot) -> SagaEnd:
            created_us = to_micros(snapshot.created_at)
            return SagaEnd(created_us, snapshot.step_index, snapshot.snapshot_id, snapshot.status)

        newest = make(3, status="completed")
        for snapshot in (make(1), newest, make(0), make(2)):
            await shop.storage.save_snapshot(snapshot)
        assert await end() == as_end(newest)
        twin = make(3, snapshot_id=number(99), status="failed")
        await shop.storage.save_snapshot(twin)
        assert await end() == as_end(twin)
        await shop.storage.save_snapshot(make(3, snapshot_id=number(99), status="rolled_back"))
        assert await end() == as_end(twin)._replace(status="rolled_back")
        await shop.storage.delete_snapshot(number(99))
        assert await end() == as_end(newest)
        await shop.storage.delete_snapshot(newest.snapshot_id)
        assert await end() == as_end(make(2))
        await shop.storage.save_snapshot(make(2, saga_id=OTHER_SAGA))
        assert await end() == as_end(make(1))
        await shop.storage.cleanup_saga(SAGA)
        assert await end() is None


async def test_saves_of_a_killed_application_are_told_by_others(opened: Any) -> None:
    """What Redis alone acknowledged waits in its queue; whoever looks tells the catalog, once."""
    async with opened("hot") as shop:
        snapshot = make(0, status="failed")
        record = encode(snapshot, saved_us=to_micros(NOW))
        value = to_value(record, level=None)
        assert await shop.runtime.hot.save(record.meta, value, due_us=None, expires_us=None, alone=True) is None
        await shop.storage.note_hot_saves()
        assert await saga_rows(shop) == [], "its own application may be about to tell"
        shop.clock.advance(timedelta(seconds=3))
        await shop.storage.note_hot_saves()
        assert [(row["saga_id"], row["status"]) for row in await saga_rows(shop)] == [(SAGA, "failed")]
        [noted] = await shop.runtime.catalog.hot_saves.not_elsewhere(saga_id=SAGA)
        assert (noted.meta.snapshot_id, noted.expires_us) == (number(0), to_micros(snapshot.created_at + YEARS))
        assert await shop.runtime.hot.unnoted(to_micros(shop.clock.now()), 10) == []


async def test_application_that_lives_tells_of_its_saves_and_empties_the_queue(opened: Any) -> None:
    """Nothing is left to tell for others."""
    async with opened("hot") as shop:
        await saved(shop, "executing", "completed")
        async with asyncio.timeout(120):
            for _ in count():
                if not await shop.runtime.hot.unnoted(to_micros(shop.clock.now() + DAY), 10):
                    break
                await asyncio.sleep(0.02)
        assert [row["status"] for row in await saga_rows(shop)] == ["completed"]


@pytest.mark.guarantee("G3")
async def test_note_that_comes_after_the_expiry_brings_no_saga_back(opened: Any) -> None:
    """An application tells of a save that Redis alone had when `expire` has removed it already."""
    async with opened("hot") as shop:
        (snapshot,) = await saved(shop, "completed")
        there = await shop.runtime.hot.queue.saves([snapshot.snapshot_id])
        await shop.storage._notes.flush()
        shop.clock.advance(31 * DAY)
        await shop.run("expire")
        assert await saga_rows(shop) == []
        meta = there[snapshot.snapshot_id]
        await shop.runtime.catalog.hot_saves.note([meta], [to_micros(snapshot.created_at + MONTH)])
        assert len(await saga_rows(shop)) == 1
        await shop.run("expire")
        assert await saga_rows(shop) == []


@pytest.mark.guarantee("G3")
async def test_note_of_an_old_step_stays_while_its_saga_goes_on(opened: Any) -> None:
    """Its own expiry has passed, that of its saga has not: should Redis lose it, that is told."""
    async with opened("hot") as shop:
        await saved(shop, "executing", "executing")
        shop.clock.advance(20 * DAY)
        await saved(shop, "completed", first=20 * 24 * 60)
        await shop.storage._notes.flush()
        shop.clock.advance(20 * DAY)
        await shop.run("expire")
        assert len(await shop.storage.list_snapshots(SAGA)) == 3
        assert len(await shop.runtime.catalog.hot_saves.page(UUID(int=0), 9)) == 3


@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_sagas_of_an_earlier_version_are_known_before_and_after_they_are_filled_in(
    opened: Any, durability: str
) -> None:
    """Without its row a saga is looked up in what there is of it; the jobs fill the rows in, in steps."""
    async with opened(durability) as shop:
        await saved(shop, "executing", "failed")
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        await saved(shop, "executing", "completed", saga_id=OTHER_SAGA, first=5)
        if durability == "hot":
            await shop.storage.note_hot_saves()
            shop.clock.advance(timedelta(seconds=3))
            await shop.storage.note_hot_saves()
        told = [await expiries(shop, saga_id) for saga_id in (SAGA, OTHER_SAGA)]
        ends = await shop.runtime.catalog.sagas.ends([SAGA, OTHER_SAGA])
        before = await saga_rows(shop)
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.sagas")
        await shop.runtime.db.execute("UPDATE sagaz_tiering.sagas_filled SET up_to = $1", UUID(int=0))
        assert await shop.runtime.catalog.sagas.ends([SAGA, OTHER_SAGA]) == ends
        assert [await expiries(shop, saga_id) for saga_id in (SAGA, OTHER_SAGA)] == told
        while not await shop.runtime.catalog.sagas.fill():
            assert [await expiries(shop, saga_id) for saga_id in (SAGA, OTHER_SAGA)] == told
        assert await saga_rows(shop) == before
        assert [await expiries(shop, saga_id) for saga_id in (SAGA, OTHER_SAGA)] == told


@pytest.mark.parametrize("durability", ["durable", "hot"])
async def test_save_of_a_saga_that_is_not_filled_in_yet_leaves_it_where_it_began(opened: Any, durability: str) -> None:
    """Its row is the first that there is of the saga, and tells the whole of it."""
    async with opened(durability) as shop:

        async def row() -> Any:
            shop.clock.advance(timedelta(seconds=3))
            await shop.storage.note_hot_saves()
            return await shop.runtime.db.fetchrow("SELECT * FROM sagaz_tiering.sagas WHERE saga_id = $1", SAGA)

        await saved(shop, "executing", "executing")
        before = await row()
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.sagas")
        await shop.runtime.db.execute("UPDATE sagaz_tiering.sagas_filled SET up_to = $1", UUID(int=0))
        [end] = await saved(shop, "completed", first=2)
        after = await row()
        assert (after["place"], after["name_id"]) == (before["place"], before["name_id"])
        assert (after["end_id"], after["status"]) == (end.snapshot_id, "completed")


async def test_running_saga_keeps_no_more_hot_than_it_may(opened: Any) -> None:
    """A saga that never ends: its older part moves after `running_at_most`, and all answers are as before."""
    async with opened(running_at_most="10d") as shop:
        snapshots = []
        for day in range(30):
            snapshots.append(make(day, created_at=shop.clock.now()))
            await shop.storage.save_snapshot(snapshots[-1])
            shop.clock.advance(DAY)
            await shop.run("age")
        assert await shop.hot_count() <= 12
        assert await shop.storage.get_latest_snapshot(SAGA) == snapshots[-1]
        for at in (0, 11, 29):
            assert await shop.storage.get_snapshot_at_time(SAGA, snapshots[at].created_at) == snapshots[at]
        assert await expiries(shop) == {snapshots[-1].created_at + MONTH}
        assert snapshots[0].created_at > BEGUN


async def test_packing_and_a_save_of_the_same_saga_do_not_wait_for_each_other(opened: Any) -> None:
    """A save has the snapshot's row and comes for its saga's; whoever publishes a pack locks them in the same order."""
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with opened() as shop:
        [snapshot] = await saved(shop, "completed")
        await shop.run("age")  # which looks at all rows once, under new policies
        shop.clock.advance(9 * DAY)
        async with shop.runtime.db.transaction() as conn:
            await conn.execute("SELECT 1 FROM sagaz_tiering.saga_snapshots FOR UPDATE")
            ageing = asyncio.create_task(shop.run("age"))
            async with asyncio.timeout(120):
                for _ in count():
                    if ageing.done() or await shop.runtime.db.fetchval(waits):
                        break
                    await asyncio.sleep(0.02)
            await conn.execute("UPDATE sagaz_tiering.sagas SET status = status WHERE saga_id = $1", snapshot.saga_id)
        assert (await ageing).counts["archived"] == 1


# --- real sagas ---------------------------------------------------------------------------------------------------


async def ran(shop: Product, strategy: SnapshotStrategy, end: str) -> UUID:
    """A saga of sagaz that ends so, captured by a strategy."""
    running = ExecutedSaga(name="payment-capture", retry_backoff_base=0.0)

    def action(fails: bool) -> Any:
        async def act(_context: Any) -> dict[str, Any]:
            shop.clock.advance(timedelta(minutes=1))
            if fails:
                raise RuntimeError("declined")
            return {"done": True}

        return act

    async def undo(_result: Any, _context: Any) -> None:
        if end == "failed":
            raise RuntimeError("cannot be undone")

    for name, fails in (("reserve", False), ("charge", False), ("ship", end != "completed")):
        await running.add_step(name, action(fails), undo, max_retries=0)
    capture(running, shop.storage, ReplayConfig(enable_snapshots=True, snapshot_strategy=strategy), clock=shop.clock)
    result = await running.execute()
    assert result.status.value == end
    return saga_uuid(running.saga_id)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("strategy", list(SnapshotStrategy))
@pytest.mark.parametrize(("end", "kept"), [("failed", YEARS), ("rolled_back", YEARS), ("completed", MONTH)])
async def test_captured_sagas_are_kept_as_they_end_under_each_strategy(
    opened: Any, strategy: SnapshotStrategy, end: str, kept: timedelta
) -> None:
    """All snapshots of a saga of the engine that fails are kept for seven years, of one that completes for 30 days."""
    async with opened(now=datetime.now(UTC)) as shop:  # by which the engine stamps `retention_until`
        saga_id = await ran(shop, strategy, end)
        refs = await shop.storage.timeline(saga_id)
        assert refs[-1].status == end
        assert await expiries(shop, saga_id) == {refs[-1].created_at + kept}
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        assert {ref.tier for ref in await shop.storage.timeline(saga_id)} == {Tier.COLD}
        shop.clock.advance(refs[-1].created_at + kept - shop.clock.now() - timedelta(microseconds=1))
        await shop.run("expire")
        assert len(await shop.storage.list_snapshots(saga_id)) == len(refs)
        shop.clock.advance(timedelta(microseconds=1))
        await shop.run("expire")
        query = "SELECT count(*) FROM sagaz_tiering.snapshots"
        assert await shop.runtime.db.fetchval(query) == 0, "unseen, but not gone"


async def frames_of(shop: Product, saga_id: UUID) -> list[int]:
    """The lengths in bytes of a saga's frames."""
    query = "SELECT byte_length FROM sagaz_tiering.frames WHERE saga_id = $1"
    return [row["byte_length"] for row in await shop.runtime.db.fetch(query, saga_id)]


def asked_of(shop: Product, patch: pytest.MonkeyPatch) -> list[str]:
    """What the object store is asked from now on."""
    asked: list[str] = []

    def listening(name: str, real: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            asked.append(name)
            return real(*args, **more)

        return call

    for name in ("get", "get_range", "get_tagged", "head", "list", "put"):
        patch.setattr(shop.runtime.objects, name, listening(name, getattr(shop.runtime.objects, name)))
    return asked


@pytest.mark.parametrize(("clock", "frames"), [("saga_end", 1), ("created_at", 10)])
async def test_saga_of_ten_days_is_one_frame(
    opened: Any, clock: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step a day and `after: 7d`: all of it moves at once, is one GET, and as small as a saga of ten minutes."""
    async with opened(clock=clock, linger="0s") as shop:
        steps = [*saga(1), *saga(2)]

        async def save(at: int, saga_id: UUID, ids: int, created_at: datetime) -> None:
            changes = {"snapshot_id": number(ids + at), "saga_id": saga_id, "created_at": created_at}
            await shop.storage.save_snapshot(replace(steps[at], **changes))

        for at in range(10):
            await save(at, SAGA, 0, shop.clock.now())
            shop.clock.advance(DAY)
            await shop.run("age")
        for at in range(10):
            await save(at, OTHER_SAGA, 100, shop.clock.now() + timedelta(minutes=at))
        for _ in range(9):
            shop.clock.advance(DAY)
            await shop.run("age")
        long, short = await frames_of(shop, SAGA), await frames_of(shop, OTHER_SAGA)
        assert len(long) == frames
        asked = asked_of(shop, monkeypatch)
        assert len(await shop.storage.list_snapshots(SAGA)) == 10
        assert asked == ["get_range"] * frames
        if frames == 1:
            assert sum(long) <= 1.1 * sum(short)
