"""Processes killed at any moment, and two at once: nothing is lost, nothing is doubled (design G1)."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from support.commands import start_command
from support.payload import snapshots
from support.tiers import DAY, Places, Product, config, product
from support.yaml_config import write_config

from sagaz_tiering.clock import SystemClock
from sagaz_tiering.errors import LeaseLost
from sagaz_tiering.snapshot import SagaSnapshot

pytestmark = pytest.mark.guarantee("G1")

KILLS = 10
SAGAS = 200
SMALL_PACKS = {"pack": {"target": "32KiB", "max_frame": "32KiB"}}


def old_snapshots(count_of_sagas: int) -> list[SagaSnapshot]:
    """Snapshots that every policy of the tests calls due, by the real clock."""
    return list(snapshots(count_of_sagas, created_at=SystemClock().now() - 30 * DAY))


async def check_nothing_lost(shop: Product, saved: list[SagaSnapshot]) -> None:
    """Every snapshot has exactly one place, is evicted, and reads back equal."""
    assert await shop.hot_count() == 0
    rows = await shop.runtime.db.fetch("SELECT snapshot_id FROM sagaz_tiering.snapshots")
    assert sorted(row["snapshot_id"] for row in rows) == sorted(s.snapshot_id for s in saved)
    by_saga: dict[object, list[SagaSnapshot]] = {}
    for snapshot in saved:
        by_saga.setdefault(snapshot.saga_id, []).append(snapshot)
    for saga_id, of_saga in by_saga.items():
        assert await shop.storage.list_snapshots(saga_id) == sorted(of_saga, key=lambda s: s.created_at, reverse=True)


async def check_bucket_is_the_catalog(shop: Product) -> None:
    """After two collections, long after the uploads, the bucket holds exactly what the catalog says."""
    for _ in range(2):
        shop.clock.advance(2 * DAY)
        await shop.run("collect")
    rows = await shop.runtime.db.fetch("SELECT object_key, live_count FROM sagaz_tiering.packs WHERE state = 'ACTIVE'")
    assert sorted(await shop.object_keys()) == sorted(row["object_key"] for row in rows)


@pytest.mark.slow
async def test_age_killed_at_random_moments_loses_and_doubles_nothing(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    """SIGKILL at ten random moments of a run, restarted each time."""
    cold = {"url": f"file://{tmp_path / 'cold'}", **SMALL_PACKS}
    places = {"database": database, "redis_url": redis_url, "cold": cold}
    jobs = {"claim_ttl": "1s", "batch_sagas": 16}
    settings = write_config(tmp_path / "tiering.yaml", **places, jobs=jobs)
    chance, saved = random.Random(11), old_snapshots(SAGAS)
    async with product(config(**places, jobs=jobs), now=SystemClock().now()) as shop:
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        progress = []
        for _ in range(KILLS):
            before = await shop.hot_count()
            process = start_command("job", "age", "--once", "--config", settings)
            # The kill falls at a random share of the work that is left, not into the start of the interpreter.
            wanted = before - chance.randint(1, max(1, SAGAS * 5 // KILLS))
            async with asyncio.timeout(300):
                # Another process does the work, so there is nothing to wait on but its effects.
                while await shop.hot_count() > max(wanted, 0) and process.exitcode is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
            if process.exitcode is None:
                process.kill()
            await asyncio.to_thread(process.join)
            progress.append(before - await shop.hot_count())
            # Its lease ends here, not by a short time to live, which a run on a busy machine would lose while it works.
            await shop.runtime.db.execute("UPDATE sagaz_tiering.leases SET expires_at = clock_timestamp()")
            await asyncio.sleep(1)  # its claims run out
        assert sum(1 for moved in progress if moved) >= KILLS // 2, f"the kills hit no work: {progress}"
        shop.clock.advance(timedelta(seconds=5))
        async with asyncio.timeout(300):
            while await shop.hot_count():
                await shop.run("age")
        await check_nothing_lost(shop, saved)
        await check_bucket_is_the_catalog(shop)
        await check_nothing_lost(shop, saved)


async def test_two_daemons_do_the_same_work_once(places: Places) -> None:
    """Two age runs at once share the backlog: every snapshot is packed by exactly one of them."""
    settings = config(**places, **SMALL_PACKS, jobs={"batch_sagas": 8})
    saved, now = old_snapshots(SAGAS), SystemClock().now()
    async with product(settings, now=now) as one, product(settings, now=now, schema=False) as other:
        for snapshot in saved:
            await one.storage.save_snapshot(snapshot)
        # How much each gets is a matter of who begins first; what matters is that nothing is done by both.
        reports = await asyncio.gather(one.run("age"), other.run("age"))
        shares = [report.counts.get("archived", 0) for report in reports]
        packed = await one.runtime.db.fetchval("SELECT sum(snapshot_count) FROM sagaz_tiering.packs")
        assert sum(shares) == packed == len(saved), "work was done twice"
        await check_nothing_lost(one, saved)


async def test_single_job_runs_in_one_daemon_at_a_time(places: Places) -> None:
    """While one process holds the lease of `collect`, another skips it; a lost lease stops every change."""
    settings = config(**places)
    async with product(settings) as one, product(settings, schema=False) as other:
        leases = one.runtime.catalog.leases
        async with leases.hold("collect", "somebody", timedelta(minutes=1)) as lease:
            assert lease is not None
            assert (await other.run("collect")).skipped
            assert not (await one.run("expire")).skipped
            await one.runtime.db.execute("UPDATE sagaz_tiering.leases SET expires_at = now() - interval '1 s'")
            assert await leases.acquire("collect", "usurper", timedelta(minutes=1)) is not None
            with pytest.raises(LeaseLost):
                await one.runtime.catalog.packs.abandon(1, lease)


class Crash(BaseException):
    """Stands for the end of the process at an exact point."""


@pytest.mark.parametrize("step", ["put", "head", "activate", "evict_claimed", "evicted", "ack"])
async def test_age_crashing_at_each_step_loses_nothing(
    step: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash right before and right after every write of the protocol; the next run finishes the work."""
    saved = old_snapshots(20)
    jobs = {"claim_ttl": "50ms"}
    async with product(config(**places, jobs=jobs), now=SystemClock().now()) as shop:
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        context = shop.runtime.job_context()
        owner = {"put": context.objects, "head": context.objects, "activate": context.catalog.packs}
        target = owner.get(step) or (context.catalog.packs if step == "evicted" else context.hot.queue)
        real = getattr(target, step)
        for after in (False, True):

            async def crashing(*args: object, _after: bool = after, **kwargs: object) -> object:
                result = await real(*args, **kwargs) if _after else None
                raise Crash(result)

            with monkeypatch.context() as patch:
                patch.setattr(target, step, crashing)
                # After a crash behind the eviction nothing is left to do, so nothing is left to crash.
                with suppress(Crash) if after and not await shop.hot_count() else pytest.raises(Crash):
                    await shop.run("age")
            for snapshot in saved[::7]:
                assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
            await asyncio.sleep(0.1)  # the crashed run's claims run out
        if await shop.hot_count():
            await shop.run("age")
        await check_nothing_lost(shop, saved)
        await check_bucket_is_the_catalog(shop)
