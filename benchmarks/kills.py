"""The daemon killed with SIGKILL at random moments while it ages many snapshots; afterwards every one is checked.

    python benchmarks/kills.py --snapshots 20000 --kills 10 [--s3] [--seed 1]

Exits non-zero if a snapshot is lost, doubled or left behind, or if the bucket is not what the catalog says.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from volume import batches, check_saga, sagas, save_all

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.clock import SystemClock, VirtualClock
from sagaz_tiering.jobs import run_job

DEADLINE_S = 300


async def hot_count(runtime: Runtime) -> int:
    """Snapshots in Redis."""
    return sum([1 async for _ in runtime.hot.snapshots()])


async def daemon(settings: Path, log: Path) -> asyncio.subprocess.Process:
    """`sagaz-tiering run` as a process of its own."""
    with log.open("ab") as out:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sagaz_tiering", "run", "--config", str(settings)), stdout=out, stderr=out
        )


async def kill_daemons(runtime: Runtime, settings: Path, log: Path, kills: int, chance: random.Random) -> None:
    """Each daemon is killed after a random share of the work, or a random time if it gets none done."""
    step = await hot_count(runtime) // kills
    for number in range(kills):
        process, began = await daemon(settings, log), time.monotonic()
        before, patience = await hot_count(runtime), chance.uniform(2, 8)
        wanted = before - chance.randint(1, step)
        while await hot_count(runtime) > wanted and time.monotonic() - began < patience and process.returncode is None:
            await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0, 0.4))
        assert process.returncode is None, f"the daemon ended by itself:\n{log.read_text()[-4000:]}"
        process.kill()
        await process.wait()
        left = await hot_count(runtime)
        print(f"kill {number + 1} after {time.monotonic() - began:.1f} s: {before - left} moved, {left} left")


async def finish(runtime: Runtime, settings: Path, log: Path) -> None:
    """A last daemon does the rest and stops in order."""
    starts = log.read_text().count("daemon.ready")
    process, began = await daemon(settings, log), time.monotonic()
    while await hot_count(runtime) or log.read_text().count("daemon.ready") == starts:
        assert time.monotonic() - began < DEADLINE_S, f"not done:\n{log.read_text()[-4000:]}"
        await asyncio.sleep(0.1)
    process.terminate()
    assert await process.wait() == 0, log.read_text()[-4000:]


async def check(runtime: Runtime, snapshots: int, clock: VirtualClock) -> None:
    """Nothing lost or doubled; after two collections the bucket is exactly what the catalog says."""
    ids = [row["snapshot_id"] for row in await runtime.db.fetch("SELECT snapshot_id FROM sagaz_tiering.snapshots")]
    assert len(ids) == snapshots, f"{len(ids)} places for {snapshots} snapshots"
    assert await runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.saga_snapshots") == 0
    for _ in range(2):
        clock.advance(timedelta(days=2))
        print("collect:", (await run_job("collect", runtime.job_context())).counts)
    rows = await runtime.db.fetch(
        "SELECT object_key, snapshot_count, live_count, state FROM sagaz_tiering.packs ORDER BY pack_id"
    )
    active = {row["object_key"] for row in rows if row["state"] == "ACTIVE"}
    found = {info.key async for info in runtime.objects.list("packs/")}
    assert found == active, (found - active, active - found)
    assert sum(row["snapshot_count"] for row in rows if row["state"] == "ACTIVE") == snapshots, "packed twice"
    print(f"packs: {Counter(row['state'] for row in rows)}")
    checked = 0
    for group in batches(islice(sagas(snapshots), None), 16):
        checked += sum(await asyncio.gather(*(check_saga(runtime.storage(), one) for one in group)))
    print(f"{checked} snapshots read back equal by id, latest, time and list")


async def main(snapshots: int, kills: int, s3: bool, seed: int) -> None:
    """The whole run."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o711)
        cold: dict[str, Any] = {"url": f"file://{folder}/cold"}
        if s3:
            cold = {"url": "s3://kills/bench", "endpoint_url": "embedded", "region": "us-east-1"}
        settings = write_config(
            folder / "tiering.yaml",
            database="embedded",
            redis_url="embedded",
            cold={**cold, "pack": {"target": "1MiB", "max_frame": "1MiB"}},
            policies=[{"name": "all", "move": [{"to": "STANDARD_IA", "after": "7d"}]}],
            embedded={"data_dir": f"{folder}/data"},
            jobs={"lease_ttl": "2s", "claim_ttl": "2s", "batch_sagas": 32},
            schedule={"age": {"every": "1s"}},
            daemon={"port": 0},
        )
        clock = VirtualClock(SystemClock().now())
        async with open_runtime(read_config(settings), clock=clock) as runtime:
            await save_all(runtime.storage(), snapshots)
            await kill_daemons(runtime, settings, folder / "daemon.log", kills, chance)
            await finish(runtime, settings, folder / "daemon.log")
            await check(runtime, snapshots, clock)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--s3", action="store_true", help="cold tier on the embedded S3 server")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    asyncio.run(main(asked.snapshots, asked.kills, asked.s3, asked.seed))
