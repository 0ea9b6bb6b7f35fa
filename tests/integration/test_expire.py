"""Expire by the batch: few trips for many sagas, and every guarantee kept when it is cut off in the middle."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.snapshots import make, save_all
from support.tiers import DAY, NOW, Places, Product, config, product

from sagaz_tiering.catalog.packs import PackLife
from sagaz_tiering.errors import LeaseLost
from sagaz_tiering.hot.tier import FIRST_HEADERS
from sagaz_tiering.jobs.expire import job as expire
from sagaz_tiering.snapshot import SagaSnapshot

MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
POLICIES: list[dict[str, Any]] = [
    {"name": "sessions", "match": {"saga_name": "session"}, "durability": "hot", "retain": "30d"},
    {"name": "orders", "match": {"saga_name": "order"}, "retain": "30d"},
    {"name": "packed", "match": {"saga_name": "packed"}, "move": MOVE, "retain": "30d"},
    {"name": "apart", "match": {"saga_name": "apart"}, "move": MOVE, "retain": "30d", "clock": "created_at"},
    {"name": "kept", "match": {}},
]
JOBS = {"expire_max_share": 1.0, "claim_ttl": "50ms"}


class Crash(BaseException):
    """Stands for the end of the process at an exact point."""


@pytest.fixture
async def shop(places: Places):
    """A product that keeps most snapshots for 30 days, with packs of a few snapshots."""
    settings = config(**places, pack={"target": "1KiB", "max_frame": "1KiB"}, policies=POLICIES, jobs=JOBS)
    async with product(settings) as opened:
        yield opened


def sagas(count: int, name: str, *, each: int = 3) -> list[SagaSnapshot]:
    """Sagas of one shard of Redis, with random ids otherwise."""
    found = []
    for _ in range(count):
        saga_id = UUID(hex="a" + uuid4().hex[1:])
        found += [make(at, saga_id=saga_id, saga_name=name, snapshot_id=uuid4()) for at in range(each)]
    return found


async def left(shop: Product) -> tuple[int, int]:
    """Snapshots in Redis and durable rows."""
    return await shop.hot_count(), await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.saga_snapshots")


def counting(target: Any, names: tuple[str, ...], patch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of these methods from now on."""
    calls: Counter[str] = Counter()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            return real(*args, **more)

        return call

    for name in names:
        patch.setattr(target, name, counted(name, getattr(target, name)))
    return calls


async def test_many_sagas_expire_in_few_trips(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 sagas in Redis and PostgreSQL: the servers are asked by the batch, not by the saga."""
    await save_all(shop.storage, sagas(300, "order"))
    await shop.run("expire")
    shop.clock.advance(31 * DAY)
    database = counting(shop.runtime.db, ("connection",), monkeypatch)
    pages = counting(shop.runtime.hot, ("headers",), monkeypatch)
    redis = counting(shop.runtime.hot.connection, ("run", "run_many"), monkeypatch)
    assert (await shop.run("expire")).counts == {"hot": 900}
    assert await left(shop) == (0, 0)
    assert pages["headers"] == 0
    assert redis["run"] + redis["run_many"] <= 40
    assert database["connection"] <= 40


async def test_long_saga_expires_as_far_as_it_should(shop: Product) -> None:
    """One that has more snapshots than are looked at together with other sagas: it goes as one, but for their dates."""
    saga_id, count = uuid4(), 2 * FIRST_HEADERS
    old = [make(at, saga_id=saga_id, saga_name="session") for at in range(count)]
    own = [make(count + at, saga_id=saga_id, saga_name="session", retention_until=NOW + 60 * DAY) for at in range(3)]
    await save_all(shop.storage, [*own, *old])
    shop.clock.advance(31 * DAY)
    assert (await shop.run("expire")).counts == {"hot": count}
    assert await shop.storage.list_snapshots(saga_id) == own[::-1]
    shop.clock.advance(30 * DAY)
    assert (await shop.run("expire")).counts == {"hot": 3}


async def test_hold_waits_for_a_batch_that_is_being_removed(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is placed before the batch or after all of it, so that it never covers half of a saga."""
    saved = await save_all(shop.storage, sagas(5, "order"))
    shop.clock.advance(31 * DAY)
    real, placing = shop.runtime.hot.queue.evict_claimed, list[asyncio.Task[Any]]()

    async def evict_while_a_hold_comes(*args: Any) -> Any:
        placing.append(asyncio.create_task(shop.storage.hold(saved[0].saga_id, "case")))
        done, _ = await asyncio.wait(placing, timeout=0.3)
        assert not done
        return await real(*args)

    monkeypatch.setattr(shop.runtime.hot.queue, "evict_claimed", evict_while_a_hold_comes)
    assert (await shop.run("expire")).counts == {"hot": 15}
    await placing[0]
    assert await left(shop) == (0, 0)


async def test_held_saga_of_a_batch_stays_whole(shop: Product) -> None:
    """In Redis and in PostgreSQL, while its neighbours of the same batch go; after the release it goes too."""
    saved = await save_all(shop.storage, sagas(4, "order"))
    shop.clock.advance(31 * DAY)
    held = saved[3].saga_id
    await shop.storage.hold(held, "case")
    assert (await shop.run("expire")).counts == {"hot": 9, "held": 3}
    assert await left(shop) == (3, 3)
    assert len(await shop.storage.list_snapshots(held)) == 3
    await shop.storage.release(held)
    shop.clock.advance(timedelta(hours=2))
    await shop.run("expire")
    assert await left(shop) == (0, 0)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["first_headers", "evict_claimed", "ack"])
async def test_expire_crashing_at_each_step_is_finished_by_the_next_run(
    step: str, after: bool, shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that lives goes, nothing that expired stays."""
    await save_all(shop.storage, sagas(20, "order"))
    kept = await save_all(shop.storage, sagas(20, "other"))
    shop.clock.advance(31 * DAY)
    queue = shop.runtime.hot.queue
    real = getattr(queue, step)

    async def crashing(*args: Any, **more: Any) -> Any:
        if after:
            await real(*args, **more)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(queue, step, crashing)
        with pytest.raises(Crash):
            await shop.run("expire")
    await asyncio.sleep(0.1)  # the crashed run's claims run out
    shop.clock.advance(timedelta(hours=1))
    await shop.run("expire")
    assert await left(shop) == (60, 60)
    for snapshot in kept[::7]:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def test_batch_of_a_lost_lease_removes_nothing(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is asked before anything of the batch goes, in Redis as well as in PostgreSQL."""
    await save_all(shop.storage, sagas(5, "order"))
    shop.clock.advance(31 * DAY)
    real = shop.runtime.hot.queue.first_headers

    async def lose_the_lease(*args: Any) -> Any:
        await shop.runtime.db.execute("UPDATE sagaz_tiering.leases SET expires_at = now() - interval '1 s'")
        return await real(*args)

    monkeypatch.setattr(shop.runtime.hot.queue, "first_headers", lose_the_lease)
    with pytest.raises(LeaseLost):
        await shop.run("expire")
    assert await left(shop) == (15, 15)


async def test_durable_rows_that_redis_lost_expire_by_todays_policies(shop: Product) -> None:
    """With names of any kind, in batches; values are not read for it."""
    odd = [
        make(9, saga_name="order", step_name="a\x00\ud800\\b", status="späť", snapshot_id=uuid4(), saga_id=uuid4()),
        *sagas(20, "order"),
    ]
    await save_all(shop.storage, odd)
    kept = await save_all(shop.storage, sagas(2, "other"))
    async for saga_ids in shop.runtime.hot.saga_ids():
        for saga_id in saga_ids:
            for snapshot in odd:
                if snapshot.saga_id == saga_id:
                    await shop.runtime.hot.delete(snapshot.snapshot_id, until_us=2**52)
    shop.clock.advance(31 * DAY)
    await shop.runtime.db.execute("UPDATE sagaz_tiering.saga_snapshots SET expires_at = now() - interval '9 years'")
    assert (await shop.run("expire")).counts == {"durable": 61}
    assert await left(shop) == (6, 6)
    rows = await shop.runtime.db.fetch("SELECT expires_at FROM sagaz_tiering.saga_snapshots")
    assert [row["expires_at"] for row in rows] == [None] * 6
    assert await shop.storage.get_snapshot(kept[0].snapshot_id) == kept[0]


async def test_dead_packs_cost_one_request_together(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many snapshots were in them; the places go in batches, the last of which retires the pack."""
    await save_all(shop.storage, sagas(30, "packed"))
    shop.clock.advance(9 * DAY)
    packs = (await shop.run("age")).counts["packs"]
    assert packs > 3
    shop.clock.advance(22 * DAY)
    monkeypatch.setattr(expire, "_PLACES", 2)
    objects = counting(shop.runtime.objects, ("delete", "head", "get_range", "put", "list"), monkeypatch)
    assert (await shop.run("expire")).counts == {"archived": 90, "packs_retired": packs}
    shop.clock.advance(2 * DAY)
    counts = (await shop.run("expire")).counts
    assert counts["packs_deleted"] == packs
    assert objects == {"delete": 1}
    assert await shop.object_keys() == []


async def test_pack_in_which_something_lives_is_settled_once(shop: Product) -> None:
    """The last batch says when something expires next."""
    saga_id = uuid4()
    snapshots = [
        make(at, saga_id=saga_id, saga_name="apart", snapshot_id=uuid4(), created_at=NOW + at * 5 * DAY)
        for at in range(3)
    ]
    shop.clock.advance(10 * DAY)
    await save_all(shop.storage, snapshots)
    shop.clock.advance(8 * DAY)
    await shop.run("age")
    shop.clock.advance(13 * DAY)
    packs, now = shop.runtime.catalog.packs, shop.clock.now()
    async with shop.runtime.catalog.leases.hold("expire", "test", timedelta(minutes=1)) as lease:
        assert lease is not None
        (pack,) = await packs.expiring(now, shop.runtime.policies.retention_revision, 0, 9)
        first = await packs.expire(pack.pack_id, lease, now, limit=1, delete_after=now)
        second = await packs.expire(pack.pack_id, lease, now, limit=1, delete_after=now)
        assert (first, second) == ((1, PackLife.EXPIRING), (0, PackLife.SETTLED))
        assert not await packs.expiring(now, shop.runtime.policies.retention_revision, 0, 9)
        later = now + 30 * DAY
        assert await packs.expire(pack.pack_id, lease, later, limit=9, delete_after=now) == (2, PackLife.RETIRED)
