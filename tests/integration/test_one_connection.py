"""A process that may have one connection to PostgreSQL: whoever holds it in a transaction asks for no second one."""

from __future__ import annotations

from pathlib import Path

from support.payload import snapshots
from support.tiers import DAY, NOW, config, product

from sagaz_tiering.jobs import JOBS, run_job
from sagaz_tiering.operations.status import collect


async def test_one_connection_is_enough(empty_database: str, redis_url: str, tmp_path: Path) -> None:
    """For the check at start, saves, reads, holds, every job and `status`: else each would wait for itself."""
    settings = config(database=empty_database, redis_url=redis_url, cold=tmp_path / "cold")
    one = settings.model_copy(update={"catalog": settings.catalog.model_copy(update={"pool_max": 1})})
    async with product(one) as shop:
        await shop.runtime.check()
        saved = list(snapshots(10, created_at=NOW))
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        await shop.storage.hold(saved[0].saga_id, "case", who="us")
        shop.clock.advance(14 * DAY)
        for job in JOBS:
            await run_job(job, shop.runtime.job_context())
        for snapshot in saved:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
        await shop.storage.forget(saved[-1].saga_id)
        await shop.storage.release(saved[0].saga_id, reason="over", who="us")
        await shop.runtime.check()
        assert (await collect(shop.runtime.job_context(), count=False))[1] == {}
