"""The console over a large store: how long each page takes, and how much memory the process that serves it takes more.

    python benchmarks/console.py --archived 1000000 --hot 20000 [--visits 50] [--save results/console.json]

Archived sagas are made by SQL as in find.py, hot snapshots are saved. The console is served by a process of its own;
pages are asked for one after the other, of other sagas, packs and questions each time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import aiohttp
import psutil
from find import ATTRIBUTES, NOW, POLICIES, generate
from support.console import OPEN, console
from support.payload import saga
from support.tiers import config, product

from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.console.views import VIEWS
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.embedded import PostgresServer, RedisServer

_SOME_SAGAS = "SELECT saga_id FROM sagaz_tiering.frames WHERE frame_no = ANY($1::integer[]) LIMIT 200"
_AT_ONCE = 200


async def serve(servers: dict[str, Any]) -> None:
    """In a process of its own: print the address, and answer until it is killed."""
    settings = config(**servers, policies=POLICIES, attributes=ATTRIBUTES)
    async with product(settings, now=NOW) as shop, console(shop, OPEN) as address:
        print(address, flush=True)
        await asyncio.Event().wait()


async def fill(asked: argparse.Namespace, servers: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Make the store; ids of sagas in it, and what the other paths name."""
    settings = config(**servers, policies=POLICIES, attributes=ATTRIBUTES)
    patient = CatalogSettings(url=servers["database"], command_timeout=timedelta(seconds=600))
    async with Database(patient) as db, product(settings, now=NOW) as shop:
        await generate(db, asked.archived, 0, shop.runtime.in_force.policies.retention_revision)
        hot = [
            each for n in range(asked.hot // 5) for each in saga(n, begun=NOW - timedelta(days=1), saga_name="shop-1")
        ]
        for done in range(0, len(hot), _AT_ONCE):
            await asyncio.gather(*map(shop.storage.save_snapshot, hot[done : done + _AT_ONCE]))
        rows = await db.fetch(_SOME_SAGAS, list(range(0, 20_000, 97)))
        archived = [str(row["saga_id"]) for row in rows]
        receipt = await shop.storage.forget(hot[0].saga_id)
        await shop.storage.hold(hot[5].saga_id, "case 7")
        names = {"erasure_id": receipt.erasure_id, "restore_id": receipt.erasure_id}
        return [str(each.saga_id) for each in hot[10::5]][:200] + archived, names


async def visit(address: str, asked: argparse.Namespace, sagas: list[str], names: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of each page, as a browser on this machine waits for it, and bytes of the largest."""
    chance, found = random.Random(7), dict[str, Any]()
    more: dict[str, Callable[[], str]] = {
        "/sagas?q=ORDER": lambda: f"/sagas?q=A-{chance.randrange(asked.archived)}",
        "/sagas?q=NAME": lambda: f"/sagas?q=shop-{chance.randrange(40)}",
        "/sagas?status=failed": lambda: "/sagas?status=failed&tier=cold",
        "/sagas?held=true": lambda: "/sagas?held=true",
        "/packs?storage_class": lambda: "/packs?storage_class=STANDARD_IA",
    }

    def path(view: str) -> str:
        return view.format(**names, saga_id=chance.choice(sagas), pack_id=chance.randint(1, asked.archived // 20_000))

    pages = {view.path: lambda view=view.path: path(view) for view in VIEWS} | more
    async with aiohttp.ClientSession() as session:
        for name, where in pages.items():
            times, most, statuses = list[float](), 0, set[int]()
            for _ in range(asked.visits):
                began = time.perf_counter()
                async with session.get(address + where(), headers={"HX-Request": "true"}) as response:
                    most = max(most, len(await response.read()))
                    statuses.add(response.status)
                times.append((time.perf_counter() - began) * 1000)
            cuts = quantiles(times, n=20)
            found[name] = {"p50_ms": cuts[9], "p95_ms": cuts[18], "most_bytes": most, "statuses": sorted(statuses)}
            print(
                f"{name:34} p50 {cuts[9]:7.1f} ms  p95 {cuts[18]:7.1f} ms  {most:9,} B  {sorted(statuses)}", flush=True
            )
    return found


async def main(asked: argparse.Namespace) -> int:
    """Generate, serve, visit, print."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("pg", "redis"):
            (root / name).mkdir()
        async with PostgresServer(root / "pg") as postgres, RedisServer(root / "redis") as redis:
            servers = {"database": postgres.url, "redis_url": redis.url, "cold": str(root / "cold")}
            sagas, names = await fill(asked, servers)
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, "--serve", json.dumps(servers)), stdout=asyncio.subprocess.PIPE
            )
            try:
                assert child.stdout is not None
                address = (await child.stdout.readline()).decode().strip()
                process = psutil.Process(child.pid)
                before = process.memory_info().rss
                times = await visit(address, asked, sagas, names)
                grown = process.memory_info().rss - before
            finally:
                child.kill()
                await child.wait()
    print(f"memory {before / 2**20:.1f} MiB, {grown / 2**20:.1f} MiB more after all visits")
    result = {"archived": asked.archived, "hot": asked.hot, "memory": before, "grown": grown, "times": times}
    if asked.save is not None:
        asked.save.write_text(json.dumps(result, indent=2, default=float) + "\n")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archived", type=int, default=1_000_000)
    parser.add_argument("--hot", type=int, default=20_000)
    parser.add_argument("--visits", type=int, default=50)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.exit(asyncio.run(serve(given.serve)) if given.serve else asyncio.run(main(given)))
