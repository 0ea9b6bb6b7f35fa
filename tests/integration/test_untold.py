"""What Redis alone has and a catalog was never told of: `reconcile` notes it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis.asyncio
import zstandard
from support.payload import snapshots
from support.processes import redis_do
from support.snapshots import make, number
from support.tiers import DAY, Places, config, product

from sagaz_tiering.catalog.hot_saves import Found
from sagaz_tiering.catalog.leases import Lease
from sagaz_tiering.codec.value import encode, read_meta, to_value
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.errors import LeaseLost
from sagaz_tiering.hot.dictionaries import HotDictionaries
from sagaz_tiering.hot.queue import HotQueue
from sagaz_tiering.jobs.context import JobContext, Tally
from sagaz_tiering.jobs.put_back import tell_untold
from sagaz_tiering.jobs.reconcile import LEASE
from sagaz_tiering.snapshot import SnapshotMeta

POLICIES: list[dict[str, Any]] = [
    {"name": "all", "match": {}, "durability": "hot", "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "30d"}
]
DURABLE = [{**POLICIES[0], "durability": "durable"}]


@asynccontextmanager
async def held(context: JobContext) -> AsyncIterator[Lease]:
    """As `reconcile` has it."""
    async with context.catalog.leases.hold(LEASE, context.owner, context.settings.jobs.lease_ttl) as lease:
        assert lease is not None
        yield lease


async def told(context: JobContext, saves: Sequence[SnapshotMeta]) -> Tally:
    tally = Tally(None)
    async with held(context) as lease:
        await tell_untold(context, saves, tally, lease)
    return tally


async def test_save_that_postgresql_refuses_holds_up_no_other_of_reconcile(places: Places) -> None:
    """The others are noted all the same."""
    async with product(config(**places, policies=POLICIES)) as shop:
        for at in range(6):
            await shop.storage.save_snapshot(make(at))
        await shop.storage._notes.flush()
        db = shop.runtime.db
        await db.execute("DELETE FROM sagaz_tiering.hot_saves")
        await db.execute("ALTER TABLE sagaz_tiering.hot_saves ADD CONSTRAINT no_third CHECK (step_index <> 3)")
        context = shop.runtime.job_context()
        saves = list((await context.hot.queue.saves([number(at) for at in range(6)])).values())
        assert len(saves) == 6
        await told(context, saves)
        rows = await db.fetch("SELECT snapshot_id FROM sagaz_tiering.hot_saves ORDER BY snapshot_id")
        assert [row["snapshot_id"] for row in rows] == [number(at) for at in range(6) if at != 3]


async def test_reconcile_reads_each_header_once_however_many_pages_a_saga_has(places: Places, redis_url: str) -> None:
    """Not all of the saga's for each page, headers longer than most among them; what went meanwhile is left out."""
    settings = config(**places, policies=POLICIES)
    async with product(settings) as shop, redis.asyncio.Redis.from_url(redis_url) as client:
        for at in range(30):
            await shop.storage.save_snapshot(make(at, step_name="long" * 100) if at % 3 == 0 else make(at))
        await shop.storage._notes.flush()
        db, context = shop.runtime.db, shop.runtime.job_context()
        await db.execute("DELETE FROM sagaz_tiering.hot_saves")
        saves = list((await context.hot.queue.saves([number(at) for at in range(30)])).values())
        await context.hot.delete(number(7), until_us=saves[7].saved_us)
        await client.config_resetstat()
        for start in range(0, 30, 5):
            await told(context, saves[start : start + 5])
        assert (await client.info("commandstats"))["cmdstat_getrange"]["calls"] == 30 + 10
        rows = await db.fetch("SELECT snapshot_id, step_name FROM sagaz_tiering.hot_saves ORDER BY snapshot_id")
        assert [row["snapshot_id"] for row in rows] == [number(at) for at in range(30) if at != 7]
        assert [at for at, row in enumerate(rows) if row["step_name"] == "long" * 100] == [0, 3, 6, *range(8, 29, 3)]


async def test_durable_saves_that_redis_alone_has_are_durable_again_but_for_what_was_forgotten(places: Places) -> None:
    """However late the value is read; one that PostgreSQL refuses holds up no other, and is noted."""
    async with product(config(**places, policies=DURABLE)) as shop:
        for at in range(6):
            await shop.storage.save_snapshot(make(at, saga_id=number(100 + at)))
        db, context = shop.runtime.db, shop.runtime.job_context()
        await db.execute("DELETE FROM sagaz_tiering.saga_snapshots")
        await db.execute("ALTER TABLE sagaz_tiering.saga_snapshots ADD CONSTRAINT no_third CHECK (step_index <> 3)")
        saves = list((await context.hot.queue.saves([number(at) for at in range(6)])).values())
        value = await context.hot.get(number(5))
        assert isinstance(value, bytes)
        dry = Tally(None)
        await tell_untold(context, saves, dry, None)
        await shop.storage.forget(number(105))
        await db.execute("DELETE FROM sagaz_tiering.tombstones")
        late = Found(meta=read_meta(value), value=value, due_us=None, expires_us=None)
        async with held(context) as lease:
            assert await context.catalog.hot_saves.make_durable([late], lease) == set()
        real = await told(context, [save for save in saves if save.snapshot_id != number(5)])
        assert (dry.counts, real.counts) == ({"made_durable": 6}, {"made_durable": 4, "noted": 1})
        rows = await db.fetch("SELECT snapshot_id FROM sagaz_tiering.saga_snapshots ORDER BY snapshot_id")
        assert [row["snapshot_id"] for row in rows] == [number(at) for at in (0, 1, 2, 4)]
        rows = await db.fetch("SELECT snapshot_id FROM sagaz_tiering.hot_saves")
        assert [row["snapshot_id"] for row in rows] == [number(3)]


async def test_older_save_in_redis_is_not_put_before_a_newer_one_in_a_pack(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    """Neither where the pack cannot be looked into, nor where it was published after that, nor without the lease."""
    cold = tmp_path / "cold"
    async with product(config(database=database, redis_url=redis_url, cold=cold, policies=DURABLE)) as shop:
        context = shop.runtime.job_context()
        old, new = make(1, context={"is": "older"}), make(1, context={"is": "newer"})
        await shop.storage.save_snapshot(old)
        value = await context.hot.get(number(1))
        assert isinstance(value, bytes)
        shop.clock.advance(timedelta(seconds=1))
        await shop.storage.save_snapshot(new)
        shop.clock.advance(9 * DAY)
        assert (await shop.run("age")).counts["archived"] == 1
        meta = read_meta(value)
        assert await context.hot.save(meta, value, due_us=None, expires_us=None) is None
        shutil.move(cold / "objects" / "packs", tmp_path / "away")
        dry, save = Tally(None), (await context.hot.queue.saves([number(1)]))[number(1)]
        await tell_untold(context, [save], dry, None)
        real = await told(context, [save])
        shutil.move(tmp_path / "away", cold / "objects" / "packs")
        assert dry.counts == real.counts == {"noted": 1}
        found = Found(meta=meta, value=value, due_us=None, expires_us=None)
        async with held(context) as lease:
            assert await context.catalog.hot_saves.make_durable([found], lease) == set()
        with pytest.raises(LeaseLost):
            await context.catalog.hot_saves.make_durable([found], lease)
        assert await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.saga_snapshots") == 0


async def test_newer_save_in_redis_than_in_a_pack_is_durable_again(places: Places, redis_url: str) -> None:
    """What packs have is compared with it, not only whether they have any."""
    async with product(config(**places, policies=DURABLE)) as shop:
        await shop.storage.save_snapshot(make(1, context={"is": "older"}))
        shop.clock.advance(9 * DAY)
        await shop.run("age")
        new = make(1, context={"is": "newer"})
        await shop.storage.save_snapshot(new)
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_snapshots")
        context = shop.runtime.job_context()
        tally = await told(context, list((await context.hot.queue.saves([number(1)])).values()))
        assert tally.counts == {"made_durable": 1}
        await redis_do(redis_url, "FLUSHDB")
        assert await shop.storage.get_snapshot(number(1)) == new


async def test_dictionary_that_redis_alone_has_is_kept_for_what_becomes_durable(places: Places, redis_url: str) -> None:
    """Otherwise what was made durable is lost with Redis; what no dictionary is found for is noted."""
    settings = config(**places, policies=DURABLE)
    samples: list[Any] = [orjson.dumps(each.context) for each in snapshots(60, start=700)]
    dictionary = Dictionary(zstandard.train_dictionary(8192, samples, k=500, d=8).as_bytes())
    async with product(settings) as shop:
        context = shop.runtime.job_context()
        snapshot = next(iter(snapshots(1, created_at=shop.clock.now())))
        record = encode(snapshot, saved_us=context.now_us)
        value = to_value(record, level=3, dictionary=dictionary)
        assert await context.hot.save(record.meta, value, due_us=None, expires_us=None) is None
        saves = list((await context.hot.queue.saves([snapshot.snapshot_id])).values())
        assert (await told(context, saves)).counts == {"noted": 1}
        await HotDictionaries(context.hot).put(dictionary)
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.hot_saves")
        assert (await told(context, saves)).counts == {"made_durable": 1}
    await redis_do(redis_url, "FLUSHDB")
    async with product(settings) as shop:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def test_headers_of_many_snapshots_are_not_all_in_memory_at_once(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a page of sagas has."""
    async with product(config(**places, policies=DURABLE)) as shop:
        for at in range(5):
            await shop.storage.save_snapshot(make(at))
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_snapshots")
        context, sizes, heads = shop.runtime.job_context(), list[int](), HotQueue.heads

        async def counted(self: HotQueue, saves: Sequence[SnapshotMeta]) -> list[bytes]:
            sizes.append(len(saves))
            return await heads(self, saves)

        monkeypatch.setattr(HotQueue, "heads", counted)
        monkeypatch.setattr("sagaz_tiering.jobs.put_back._TOLD_AT_ONCE", 2)
        saves = list((await context.hot.queue.saves([number(at) for at in range(5)])).values())
        assert (await told(context, saves)).counts == {"made_durable": 5}
        assert sizes == [2, 2, 1]
