"""What dictionaries save: memory in Redis beside sagaz's own storage, bytes in packs, times; on embedded servers.

    python benchmarks/dictionaries.py [--sagas 1000] [--json FILE]

Trains on 300 sagas as the daemon does, then saves others with and without, reads them, and ages them. Exit code 1 if
packs or Redis take more than they may.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import redis.asyncio
from sagaz.core.storage.backends.redis.snapshot import RedisSnapshotStorage as PeerRedis
from speed_works import theirs
from support.payload import snapshots
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.clock import SystemClock, VirtualClock
from sagaz_tiering.embedded.servers import endpoints_of_running
from sagaz_tiering.jobs import run_job
from sagaz_tiering.snapshot import SagaSnapshot

MOST_IN_PACKS = 550
MOST_OF_PEER = 0.7
TRAINED_FROM = 300
TURNS = 10
WAYS = {"with": True, "without": False}


@dataclass(kw_only=True)
class Figures:
    """Of one way to save; bytes a snapshot, milliseconds (medians of turns)."""

    redis_bytes: float
    pack_bytes: float
    save_ms: float
    get_ms: float


async def main(asked: argparse.Namespace) -> int:
    """The whole run."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)  # PostgreSQL may run as another user and must get to its data
        async with opened(Path(folder)) as (runtime, client):
            await save(runtime, made(runtime, TRAINED_FROM, start=10**6))
            report = await run_job("train", runtime.job_context())
            print("\n".join(report.notes), file=sys.stderr)
            times = await by_turns(runtime)
            runtime.clock.advance(timedelta(days=9))  # type: ignore[attr-defined]  # it is a VirtualClock
            await run_job("age", runtime.job_context())
            saved = made(runtime, asked.sagas)
            figures = {}
            for name, enabled in WAYS.items():
                runtime.dictionaries.enabled = enabled
                redis_bytes, pack_bytes = await sizes(runtime, client, saved)
                save_ms, get_ms = times[name]
                figures[name] = Figures(redis_bytes=redis_bytes, pack_bytes=pack_bytes, save_ms=save_ms, get_ms=get_ms)
                saved = made(runtime, asked.sagas, start=10**5)
            peer = await peer_bytes(client, saved, runtime)
    print(f"{'':10}{'Redis B':>10}{'packs B':>10}{'save ms':>10}{'get ms':>10}")
    for name, row in figures.items():
        print(f"{name:10}{row.redis_bytes:10.0f}{row.pack_bytes:10.0f}{row.save_ms:10.3f}{row.get_ms:10.3f}")
    ours = figures["with"]
    share = ours.redis_bytes / peer
    print(f"{'peer':10}{peer:10.0f}   ours with dictionaries: {share:.2f}x (at most {MOST_OF_PEER})")
    if asked.json:
        document = {name: asdict(row) for name, row in figures.items()} | {"peer_redis_bytes": peer}
        Path(asked.json).write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0 if share <= MOST_OF_PEER and ours.pack_bytes <= MOST_IN_PACKS else 1


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Runtime, redis.asyncio.Redis]]:
    """A product on embedded servers whose packs are a directory."""
    settings = write_config(
        folder / "tiering.yaml",
        database="embedded",
        redis_url="embedded",
        cold={"url": f"file://{folder}/cold"},
        policies=[{"name": "all", "match": {}, "durability": "hot", "move": [{"to": "STANDARD_IA", "after": "7d"}]}],
        embedded={"data_dir": f"{folder}/data", "s3": False},
    )
    async with open_runtime(read_config(settings), clock=VirtualClock(SystemClock().now())) as runtime:
        running = endpoints_of_running(folder / "data")
        assert running is not None
        client = redis.asyncio.Redis.from_url(running.redis_url)
        try:
            yield runtime, client
        finally:
            await client.aclose()


def made(runtime: Runtime, sagas: int, *, start: int = 0) -> list[SagaSnapshot]:
    """Sagas that begin now."""
    return list(snapshots(sagas, start=start, created_at=runtime.clock.now()))


async def save(runtime: Runtime, saved: Sequence[SagaSnapshot]) -> None:
    storage = runtime.storage()
    for at in range(0, len(saved), 100):
        await asyncio.gather(*(storage.save_snapshot(snapshot) for snapshot in saved[at : at + 100]))


async def by_turns(runtime: Runtime) -> dict[str, tuple[float, float]]:
    """Milliseconds of a save and of a get, one after the other, each way by turns."""
    storage = runtime.storage()
    saves: dict[str, list[float]] = {name: [] for name in WAYS}
    gets: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(TURNS):
        for name, enabled in WAYS.items():
            runtime.dictionaries.enabled = enabled
            some = made(runtime, 20, start=2 * 10**6 + 100 * turn + 50 * enabled)
            saves[name] += [await timed(storage.save_snapshot(snapshot)) for snapshot in some]
            gets[name] += [await timed(storage.get_snapshot(snapshot.snapshot_id)) for snapshot in some]
    return {name: (median(saves[name]) * 1000, median(gets[name]) * 1000) for name in WAYS}


async def sizes(runtime: Runtime, client: redis.asyncio.Redis, saved: Sequence[SagaSnapshot]) -> tuple[float, float]:
    """Bytes a snapshot in Redis, then in packs, of which nothing is left in Redis."""
    clock, before = runtime.clock, await used(client)
    assert isinstance(clock, VirtualClock)
    await save(runtime, saved)
    redis_bytes = (await used(client) - before) / len(saved)
    packed = await in_packs(runtime)
    clock.advance(timedelta(days=9))
    await run_job("age", runtime.job_context())
    now = await in_packs(runtime)
    assert now[1] - packed[1] >= len(saved)
    return redis_bytes, (now[0] - packed[0]) / (now[1] - packed[1])


async def timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def used(client: redis.asyncio.Redis) -> int:
    """Bytes of Redis memory, all keys, indexes and overheads."""
    return int((await client.info("memory"))["used_memory"])


async def in_packs(runtime: Runtime) -> tuple[int, int]:
    """Bytes and snapshots of all packs."""
    totals = await runtime.catalog.packs.totals()
    return sum(total.bytes for total in totals), sum(total.snapshots for total in totals)


async def peer_bytes(client: redis.asyncio.Redis, saved: Sequence[SagaSnapshot], runtime: Runtime) -> float:
    """What sagaz's own storage takes of Redis for the same snapshots, a snapshot."""
    running = endpoints_of_running(Path(runtime.settings.embedded.data_dir))  # type: ignore[union-attr]  # it is set
    assert running is not None
    await client.execute_command("FLUSHALL", "SYNC")  # else what is freed later is counted
    before = await used(client)
    async with PeerRedis(running.redis_url) as peer:
        for snapshot in saved:
            await peer.save_snapshot(theirs(snapshot))
        return (await used(client) - before) / len(saved)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sagas", type=int, default=1000)
    parser.add_argument("--json", help="write every figure to this file")
    sys.exit(asyncio.run(main(parser.parse_args())))
