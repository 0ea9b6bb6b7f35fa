"""Hot and cold data: Redis and S3 put together by hand, what is lost by it, and the tiered storage that does it.

python examples/hybrid.py [--redis URL] [--postgres URL] [--s3 ENDPOINT --bucket NAME]
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from places import Places, open_places, tiered_config

from sagaz_tiering import RedisSnapshotStorage, S3SnapshotStorage, SagaSnapshot
from sagaz_tiering.app.runtime import open_runtime, read_config
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.errors import SnapshotArchived
from sagaz_tiering.jobs import run_job

WEEK = timedelta(days=7)
PHOTO = os.urandom(2 * 2**20)
"""Makes a pack large enough that moving it saves more than the requests cost."""
POLICIES = """\
policies:
  - name: all
    match: {}
    move: [{to: STANDARD_IA, after: 7d}, {to: GLACIER, after: 90d}]
    retain: 2555d
"""


def snapshot(saga_id: UUID, created_at: datetime) -> SagaSnapshot:
    """One, of a given age."""
    return SagaSnapshot.create(
        saga_id=saga_id,
        saga_name="orders",
        step_name="charge_card",
        step_index=1,
        status="failed",
        context={"amount": 49.9, "photo": PHOTO},
        completed_steps=["reserve_stock"],
        created_at=created_at,
    )


async def by_hand(places: Places) -> None:
    """Save to both, as the original documentation shows; its times must be aware, as those of snapshots are."""
    clock = VirtualClock(datetime.now(UTC))
    fresh, old = uuid4(), uuid4()
    async with (
        RedisSnapshotStorage(places.redis_url, default_ttl=604800, clock=clock) as redis_storage,
        S3SnapshotStorage(storage_class="GLACIER", prefix="archive/snapshots/", clock=clock, **places.s3) as s3_storage,
    ):
        for each in (snapshot(fresh, clock.now()), snapshot(old, clock.now() - timedelta(days=30))):
            await redis_storage.save_snapshot(each)
            if each.created_at < datetime.now(UTC) - WEEK:  # without UTC: TypeError
                await s3_storage.save_snapshot(each)
        clock.advance(timedelta(days=8))
        in_redis = await redis_storage.get_latest_snapshot(fresh)
        in_s3 = await s3_storage.get_latest_snapshot(fresh)
        # A snapshot is new when it is saved, so the condition above is only true for back-fills.
        print(f"by hand, eight days later: Redis has {in_redis}, S3 has {in_s3}: the snapshot is lost")
        try:
            await s3_storage.get_latest_snapshot(old)
        except SnapshotArchived as exc:
            print(f"by hand, the archived one: {type(exc).__name__} from {exc.storage_class}")


async def tiered(places: Places) -> None:
    """One storage; policies move the data, and a read finds it where it is."""
    clock = VirtualClock(datetime.now(UTC))
    config = read_config(tiered_config(places, POLICIES))
    async with open_runtime(config, clock=clock) as runtime:
        await migrate(runtime.db)  # sagaz-tiering catalog migrate
        storage, saga_id = runtime.storage(), uuid4()
        await storage.save_snapshot(snapshot(saga_id, clock.now()))
        for days, job in ((0, ""), (9, "age"), (90, "transition")):
            clock.advance(timedelta(days=days))
            if job:
                await run_job(job, runtime.job_context())  # the daemon does this by itself
            (ref,) = await storage.timeline(saga_id)
            try:
                found = await storage.get_latest_snapshot(saga_id)
                answer = f"reads amount {found.context['amount']}" if found else "is lost"
            except SnapshotArchived as exc:
                waits = ", ".join(option.tier for option in exc.options)
                answer = f"is archived; to restore: {waits}"
            print(f"tiered, {days} days on: {ref.tier} {ref.storage_class or ''} {answer}")


async def main() -> None:
    """Both ways."""
    async with open_places(__doc__, redis=True, postgres=True, s3=True) as places:
        await by_hand(places)
        await tiered(places)


if __name__ == "__main__":
    asyncio.run(main())
