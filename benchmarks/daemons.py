"""Do two and three daemons finish a backlog faster than one? And what does an application feel of it?

    python benchmarks/daemons.py [--snapshots 12000] [--delay 1.0] [--rounds 3]
    python benchmarks/daemons.py --felt [--snapshots 40000]

The first runs `sagaz-tiering job age --once` once, twice and three times at a time over the same backlog, with an
object store whose every answer comes `--delay` seconds late, as from a slow network: what one waits for, the others do
not. The second saves one snapshot after the other, before and while a backlog is aged at full speed, and compares.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.gate import HOST, Gate
from support.payload import saga
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.embedded import EmbeddedServers

BUCKET = "daemons"
PACK = "256KiB"
AT_ONCE = 64


class Late(Gate):
    """A gate through which every answer comes later by `seconds`, however many come."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        super().__init__(host, port)
        self._seconds = seconds

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(self._seconds)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def place(folder: Path, delay: float | None, **pack: Any) -> AsyncIterator[tuple[Runtime, Path]]:
    """Servers, the object store behind a gate that is so late (None: none), a configuration."""
    async with EmbeddedServers.start(folder / "data", durable=False, bucket=BUCKET) as servers:
        endpoint = str(servers.s3_endpoint)
        parts = urlsplit(endpoint)
        user, secret = servers.s3_credentials
        async with Late(str(parts.hostname), int(parts.port or 0), delay or 0.0) as gate:
            cold = {
                "url": f"s3://{BUCKET}/bench",
                "endpoint_url": endpoint if delay is None else f"http://{HOST}:{gate.port}",
                "region": "us-east-1",
                "access_key_id": user,
                "secret_access_key": secret,
                **({"pack": pack} if pack else {}),
            }
            settings = write_config(
                folder / "tiering.yaml",
                database=servers.postgres_url,
                redis_url=servers.redis_url,
                cold=cold,
                policies=[{"name": "all", "durability": "hot", "move": [{"to": "STANDARD_IA", "after": "7d"}]}],
            )
            async with open_runtime(read_config(settings)) as runtime:
                await migrate(runtime.db)
                yield runtime, settings


async def fill(runtime: Runtime, snapshots: int, round_number: int) -> None:
    """Sagas of five that are due."""
    begun = runtime.clock.now() - timedelta(days=40)
    numbers = range(round_number * snapshots // 5, (round_number + 1) * snapshots // 5)
    models = [one for number in numbers for one in saga(number, begun=begun)]
    for start in range(0, len(models), AT_ONCE):
        await asyncio.gather(*map(runtime.storage().save_snapshot, models[start : start + AT_ONCE]))


async def age(settings: Path) -> dict[str, Any]:
    """One run in a process of its own; its report."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sagaz_tiering", "job", "age", "--once", "--json", "--config", str(settings)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    report: dict[str, Any] = json.loads(output)
    return report


async def several(asked: argparse.Namespace, folder: Path) -> int:
    """One, two, three at a time."""
    async with place(folder, asked.delay, target=PACK, max_frame=PACK) as (runtime, settings):
        times: dict[int, list[float]] = {1: [], 2: [], 3: []}
        for number in range(asked.rounds):
            for daemons in times:
                await fill(runtime, asked.snapshots, number * 3 + daemons)
                began = time.perf_counter()
                reports = await asyncio.gather(*(age(settings) for _ in range(daemons)))
                times[daemons].append(time.perf_counter() - began)
                archived = [report["counts"].get("archived", 0) for report in reports]
                assert sum(archived) == asked.snapshots, archived
                print(f"{daemons} at a time: {times[daemons][-1]:.1f} s, archived {archived}", flush=True)
    one = median(times[1])
    for daemons, found in times.items():
        print(f"{daemons}: median {median(found):.1f} s, {median(found) / one:.2f}x of one")
    return 0 if median(times[2]) < one and median(times[3]) < one else 1


async def felt(asked: argparse.Namespace, folder: Path) -> int:
    """Save times beside a run at full speed."""
    async with place(folder, None) as (runtime, settings):
        await fill(runtime, asked.snapshots, 0)
        idle = await save_times(runtime, asyncio.create_task(asyncio.sleep(10)))
        aging = asyncio.create_task(age(settings))
        busy = await save_times(runtime, aging)
        report = await aging
    rate = report["counts"]["archived"] / report["seconds"]
    print(f"aged {rate:,.0f} snapshots a second meanwhile")
    for name, found in (("idle", idle), ("while ageing", busy)):
        cut = quantiles(found, n=100)
        print(f"{name}: {len(found)} saves, p50 {cut[49] * 1000:.2f} ms, p99 {cut[98] * 1000:.2f} ms")
    ratio = quantiles(busy, n=100)[98] / quantiles(idle, n=100)[98]
    print(f"p99 while ageing is {ratio:.2f}x of idle")
    return 0 if ratio <= 2 else 1


async def save_times(runtime: Runtime, until: asyncio.Task[Any]) -> list[float]:
    """Seconds of each save, a hundred a second, as of a saga step, until the task ends."""
    models, times = saga(1, begun=runtime.clock.now()), []
    while not until.done():
        one = replace(models[len(times) % 5], snapshot_id=uuid4(), saga_id=uuid4())
        began = time.perf_counter()
        await runtime.storage().save_snapshot(one)
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    return times


async def main(asked: argparse.Namespace) -> int:
    """Either."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        return await (felt if asked.felt else several)(asked, Path(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=12_000)
    parser.add_argument("--delay", type=float, default=1.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--felt", action="store_true", help="what an application feels")
    logging.disable(logging.ERROR)
    sys.exit(asyncio.run(main(parser.parse_args())))
