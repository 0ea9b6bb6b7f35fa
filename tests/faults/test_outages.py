"""A server goes away for a while: what is answered is true, what cannot be answered raises, nothing is lost."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import redis.asyncio
from support.payload import saga, snapshots
from support.tiers import DAY, NOW, config, product

from sagaz_tiering.errors import CatalogUnavailable, ColdTierUnavailable, HotTierUnavailable, TierUnavailable

DURABLE = "payment-order"
HOT = "fast-order"


def settings(postgres_url: str, redis_url: str, tmp_path: Path):
    hot = {"url": redis_url, "socket_timeout": "500ms"}
    built = config(database=postgres_url, redis_url=redis_url, cold=tmp_path / "cold")
    return built.model_copy(update={"tiers": built.tiers.model_copy(update={"hot": type(built.tiers.hot)(**hot)})})


async def test_postgresql_down(own_postgres, redis_url: str, tmp_path: Path) -> None:
    """Hot reads and hot saves go on; durable saves and cold reads raise; afterwards nothing is lost."""
    server = await own_postgres(durable=True)
    archived = list(snapshots(2, created_at=NOW, saga_name=DURABLE))
    durable, fast = (saga(7, begun=NOW + 9 * DAY, saga_name=name) for name in (DURABLE, HOT))
    fast = saga(8, begun=NOW + 9 * DAY, saga_name=HOT)
    async with product(settings(server.url, redis_url, tmp_path)) as shop:
        for snapshot in archived:
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        shop.clock.advance(DAY / 24)
        for snapshot in durable:
            await shop.storage.save_snapshot(snapshot)
        assert await shop.storage.get_latest_snapshot(durable[0].saga_id) == durable[-1]
        await server.stop()

        assert await shop.storage.get_snapshot(durable[0].snapshot_id) == durable[0]
        assert await shop.storage.get_latest_snapshot(durable[0].saga_id) == durable[-1]
        for snapshot in fast:
            await shop.storage.save_snapshot(snapshot)
        assert await shop.storage.list_snapshots(fast[0].saga_id, limit=5) == fast[::-1]
        with pytest.raises(CatalogUnavailable):
            await shop.storage.get_snapshot(archived[0].snapshot_id)
        with pytest.raises(CatalogUnavailable):
            await shop.storage.get_snapshot(uuid4())
        for cold in (archived, durable):  # of which older ones may be in a pack
            with pytest.raises(CatalogUnavailable):
                await shop.storage.list_snapshots(cold[0].saga_id)
        with pytest.raises(CatalogUnavailable):
            await shop.storage.save_snapshot(saga(9, begun=NOW + 9 * DAY, saga_name=DURABLE)[0])

        await server.start()
        for snapshot in (*archived, *durable, *fast):
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


@pytest.mark.parametrize("durability", ["hot", "durable"])
async def test_lists_need_no_postgresql_where_nothing_is_ever_moved(
    own_postgres, redis_url: str, tmp_path: Path, durability: str
) -> None:
    """Redis has all of such a saga, and says so alone; of a saga that it does not know nothing is said."""
    server = await own_postgres(durable=True)
    policies = [{"name": "stays", "match": {}, "durability": durability}]
    built = config(database=server.url, redis_url=redis_url, cold=tmp_path / "cold", policies=policies)
    saved = saga(3, begun=NOW, saga_name=HOT)
    async with product(built) as shop:
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        assert await shop.storage.get_latest_snapshot(saved[0].saga_id) == saved[-1]
        await server.stop()
        assert await shop.storage.list_snapshots(saved[0].saga_id) == saved[::-1]
        with pytest.raises(CatalogUnavailable):
            await shop.storage.list_snapshots(uuid4())
        await server.start()


async def test_redis_that_is_full_is_read(own_redis, database: str, tmp_path: Path) -> None:
    """It takes nothing, the number of looks included, and still says what it alone has; afterwards it is trusted."""
    server = await own_redis(durable=True)
    old, new = saga(2, begun=NOW, saga_name=HOT), saga(3, begun=NOW, saga_name=HOT)
    async with product(settings(database, server.url, tmp_path)) as shop, redis.asyncio.from_url(server.url) as admin:
        for snapshot in old:
            await shop.storage.save_snapshot(snapshot)
        changes = (await shop.runtime.incarnation.look()).changes
        await admin.config_set("maxmemory", 1)
        for _ in range(2):
            look = await shop.runtime.incarnation.look()
            assert (look.trusted, look.changes) == (True, changes)
            assert await shop.storage.get_snapshot(old[0].snapshot_id) == old[0]
            assert await shop.storage.get_latest_snapshot(old[0].saga_id) == old[-1]
            assert await shop.storage.list_snapshots(old[0].saga_id) == old[::-1]
        await shop.storage.save_snapshot(new[0])
        assert await shop.storage.list_snapshots(old[0].saga_id) == old[::-1]
        await admin.config_set("maxmemory", 0)
        look = await shop.runtime.incarnation.look()
        assert (look.trusted, look.changes) == (True, changes)


async def test_redis_down(own_redis, database: str, tmp_path: Path) -> None:
    """Durable snapshots are still read and saved, hot-only ones raise, and what was spilled comes back to Redis."""
    server = await own_redis(durable=True)
    durable = saga(1, begun=NOW, saga_name=DURABLE)
    fast = saga(2, begun=NOW, saga_name=HOT)
    async with product(settings(database, server.url, tmp_path)) as shop:
        for snapshot in (*durable[:3], *fast[:3]):
            await shop.storage.save_snapshot(snapshot)
        await server.stop()

        for snapshot in (*durable[3:], *fast[3:]):
            await shop.storage.save_snapshot(snapshot)
        assert await shop.storage.list_snapshots(durable[0].saga_id) == durable[::-1]
        assert (
            await shop.storage.get_latest_snapshot(durable[0].saga_id, before_step=durable[1].step_name) == durable[1]
        )
        with pytest.raises(HotTierUnavailable):
            await shop.storage.get_snapshot(fast[0].snapshot_id)
        with pytest.raises(HotTierUnavailable):
            await shop.storage.list_snapshots(fast[0].saga_id)
        with pytest.raises(HotTierUnavailable):
            await shop.storage.get_snapshot(uuid4())
        with pytest.raises(TierUnavailable):
            await shop.run("age")

        await server.start()
        # Redis has only the first three of each; a reader that trusted it alone would answer with the third.
        assert await shop.storage.get_latest_snapshot(durable[0].saga_id) == durable[-1]
        assert await shop.storage.get_latest_snapshot(fast[0].saga_id) == fast[-1]
        assert await shop.storage.list_snapshots(fast[0].saga_id, limit=2) == fast[:2:-1]
        assert (await shop.run("age")).counts["refilled"] == 4
        for snapshot in (*durable, *fast):
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
        assert await shop.hot_count() == len(durable) + len(fast)


async def test_another_process_sees_a_spill_at_once(own_redis, database: str, tmp_path: Path) -> None:
    """A reader that just saw Redis complete does not answer from it once a save elsewhere was spilled."""
    server = await own_redis(durable=True)
    mine = saga(1, begun=NOW, saga_name=DURABLE)
    async with (
        product(settings(database, server.url, tmp_path)) as reader,
        product(settings(database, server.url, tmp_path), schema=False) as writer,
    ):
        await writer.storage.save_snapshot(mine[0])
        assert await reader.storage.get_latest_snapshot(mine[0].saga_id) == mine[0]
        await server.stop()
        await writer.storage.save_snapshot(mine[1])
        await server.start()
        assert await reader.storage.get_latest_snapshot(mine[0].saga_id) == mine[1]


async def test_object_store_gone(database: str, redis_url: str, tmp_path: Path) -> None:
    """Cold reads raise, ageing stops with an error and evicts nothing; once it is back all goes on."""
    saved = list(snapshots(2, created_at=NOW, saga_name=DURABLE))
    later = list(snapshots(2, start=50, created_at=NOW, saga_name=DURABLE))
    cold, away = tmp_path / "cold", tmp_path / "away"
    async with product(settings(database, redis_url, tmp_path)) as shop:
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        for snapshot in later:
            await shop.storage.save_snapshot(snapshot)
        cold.rename(away)
        with pytest.raises(ColdTierUnavailable):
            await shop.storage.get_snapshot(saved[0].snapshot_id)
        with pytest.raises((ColdTierUnavailable, Exception)) as failure:
            await shop.run("age")
        assert failure.value.exit_code in (2, 4)
        assert await shop.hot_count() == len(later)
        away.rename(cold)
        assert (await shop.run("age")).counts["archived"] == len(later)
        for snapshot in (*saved, *later):
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def test_redis_down_after_a_policy_became_durable(own_redis, database: str, tmp_path: Path) -> None:
    """What an earlier policy acknowledged in Redis alone is never answered as missing; other sagas are read."""
    server = await own_redis(durable=True)
    old, other = saga(1, begun=NOW, saga_name=HOT), saga(2, begun=NOW, saga_name=DURABLE)
    async with product(settings(database, server.url, tmp_path)) as shop:
        await shop.run("age")
        for snapshot in (*old[:3], *other[:3]):
            await shop.storage.save_snapshot(snapshot)
    stricter = [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}]}]
    async with product(config(database=database, redis_url=server.url, cold=tmp_path, policies=stricter)) as shop:
        await server.stop()
        await shop.storage.save_snapshot(old[3])
        with pytest.raises(HotTierUnavailable):
            await shop.storage.get_snapshot(old[0].snapshot_id)
        with pytest.raises(HotTierUnavailable):
            await shop.storage.list_snapshots(old[0].saga_id)
        assert await shop.storage.list_snapshots(other[0].saga_id) == other[2::-1]
