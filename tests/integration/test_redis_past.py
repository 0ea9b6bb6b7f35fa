"""A Redis that went back to an older state, was emptied or replaced: right answers at once, and nothing comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.payload import saga
from support.processes import redis_do
from support.tiers import DAY, NOW, Product, config, product

from sagaz_tiering.embedded import RedisServer
from sagaz_tiering.snapshot import SagaSnapshot

pytestmark = [pytest.mark.guarantee("G1"), pytest.mark.guarantee("G2")]
DURABLE, HOT = "payment-order", "fast-order"
SECOND = timedelta(seconds=1)


@asynccontextmanager
async def opened(url: str, database: str, tmp_path: Path, **sections: Any) -> AsyncIterator[Product]:
    settings = config(
        database=database, redis_url=url, cold=tmp_path / "cold", dictionaries={"enabled": False}, **sections
    )
    async with product(settings) as shop:
        yield shop


async def saved(shop: Product, snapshots: Sequence[SagaSnapshot]) -> None:
    """One after the other."""
    for snapshot in snapshots:
        shop.clock.advance(SECOND)
        await shop.storage.save_snapshot(snapshot)


async def rolled_back(server: RedisServer) -> None:
    """It dies, and begins anew with what it wrote last."""
    server.kill()
    await server.start()


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
        assert await storage.get_snapshot(two[2].snapshot_id) is None
        assert await storage.get_latest_snapshot(three[0].saga_id) is None
        assert await storage.list_snapshots(three[0].saga_id) == []
        assert await storage.get_snapshot(three[0].snapshot_id) is None
        packed = replace(self.packed[1], context={"version": 2})
        assert await storage.get_snapshot(packed.snapshot_id) == packed
        assert await storage.list_snapshots(packed.saga_id) == [packed, self.packed[0]]


@pytest.mark.parametrize("lose", [rolled_back, emptied, replaced, kept])
async def test_redis_that_lost_its_past_changes_no_answer(
    own_redis: Any, database: str, tmp_path: Path, lose: Callable[[RedisServer], Any]
) -> None:
    """In the process that was there, in a new one, after `reconcile`, and after all of it was packed."""
    server = await own_redis()
    past = Past()
    async with opened(server.url, database, tmp_path) as shop:
        await past.happen(shop, server)
        await past.is_right(shop)
        assert (await shop.runtime.catalog.hot_tier.state()).trusted
        await lose(server)
        await past.is_right(shop)
        state = await shop.runtime.catalog.hot_tier.state()
        assert not state.trusted
        assert state.changes == 2
        async with opened(server.url, database, tmp_path) as other:
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
