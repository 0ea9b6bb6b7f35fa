"""Health, figures, clean-up, and what to do when a package or a table is missing.

python examples/monitoring.py [--redis URL] [--postgres URL] [--s3 ENDPOINT --bucket NAME]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
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
from sagaz_tiering.errors import HotTierUnavailable, MissingDependencyError
from sagaz_tiering.sagaz_engine.time_travel import state_at


async def check(storage: SnapshotStorage) -> None:
    """The same for every storage; it never raises for a server that is down."""
    health = await storage.health_check()
    print(f"{type(storage).__name__}:")
    print(f"  Status: {health.status} in {health.latency_ms:.0f} ms")
    print(f"  Snapshots: {health.snapshot_count}")
    print(f"  Size: {health.total_size_bytes}")
    for warning in health.details.get("warnings", ()):
        print(f"  look at: {warning}")


async def look_closer(places: Places) -> None:
    """What only Redis, or only PostgreSQL, can tell."""
    async with RedisSnapshotStorage(places.redis_url) as storage:
        info = await storage._get_redis().info("memory")
        print(f"Redis memory used: {info['used_memory_human']}")
    async with PostgreSQLSnapshotStorage(places.postgres_url) as storage:
        # Manually create tables if needed: the first call does, this makes them before.
        async with storage._get_pool().acquire() as conn:
            await conn.execute(PostgreSQLSnapshotStorage.CREATE_TABLES_SQL)
            await conn.execute(PostgreSQLSnapshotStorage.CREATE_TABLES_SQL)  # harmless on tables that are there
            size = await conn.fetchval("SELECT pg_size_pretty(pg_total_relation_size('saga_snapshots'))")
        print(f"PostgreSQL table and indexes: {size}")


def snapshot(saga_id: UUID, retention_until: datetime) -> SagaSnapshot:
    """One that ends at a time."""
    return SagaSnapshot.create(
        saga_id=saga_id,
        saga_name="orders",
        step_name="charge_card",
        step_index=1,
        status="failed",
        context={"amount": 49.9},
        completed_steps=[],
        retention_until=retention_until,
    )


async def clean_up(storage: SnapshotStorage) -> None:
    """A snapshot past its retention is invisible at once; this frees its space."""
    saga_id, now = uuid4(), datetime.now(UTC)
    for days in (-1, 1, 2):
        await storage.save_snapshot(snapshot(saga_id, now + timedelta(days=days)))
    visible = len(await storage.list_snapshots(saga_id))
    expired = await storage.delete_expired_snapshots()
    deleted = await storage.cleanup_saga(saga_id)
    print(f"Saved 3, visible {visible}; cleaned up {expired} expired snapshots, then deleted {deleted} of the saga")


@contextmanager
def without(package: str) -> Iterator[None]:
    """As if it were not installed."""
    kept = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        del sys.modules[package]
        if kept is not None:
            sys.modules[package] = kept


async def name_what_is_missing() -> None:
    """What the storages need is installed with them; an extra that is not there is named, with what to install."""
    async with InMemorySnapshotStorage() as storage:
        saga_id, now = uuid4(), datetime.now(UTC)
        await storage.save_snapshot(snapshot(saga_id, now + timedelta(days=1)))
        with without("sagaz"):
            try:
                await state_at(storage, saga_id, datetime.now(UTC))
            except MissingDependencyError as e:
                print(f"Install dependencies: pip install {e.package}")


async def meet_a_server_that_is_down() -> None:
    """Reads raise and say what to check; health says `unhealthy`, and the same in its details."""
    async with RedisSnapshotStorage("redis://:secret@127.0.0.1:1") as storage:
        try:
            await storage.get_latest_snapshot(uuid4())
        except HotTierUnavailable as exc:
            print(f"down: {exc}\n  {exc.hint}")
        health = await storage.health_check()
        print(f"  Status: {health.status}: {health.details['error']}")


async def main() -> None:
    """All of it."""
    await name_what_is_missing()
    async with open_places(__doc__, redis=True, postgres=True, s3=True) as places:
        await look_closer(places)
        for storage in (
            InMemorySnapshotStorage(),
            FilesystemSnapshotStorage(places.folder / "snapshots"),
            RedisSnapshotStorage(places.redis_url),
            PostgreSQLSnapshotStorage(places.postgres_url),
            S3SnapshotStorage(**places.s3),
        ):
            async with storage:
                await clean_up(storage)
                await check(storage)
    await meet_a_server_that_is_down()


if __name__ == "__main__":
    asyncio.run(main())
