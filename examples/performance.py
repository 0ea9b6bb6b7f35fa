"""How fast the storages are here, and what compression levels give: measured, on whatever servers are given.

    python examples/performance.py [--redis URL] [--postgres URL] [--s3 ENDPOINT --bucket NAME] [--rounds N]

One save, one read by id, and a list of 100, one after the other, of snapshots with about 10 KB of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from statistics import median
from uuid import UUID, uuid4

import zstandard
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
from sagaz_tiering.codec.threaded import encode_value

LEVELS = (1, 3, 10, 22)
ROUNDS = 100
CITIES = ("Lisbon", "Kyiv", "Osaka", "Quito", "Accra", "Turin")


def snapshot(saga_id: UUID, index: int) -> SagaSnapshot:
    """An order with lines, names, amounts and ids: neither all alike nor all random."""
    chance = Random(index)
    lines = [
        {
            "sku": f"{chance.choice('ABCDEF')}-{chance.randrange(10**6):06}",
            "quantity": chance.randrange(1, 9),
            "price": round(chance.uniform(1, 900), 2),
            "warehouse": chance.choice(CITIES),
            "reserved": str(UUID(int=chance.getrandbits(128))),
        }
        for _ in range(82)
    ]
    return SagaSnapshot.create(
        saga_id=saga_id,
        saga_name="orders",
        step_name="charge_card",
        step_index=index,
        status="executing",
        context={"customer": f"customer-{index}", "lines": lines},
        completed_steps=["reserve_stock"],
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=index),
    )


async def milliseconds(call: Callable[[], Awaitable[object]]) -> float:
    """Of one call."""
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000


async def measure(name: str, storage: SnapshotStorage, rounds: int) -> None:
    """Medians; the first call, which connects, is not among them."""
    saga_id = uuid4()
    snapshots = [snapshot(saga_id, index) for index in range(rounds)]
    async with storage:
        await storage.save_snapshot(snapshots[0])
        saves = [await milliseconds(partial(storage.save_snapshot, each)) for each in snapshots]
        reads = [await milliseconds(partial(storage.get_snapshot, each.snapshot_id)) for each in snapshots]
        lists = [await milliseconds(partial(storage.list_snapshots, saga_id, limit=100)) for _ in range(5)]
    print(f"{name:<11} save {median(saves):7.2f} ms   get {median(reads):7.2f} ms   list {median(lists):7.1f} ms")


async def compare_levels() -> None:
    """The bytes that Redis and S3 hold, and what each level takes."""
    one = snapshot(UUID(int=1), 1)
    plain = len((await encode_value(one, saved_us=0, level=None))[1])
    print(f"zstd {zstandard.ZSTD_VERSION}; no compression: {plain} bytes")
    for level in LEVELS:
        times = []
        for _ in range(20):
            began = time.perf_counter()
            _, value = await encode_value(one, saved_us=0, level=level)
            times.append((time.perf_counter() - began) * 1000)
        print(
            f"zstd level {level:>2}: {len(value)} bytes ({len(value) / plain:.0%}), encoded in {median(times):.2f} ms"
        )


def storages(places: Places) -> dict[str, SnapshotStorage]:
    """All five as by default."""
    return {
        "memory": InMemorySnapshotStorage(),
        "filesystem": FilesystemSnapshotStorage(places.folder / "snapshots"),
        "redis": RedisSnapshotStorage(places.redis_url),
        "postgresql": PostgreSQLSnapshotStorage(places.postgres_url),
        "s3": S3SnapshotStorage(**places.s3),
    }


async def main() -> None:
    """Storages, then levels."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    rounds = own.parse_known_args()[0].rounds
    async with open_places(__doc__, redis=True, postgres=True, s3=True, durable=True, more=own) as places:
        for name, storage in storages(places).items():
            await measure(name, storage, rounds)
    await compare_levels()


if __name__ == "__main__":
    asyncio.run(main())
