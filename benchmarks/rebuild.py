"""PostgreSQL's catalog dropped: a rebuild from the bucket alone, and random queries of every kind before and after.

    python benchmarks/rebuild.py --snapshots 100000 --queries 1000 [--s3]

Exits non-zero if one answer differs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from volume import BEGUN, batches, sagas, save_all

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.yaml_config import write_config

from sagaz_tiering.app.runtime import open_runtime, read_config
from sagaz_tiering.app.tiered import TieredSnapshotStorage
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.clock import SystemClock, VirtualClock
from sagaz_tiering.errors import SnapshotArchived
from sagaz_tiering.jobs import run_job
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.operations.rebuild import Wish, measure, proposed_id, rebuild
from sagaz_tiering.snapshot import SagaSnapshot

POLICIES: list[dict[str, Any]] = [
    {"name": "all", "durability": "hot", "move": [{"to": "STANDARD_IA", "after": "7d"}]},
]


async def answer(storage: TieredSnapshotStorage, kind: int, snapshot: SagaSnapshot, moment: timedelta) -> Any:
    """One question of one of six kinds."""
    saga_id = snapshot.saga_id
    asked: list[Any] = [
        lambda: storage.get_snapshot(snapshot.snapshot_id),
        lambda: storage.get_latest_snapshot(saga_id),
        lambda: storage.get_latest_snapshot(saga_id, before_step=snapshot.step_name),
        lambda: storage.get_snapshot_at_time(saga_id, snapshot.created_at + moment),
        lambda: storage.list_snapshots(saga_id, limit=3),
        lambda: storage.timeline(saga_id),
    ]
    try:
        return await asked[kind]()
    except SnapshotArchived as exc:
        return ("archived", exc.snapshot_ids)


async def main(snapshots: int, queries: int, s3: bool) -> None:
    """The whole run."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        cold: dict[str, Any] = {"url": f"file://{folder}/cold", "pack": {"target": "1MiB", "max_frame": "1MiB"}}
        if s3:
            cold |= {"url": "s3://rebuild/bench", "endpoint_url": "embedded", "region": "us-east-1"}
        settings = write_config(
            Path(folder) / "tiering.yaml",
            database="embedded",
            redis_url="embedded",
            cold=cold,
            policies=POLICIES,
            embedded={"data_dir": f"{folder}/data"},
        )
        async with open_runtime(read_config(settings), clock=VirtualClock(SystemClock().now())) as runtime:
            storage, chance = runtime.storage(), random.Random(7)
            await save_all(storage, snapshots)
            print("aged:", (await run_job("age", runtime.job_context())).counts)
            known = [snapshot for group in batches(sagas(snapshots), 1) for snapshot in group[0]]
            asked = [
                (chance.randrange(6), chance.choice(known), timedelta(seconds=chance.uniform(-2, 2)))
                for _ in range(queries)
            ]
            before = [await answer(storage, *question) for question in asked]
            await runtime.db.execute("DROP SCHEMA sagaz_tiering CASCADE")
            await migrate(runtime.db)
            context, tally = runtime.job_context(), Tally(None)
            extent, began = await measure(context, runtime.prices), time.monotonic()
            whose = await proposed_id(context)
            assert whose is not None
            await rebuild(context, tally, whose, Wish(take_over=True))
            seconds = time.monotonic() - began
            print(f"rebuilt {extent.packs} packs ({extent.bytes} bytes, ${extent.cost_usd:.6f}) in {seconds:.1f} s:")
            print(f"  {dict(tally.counts)}")
            after = [await answer(storage, *question) for question in asked]
            different = sum(one != other for one, other in zip(before, after, strict=True))
            print(f"{queries} random queries since {BEGUN:%Y-%m-%d}: {different} answers differ")
            assert not different


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--s3", action="store_true", help="cold tier on the embedded S3 server")
    asked = parser.parse_args()
    asyncio.run(main(asked.snapshots, asked.queries, asked.s3))
