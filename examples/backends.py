"""The five storages with every option of each; the same few calls on all of them.

python examples/backends.py [--redis URL] [--postgres URL] [--s3 ENDPOINT --bucket NAME]
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

from places import Places, open_places

from sagaz_tiering import (
    FilesystemSnapshotStorage,
    InMemorySnapshotStorage,
    PostgreSQLSnapshotStorage,
    RedisSnapshotStorage,
    S3SnapshotStorage,
    SagaSnapshot,
    SnapshotStorage,
)

STEPS = ("reserve_stock", "charge_card", "book_parcel")


def storages(places: Places) -> dict[str, SnapshotStorage]:
    """All five, with every option that the original documentation names."""
    return {
        "memory": InMemorySnapshotStorage(),
        "filesystem": FilesystemSnapshotStorage(
            base_path=places.folder / "saga-snapshots",
            enable_compression=False,  # True: .json.gz
            pretty_json=True,  # indented by 2
        ),
        "redis": RedisSnapshotStorage(
            redis_url=places.redis_url,
            key_prefix="saga:snapshot:",
            default_ttl=2592000,  # 30 days, for snapshots without a retention_until
            enable_compression=True,
            compression_level=3,  # 1-22, higher = smaller
        ),
        "postgresql": PostgreSQLSnapshotStorage(
            connection_string=places.postgres_url,
            pool_min_size=5,
            pool_max_size=20,
        ),
        "s3": S3SnapshotStorage(
            region_name="us-east-1",
            prefix="production/snapshots/",
            enable_compression=True,
            compression_level=3,
            enable_encryption=True,
            storage_class="STANDARD_IA",
            **places.s3,  # bucket_name; endpoint_url and keys where it is not AWS
        ),
    }


async def use(name: str, storage: SnapshotStorage) -> None:
    """What an application calls. The context manager closes connections."""
    saga_id = uuid4()
    started = datetime.now(UTC)
    async with storage:
        for index, step in enumerate(STEPS):
            await storage.save_snapshot(snapshot_of(saga_id, index, step, started + timedelta(seconds=index)))
        latest = await storage.get_latest_snapshot(saga_id)
        assert latest is not None
        again = await storage.get_snapshot(latest.snapshot_id)
        before_charging = await storage.get_snapshot_at_time(saga_id, started)
        snapshots = await storage.list_snapshots(saga_id, limit=100)
        assert again == latest == snapshots[0]
        assert before_charging is not None
        print(f"{name}: {len(snapshots)} snapshots, from {before_charging.step_name} to {latest.step_name}")
        print(f"  {storage.get_storage_info()}")


def snapshot_of(saga_id: UUID, index: int, step: str, created_at: datetime) -> SagaSnapshot:
    """What the engine makes at each step, made by hand."""
    return SagaSnapshot.create(
        saga_id=saga_id,
        saga_name="orders",
        step_name=step,
        step_index=index,
        status="executing",
        context={"order": "A-17", "amount": 49.9},
        completed_steps=list(STEPS[:index]),
        created_at=created_at,
        retention_until=created_at + timedelta(days=2555),
    )


async def query_with_sql(places: Places) -> None:
    """The documented tables are open to any SQL."""
    async with PostgreSQLSnapshotStorage(places.postgres_url) as storage, storage._get_pool().acquire() as connection:
        rows = await connection.fetch(
            'SELECT step_name, count(*) FROM saga_snapshots WHERE context @> \'{"order": "A-17"}\' GROUP BY 1'
        )
        print(f"SQL: order A-17 has snapshots of {sorted(row['step_name'] for row in rows)}")


async def take_places_from_the_environment(places: Places) -> None:
    """A pool without a connection string and a bucket without a name: both come from the environment."""
    url = urlsplit(places.postgres_url)
    os.environ |= {
        "PGHOST": url.hostname or "localhost",
        "PGPORT": str(url.port or 5432),
        "PGUSER": unquote(url.username or ""),
        "PGPASSWORD": unquote(url.password or ""),
        "PGDATABASE": url.path.strip("/"),
        "SAGAZ_TIERING_S3_BUCKET": places.s3["bucket_name"],
    }
    elsewhere = {name: value for name, value in places.s3.items() if name != "bucket_name"}
    async with (
        PostgreSQLSnapshotStorage(pool_min_size=10, pool_max_size=50) as pooled,
        S3SnapshotStorage(enable_compression=True, **elsewhere) as compressed,
    ):
        healthy = [(await storage.health_check()).status for storage in (pooled, compressed)]
    print(f"from the environment: {healthy}")


async def change_compression(places: Places) -> None:
    """Every value says how it is compressed, so options may change over what is stored."""
    saga_id = uuid4()
    settings: tuple[dict[str, Any], ...] = ({"compression_level": 22}, {"enable_compression": False}, {})
    for index, options in enumerate(settings):
        async with RedisSnapshotStorage(places.redis_url, **options) as storage:
            await storage.save_snapshot(snapshot_of(saga_id, index, STEPS[index], datetime.now(UTC)))
            print(f"compression {options or 'as by default'}: {len(await storage.list_snapshots(saga_id))} readable")


async def main() -> None:
    """All of it."""
    async with open_places(__doc__, redis=True, postgres=True, s3=True) as places:
        for name, storage in storages(places).items():
            await use(name, storage)
        await query_with_sql(places)
        await take_places_from_the_environment(places)
        await change_compression(places)


if __name__ == "__main__":
    asyncio.run(main())
