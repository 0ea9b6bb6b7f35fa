"""What Redis alone has and a catalog was never told of: `reconcile` notes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis.asyncio
from support.snapshots import make, number
from support.tiers import config, product

from sagaz_tiering.catalog.hot_saves import Found
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.jobs.untold import tell_untold

POLICIES: list[dict[str, Any]] = [
    {
        "name": "all",
        "match": {},
        "durability": "hot",
        "move": [{"to": "STANDARD_IA", "after": "7d"}],
        "retain": "30d",
    }
]


async def test_save_that_postgresql_refuses_holds_up_no_other_of_reconcile(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    """The others are noted all the same."""
    settings = config(database=database, redis_url=redis_url, cold=tmp_path / "cold", policies=POLICIES)
    async with product(settings) as shop:
        for at in range(6):
            await shop.storage.save_snapshot(make(at))
        await shop.storage.note_hot_saves()
        db = shop.runtime.db
        await db.execute("DELETE FROM sagaz_tiering.hot_saves")
        await db.execute("ALTER TABLE sagaz_tiering.hot_saves ADD CONSTRAINT no_third CHECK (step_index <> 3)")
        context = shop.runtime.job_context()
        saves = list((await context.hot.identity.saves([number(at) for at in range(6)])).values())
        assert len(saves) == 6
        await tell_untold(context, saves, Tally(None), dry=False)
        rows = await db.fetch("SELECT snapshot_id FROM sagaz_tiering.hot_saves ORDER BY snapshot_id")
        assert [row["snapshot_id"] for row in rows] == [number(at) for at in range(6) if at != 3]


async def test_reconcile_reads_each_header_once_however_many_pages_a_saga_has(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    """Not all of the saga's for each page, headers longer than most among them; what went meanwhile is left out."""
    settings = config(database=database, redis_url=redis_url, cold=tmp_path / "cold", policies=POLICIES)
    async with product(settings) as shop, redis.asyncio.Redis.from_url(redis_url) as client:
        for at in range(30):
            await shop.storage.save_snapshot(make(at, step_name="long" * 100) if at % 3 == 0 else make(at))
        await shop.storage.note_hot_saves()
        db, context = shop.runtime.db, shop.runtime.job_context()
        await db.execute("DELETE FROM sagaz_tiering.hot_saves")
        saves = list((await context.hot.identity.saves([number(at) for at in range(30)])).values())
        await context.hot.delete(number(7), until_us=saves[7].saved_us)
        await client.config_resetstat()
        for start in range(0, 30, 5):
            await tell_untold(context, saves[start : start + 5], Tally(None), dry=False)
        assert (await client.info("commandstats"))["cmdstat_getrange"]["calls"] == 30 + 10
        rows = await db.fetch("SELECT snapshot_id, step_name FROM sagaz_tiering.hot_saves ORDER BY snapshot_id")
        assert [row["snapshot_id"] for row in rows] == [number(at) for at in range(30) if at != 7]
        assert [at for at, row in enumerate(rows) if row["step_name"] == "long" * 100] == [0, 3, 6, *range(8, 29, 3)]


async def test_durable_saves_that_redis_alone_has_are_durable_again_but_for_what_was_forgotten(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    """However late the value is read; one that PostgreSQL refuses holds up no other, and is noted."""
    policies = [{**POLICIES[0], "durability": "durable"}]
    settings = config(database=database, redis_url=redis_url, cold=tmp_path / "cold", policies=policies)
    async with product(settings) as shop:
        for at in range(6):
            await shop.storage.save_snapshot(make(at, saga_id=number(100 + at)))
        db, context = shop.runtime.db, shop.runtime.job_context()
        await db.execute("DELETE FROM sagaz_tiering.saga_snapshots")
        await db.execute("ALTER TABLE sagaz_tiering.saga_snapshots ADD CONSTRAINT no_third CHECK (step_index <> 3)")
        saves = list((await context.hot.identity.saves([number(at) for at in range(6)])).values())
        value = await context.hot.get(number(5))
        assert isinstance(value, bytes)
        dry, real = Tally(None), Tally(None)
        await tell_untold(context, saves, dry, dry=True)
        await shop.storage.forget(number(105))
        await db.execute("DELETE FROM sagaz_tiering.tombstones")
        late = Found(meta=read_meta(value), value=value, due_us=None, expires_us=None)
        assert await context.catalog.hot_saves.make_durable([late]) == set()
        await tell_untold(context, [save for save in saves if save.snapshot_id != number(5)], real, dry=False)
        assert (dry.counts, real.counts) == ({"made_durable": 6}, {"made_durable": 4, "noted": 1})
        rows = await db.fetch("SELECT snapshot_id FROM sagaz_tiering.saga_snapshots ORDER BY snapshot_id")
        assert [row["snapshot_id"] for row in rows] == [number(at) for at in (0, 1, 2, 4)]
        rows = await db.fetch("SELECT snapshot_id FROM sagaz_tiering.hot_saves")
        assert [row["snapshot_id"] for row in rows] == [number(3)]
