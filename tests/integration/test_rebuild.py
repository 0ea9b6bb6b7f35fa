"""With PostgreSQL gone the bucket alone gives the catalog back (design G7)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.encrypted import aged, bucket, encrypted, frames_of, key_file, save_all
from support.payload import snapshots
from support.processes import redis_do
from support.servers import fresh_database
from support.snapshots import make
from support.tiers import DAY, Places, Product, config, product, rebuilt_from_bucket, rule
from support.yaml_config import write_config

from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import ConfigError, ForeignCatalog, SnapshotArchived
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.operations.keys import export_keys, import_keys
from sagaz_tiering.operations.rebuild import Wish, measure, proposed_id, rebuild
from sagaz_tiering.snapshot import SagaSnapshot

pytestmark = pytest.mark.guarantee("G7")

POLICIES: list[dict[str, Any]] = [
    rule("frozen", "frozen", {"STANDARD_IA": "7d", "GLACIER": "60d"}),
    rule("short", "short", {"STANDARD_IA": "7d"}, retain="50d"),
    rule("rest", "*", {"STANDARD_IA": "7d"}, retain="900d"),
]
NOW = Wish(take_over=True)
"""No two minutes are waited for the owner that is gone."""
PACK = {"pack": {"target": "16KiB", "max_frame": "16KiB"}}


async def answers(shop: Product, saved: list[SagaSnapshot]) -> list[Any]:
    """What every kind of query says of everything that was ever saved."""

    async def told(call: Any) -> Any:
        try:
            return await call
        except SnapshotArchived as exc:
            return ("archived", sorted(exc.snapshot_ids))

    found: list[Any] = []
    for snapshot in saved:
        storage, saga_id = shop.storage, snapshot.saga_id
        found.append(
            (
                await told(storage.get_snapshot(snapshot.snapshot_id)),
                await told(storage.get_latest_snapshot(saga_id)),
                await told(storage.get_latest_snapshot(saga_id, before_step=snapshot.step_name)),
                await told(storage.get_snapshot_at_time(saga_id, snapshot.created_at)),
                await told(storage.list_snapshots(saga_id, limit=3)),
                [ref.to_dict() for ref in await storage.timeline(saga_id)],
            )
        )
    return found


async def busy_store(shop: Product) -> list[SagaSnapshot]:
    """Archived, frozen, expired, deleted, held, saved twice, and some still hot."""
    storage, chance = shop.storage, random.Random(5)
    saved: list[SagaSnapshot] = []
    for name, start in (("frozen", 0), ("short", 100), ("orders", 200)):
        saved += snapshots(6, start=start, created_at=shop.clock.now(), saga_name=name)
    await save_all(shop, saved)
    await storage.hold(saved[30].saga_id, "case 1", who="counsel")
    over = await shop.runtime.catalog.holds.place(
        saved[40].saga_id, reason="case 2", who="counsel", now=shop.clock.now()
    )
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    for snapshot in chance.sample(saved, 10):
        if snapshot.saga_id != saved[30].saga_id:
            await storage.delete_snapshot(snapshot.snapshot_id) if snapshot.saga_name == "orders" else None
    again = saved[-1]
    await storage.save_snapshot(again)  # the same id in two packs
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    await shop.runtime.catalog.holds.release([over.hold_id], reason="over", who="counsel", now=shop.clock.now())
    shop.clock.advance(50 * DAY)
    await shop.run("transition")
    await shop.run("expire")
    young = list(snapshots(4, start=500, created_at=shop.clock.now(), saga_name="orders"))
    for snapshot in young:
        await storage.save_snapshot(snapshot)
    await shop.run("collect")
    return saved + young


def settings(places: Places) -> Any:
    return config(**places, **PACK, policies=POLICIES)


async def test_rebuilt_catalog_gives_equal_answers(
    places: Places, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By id, latest, step, time, list and timeline, for what lives, is frozen, expired, deleted, held or hot."""
    async with product(settings(places)) as shop:
        saved = await busy_store(shop)
        before = await answers(shop, saved)
        now = shop.clock.now()
        held = [hold.to_dict() for hold in await shop.runtime.catalog.holds.in_force()]
    async with (
        fresh_database(postgres_server) as other,
        product(settings({**places, "database": other}), now=now) as shop,
    ):
        monkeypatch.setattr("sagaz_tiering.operations.catch_up._AT_ONCE", 1)  # pages of four packs
        context = shop.runtime.job_context()
        extent = await measure(context)
        assert (extent.packs > 4, extent.archived > 0, extent.cost_usd > 0) == (True, True, True)
        context.stopping.set()
        whose = await proposed_id(context)
        assert whose is not None
        await rebuild(context, Tally(None), whose, NOW)  # stopped after a page
        context.stopping.clear()
        tally = Tally(None)
        await rebuild(context, tally, whose, NOW)
        assert tally.counts["already_there"] > 0
        assert not tally.counts["unreadable"], tally.notes
        assert [hold.to_dict() for hold in await shop.runtime.catalog.holds.in_force()] == held
        assert await answers(shop, saved) == before
        for job in ("age", "expire", "collect", "transition"):
            report = await shop.run(job)
            assert not report.counts.get("failed"), report.notes
        assert await answers(shop, saved) == before
        again = Tally(None)
        await rebuild(context, again, whose, NOW)
        assert not again.counts["packs"]


@pytest.mark.parametrize("name", ["plain", "secret"])
async def test_erased_saga_stays_erased_after_a_rebuild(
    name: str, places: Places, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """The pack still has its bytes, and a backup its data key; the journal in the bucket says that it was erased."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        saved = list(snapshots(2, created_at=shop.clock.now(), saga_name=name))
        await aged(shop, saved)
        backup = [line async for line in export_keys(shop.runtime.job_context())]
        erased, kept = saved[0].saga_id, saved[-1].saga_id
        await shop.storage.forget(erased)
        await shop.run("collect")  # takes the journal to the bucket
        now = shop.clock.now()
    assert any(frames_of(data, erased) for data in bucket(tmp_path).values())
    async with (
        fresh_database(postgres_server) as other,
        product(encrypted({**places, "database": other}), now=now) as shop,
    ):
        await rebuilt_from_bucket(shop)
        await import_keys(shop.runtime.job_context(), backup)
        for jobs in ((), ("age", "expire"), ("compact", "age", "expire")):
            for job in jobs:
                await shop.run(job)
            for snapshot in saved:
                there = snapshot if snapshot.saga_id == kept else None
                assert await shop.storage.get_snapshot(snapshot.snapshot_id) == there
            assert await shop.storage.list_snapshots(erased) == []
            assert await shop.storage.get_latest_snapshot(erased) is None
            assert await shop.storage.timeline(erased) == []
            assert [found.saga_id for found in await shop.storage.find(saga_name=name)] == [kept]
            shop.clock.advance(2 * DAY)


async def test_catalog_dropped_under_a_running_process(places: Places) -> None:
    """Nothing that the process remembers of the old one leads the new one astray."""
    async with product(settings(places)) as shop:
        saved = await busy_store(shop)
        before = await answers(shop, saved)
        await shop.runtime.db.execute("DROP SCHEMA sagaz_tiering CASCADE")
        await migrate(shop.runtime.db)
        with pytest.raises(ForeignCatalog):
            await shop.run("age")
        await rebuilt_from_bucket(shop)
        assert await answers(shop, saved) == before
        await shop.run("age")


async def test_rebuild_needs_an_empty_catalog_and_a_bucket_of_ours(
    places: Places, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Another catalog's packs are never taken over by one that has packs; an empty prefix is nothing to rebuild."""
    async with product(settings(places)) as shop:
        assert await proposed_id(shop.runtime.job_context()) is None
        await busy_store(shop)
    async with (
        fresh_database(postgres_server) as other,
        product(settings({**places, "database": other, "cold": tmp_path / "elsewhere"})) as shop,
    ):
        for snapshot in snapshots(3, created_at=shop.clock.now()):
            await shop.storage.save_snapshot(snapshot)
        shop.clock.advance(30 * DAY)
        await shop.run("age")
        context = shop.runtime.job_context()
        async with product(settings({**places, "database": other}), schema=False) as there:
            context.objects = there.runtime.objects
            whose = await proposed_id(context)
            assert whose is not None
            with pytest.raises(ConfigError, match="belongs to"):
                await rebuild(context, Tally(None), await context.catalog.identity(), NOW)
            with pytest.raises(ConfigError, match="empty"):
                await rebuild(context, Tally(None), whose, NOW)


async def test_damaged_pack_does_not_stop_the_rebuild(
    places: Places, postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """On the command line: cost first, the damaged one is named, the rest is there."""
    async with product(settings(places)) as shop:
        await busy_store(shop)
        count = await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.packs WHERE state = 'ACTIVE'")
    victim = sorted((tmp_path / "cold").rglob("*.pack.object/data"))[0]
    data = victim.read_bytes()
    victim.write_bytes(data[:-10] + bytes(10))
    async with fresh_database(postgres_server) as other:
        path = write_config(
            tmp_path / "t.yaml",
            database=other,
            redis_url=redis_url,
            cold={"url": f"file://{tmp_path / 'cold'}", **PACK},
            policies=POLICIES,
        )
        assert (await cli("catalog", "rebuild", "--config", path)).code == 2
        await cli("catalog", "migrate", "--config", path)
        dry = await cli("catalog", "rebuild", "--dry-run", "--config", path)
        assert dry.code == 0, dry.err
        assert "packs" in dry.out
        done = await cli("catalog", "rebuild", "--take-over", "--yes", "--json", "--config", path)
        assert done.code == 1, done.err
        assert done.document["counts"]["unreadable"] == 1
        assert victim.parent.name.removesuffix(".object") in done.document["notes"][0]
        assert done.document["counts"]["packs"] >= count - 1
        assert done.document["cannot_know"]


@pytest.mark.guarantee("G12")
@pytest.mark.parametrize("packed", [False, True], ids=["nothing packed", "packed"])
@pytest.mark.parametrize("durability", ["hot", "durable"])
async def test_rebuilt_catalog_finds_what_redis_alone_has(
    database: str, postgres_server: PostgresServer, redis_url: str, tmp_path: Path, durability: str, packed: bool
) -> None:
    """Once it is reconciled with Redis, and before anything is packed or saved again; and knows that it may be lost."""
    policies = [{**POLICIES[-1], "match": {}, "durability": durability, "clock": "created_at"}]

    def asked(url: str) -> Any:
        attributes = [{"name": "number", "path": "number"}]
        cold = {"url": f"file://{tmp_path / 'cold'}", **PACK}
        return config(database=url, redis_url=redis_url, cold=cold, policies=policies, attributes=attributes)

    async with product(asked(database)) as shop:
        old = make(0, created_at=shop.clock.now() - 30 * DAY, context={"number": "old"})
        young = [make(at, created_at=shop.clock.now(), context={"number": at}) for at in (1, 2)]
        await save_all(shop, [old] * packed)
        await shop.run("age")
        await save_all(shop, young)
        await shop.storage.delete_snapshot(young[1].snapshot_id)
        now = shop.clock.now() + DAY
    async with fresh_database(postgres_server) as other, product(asked(other), now=now) as shop:
        await rebuilt_from_bucket(shop)
        kind = "noted" if durability == "hot" else "made_durable"
        assert (await shop.run("reconcile", dry_run=True)).counts == {kind: 1}
        assert (await shop.run("reconcile")).counts == {kind: 1}
        [found] = await shop.storage.find(attributes={"number": 1})
        assert found.snapshots == ({"hot": 1, "cold STANDARD_IA": 1} if packed else {"hot": 1})
        assert len(await shop.storage.find(attributes={"number": "old"})) == packed
        assert not list(await shop.storage.find(attributes={"number": 2}))
        noted = await shop.runtime.catalog.hot_saves.not_elsewhere(saga_id=old.saga_id)
        assert [each.meta.snapshot_id for each in noted] == [young[0].snapshot_id] * (durability == "hot")
        assert await shop.storage.get_snapshot(young[0].snapshot_id) == young[0]
        await redis_do(redis_url, "FLUSHDB")
        lost = (await shop.run("reconcile")).counts.get("lost", 0)
        assert lost == (durability == "hot")
        if not lost:
            assert await shop.storage.get_snapshot(young[0].snapshot_id) == young[0]
