"""What it costs to look at a large store: a scrape of /metrics, the daemon's look behind it, and `status`.

    python benchmarks/looks.py --snapshots 1000000 [--durable 20000] [--hot 1000] [--runs 50] [--save FILE]

The catalog is generated (`catalogs.py`) on the embedded PostgreSQL, with a row of `sagas` for each saga. It tells the
median time of a call, and the processor time that it takes here (of a scrape at both ends) and in the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import aiohttp
import psutil
from catalogs import POLICIES, Wanted, fill
from plan import DURABLE
from support.payload import saga
from support.tiers import Product, config, product

from sagaz_tiering.clock import SystemClock
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.daemon.health import Readiness, serve
from sagaz_tiering.daemon.totals import TotalsKeeper
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.embedded import PostgresServer, RedisServer
from sagaz_tiering.operations.status import collect

MOST_MS = {"GET /metrics": 50.0, "status": 300.0}
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sagaz-tiering'"
Ask = Callable[[], Awaitable[object]]


async def generate(db: Database, shop: Product, asked: argparse.Namespace) -> None:
    """Archived, durable and hot snapshots."""
    now = shop.clock.now()
    await fill(db, None, Wanted(snapshots=asked.snapshots, now=now), shop.runtime.policies.retention_revision)
    await db.execute("UPDATE sagaz_tiering.sagas_filled SET up_to = '00000000-0000-0000-0000-000000000000'")
    while not await db.fetchval("SELECT sagaz_tiering.fill_sagas(1000)"):
        pass
    await db.execute(DURABLE, asked.durable)
    await db.execute("VACUUM ANALYZE")
    for number in range(asked.hot):
        await shop.storage.save_snapshot(saga(number, begun=now - timedelta(days=8), saga_name="shop-0-order")[0])


async def measured(ask: Ask, runs: int, servers: Sequence[psutil.Process]) -> dict[str, float]:
    """Milliseconds of one call."""
    took, here = list[float](), list[float]()
    before = used_s(servers)
    for _ in range(runs):
        began, began_here = time.perf_counter(), time.process_time()
        await ask()
        took.append((time.perf_counter() - began) * 1000)
        here.append((time.process_time() - began_here) * 1000)
    return {
        "median_ms": median(took),
        "p95_ms": quantiles(took, n=20)[-1],
        "processor_here_ms": median(here),
        "processor_of_servers_ms": (used_s(servers) - before) * 1000 / runs,
    }


def used_s(servers: Sequence[psutil.Process]) -> float:
    """Processor time so far."""
    return sum(sum(each.cpu_times()[:2]) for each in servers)


@asynccontextmanager
async def asks(shop: Product) -> AsyncIterator[dict[str, Ask]]:
    """The calls, by name; one has been made of each."""
    context = shop.runtime.job_context()
    async with serve("127.0.0.1", 0, Readiness(time.monotonic)) as (host, port), aiohttp.ClientSession() as session:

        async def scrape() -> str:
            async with session.get(f"http://{host}:{port}/metrics") as answer:
                return await answer.text()

        async def status() -> None:
            _, failures = await collect(context, count=False)
            assert failures == {}, failures

        found: dict[str, Ask] = {
            "GET /metrics": scrape,
            "look of the daemon, every 30 s": TotalsKeeper(context).once,
            "status": status,
        }
        for ask in found.values():
            await ask()
        yield found


async def on_servers(asked: argparse.Namespace, servers: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By call."""
    settings = config(**servers, policies=POLICIES)
    patient = CatalogSettings(url=servers["database"], command_timeout=timedelta(seconds=600))
    async with product(settings, now=SystemClock().now()) as shop:
        await shop.runtime.check()  # the bucket is ours from here on
        async with Database(patient) as db:
            await generate(db, shop, asked)
        async with asks(shop) as found:
            pids = await shop.runtime.db.fetch(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'sagaz-tiering'"
            )
            redis = (await shop.runtime.hot.connection.info())["process_id"]
            processes = [psutil.Process(pid) for pid in (*(row["pid"] for row in pids), redis)]
            return {name: await measured(ask, asked.runs, processes) for name, ask in found.items()}


async def main(asked: argparse.Namespace) -> int:
    """Generate, measure, print; 1 where a call takes longer than wanted."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("pg", "redis"):
            (root / name).mkdir()
        async with PostgresServer(root / "pg") as postgres, RedisServer(root / "redis") as redis:
            times = await on_servers(asked, {"database": postgres.url, "redis_url": redis.url, "cold": root / "cold"})
    result = {"snapshots": asked.snapshots, "durable": asked.durable, "hot": asked.hot, "times": times}
    text = json.dumps(result, indent=2)
    print(text)
    if asked.save is not None:
        asked.save.write_text(text + "\n")
    return int(any(times[name]["median_ms"] > most for name, most in MOST_MS.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=1_000_000)
    parser.add_argument("--durable", type=int, default=20_000)
    parser.add_argument("--hot", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--save", type=Path)
    sys.exit(asyncio.run(main(parser.parse_args())))
