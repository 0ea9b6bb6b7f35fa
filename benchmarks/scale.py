"""What large catalogs cost: bytes in PostgreSQL, look-ups, the daemon's start and the jobs with nothing to do.

    python benchmarks/scale.py --snapshots 1000000 [10000000 …] [--lookups 2000] [--json FILE] [--in FOLDER]
        [--shared-buffers 64MB]

Catalogs are generated (`catalogs.py`) on the embedded PostgreSQL; 10,000,000 snapshots take about five minutes and
2.5 GB. `fsync` is off while they are made only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from catalogs import POLICIES, Wanted, fill
from support.daemon_process import DaemonProcess, daemon
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.embedded import postgres
from sagaz_tiering.jobs import JOBS, run_job
from sagaz_tiering.policy import PolicySet
from sagaz_tiering.tiered.read import NO_LIMIT

Known = tuple[UUID, UUID, datetime]

MOST_BYTES = 160
SETTLED = 1_000_000
"""In smaller catalogs the pages that are not full yet count for too much."""
MOST_LOOKUP_MS = 1.0
MOST_START_S = 5.0

RELATIONS = """
SELECT c.relname AS name, pg_table_size(c.oid)::bigint AS bytes, c.relkind = 'i' AS is_index
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'sagaz_tiering' AND c.relkind IN ('r', 'i')
   AND coalesce((SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = c.oid), c.oid)::regclass::text
       = ANY('{sagaz_tiering.snapshots,sagaz_tiering.frames,sagaz_tiering.packs,sagaz_tiering.steps}'::text[])
 ORDER BY 2 DESC
"""
SAMPLE = """
SELECT s.snapshot_id, f.saga_id, s.created_at
  FROM sagaz_tiering.snapshots s JOIN sagaz_tiering.frames f USING (pack_id, frame_no)
 WHERE s.ctid = ANY(ARRAY(SELECT format('(%s,%s)', (random() * ($1 - 1))::bigint, 1 + (random() * 40)::int)::tid
                            FROM generate_series(1, $2)))
"""

_SCHEDULED = {name for name, job in JOBS.items() if job.scheduled}


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Runtime, Path]]:
    """A runtime on embedded servers over a directory as its bucket, and its configuration."""
    settings = write_config(
        folder / "tiering.yaml",
        database="embedded",
        redis_url="embedded",
        cold={"url": f"file://{folder}/cold", "region": "us-east-1"},
        policies=POLICIES,
        embedded={"data_dir": f"{folder}/data"},
        daemon={"port": 0},
        schedule={name: {"every": "2s", "jitter": "0s"} for name in _SCHEDULED},
    )
    async with open_runtime(read_config(settings)) as runtime:
        yield runtime, settings


async def made(runtime: Runtime, folder: Path, snapshots: int) -> dict[str, float]:
    """Generate the catalog: seconds, snapshots a second of the first and the last ten packs, bytes of WAL for each."""
    began, db = time.monotonic(), runtime.db
    for change in ("SET fsync = off", "SET max_wal_size = '8GB'"):
        await db.execute(f"ALTER SYSTEM {change}")
    await db.execute("SELECT pg_reload_conf()")
    revision = PolicySet(runtime.settings.policies).retention_revision
    wal_before = await db.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    rates = await fill(db, folder / "cold", Wanted(snapshots=snapshots, now=SystemClock().now()), revision)
    wal = await db.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn") - wal_before
    await db.execute("ALTER SYSTEM RESET ALL")
    await db.execute("SELECT pg_reload_conf()")
    await slowly(db, "CHECKPOINT")
    return {
        "seconds": time.monotonic() - began,
        "first_packs_per_second": median(rates[:10]),
        "last_packs_per_second": median(rates[-10:]),
        "wal_bytes_each": float(wal) / snapshots,
    }


async def slowly(db: Any, statement: str) -> None:
    """A statement that may take longer than those of the product."""
    async with db.connection() as conn:
        await conn.execute(statement, timeout=600)


async def sizes(runtime: Runtime, snapshots: int) -> dict[str, Any]:
    """Bytes of every relation, and for each snapshot."""
    rows = await runtime.db.fetch(RELATIONS)
    each = {row["name"]: row["bytes"] / snapshots for row in rows}
    return {"total_bytes": sum(row["bytes"] for row in rows), "per_snapshot": sum(each.values()), "each": each}


async def lookups(runtime: Runtime, count: int) -> dict[str, Any]:
    """p50 and p99 in ms of what reads ask the catalog, one after the other, each of another random snapshot."""
    places = runtime.catalog.locations
    pages = await runtime.db.fetchval("SELECT pg_relation_size('sagaz_tiering.snapshots') / 8192")
    known = [tuple(row) for row in await runtime.db.fetch(SAMPLE, pages, count + 100)]
    random.Random(1).shuffle(known)

    def of_saga(limit: int, **more: Any) -> Callable[[Known], Awaitable[Sequence[object]]]:
        return lambda one: places.find_of_saga(one[1], limit=limit, with_values=limit < NO_LIMIT, **more)

    calls: dict[str, Callable[[Known], Awaitable[Sequence[object]]]] = {
        "by id": lambda one: places.find(one[0]),
        "latest": of_saga(1),
        "latest of a step": of_saga(1, step_name="take_payment"),
        "at time": lambda one: places.find_of_saga(one[1], not_after=one[2], limit=1, with_values=True),
        "list 100": of_saga(100),
        "timeline": of_saga(NO_LIMIT),
    }
    found: dict[str, Any] = {}
    for name, call in calls.items():
        times = []
        for one in known[:50]:
            await call(one)
        for one in known[50:]:
            began = time.perf_counter()
            answer = await call(one)
            times.append((time.perf_counter() - began) * 1000)
            assert answer, f"{name}: nothing found of {one}"
        found[name] = {"p50_ms": median(times), "p99_ms": quantiles(times, n=100)[98]}
    return found


async def start(folder: Path, settings: Path) -> dict[str, Any]:
    """The quickest of three starts: what else runs on the machine only ever makes them longer."""
    return min([await start_once(folder, settings) for _ in range(3)], key=lambda found: found["ready_s"])


async def start_once(folder: Path, settings: Path) -> dict[str, Any]:
    """The daemon as a process: seconds until READY, its memory then and after every job has run once."""
    config, began = read_config(settings), time.perf_counter()
    async with open_runtime(config) as runtime:
        await runtime.check()
        in_process = time.perf_counter() - began
    began = time.perf_counter()
    async with daemon(folder, settings) as process:
        await process.until(lambda: process.notified("READY=1"), deadline_s=60)
        seconds, ready_mib = time.perf_counter() - began, memory_mib(process, "VmRSS")
        await process.until(lambda: {line["job"] for line in process.logged("job.finished")} >= _SCHEDULED)
        peak = memory_mib(process, "VmHWM")
        await process.stop()
    return {
        "open_and_check_s": in_process,
        "ready_s": seconds,
        "rss_at_ready_mib": ready_mib,
        "peak_after_jobs_mib": peak,
    }


def memory_mib(process: DaemonProcess, field: str) -> float:
    """A line of the process's status, in MiB."""
    for line in Path(f"/proc/{process.process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise AssertionError(field)


async def job_times(runtime: Runtime) -> dict[str, float]:
    """Seconds of each job with nothing due, and of the dry run of scrub; the first run of all is not counted."""
    context, found = runtime.job_context(), {}
    await run_job("age", context)
    for name in JOBS:
        began = time.perf_counter()
        report = await run_job(name, context)
        found[name] = time.perf_counter() - began
        unexpected = {kind: n for kind, n in report.counts.items() if kind not in ("objects", "not_worth_it")}
        assert not unexpected, f"{name} found something to do: {report}"
    began = time.perf_counter()
    await run_job("scrub", context, dry_run=True)
    found["scrub (dry run)"] = time.perf_counter() - began
    return found


async def planned(settings: Path) -> float:
    """Seconds of `sagaz-tiering plan` as a process of its own."""
    began = time.perf_counter()
    command = (sys.executable, "-m", "sagaz_tiering", "plan", "--json", "--config", str(settings))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return time.perf_counter() - began


async def measure(snapshots: int, count: int, parent: Path | None) -> dict[str, Any]:
    """Everything for one size."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        os.chmod(folder, 0o711)  # PostgreSQL may run as another user and must get to its data
        async with opened(folder) as (runtime, settings):
            await runtime.check()
            empty = await start(folder, settings)
            found: dict[str, Any] = {"snapshots": snapshots, "start_empty": empty}
            print(f"{snapshots:,} snapshots", flush=True)
            for what, work in (
                ("generated", made(runtime, folder, snapshots)),
                ("sizes", sizes(runtime, snapshots)),
                ("lookups", lookups(runtime, count)),
                ("start", start(folder, settings)),
                ("jobs_s", job_times(runtime)),
                ("plan_s", planned(settings)),
            ):
                found[what] = await work
                print(f"  {what}: {shown(found[what])}", flush=True)
    return found


def shown(value: Any) -> str:
    """For people."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items())
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def misses(found: dict[str, Any]) -> list[str]:
    """What is over its limit."""
    missed = []
    if found["snapshots"] >= SETTLED and found["sizes"]["per_snapshot"] > MOST_BYTES:
        missed.append(f"{found['sizes']['per_snapshot']:.0f} bytes a snapshot, at most {MOST_BYTES}")
    for name, times in found["lookups"].items():
        if times["p50_ms"] > MOST_LOOKUP_MS:
            missed.append(f"{name}: {times['p50_ms']:.2f} ms, at most {MOST_LOOKUP_MS}")
    if found["start"]["ready_s"] > MOST_START_S:
        missed.append(f"ready after {found['start']['ready_s']:.1f} s, at most {MOST_START_S}")
    return missed


async def main(asked: argparse.Namespace) -> int:
    """The whole run."""
    postgres._SETTINGS["shared_buffers"] = asked.shared_buffers
    found = [await measure(snapshots, asked.lookups, asked.folder) for snapshots in asked.snapshots]
    missed = [f"{each['snapshots']:,} snapshots: {text}" for each in found for text in misses(each)]
    machine = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "shared_buffers": asked.shared_buffers,
    }
    if asked.json:
        Path(asked.json).write_text(json.dumps({"machine": machine, "missed": missed, "sizes": found}, indent=1))
    print("\n".join([f"MISSED: {text}" for text in missed] or ["all limits kept"]))
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--lookups", type=int, default=2000)
    parser.add_argument("--json", help="write every figure to this file")
    parser.add_argument("--in", dest="folder", type=Path, help="where the data goes meanwhile (default: temporary)")
    parser.add_argument("--shared-buffers", default="64MB", help="of PostgreSQL; 64MB is the embedded default")
    sys.exit(asyncio.run(main(parser.parse_args())))
