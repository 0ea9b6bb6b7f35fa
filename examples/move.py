"""Moving snapshots between storages: one saga by hand, everything with `transfer_snapshots`, and out of sagaz.

python examples/move.py [--redis URL] [--s3 ENDPOINT --bucket NAME]
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from places import Places, open_places
from sagaz.core import replay as engine  # type: ignore[import-untyped]  # sagaz ships no types
from sagaz.core.storage import backends as sagaz_backends  # type: ignore[import-untyped]

from sagaz_tiering import (
    FilesystemSnapshotStorage,
    RedisSnapshotStorage,
    S3SnapshotStorage,
    SagaSnapshot,
    SnapshotStorage,
    transfer_snapshots,
)
from sagaz_tiering.app.storage_url import open_source


async def fill(storage: SnapshotStorage, saga_id: UUID, count: int) -> None:
    """Some snapshots to move."""
    for index in range(count):
        await storage.save_snapshot(
            SagaSnapshot.create(
                saga_id=saga_id,
                saga_name="orders",
                step_name=f"step-{index}",
                step_index=index,
                status="executing",
                context={"n": index},
                completed_steps=[],
                created_at=datetime.now(UTC) + timedelta(milliseconds=index),
            )
        )


async def one_saga_by_hand(places: Places) -> None:
    """The loop of the original documentation. Without a limit it would copy the newest 100 alone."""
    redis_storage = RedisSnapshotStorage(places.redis_url)
    s3_storage = S3SnapshotStorage(**places.s3)
    async with redis_storage, s3_storage:
        saga_id = uuid4()
        await fill(redis_storage, saga_id, 120)
        snapshots = await redis_storage.list_snapshots(saga_id)
        everything = [snapshot async for snapshot in redis_storage.iter_snapshots(saga_id)]
        print(f"by hand: list_snapshots gives {len(snapshots)} of {len(everything)}; iter_snapshots gives all")
        for snapshot in everything:
            await s3_storage.save_snapshot(snapshot)


async def all_sagas(places: Places) -> None:
    """Every saga and replay record, side by side, read back and compared; killed, it goes on with its journal."""
    async with RedisSnapshotStorage(places.redis_url) as source, S3SnapshotStorage(**places.s3) as target:
        await fill(source, uuid4(), 5)
        for run in ("first", "second"):
            report = await transfer_snapshots(source, target, journal=places.folder / "redis-to-s3.journal")
            moved = report.snapshots
            print(f"{run} run: {moved.copied} copied, {moved.already_there} there, {moved.failed} failed")


async def from_development_to_production(places: Places) -> None:
    """The same interface: a directory of files becomes a bucket."""
    dev_storage = FilesystemSnapshotStorage(base_path=places.folder / "dev-snapshots")
    prod_storage = S3SnapshotStorage(
        region_name="us-east-1", prefix="prod/", enable_compression=True, enable_encryption=True, **places.s3
    )
    async with dev_storage, prod_storage:
        saga_id = uuid4()
        await fill(dev_storage, saga_id, 3)
        await transfer_snapshots(dev_storage, prod_storage, saga_ids=[saga_id])
        print(f"production has {len(await prod_storage.list_snapshots(saga_id))} of the 3 from development")


async def from_sagaz(folder: Path) -> None:
    """What sagaz's own storages wrote, also what their indexes lost, is a source like any other."""
    theirs = sagaz_backends.FilesystemSnapshotStorage(base_path=str(folder / "theirs"))
    saga_id = uuid4()
    await theirs.save_snapshot(
        engine.SagaSnapshot.create(saga_id, "orders", "charge_card", 1, "failed", {"amount": 49.9}, ["reserve_stock"])
    )
    ours = FilesystemSnapshotStorage(folder / "ours")
    async with open_source(f"sagaz+file://{folder}/theirs") as source, ours:
        await transfer_snapshots(source, ours)
        (found,) = await ours.list_snapshots(saga_id)
    print(f"from sagaz: {found.step_name} {found.context}")
    print("in the shell: sagaz-tiering transfer --from sagaz+file://… --to config/tiering.yaml")


async def main() -> None:
    """All four."""
    async with open_places(__doc__, redis=True, s3=True) as places:
        await one_saga_by_hand(places)
        await all_sagas(places)
        await from_development_to_production(places)
        await from_sagaz(places.folder)


if __name__ == "__main__":
    asyncio.run(main())
