"""Of two acts on one snapshot the one that was acknowledged later counts, whatever the clocks of their hosts say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.s3_server import free_port
from support.snapshots import make
from support.tiers import DAY, NOW, Product, config, product, rule

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import encode, read_meta, to_value
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.hot.layout import NotTaken
from sagaz_tiering.snapshot import SagaSnapshot

pytestmark = pytest.mark.guarantee("G11")
MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
POLICIES: list[dict[str, Any]] = [
    rule("fast", "fast", {"STANDARD_IA": "7d"}, durability="hot"),
    rule("default", "*", {"STANDARD_IA": "7d"}),
]
HOUR = timedelta(hours=1)
NAMES = pytest.mark.parametrize("name", ["fast", "order"])


class Two:
    """Two applications of one store, `ahead` by a clock that is an hour ahead of the one of `right`.

    `cut` is a third one, with the clock of `right`, that finds Redis down.
    """

    def __init__(self, right: Product, ahead: Product, cut: Product) -> None:
        self.right = right
        self.ahead = ahead
        self.cut = cut

    def sleep(self, by: timedelta) -> None:
        """Time passes for all."""
        for each in (self.right, self.ahead, self.cut):
            each.clock.advance(by)

    async def pack(self) -> None:
        """After eight days everything is in packs."""
        self.sleep(8 * DAY)
        await self.right.run("age")
        self.sleep(2 * DAY)  # beyond the linger
        await self.right.run("age")
        assert not await self.right.hot_count()
        assert not await rows(self.right)


@pytest.fixture
async def two(database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Two]:
    """Both over the same servers."""

    def settings(url: str) -> TieringConfig:
        return config(database=database, redis_url=url, cold=tmp_path / "cold", policies=POLICIES)

    async with AsyncExitStack() as stack:
        right = await stack.enter_async_context(product(settings(redis_url)))
        ahead = await stack.enter_async_context(product(settings(redis_url), now=NOW + HOUR, schema=False))
        nowhere = f"redis://127.0.0.1:{free_port()}/0"
        cut = await stack.enter_async_context(product(settings(nowhere), schema=False))
        yield Two(right, ahead, cut)


async def rows(shop: Product) -> dict[UUID, bytes]:
    """The durable values."""
    found = await shop.runtime.db.fetch("SELECT snapshot_id, value FROM sagaz_tiering.saga_snapshots")
    return {row["snapshot_id"]: row["value"] for row in found}


def versions(name: str, count: int = 3) -> list[SagaSnapshot]:
    """One snapshot as it is saved again and again."""
    snapshot_id, saga_id = uuid4(), uuid4()
    return [
        make(1, snapshot_id=snapshot_id, saga_id=saga_id, saga_name=name, context={"version": number})
        for number in range(count)
    ]


@pytest.mark.guarantee("G1")
@NAMES
async def test_a_save_by_a_clock_that_is_behind_replaces_what_is_there(two: Two, name: str) -> None:
    """In every tier, and for good."""
    first, second, _ = versions(name)
    await two.ahead.storage.save_snapshot(first)
    await two.right.storage.save_snapshot(second)
    for reader in (two.right, two.ahead):
        assert await reader.storage.get_snapshot(first.snapshot_id) == second
    if name == "order":
        (value,) = (await rows(two.right)).values()
        assert value == await two.right.runtime.hot.get(first.snapshot_id), "Redis and PostgreSQL keep the same save"
    await two.pack()
    assert await two.right.storage.get_snapshot(first.snapshot_id) == second


@pytest.mark.guarantee("G1")
@NAMES
async def test_a_save_after_a_delete_stays_whatever_the_clocks_say(two: Two, name: str) -> None:
    """The delete was by a clock an hour ahead; the save is there after ageing, too, also where Redis forgot."""
    first, second, _ = versions(name)
    await two.right.storage.save_snapshot(first)
    assert await two.ahead.storage.delete_snapshot(first.snapshot_id)
    await two.right.storage.save_snapshot(second)
    assert await two.right.storage.get_snapshot(first.snapshot_id) == second
    await two.pack()
    assert await two.right.storage.get_snapshot(first.snapshot_id) == second


async def test_a_delete_by_a_clock_that_is_behind_removes_what_is_there(two: Two) -> None:
    """What a job read before is not published either: the delete counts from the save on."""
    for name in ("fast", "order"):
        first, second, _ = versions(name)
        await two.ahead.storage.save_snapshot(first)
        value = await two.right.runtime.hot.get(first.snapshot_id)
        assert isinstance(value, bytes)
        assert await two.right.storage.delete_snapshot(first.snapshot_id)
        assert await two.ahead.storage.get_snapshot(first.snapshot_id) is None
        deleted_at = await two.right.runtime.db.fetchval(
            "SELECT deleted_at FROM sagaz_tiering.tombstones WHERE snapshot_id = $1", first.snapshot_id
        )
        assert to_micros(deleted_at) >= read_meta(value).saved_us
        refused = await two.right.runtime.hot.save(read_meta(value), value, due_us=None, expires_us=None)
        assert refused == NotTaken(at_us=to_micros(deleted_at), deleted=True), "a copy that was on its way"
        await two.right.storage.save_snapshot(second)
        assert await two.ahead.storage.get_snapshot(first.snapshot_id) == second


async def test_a_save_that_finds_redis_down_follows_what_postgresql_has(two: Two) -> None:
    """PostgreSQL says when what it has was done: a save, or a delete."""
    first, second, third = versions("order")
    await two.ahead.storage.save_snapshot(first)
    await two.cut.storage.save_snapshot(second)
    assert await two.ahead.storage.get_snapshot(first.snapshot_id) == second
    await two.ahead.storage.delete_snapshot(first.snapshot_id)
    await two.cut.storage.save_snapshot(third)
    assert await two.ahead.storage.get_snapshot(first.snapshot_id) == third
    await two.pack()
    assert await two.ahead.storage.get_snapshot(first.snapshot_id) == third


async def test_a_later_row_in_postgresql_is_outdone_in_redis_too(two: Two) -> None:
    """Redis lost the save of the application that is ahead: both tiers keep the one that came after it."""
    first, second, _ = versions("order")
    await two.ahead.storage.save_snapshot(first)
    await two.right.runtime.hot.queue.evict_claimed(
        [read_meta(value) for value in (await rows(two.right)).values()], {}
    )
    await two.right.storage.save_snapshot(second)
    (value,) = (await rows(two.right)).values()
    assert value == await two.right.runtime.hot.get(first.snapshot_id)
    assert await two.right.storage.get_snapshot(first.snapshot_id) == second


async def test_saves_at_once_leave_the_same_winner_in_redis_and_in_postgresql(two: Two) -> None:
    """Two applications in the same microsecond, and an hour apart, again and again."""
    two.ahead.clock.advance(-HOUR)
    for round_no in range(40):
        if round_no == 20:
            two.ahead.clock.advance(HOUR)
        tries = versions("order", 8)
        writers = [(two.right, two.ahead)[number % 2] for number in range(len(tries))]
        await asyncio.gather(*(w.storage.save_snapshot(t) for w, t in zip(writers, tries, strict=True)))
        value = await two.right.runtime.hot.get(tries[0].snapshot_id)
        assert value == (await rows(two.right))[tries[0].snapshot_id]


async def test_a_row_that_was_stored_while_its_delete_was_committed_is_packed(two: Two) -> None:
    """Its put did not see the delete, which did not see it: it was acknowledged, so it stays."""
    first, second, _ = versions("order")
    await two.right.storage.save_snapshot(first)
    await two.ahead.storage.delete_snapshot(first.snapshot_id)
    record = encode(second, saved_us=to_micros(NOW))
    await two.right.runtime.db.execute("ALTER TABLE sagaz_tiering.tombstones RENAME TO unseen")
    await two.right.runtime.db.execute("CREATE TABLE sagaz_tiering.tombstones (LIKE sagaz_tiering.unseen)")
    put = two.right.runtime.catalog.durable.put
    due_us = to_micros(NOW + 7 * DAY)
    times = {"due_us": due_us, "expires_us": None}
    assert (await put(record.meta, to_value(record, level=None), **times, fallback=True)).in_the_way_us is None
    await two.right.runtime.db.execute("DROP TABLE sagaz_tiering.tombstones")
    await two.right.runtime.db.execute("ALTER TABLE sagaz_tiering.unseen RENAME TO tombstones")
    await two.pack()
    assert await two.right.storage.get_snapshot(first.snapshot_id) == second


@pytest.mark.guarantee("G1")
async def test_random_orders_by_random_clocks_end_as_they_were_acknowledged(two: Two) -> None:
    """Saves, deletes, an application without Redis, packs between: reads and packs follow the real order."""
    random = Random(20261129)
    two.ahead.clock.advance(-HOUR)
    offset = timedelta()
    for _ in range(3):
        kept: dict[UUID, SagaSnapshot | None] = {}
        change = timedelta(seconds=random.uniform(-5 * 3600, 5 * 3600)) - offset
        two.ahead.clock.advance(change)
        offset += change
        for number in range(30):
            for snapshot in versions(random.choice(["fast", "order"]), random.randint(2, 6)):
                app = random.choice([two.right, two.ahead])
                two.sleep(timedelta(microseconds=random.choice([0, 1, 10**6])))
                if random.random() < 0.3:
                    await app.storage.delete_snapshot(snapshot.snapshot_id)
                    kept[snapshot.snapshot_id] = None
                else:
                    app = two.cut if number % 5 == 0 else app
                    await app.storage.save_snapshot(snapshot)
                    kept[snapshot.snapshot_id] = snapshot
        for snapshot_id, expected in kept.items():
            assert await random.choice([two.right, two.ahead]).storage.get_snapshot(snapshot_id) == expected
        await two.pack()
        for snapshot_id, expected in kept.items():
            assert await two.right.storage.get_snapshot(snapshot_id) == expected
