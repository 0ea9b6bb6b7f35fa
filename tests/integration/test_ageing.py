"""How `age` works through a backlog: whole sagas in one trip, several things at once, and nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs
from support.payload import saga, snapshots
from support.stores import until
from support.tiers import DAY, NOW, Places, Product, adjust, config, product

from sagaz_tiering.clock import from_micros
from sagaz_tiering.codec.value import encode, read_meta, to_value
from sagaz_tiering.costs.economics import bucket_of
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.hot.queue import GATHERED
from sagaz_tiering.jobs import run_job
from sagaz_tiering.jobs.age.publish import MAX_UPLOADS
from sagaz_tiering.snapshot import SagaSnapshot

SMALL_PACK = 8 * 1024


def settings(places: Places, **sections: Any) -> Any:
    """A configuration whose packs are soon full."""
    return config(**places, pack={"target": SMALL_PACK, "max_frame": SMALL_PACK}, **sections)


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    """Empty."""
    async with product(settings(places)) as opened:
        yield opened


@pytest.fixture
async def roomy(places: Places) -> AsyncIterator[Product]:
    """Empty, with packs and frames of the usual size."""
    async with product(config(**places)) as opened:
        yield opened


async def save(shop: Product, saved: list[SagaSnapshot]) -> None:
    """All of them, and two weeks pass."""
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(14 * DAY)


async def check_archived(shop: Product, saved: list[SagaSnapshot]) -> None:
    """All are readable and equal, Redis has none, and the catalog counts each once."""
    for snapshot in saved:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
    assert await shop.hot_count() == 0
    totals = await shop.runtime.catalog.packs.totals()
    assert sum(total.snapshots for total in totals) == len(saved)


def long_saga(count: int) -> list[SagaSnapshot]:
    """A saga of so many snapshots."""
    model = saga(1, begun=NOW)[0]
    return [
        replace(model, snapshot_id=uuid4(), step_index=at, created_at=NOW + timedelta(seconds=at))
        for at in range(count)
    ]


class Watched:
    """A method of a part that is called as ever, with every call noted."""

    def __init__(self, patch: pytest.MonkeyPatch, part: object, name: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.results: list[Any] = []
        self._real = getattr(part, name)
        patch.setattr(part, name, self)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(args)
        self.results.append(await self._real(*args, **kwargs))
        return self.results[-1]


async def test_ordinary_sagas_are_read_in_one_trip(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of hundreds of sagas come together; nothing asks for one of them."""
    saved = list(snapshots(40, created_at=NOW))
    await save(shop, saved)
    hot = shop.runtime.hot
    gather, fetch = Watched(monkeypatch, hot.queue, "gather"), Watched(monkeypatch, hot, "fetch")
    report = await shop.run("age")
    assert report.counts["evicted"] == len(saved)
    assert sum(len(sagas) for (sagas,) in gather.calls) == 40
    assert None not in [found for results in gather.results for found in results]
    assert fetch.calls == []
    await check_archived(shop, saved)


async def test_large_saga_is_read_page_by_page(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has more snapshots than are gathered at once goes into packs all the same, beside the others."""
    saved = long_saga(GATHERED + 6) + list(snapshots(5, created_at=NOW, start=500))
    await save(shop, saved)
    gather = Watched(monkeypatch, shop.runtime.hot.queue, "gather")
    await shop.run("age")
    assert [found for results in gather.results for found in results].count(None) == 1
    await check_archived(shop, saved)


async def test_value_that_is_gone_is_told_and_holds_up_nothing(shop: Product) -> None:
    """An index names a value that Redis does not have: the run ends, the neighbours are packed, a log line says it."""
    saved = list(snapshots(4, created_at=NOW, saga_name="fast-order"))
    await save(shop, saved)
    gone, hot = saved[2], shop.runtime.hot
    async with hot.connection.pool() as client:
        await client.delete(hot.keys.value(gone.saga_id.hex, gone.snapshot_id.hex))
    with capture_logs() as logs:
        report = await asyncio.wait_for(shop.run("age"), 300)
    assert report.counts["archived"] == len(saved) - 1
    assert [log["snapshot_id"] for log in logs if log["event"] == "snapshot.lost"] == [str(gone.snapshot_id)]


async def test_next_pack_is_filled_while_one_is_uploaded(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first upload is held up until frames of a second pack have been built: reading and building go on."""
    saved = list(snapshots(60, created_at=NOW))
    await save(shop, saved)
    context = shop.runtime.job_context()
    adjust(context, jobs__batch_sagas=2, tiers__cold__pack__target=4 * SMALL_PACK, tiers__cold__pack__max_frame=2**20)
    enough_for_one = 6  # nine sagas fill a pack, two come at a time, and the next two are on their way
    put, gather = context.objects.put, Watched(monkeypatch, context.hot.queue, "gather")
    uploads: list[str] = []

    async def slow_put(key: str, *args: Any, **kwargs: Any) -> Any:
        if key.endswith(".pack") and not uploads:
            uploads.append(key)
            await until(lambda: len(gather.calls) > enough_for_one + 2, "more sagas are read")
        return await put(key, *args, **kwargs)

    monkeypatch.setattr(context.objects, "put", slow_put)
    report = await run_job("age", context)
    assert report.counts["packs"] > 1
    await check_archived(shop, saved)


async def test_small_packs_are_uploaded_several_at_once(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow store is not waited for pack by pack: the first upload is held up until the last of four is under way."""
    saved = list(snapshots(60, created_at=NOW))
    await save(shop, saved)
    put, uploads = shop.runtime.objects.put, list[str]()

    async def slow_put(key: str, *args: Any, **kwargs: Any) -> Any:
        if key.endswith(".pack"):
            uploads.append(key)
            await until(lambda: len(uploads) >= MAX_UPLOADS, "all are under way")
        return await put(key, *args, **kwargs)

    monkeypatch.setattr(shop.runtime.objects, "put", slow_put)
    await shop.run("age")
    assert len(uploads) > MAX_UPLOADS
    await check_archived(shop, saved)


async def test_failed_upload_is_told_and_loses_nothing(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the pack that is published in the background ends the run with that error; the next one works."""
    saved = list(snapshots(30, created_at=NOW))
    await save(shop, saved)
    context = shop.runtime.job_context()

    class Full(Exception):
        """No room."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise Full

    with monkeypatch.context() as patch:
        patch.setattr(context.objects, "put", refuse)
        with pytest.raises(Full):
            await shop.run("age")
    for snapshot in saved[::7]:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
    await shop.run("age")
    await check_archived(shop, saved)


async def test_two_runs_that_packed_the_same_keep_one_place(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was paused past its claims finds its snapshots in another run's pack, and leaves them there."""
    saved = list(snapshots(6, created_at=NOW))
    short = settings(places, jobs={"claim_ttl": "50ms"})
    async with product(short) as slow, product(short, schema=False) as quick:
        await save(slow, saved)
        quick.clock.advance(14 * DAY)
        put = slow.runtime.objects.put

        async def paused_put(key: str, *args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(slow.runtime.objects, "put", put)
            await asyncio.sleep(0.1)  # our claims run out in Redis
            for shopper in (slow, quick):
                shopper.clock.advance(timedelta(seconds=1))
            report = await quick.run("age")
            assert report.counts["evicted"] == len(saved)
            return await put(key, *args, **kwargs)

        monkeypatch.setattr(slow.runtime.objects, "put", paused_put)
        await slow.run("age")
        await check_archived(quick, saved)
        assert await quick.runtime.catalog.packs.unevicted(0, 10) == []


async def test_claimed_saga_is_out_of_the_way_and_comes_back(shop: Product) -> None:
    """A second claim gets other sagas; what nobody settles is due again when the claim has run out, not before."""
    await save(shop, list(snapshots(40, created_at=NOW)))
    hot, ttl = shop.runtime.hot, timedelta(milliseconds=40)
    now_us = shop.runtime.job_context().now_us

    async def claim(at_us: int) -> list[UUID]:
        found = []
        for shard in "0123456789abcdef":
            claimed, _ = await hot.queue.claim(
                shard=shard, expiring=False, now_us=at_us, count=100, ttl=ttl, token="one"
            )
            found += [each.saga_id for each in claimed]
        return found

    first = await claim(now_us)
    assert len(set(first)) == 40
    assert await claim(now_us) == []
    await asyncio.sleep(0.06)
    assert await claim(now_us) == []
    assert set(await claim(now_us + 41_000)) == set(first)


async def test_evicting_an_old_place_leaves_the_id_in_its_new_saga(shop: Product) -> None:
    """A save that moved an id to another saga keeps its pointer when a job removes what the old saga had."""
    hot, before = shop.runtime.hot, saga(1, begun=NOW)[0]
    after = replace(before, saga_id=uuid4())
    for at, snapshot in enumerate((before, after)):
        record = encode(snapshot, saved_us=1000 + at)
        await hot.save(record.meta, to_value(record, level=1), due_us=None, expires_us=None)
    await hot.queue.evict_claimed([encode(before, saved_us=1000).meta], {})
    assert isinstance(await hot.get(after.snapshot_id), bytes)


async def test_expired_snapshot_that_is_due_is_left_to_expire(shop: Product) -> None:
    """Past its retention and past its move at once: `age` neither packs it nor looks at it again and again."""
    ends = NOW + 10 * DAY
    saved = list(snapshots(60, created_at=NOW, retention_until=ends, saga_name="fast-order"))
    await save(shop, saved)
    context = shop.runtime.job_context()
    adjust(context, jobs__batch_sagas=1)
    report = await asyncio.wait_for(run_job("age", context), 300)
    assert "archived" not in report.counts
    assert report.counts["sagas"] == 60
    context.allow_mass_delete = True
    assert (await shop.run("expire")).counts["hot"] == len(saved)


async def test_new_steps_of_packs_that_are_published_at_once_are_made_in_one_order(shop: Product) -> None:
    """Each process names them in an order of its own; PostgreSQL would end one of two that wait crosswise."""
    add_steps, db = load("sagaz_tiering.catalog", "frame_index")["add_steps"], shop.runtime.db
    for number in range(20):
        steps = [(sha256(b"%d/%d" % (number, at)).digest(), "saga", f"{number}/{at}", at, "done") for at in range(500)]
        orders = [steps, steps[::-1], sorted(steps), sorted(steps, reverse=True)]
        await asyncio.gather(*(db.execute(add_steps, *map(list, zip(*order, strict=True))) for order in orders))
    assert await db.fetchval("SELECT count(*) FROM sagaz_tiering.steps") == 20 * 500


@pytest.mark.guarantee("G1", "G2")
async def test_snapshot_that_moves_to_another_saga_while_it_waits_in_a_pack_stops_nothing(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new saga is claimed by the same run, for the same pack: the run ends, the new version is what is read."""
    begun, other = long_saga(3), uuid4()
    await save(shop, begun)
    moved = replace(begun[1], saga_id=other, context={"moved": True})
    real = shop.runtime.hot.queue.gather

    async def gather(saga_ids: Any) -> Any:
        found = await real(saga_ids)
        if begun[0].saga_id in saga_ids:
            await shop.storage.save_snapshot(moved)
        return found

    monkeypatch.setattr(shop.runtime.hot.queue, "gather", gather)
    report = await shop.run("age")
    assert report.counts["packs"] in (1, 2)  # by whether the run asks what is due once more
    monkeypatch.undo()
    await shop.run("age")
    await check_archived(shop, [begun[0], moved, begun[2]])
    assert await shop.storage.list_snapshots(begun[0].saga_id) == [begun[2], begun[0]]
    assert await shop.storage.list_snapshots(other) == [moved]


def days_long(count: int, saga_id: UUID, status: str = "executing") -> list[SagaSnapshot]:
    """A saga with a step a day, the last of which has this status."""
    model = saga(1, begun=NOW)[0]
    ended = [status if at == count - 1 else "executing" for at in range(count)]
    return [
        replace(
            model,
            snapshot_id=uuid4(),
            saga_id=saga_id,
            saga_name="fast-order",
            step_index=at,
            status=ended[at],
            created_at=NOW + at * DAY,
        )
        for at in range(count)
    ]


async def frame_sizes(shop: Product, saga_id: UUID) -> list[int]:
    """How many snapshots of a saga each of its frames has, in the packs that are read."""
    query = """SELECT count(*) AS snapshots FROM sagaz_tiering.frames f JOIN sagaz_tiering.snapshots s
                 USING (pack_id, frame_no) WHERE f.saga_id = $1 GROUP BY pack_id, frame_no"""
    return sorted(row["snapshots"] for row in await shop.runtime.db.fetch(query, saga_id))


async def due_at(shop: Product, saga_id: UUID) -> datetime | None:
    """When the queue of Redis has a saga next."""
    hot = shop.runtime.hot
    async with hot.connection.pool() as client:
        score = await client.zscore(hot.queue.due_index(saga_id.hex[0], expiring=False), saga_id.hex)
    return None if score is None else from_micros(int(score))


@pytest.mark.parametrize("status", ["completed", "executing"])
async def test_saga_of_many_days_goes_whole_and_is_looked_at_again_by_its_end(roomy: Product, status: str) -> None:
    """A look before it is due notes the end's time; what was due by itself waits for the others, for one frame."""
    saved = days_long(10, uuid4(), status)
    for snapshot in saved:
        roomy.clock.advance(max(snapshot.created_at - roomy.clock.now(), timedelta(0)))
        await roomy.storage.save_snapshot(snapshot)
        await roomy.run("age")
    assert await roomy.hot_count() == 10
    roomy.clock.advance(5 * DAY)
    await roomy.run("age")
    assert await due_at(roomy, saved[0].saga_id) == saved[-1].created_at + 7 * DAY
    roomy.clock.advance(2 * DAY)
    await roomy.run("age")
    assert await roomy.hot_count() == 10, "it waits for company"
    roomy.clock.advance(DAY)
    await roomy.run("age")
    assert await frame_sizes(roomy, saved[0].saga_id) == [10]
    await check_archived(roomy, saved)


async def test_running_saga_is_looked_at_again_when_its_first_step_has_been_hot_for_long_enough(places: Places) -> None:
    """`running_at_most` of the oldest step comes before the end's time while steps go on."""
    rule = {"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "running_at_most": "8d"}
    async with product(config(**places, policies=[rule])) as shop:
        saved = days_long(5, uuid4())
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(7 * DAY)
        await shop.run("age")
        assert await due_at(shop, saved[0].saga_id) == NOW + 8 * DAY
        assert await shop.hot_count() == 5


@pytest.mark.guarantee("G1", "G2")
@pytest.mark.parametrize("status", ["executing", "completed"])
async def test_saga_that_goes_on_while_it_is_packed_keeps_its_newer_part_hot(
    roomy: Product, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """The pack has the older part, all of it is read, and the catalog knows that its dates are to be decided anew."""
    saved = days_long(3, uuid4(), "completed")
    await save(roomy, saved)
    roomy.clock.advance(2 * DAY)
    late = replace(saved[-1], snapshot_id=uuid4(), step_index=9, status=status, created_at=roomy.clock.now())
    put = roomy.runtime.objects.put

    async def slow_put(key: str, *args: Any, **kwargs: Any) -> Any:
        if key.endswith(".pack"):
            await roomy.storage.save_snapshot(late)
        return await put(key, *args, **kwargs)

    monkeypatch.setattr(roomy.runtime.objects, "put", slow_put)
    assert (await roomy.run("age")).counts["archived"] == 3
    monkeypatch.undo()
    await roomy.storage.note_hot_saves()
    roomy.clock.advance(timedelta(seconds=3))
    await roomy.storage.note_hot_saves()
    assert await roomy.hot_count() == 1
    assert await roomy.storage.list_snapshots(late.saga_id) == [late, *reversed(saved)]
    assert await roomy.storage.get_latest_snapshot(late.saga_id) == late
    assert [*await roomy.runtime.catalog.sagas.changed(UUID(int=0), 10)] == [late.saga_id]
    await roomy.run("age")  # looks at once: the saga was not as it had been seen
    assert await roomy.hot_count() == 1
    assert await due_at(roomy, late.saga_id) == late.created_at + 7 * DAY


async def test_what_snapshots_say_of_their_retention_does_not_tear_their_saga(roomy: Product) -> None:
    """Each has a date of its own in another month: one frame, in the pack of the last one."""
    saved = [
        replace(each, retention_until=NOW + (100 + 30 * at) * DAY) for at, each in enumerate(days_long(6, uuid4()))
    ]
    await save(roomy, saved)
    roomy.clock.advance(DAY)
    await roomy.run("age")
    assert await frame_sizes(roomy, saved[0].saga_id) == [6]
    [key] = await roomy.object_keys()
    assert bucket_of(key) == f"{saved[-1].retention_until:%Y-%m}"


async def forgotten_by_redis(shop: Product, snapshots: list[SagaSnapshot]) -> None:
    """Redis does not have these any more, without being known to have lost anything."""
    hot = shop.runtime.hot
    for snapshot in snapshots:
        value = await hot.get(snapshot.snapshot_id)
        assert isinstance(value, bytes)
        await hot.queue.evict_claimed([read_meta(value)], {})
    for snapshot in snapshots:
        assert await hot.get(snapshot.snapshot_id) is None


async def due_rows(shop: Product, saga_id: UUID) -> set[datetime | None]:
    """When the durable rows of a saga are looked at next."""
    query = "SELECT due_at FROM sagaz_tiering.saga_snapshots WHERE saga_id = $1"
    return {row["due_at"] for row in await shop.runtime.db.fetch(query, saga_id)}


def ordinary(snapshots: list[SagaSnapshot]) -> list[SagaSnapshot]:
    """The same of a saga that is kept in PostgreSQL too."""
    return [replace(each, saga_name="order") for each in snapshots]


async def test_durable_rows_go_as_a_saga_whatever_each_save_noted(places: Places) -> None:
    """The rule that ruled the steps when they were saved moves nothing, the one of the end does: one frame of all."""
    move = [{"to": "STANDARD_IA", "after": "7d"}]
    rules = [{"name": "failed", "match": {"outcome": "failed"}, "move": move}, {"name": "rest", "match": {}}]
    async with product(config(**places, policies=rules)) as shop:
        await shop.run("age")  # the policies are in force
        saved = ordinary(days_long(6, uuid4(), "failed"))
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        assert await due_rows(shop, saved[0].saga_id) == {None, saved[-1].created_at + 7 * DAY}
        await forgotten_by_redis(shop, saved)
        shop.clock.advance(14 * DAY)
        assert (await shop.run("age")).counts["archived"] == 6
        assert await frame_sizes(shop, saved[0].saga_id) == [6]
        await check_archived(shop, saved)
        assert await due_rows(shop, saved[0].saga_id) == set()


async def test_durable_rows_of_a_saga_that_is_not_due_wait_for_its_end(roomy: Product) -> None:
    """One look postpones all of them, those too that were not due by themselves."""
    await roomy.run("age")  # the policies are in force
    saved = ordinary(days_long(6, uuid4(), "completed"))
    for snapshot in saved:
        await roomy.storage.save_snapshot(snapshot)
    await forgotten_by_redis(roomy, saved)
    roomy.clock.advance(8 * DAY)
    assert not (await roomy.run("age")).counts.get("archived")
    assert await due_rows(roomy, saved[0].saga_id) == {saved[-1].created_at + 7 * DAY}
    roomy.clock.advance(6 * DAY)
    await roomy.run("age")
    assert await frame_sizes(roomy, saved[0].saga_id) == [6]
    await check_archived(roomy, saved)


@pytest.mark.guarantee("G1", "G2")
@pytest.mark.parametrize("only", ["redis", "postgresql"])
async def test_end_that_only_one_of_both_has_counts_for_the_rest(places: Places, only: str) -> None:
    """Nothing moves before the time of the end, which the other one does not know; then all of it does."""
    async with product(config(**places, jobs={"claim_ttl": "50ms"})) as shop:
        await shop.run("age")  # the policies are in force
        saved = ordinary(days_long(6, uuid4(), "completed"))
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        if only == "redis":
            await forgotten_by_redis(shop, saved[:-1])
            query = "DELETE FROM sagaz_tiering.saga_snapshots WHERE snapshot_id = $1"
            await shop.runtime.db.execute(query, saved[-1].snapshot_id)
        else:
            await forgotten_by_redis(shop, saved[-1:])
        end = saved[-1].created_at
        shop.clock.advance(end + 7 * DAY - timedelta(microseconds=1) - NOW)
        assert not (await shop.run("age")).counts.get("archived")
        assert end + 7 * DAY in {*await due_rows(shop, saved[0].saga_id), await due_at(shop, saved[0].saga_id)}
        for _ in range(3):  # what one run has of it in a pack that is open yet, another one completes
            shop.clock.advance(2 * DAY)
            await shop.run("age")
        await check_archived(shop, saved)
