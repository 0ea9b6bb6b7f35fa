"""Save, age and read back a large number of realistic snapshots on embedded servers; every one is checked.

    python benchmarks/volume.py --snapshots 20000 [--s3] [--check 20000] [--durability hot]

Prints packs, bytes per snapshot against the JSON, the peak memory of the `age` processes together and the times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from memory import peak_mib
from support.payload import saga
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.app.tiered import TieredSnapshotStorage
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.snapshot import SagaSnapshot

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size`."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


BEGUN = SystemClock().now() - timedelta(days=40)


def sagas(snapshots: int) -> Iterator[list[SagaSnapshot]]:
    """Sagas of five snapshots, old enough for every policy."""
    for number in range(snapshots // 5):
        yield saga(number, begun=BEGUN + timedelta(seconds=number))


async def save_all(storage: TieredSnapshotStorage, snapshots: int) -> int:
    """Save everything, 64 at a time; the bytes of its JSON."""
    size = 0
    for group in batches(sagas(snapshots), 64):
        for step in range(5):
            await asyncio.gather(*(storage.save_snapshot(one[step]) for one in group))
        size += sum(len(json.dumps(s.to_dict(), default=str).encode()) for one in group for s in one)
    return size


async def check_saga(storage: TieredSnapshotStorage, saved: list[SagaSnapshot]) -> int:
    """By id, by latest, by time, by list: equal to what was saved."""
    saga_id, ordered = saved[0].saga_id, sorted(saved, key=lambda s: s.created_at, reverse=True)
    assert await storage.list_snapshots(saga_id) == ordered
    assert await storage.get_latest_snapshot(saga_id) == ordered[0]
    for snapshot in saved:
        assert await storage.get_snapshot(snapshot.snapshot_id) == snapshot
        assert await storage.get_snapshot_at_time(saga_id, snapshot.created_at) == snapshot
    return len(saved)


async def age(settings: Path) -> tuple[dict[str, Any], float, float]:
    """`sagaz-tiering job age --once` as a process of its own: report, seconds, peak MiB."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sagaz_tiering", "job", "age", "--once", "--json", "--config", str(settings)),
        stdout=asyncio.subprocess.PIPE,
    )
    watching = asyncio.create_task(peak_mib(process.pid))
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return json.loads(output), time.monotonic() - began, await watching


async def main(snapshots: int, check: int, s3: bool, durability: str) -> None:
    """The whole run."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        cold: dict[str, Any] = {"url": f"file://{folder}/cold"}
        if s3:
            cold = {"url": "s3://volume/bench", "endpoint_url": "embedded", "region": "us-east-1"}
        settings = write_config(
            Path(folder) / "tiering.yaml",
            database="embedded",
            redis_url="embedded",
            cold=cold,
            policies=[{"name": "all", "durability": durability, "move": [{"to": "STANDARD_IA", "after": "7d"}]}],
            embedded={"data_dir": f"{folder}/data"},
        )
        async with open_runtime(read_config(settings)) as runtime:
            storage, began = runtime.storage(), time.monotonic()
            json_bytes = await save_all(storage, snapshots)
            print(
                f"saved {snapshots} snapshots, {json_bytes / snapshots:.0f} bytes of JSON each, "
                f"{snapshots / (time.monotonic() - began):.0f}/s"
            )
            report, seconds, peak = await age(settings)
            print(
                f"aged in {seconds:.1f} s ({snapshots / seconds:.0f}/s), peak memory {peak:.0f} MiB: {report['counts']}"
            )
            await show_packs(runtime, json_bytes / snapshots)
            began, checked = time.monotonic(), 0
            for group in batches(islice(sagas(snapshots), check // 5), 16):
                checked += sum(await asyncio.gather(*(check_saga(storage, one) for one in group)))
            print(
                f"{checked} snapshots read back equal by id, latest, time and list in {time.monotonic() - began:.0f} s"
            )


async def show_packs(runtime: Runtime, json_bytes: float) -> None:
    """Snapshots a pack and bytes a snapshot; Redis must hold none."""
    left = sum([1 async for _ in runtime.hot.snapshots()])
    totals = [t for t in await runtime.catalog.packs.totals() if t.state == "ACTIVE"]
    size, count, packs = sum(t.bytes for t in totals), sum(t.snapshots for t in totals), sum(t.packs for t in totals)
    print(
        f"left in Redis: {left}; {packs} packs of {count / packs:.0f} snapshots, {size / count:.0f} bytes each: "
        f"1/{json_bytes / (size / count):.1f} of the JSON"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, default=20_000)
    parser.add_argument("--check", type=int, default=None)
    parser.add_argument("--s3", action="store_true", help="cold tier on the embedded S3 server")
    parser.add_argument("--durability", choices=("durable", "hot"), default="durable")
    asked = parser.parse_args()
    asyncio.run(main(asked.snapshots, asked.check or asked.snapshots, asked.s3, asked.durability))
