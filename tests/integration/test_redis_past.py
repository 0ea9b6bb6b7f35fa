"""A Redis that went back to an older state, was emptied or replaced: right answers at once, and nothing comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.payload import saga
from support.processes import redis_do
from support.tiers import DAY, NOW, Places, Product, config, product

from sagaz_tiering.clock import to_micros
from sagaz_tiering.embedded import RedisServer
from sagaz_tiering.errors import HotTierUnavailable, SnapshotLost
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.jobs import run_job
from sagaz_tiering.snapshot import SagaSnapshot

pytestmark = [pytest.mark.guarantee("G1"), pytest.mark.guarantee("G2")]
DURABLE, HOT = "payment-order", "fast-order"
SECOND = timedelta(seconds=1)


@pytest.fixture
async def server(own_redis: Any) -> RedisServer:
    """What loses its past."""
    return await own_redis()


@pytest.fixture
def places(places: Places, server: RedisServer) -> Places:
    return {**places, "redis_url": server.url}


def opened(places: Places, **sections: Any) -> AbstractAsyncContextManager[Product]:
    return product(config(**places, dictionaries={"enabled": False}, **sections))


async def saved(shop: Product, snapshots: Sequence[SagaSnapshot]) -> None:
    """One after the other."""
    for snapshot in snapshots:
        shop.clock.advance(SECOND)
        await shop.storage.save_snapshot(snapshot)


async def rolled_back(server: RedisServer) -> None:
    """It dies, and begins anew with what it wrote last."""
    server.kill()
    await server.start()


async def killed(server: RedisServer) -> None:
    """It dies, and stays away."""
    server.kill()


async def emptied(server: RedisServer) -> None:
    """Somebody cleared it."""
    await redis_do(server.url, "FLUSHALL")


async def replaced(server: RedisServer) -> None:
    """Another server, with nothing in it, takes its place."""
    server.kill()
    (server.data_dir / "redis" / "dump.rdb").unlink(missing_ok=True)
    await server.start()


async def kept(server: RedisServer) -> None:
    """It ends in order, and begins anew with all it had."""
    await redis_do(server.url, "SAVE")
    await server.stop()
    await server.start()


async def told(shop: Product) -> None:
    """The catalog knows what Redis alone has; half a second later it would by itself."""
    await shop.storage._notes.flush()


class Past:
    """A shop in which things happened before and after Redis wrote its file."""

    def __init__(self) -> None:
        self.goes_on = saga(1, begun=NOW, saga_name=DURABLE)
        self.changed = saga(2, begun=NOW, saga_name=DURABLE)
        self.again = replace(self.changed[1], context={"version": 2})
        self.forgotten = saga(3, begun=NOW, saga_name=DURABLE)
        self.packed = saga(4, begun=NOW - 30 * DAY, saga_name=DURABLE)

    async def happen(self, shop: Product, server: RedisServer) -> None:
        """Acknowledged, all of it."""
        await saved(shop, (*self.goes_on[:2], *self.changed[:3], *self.forgotten[:2], *self.packed[:2]))
        await redis_do(server.url, "SAVE")
        await saved(shop, (*self.goes_on[2:4], self.again, replace(self.packed[1], context={"version": 2})))
        shop.clock.advance(SECOND)
        assert await shop.storage.delete_snapshot(self.changed[2].snapshot_id)
        await shop.storage.forget(self.forgotten[0].saga_id)
        assert (await shop.run("age")).counts["archived"] == 2

    async def is_right(self, shop: Product) -> None:
        """Every query, as if Redis had never gone back."""
        storage, one, two, three = shop.storage, self.goes_on, self.changed, self.forgotten
        assert await storage.get_latest_snapshot(one[0].saga_id) == one[3]
        assert await storage.get_snapshot_at_time(one[0].saga_id, one[2].created_at) == one[2]
        assert await storage.get_latest_snapshot(one[0].saga_id, before_step=one[1].step_name) == one[1]
        assert await storage.list_snapshots(one[0].saga_id, limit=1) == [one[3]]
        assert await storage.list_snapshots(one[0].saga_id) == one[3::-1]
        assert len(await storage.timeline(one[0].saga_id)) == 4
        for snapshot in (*one[:4], two[0], self.again):
            assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot
        assert await storage.get_latest_snapshot(two[0].saga_id) == self.again
        assert await storage.list_snapshots(two[0].saga_id, limit=1) == [self.again]
        assert await storage.list_snapshots(two[0].saga_id) == [self.again, two[0]]
        assert [each async for each in storage.iter_snapshots(two[0].saga_id)] == [two[0], self.again]
        assert await storage.get_snapshot(two[2].snapshot_id) is None
        assert await storage.get_latest_snapshot(three[0].saga_id) is None
        assert await storage.list_snapshots(three[0].saga_id) == []
        assert await storage.get_snapshot(three[0].snapshot_id) is None
        packed = replace(self.packed[1], context={"version": 2})
        assert await storage.get_snapshot(packed.snapshot_id) == packed
        assert await storage.list_snapshots(packed.saga_id) == [packed, self.packed[0]]


@pytest.mark.parametrize("lose", [rolled_back, emptied, replaced, kept])
async def test_redis_that_lost_its_past_changes_no_answer(
    server: RedisServer, places: Places, lose: Callable[[RedisServer], Any]
) -> None:
    """In the process that was there, in a new one, after `reconcile`, and after all of it was packed.

    What lost nothing as far as it tells is a warning, else it is an error.
    """
    past = Past()
    async with opened(places) as shop:
        await past.happen(shop, server)
        await past.is_right(shop)
        assert (await shop.runtime.catalog.hot_tier.state()).trusted
        with capture_logs() as logs:
            await lose(server)
            await past.is_right(shop)
        [change] = [line for line in logs if line["event"] == "hot_tier.changed"]
        assert change["log_level"] == ("warning" if lose is kept else "error")
        state = await shop.runtime.catalog.hot_tier.state()
        assert not state.trusted
        assert state.changes == 2
        async with opened(places) as other:
            other.clock.advance(shop.clock.now() - NOW)
            await past.is_right(other)

        counts = (await shop.run("reconcile")).counts
        state = await shop.runtime.catalog.hot_tier.state()
        assert state.trusted
        assert state.changes == 2
        if lose is rolled_back:
            assert (counts["put_back"], counts["forgotten"], counts["deleted"]) == (3, 2, 1)
            assert counts["left_to_packs"] == 2
        elif lose is not kept:
            assert counts["put_back"] == 6
        else:
            assert not any(counts.values())
        await past.is_right(shop)
        assert await shop.hot_count() == 6
        assert (await shop.run("reconcile")).counts == {}

        shop.clock.advance(9 * DAY)
        assert (await shop.run("age")).counts["archived"] == 6
        assert await shop.hot_count() == 0
        await past.is_right(shop)


async def lost(asked: Awaitable[object]) -> bool:
    """Whether a read says that its answer is lost."""
    try:
        await asked
    except SnapshotLost:
        return True
    return False


async def names_what_is_lost(shop: Product, one: Sequence[SagaSnapshot], kept: int) -> None:
    """The first `kept` of a saga are there: what cannot be answered raises, and is never an older state or None."""
    storage, saga_id = shop.storage, one[0].saga_id
    for number, snapshot in enumerate(one):
        if number < kept:
            assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot
            assert await storage.get_snapshot_at_time(saga_id, snapshot.created_at) == snapshot
            assert await storage.get_latest_snapshot(saga_id, before_step=snapshot.step_name) == snapshot
        else:
            assert await lost(storage.get_snapshot(snapshot.snapshot_id))
            assert await lost(storage.get_snapshot_at_time(saga_id, snapshot.created_at))
            assert await lost(storage.get_latest_snapshot(saga_id, before_step=snapshot.step_name))
    assert await lost(storage.get_latest_snapshot(saga_id))
    assert await lost(storage.list_snapshots(saga_id, limit=1))
    with pytest.raises(SnapshotLost) as caught:
        await storage.list_snapshots(saga_id)
    assert list(caught.value.readable) == list(one[:kept])[::-1]


@pytest.mark.parametrize(("lose", "left"), [(rolled_back, 2), (emptied, 0), (replaced, 0)])
async def test_what_redis_alone_had_and_lost_is_counted_and_told(
    server: RedisServer, places: Places, lose: Callable[[RedisServer], Any], left: int
) -> None:
    """At once, in other processes, once Redis is trusted again, and until somebody accepts it; health is degraded."""
    one, gone, other = (saga(number, begun=NOW, saga_name=HOT) for number in (1, 2, 3))
    async with opened(places) as shop:
        await saved(shop, (*one[:2], *gone[:2]))
        await redis_do(server.url, "SAVE")
        await saved(shop, one[2:4])
        shop.clock.advance(SECOND)
        assert await shop.storage.delete_snapshot(gone[1].snapshot_id)
        await lose(server)
        await names_what_is_lost(shop, one[:4], left)
        assert await shop.storage.get_snapshot(gone[1].snapshot_id) is None
        async with opened(places) as elsewhere:
            elsewhere.clock.advance(shop.clock.now() - NOW)
            await names_what_is_lost(elsewhere, one[:4], left)

        number = 4 - left + (left == 0)
        assert (await shop.run("reconcile")).counts["lost"] == number
        await names_what_is_lost(shop, one[:4], left)
        assert await shop.storage.get_snapshot(gone[1].snapshot_id) is None
        state = await shop.runtime.catalog.hot_tier.state()
        assert (state.trusted, state.lost, state.lost_ever) == (True, number, number)
        health = await shop.storage.health_check()
        assert health.status == "degraded"
        assert f"{number} snapshots that Redis alone" in health.details["hot"]["warnings"][0]

        await saved(shop, (*other[:1], one[4]))
        assert await shop.storage.get_latest_snapshot(one[0].saga_id) == one[4]
        assert await shop.storage.get_latest_snapshot(other[0].saga_id) == other[0]
        assert await shop.storage.delete_snapshot(one[3].snapshot_id)
        assert await shop.storage.get_snapshot(one[3].snapshot_id) is None
        await run_job("reconcile", replace(shop.runtime.job_context(), accept_lost=True))
        state = await shop.runtime.catalog.hot_tier.state()
        assert (state.trusted, state.lost, state.lost_ever) == (True, 0, number)
        assert (await shop.storage.health_check()).status == "healthy"
        assert await shop.storage.list_snapshots(one[0].saga_id) == [one[4], *one[:left][::-1]]
        assert await shop.storage.get_snapshot(one[2].snapshot_id) is None


async def test_loss_of_a_save_made_while_its_pack_was_being_filled_is_told(
    server: RedisServer, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pack has the save before it: never the answer, neither at once nor once Redis is trusted again."""
    policies = [{"name": "fast", "durability": "hot", "move": [{"to": "STANDARD_IA", "after": "7d"}]}]
    one = saga(1, begun=NOW, saga_name=HOT)
    async with opened(places, policies=policies) as shop:
        await saved(shop, one)
        shop.clock.advance(8 * DAY)
        newer = replace(one[0], context={"version": 2})
        packs, start = shop.runtime.catalog.packs, shop.runtime.catalog.packs.start

        async def save_meanwhile(*args: Any) -> int:
            await shop.storage.save_snapshot(newer)
            shop.clock.advance(SECOND)
            new, lease, _now = args
            return await start(new, lease, shop.clock.now())

        monkeypatch.setattr(packs, "start", save_meanwhile)
        await shop.run("age")
        assert await shop.storage.get_snapshot(newer.snapshot_id) == newer
        await told(shop)
        await emptied(server)
        for _ in range(2):
            assert await lost(shop.storage.get_snapshot(newer.snapshot_id))
            assert await lost(shop.storage.list_snapshots(newer.saga_id))
            assert await shop.storage.get_latest_snapshot(newer.saga_id) == one[-1]
            assert (await shop.run("reconcile")).counts.get("failed", 0) == 0
        assert (await shop.runtime.catalog.hot_tier.state()).lost == 1


async def test_notes_of_what_redis_alone_has_go_with_it(places: Places) -> None:
    """Packed, deleted, forgotten and expired ones are not Redis' alone any more, and never called lost."""
    policies = [{"name": "fast", "durability": "hot", "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "90d"}]
    packed, deleted, forgotten, late = (saga(number, begun=NOW, saga_name=HOT) for number in range(1, 5))
    async with opened(places, policies=policies) as shop:
        await saved(shop, (*packed, *deleted, *forgotten))
        await told(shop)
        count = "SELECT count(*) FROM sagaz_tiering.hot_saves"
        assert await shop.runtime.db.fetchval(count) == 15
        assert await shop.storage.cleanup_saga(deleted[0].saga_id) == 5
        await shop.storage.forget(forgotten[0].saga_id)
        assert await shop.runtime.db.fetchval(count) == 5
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        assert await shop.runtime.db.fetchval(count) == 0
        await saved(shop, late)
        await told(shop)
        shop.clock.advance(100 * DAY)
        await shop.run("expire")
        assert await shop.runtime.db.fetchval(count) == 0


@pytest.mark.parametrize("adopted", ["", "before it was met", "after it was met"])
async def test_redis_that_was_away_for_longer_than_deletions_are_remembered_is_set_aside(
    server: RedisServer, places: Places, adopted: str
) -> None:
    """What only it has stays readable under another prefix, and nowhere else; what PostgreSQL knows of is there.

    Also where PostgreSQL was put back from a dump too, and the catalog adopted.
    """
    policies = [
        {"name": "fast", "match": {"saga_name": "fast-*"}, "durability": "hot"},
        {"name": "rest", "match": {}, "retain": "forever"},
    ]
    names = (DURABLE, HOT, DURABLE, HOT)
    durable, noted, deleted, late = (saga(at, begun=NOW, saga_name=name) for at, name in enumerate(names))
    async with opened(places, policies=policies) as shop:
        await saved(shop, (*durable[:2], *noted[:2], *deleted[:2]))
        await told(shop)
        await redis_do(server.url, "SAVE")
        assert await shop.storage.cleanup_saga(deleted[0].saga_id) == 2
        shop.clock.advance(100 * DAY)
        await shop.run("collect")
        assert await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.tombstones") == 0
        if adopted == "before it was met":
            await shop.runtime.catalog.hot_tier.doubt_all("adopted", shop.clock.now())
        await rolled_back(server)
        await saved(shop, late[:1])
        if adopted == "after it was met":
            await shop.runtime.catalog.hot_tier.doubt_all("adopted", shop.clock.now())
        counts = (await shop.run("reconcile")).counts
        assert (counts["set_aside"], counts["put_back"], counts.get("lost", 0)) == (4, 2, 0)
        for one in (durable, noted):
            assert await shop.storage.list_snapshots(one[0].saga_id) == one[1::-1]
        assert await shop.storage.list_snapshots(deleted[0].saga_id) == []
        assert await shop.storage.get_latest_snapshot(late[0].saga_id) == late[0]
        (item,) = await shop.runtime.catalog.quarantine.items(10)
        assert item.kind == "hot_tier"
        assert item.item.startswith("sagaz-aside-")
        async with HotTier(shop.runtime.hot.connection.settings.model_copy(update={"key_prefix": item.item})) as aside:
            assert len(await aside.values(deleted[0].saga_id, 10)) == 2


@pytest.mark.parametrize("first", ["believed", "reconciled"])
async def test_redis_from_before_it_was_first_met_brings_nothing_back(
    server: RedisServer, places: Places, first: str
) -> None:
    """A file without a mark of the catalog: what may have been deleted longer ago than is remembered goes aside.

    What is younger than that stays, and what the first reconciliation noted; all of it where no Redis was whole before,
    since the catalog is what is new then.
    """
    policies = [{"name": "fast", "match": {}, "durability": "hot"}]
    old, deleted, young, late = (saga(at, begun=NOW, saga_name=HOT) for at in range(4))
    async with opened(places, policies=policies) as shop:
        await saved(shop, (*old[:2], *deleted[:2]))
        shop.clock.advance(80 * DAY)
        await saved(shop, young[:2])
        await told(shop)
        keys, db = shop.runtime.hot.keys, shop.runtime.db
        await redis_do(server.url, "DEL", keys.incarnation())
        await redis_do(server.url, "SAVE")  # by code that left no mark and noted nothing
        await db.execute("DELETE FROM sagaz_tiering.hot_saves")
        if first == "reconciled":
            await shop.storage.delete_snapshot(young[1].snapshot_id)
        await db.execute("DELETE FROM sagaz_tiering.hot_tier")
        await db.execute("INSERT INTO sagaz_tiering.hot_tier DEFAULT VALUES")
        assert "set_aside" not in (await shop.run("reconcile")).counts
        assert await shop.storage.list_snapshots(old[0].saga_id) == old[1::-1]
        assert await shop.storage.cleanup_saga(deleted[0].saga_id) == 2
        for days, gone in ((1, 0), (91, 2 if first == "believed" else 3)):
            shop.clock.advance(days * DAY)
            await shop.run("collect")
            await rolled_back(server)
            await saved(shop, late[:1])
            assert (await shop.run("reconcile")).counts.get("set_aside", 0) == gone
            assert await shop.storage.list_snapshots(deleted[0].saga_id) == []
            assert await shop.storage.get_latest_snapshot(late[0].saga_id) == late[0]
            assert await shop.storage.list_snapshots(old[0].saga_id) == old[1::-1]
        assert await db.fetchval("SELECT count(*) FROM sagaz_tiering.tombstones") == 0
        (item,) = await shop.runtime.catalog.quarantine.items(10)
        assert "before it was first met" in item.reason
        async with HotTier(shop.runtime.hot.connection.settings.model_copy(update={"key_prefix": item.item})) as aside:
            assert len(await aside.values(deleted[0].saga_id, 10)) == 2


async def test_save_that_redis_took_and_forgot_before_postgresql_had_it(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is emptied in between, and reconciled without that save: the save is there when it is acknowledged."""
    one = saga(1, begun=NOW, saga_name=DURABLE)
    async with opened(places) as shop, opened(places) as other:
        await saved(shop, one[:1])
        durable = shop.runtime.catalog.durable
        real = durable.put

        async def emptied_before(*args: Any, **changes: Any) -> Any:
            await redis_do(places["redis_url"], "FLUSHALL")
            assert (await other.run("reconcile")).counts["put_back"] == 1
            return await real(*args, **changes)

        monkeypatch.setattr(durable, "put", emptied_before)
        await saved(shop, one[1:2])
        assert (await shop.runtime.catalog.hot_tier.state()).trusted
        assert isinstance(await shop.runtime.hot.get(one[1].snapshot_id), bytes)
        assert await other.storage.get_latest_snapshot(one[0].saga_id) == one[1]


async def test_reconciliation_that_ends_halfway_is_begun_again(
    server: RedisServer, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are right meanwhile; Redis is not trusted before all of it is done, whoever does it."""
    past = Past()
    async with opened(places) as shop, opened(places) as other:
        await past.happen(shop, server)
        other.clock.advance(shop.clock.now() - NOW)
        await rolled_back(server)
        looks = await asyncio.gather(*(each.runtime.incarnation.look() for each in (shop, other, shop, other)))
        assert [look.changes for look in looks] == [2] * 4, "one alarm for all"

        async def ends(*_args: Any, **_changes: Any) -> Any:
            raise HotTierUnavailable("cut off")

        hot = shop.runtime.hot
        for part, step in ((hot.queue, "evict_claimed"), (hot, "save")):
            with monkeypatch.context() as patch:
                patch.setattr(part, step, ends)
                with pytest.raises(HotTierUnavailable, match="cut off"):
                    await shop.run("reconcile")
            assert not (await shop.runtime.catalog.hot_tier.state()).trusted
            await past.is_right(other)
        await redis_do(server.url, "FLUSHALL")
        assert (await other.run("reconcile")).counts["put_back"] == 6
        assert (await shop.runtime.catalog.hot_tier.state()).trusted
        await past.is_right(shop)


LOSING: list[dict[str, Any]] = [
    {"name": "fast", "durability": "hot", "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "90d"}
]
SAFE: list[dict[str, Any]] = [{**LOSING[0], "durability": "durable"}]


async def test_redis_that_went_back_to_before_its_reconciliation_brings_nothing_back(
    server: RedisServer, places: Places
) -> None:
    """It wrote its file after it had gone back and before that was put right: it was not whole then."""
    one = saga(1, begun=NOW, saga_name=DURABLE)
    async with opened(places) as shop:
        await saved(shop, one[:2])
        await redis_do(server.url, "SAVE")
        assert await shop.storage.delete_snapshot(one[1].snapshot_id)
        shop.clock.advance(timedelta(hours=1))
        await rolled_back(server)
        assert not (await shop.runtime.incarnation.look()).trusted
        await redis_do(server.url, "SAVE")
        assert (await shop.run("reconcile")).counts["deleted"] == 1
        shop.clock.advance(timedelta(hours=1))
        await rolled_back(server)
        assert (await shop.run("reconcile")).counts["deleted"] == 1
        assert await shop.storage.get_latest_snapshot(one[0].saga_id) == one[0]
        assert await shop.storage.get_snapshot(one[1].snapshot_id) is None


async def test_older_durable_save_of_what_redis_lost_is_no_answer(server: RedisServer, places: Places) -> None:
    """Neither before Redis is trusted again nor after, nor once that older save is in a pack."""
    one = saga(1, begun=NOW, saga_name=HOT)
    newer = replace(one[1], context={"version": 2})
    async with opened(places, policies=SAFE) as shop:
        await saved(shop, one[:2])
    async with opened(places, policies=LOSING) as shop:
        shop.clock.advance(timedelta(hours=1))
        await saved(shop, [newer])
        await told(shop)
        await emptied(server)
        for job in ("reconcile", "age", "age"):
            await names_what_is_lost(shop, [one[0], newer], 1)
            await shop.run(job)
            shop.clock.advance(8 * DAY)


@pytest.mark.parametrize("is_packed", [False, True], ids=["durable", "packed"])
@pytest.mark.parametrize(
    ("lose", "told_as"), [(killed, HotTierUnavailable), (emptied, SnapshotLost), (rolled_back, SnapshotLost)]
)
async def test_save_that_redis_lost_within_a_read_is_not_answered_by_an_older_one(
    server: RedisServer, places: Places, lose: Callable[[RedisServer], Any], told_as: type[Exception], is_packed: bool
) -> None:
    """Redis named it, and has it no more, or cannot be asked, when its value is fetched: nor is it left out."""
    one = saga(1, begun=NOW, saga_name=HOT)
    newer = replace(one[1], context={"version": 2})
    async with opened(places, policies=SAFE) as shop:
        await saved(shop, one[:2])
        await redis_do(server.url, "SAVE")
        if is_packed:
            shop.clock.advance(8 * DAY)
            assert (await shop.run("age")).counts["archived"] == 2
        now = shop.clock.now()
    async with opened(places, policies=LOSING) as shop:
        shop.clock.advance(now - shop.clock.now())
        await saved(shop, [newer])
        reader = shop.storage._reader
        found = await reader.timeline(newer.saga_id)
        assert await reader.load(found) == [newer, one[0]]
        await lose(server)
        for copies in (found[:1], found):
            with pytest.raises(told_as):
                await reader.load(copies)
            with pytest.raises(told_as):
                await shop.storage.get_latest_snapshot(newer.saga_id)


async def test_read_meets_what_is_saved_and_deleted_meanwhile(server: RedisServer, places: Places) -> None:
    """Nothing of it is lost: what was deleted, or is of another saga by now, is left out, a newer save is answered."""
    one = saga(1, begun=NOW, saga_name=HOT)
    async with opened(places, policies=SAFE) as shop:
        await saved(shop, one[:3])
    async with opened(places, policies=LOSING) as shop:
        shop.clock.advance(timedelta(hours=1))
        await saved(shop, [replace(each, context={"version": 2}) for each in one[:3]])
        await told(shop)
        reader = shop.storage._reader
        found = await reader.timeline(one[0].saga_id)
        newest = replace(one[0], context={"version": 3})
        await saved(shop, [newest, replace(one[1], saga_id=saga(2, begun=NOW, saga_name=HOT)[0].saga_id)])
        shop.clock.advance(SECOND)
        assert await shop.storage.delete_snapshot(one[2].snapshot_id)
        assert await reader.load(found) == [newest]
        found = await reader.timeline(one[0].saga_id)
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        assert await reader.load(found) == [newest]


async def test_save_that_redis_lost_within_a_read_before_anybody_knew_leaves_the_one_before(
    server: RedisServer, places: Places
) -> None:
    """Its process died before it had told of it, so that nobody can say that anything is lost."""
    one = saga(1, begun=NOW, saga_name=HOT)
    async with opened(places, policies=SAFE) as shop:
        await saved(shop, one[:1])
    async with opened(places, policies=LOSING) as shop:
        shop.clock.advance(timedelta(hours=1))
        notes, reader = shop.storage._notes, shop.storage._reader
        notes._telling = asyncio.create_task(asyncio.sleep(0))  # so that nothing is told by itself
        assert await shop.storage.list_snapshots(one[0].saga_id) == [
            one[0]
        ]  # over every connection, so all are believed
        await saved(shop, [replace(one[0], context={"version": 2})])
        found = await reader.timeline(one[0].saga_id)
        notes._waiting.clear()
        await emptied(server)
        assert await reader.load(found) == []
        assert await shop.storage.get_latest_snapshot(one[0].saga_id) == one[0]
        assert await shop.storage.list_snapshots(one[0].saga_id) == [one[0]]


async def test_older_durable_save_is_the_answer_once_the_loss_is_accepted(server: RedisServer, places: Places) -> None:
    """To every query alike: what Redis alone had took its place there, and left none."""
    one = saga(1, begun=NOW, saga_name=HOT)
    async with opened(places, policies=SAFE) as shop:
        await saved(shop, one[:2])
    async with opened(places, policies=LOSING) as shop:
        shop.clock.advance(timedelta(hours=1))
        await saved(shop, [replace(one[1], context={"version": 2})])
        await told(shop)
        await emptied(server)
        assert (await shop.run("reconcile")).counts["lost"] == 1
        await run_job("reconcile", replace(shop.runtime.job_context(), accept_lost=True))
        assert (await shop.runtime.catalog.hot_tier.state()).lost == 0
        assert await shop.storage.get_snapshot(one[1].snapshot_id) == one[1]
        assert await shop.storage.get_latest_snapshot(one[0].saga_id) == one[1]
        assert await shop.storage.list_snapshots(one[0].saga_id, limit=1) == [one[1]]
        assert await shop.storage.list_snapshots(one[0].saga_id) == [one[1], one[0]]


async def test_what_is_lost_and_would_have_expired_or_was_saved_anew_is_not_missed(
    server: RedisServer, places: Places
) -> None:
    """Reads answer without it from the instant on, it is not counted as lost any more, and `expire` ends its mark."""
    one = saga(1, begun=NOW, saga_name=HOT)
    async with opened(places, policies=LOSING) as shop:
        await saved(shop, one[:2])
        await told(shop)
        await emptied(server)
        assert (await shop.run("reconcile")).counts["lost"] == 2
    async with opened(places, policies=SAFE) as shop:
        shop.clock.advance(timedelta(hours=1))
        await saved(shop, one[:1])
        assert (await shop.runtime.catalog.hot_tier.state()).lost == 1
        assert await lost(shop.storage.get_snapshot(one[1].snapshot_id))
        shop.clock.advance(100 * DAY)
        assert await shop.storage.list_snapshots(one[0].saga_id) == []
        await shop.run("expire")
        assert (await shop.runtime.catalog.hot_tier.state()).lost == 0
        assert await shop.storage.get_snapshot(one[1].snapshot_id) is None
        assert await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.hot_saves") == 0
        assert await shop.runtime.hot.owners([one[1].snapshot_id]) == {}


async def test_loss_of_a_save_that_was_told_after_the_reconciliation_is_found(
    server: RedisServer, places: Places
) -> None:
    """Its process was cut off from PostgreSQL, or stood still, while Redis lost its past and was reconciled."""
    one = saga(1, begun=NOW, saga_name=HOT)
    async with opened(places, policies=LOSING) as shop, opened(places, policies=LOSING) as other:
        await saved(shop, one[:1])
        await told(shop)
        await saved(shop, one[1:2])
        telling = shop.storage._notes._telling
        assert telling is not None
        telling.cancel()
        other.clock.advance(5 * SECOND)
        await emptied(server)
        assert (await other.run("reconcile")).counts["lost"] == 1
        await told(shop)
        assert not (await other.runtime.catalog.hot_tier.state()).trusted
        await names_what_is_lost(other, one[:2], 0)
        assert (await other.run("reconcile")).counts["lost"] == 1
        await names_what_is_lost(other, one[:2], 0)


@pytest.mark.parametrize("name", [DURABLE, HOT])
async def test_redis_that_went_back_to_before_other_policies_moves_by_those_of_today(
    server: RedisServer, places: Places, name: str
) -> None:
    """When a saga is due was noted by the policies of then; a dry run of `age` knows that too."""
    one = saga(1, begun=NOW, saga_name=name)[:2]
    durability = "hot" if name == HOT else "durable"

    def policies(after: str) -> dict[str, Any]:
        move = [{"to": "STANDARD_IA", "after": after}]
        return {"policies": [{"name": "all", "match": {}, "move": move, "durability": durability, "linger": "0s"}]}

    async with opened(places, **policies("90d")) as shop:
        await shop.run("age")  # whose policies are in force then
        await saved(shop, one)
        await told(shop)
        await redis_do(server.url, "SAVE")
    async with opened(places, **policies("7d")) as shop:
        shop.clock.advance(DAY)
        assert "snapshots" not in (await shop.run("age")).counts
    await rolled_back(server)
    async with opened(places, **policies("7d")) as shop:
        shop.clock.advance(8 * DAY)
        dry, real = await shop.run("age", dry_run=True), await shop.run("age")
        assert dry.counts["snapshots"] == real.counts["snapshots"] == real.counts["archived"] == 2
        assert await shop.hot_count() == 0


async def test_what_waited_for_a_move_before_a_reconciliation_has_waited_since_then_after_it(places: Places) -> None:
    """That a daemon does not keep up must be seen after it, too."""
    async with opened(places) as shop:
        await saved(shop, saga(1, begun=NOW, saga_name=HOT))
        shop.clock.advance(30 * DAY)
        queue = shop.runtime.hot.queue
        before = await queue.oldest_due_us(to_micros(shop.clock.now()))
        await shop.runtime.catalog.hot_tier.doubt("a test", shop.clock.now())
        await shop.run("reconcile")
        assert (await shop.runtime.catalog.hot_tier.state()).trusted
        assert before is not None
        assert await queue.oldest_due_us(to_micros(shop.clock.now())) == before
