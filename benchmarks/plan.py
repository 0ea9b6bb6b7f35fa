"""`sagaz-tiering plan` over a large catalog that SQL fills, on embedded servers: time and peak memory of the process.

    python benchmarks/plan.py --rows 1000000 [--per-pack 3000] [--durable 1000000] [--sagas 100000]

`--per-pack 1` makes every snapshot a pack of its own, the worst case. `--durable` rows are due copies in PostgreSQL,
`--sagas` those that only Redis holds (one snapshot each). The cold tier is an empty directory: a plan reads no object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.payload import saga
from support.yaml_config import write_config

from sagaz_tiering.app.runtime import Runtime, open_runtime, read_config
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.policy import PolicySet

MOVES = [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "90d"}]
POLICIES: list[dict[str, Any]] = [
    {"name": f"policy-{n}", "match": {"saga_name": f"saga-{n}-*"}, "move": MOVES, "retain": f"{700 + n}d"}
    for n in range(5)
] + [{"name": "all", "durability": "hot", "match": {}, "move": MOVES}]

PACKS = """
INSERT INTO sagaz_tiering.packs
    (pack_uuid, object_key, state, storage_class, policy, retention_revision, byte_size, snapshot_count, live_count,
     sha256, min_created_at, max_created_at, max_clock_at, next_expiry_at, lease_name, lease_epoch, created_at,
     class_since, evicted_at)
SELECT gen_random_uuid(),
       format('packs/%s/%s/%s.pack', to_char(at, 'YYYY/MM'), to_char(ends, 'YYYY-MM'), n), 'ACTIVE',
       CASE WHEN n % 3 = 0 THEN 'GLACIER' ELSE 'STANDARD_IA' END, 'policy-' || n % 5, $1, 900 * per_pack, per_pack,
       per_pack, '', at - interval '1 day', at, at, ends - interval '1 day', 'age', 1, at, at + interval '7 days', at
  FROM (SELECT n, $3::bigint AS per_pack, now() - n * interval '800 days' / ($2::bigint / $3) AS at,
               now() - n * interval '800 days' / ($2::bigint / $3) + (700 + n % 5) * interval '1 day' AS ends
          FROM generate_series(1, $2::bigint / $3) AS n) AS made
"""
STEPS = """
INSERT INTO sagaz_tiering.steps (digest, saga_name, step_name, step_index, status)
SELECT sha256(n::text::bytea), 'saga-' || n % 5 || '-x', 'step', n, 'completed' FROM generate_series(1, 25) AS n
"""
FRAMES = """
INSERT INTO sagaz_tiering.frames (saga_id, pack_id, frame_no, byte_offset, byte_length)
SELECT gen_random_uuid(), pack_id, frame_no, frame_no * 4500, least(byte_size, 4500)
  FROM sagaz_tiering.packs, generate_series(0, (snapshot_count - 1) / 5) AS frame_no
"""
PLACES = """
INSERT INTO sagaz_tiering.snapshots (created_at, expires_at, pack_id, frame_no, step_id, snapshot_id)
SELECT max_clock_at, next_expiry_at, pack_id, n / 5, 1 + n % 25, gen_random_uuid()
  FROM sagaz_tiering.packs, generate_series(0, snapshot_count - 1) AS n
"""
DURABLE = """
INSERT INTO sagaz_tiering.saga_snapshots
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, expires_at, due_at,
     body_crc, value)
SELECT gen_random_uuid(), gen_random_uuid(), format('saga-%s-x', n % 5), 'step-' || n % 7, 1, 'completed', at, at,
       at + interval '700 days', at + interval '7 days', 1, repeat('x', 900)::bytea
  FROM (SELECT n, now() - n * interval '14 days' / $1::bigint AS at FROM generate_series(1, $1::bigint) AS n) AS made
"""


async def fill(runtime: Runtime, rows: int, per_pack: int, durable: int, sagas: int) -> None:
    """Make everything; prints how long it took."""
    began, db = time.monotonic(), runtime.db
    revision = PolicySet(runtime.settings.policies).retention_revision
    async with db.transaction() as conn:
        for query, arguments in (
            (PACKS, (revision, rows, per_pack)),
            (STEPS, ()),
            (FRAMES, ()),
            (PLACES, ()),
            (DURABLE, (durable,)),
        ):
            await conn.execute(query, *arguments, timeout=600)
    for table in ("packs", "frames", "snapshots", "saga_snapshots"):
        await db.execute(f"ANALYZE sagaz_tiering.{table}")
    storage, now = runtime.storage(), SystemClock().now()
    for start in range(0, sagas, 64):
        numbers = range(start, min(start + 64, sagas))
        begun = now - timedelta(days=8)
        await asyncio.gather(*(storage.save_snapshot(saga(n, begun=begun, saga_name="hot")[0]) for n in numbers))
    print(f"{rows:,} catalog rows, {durable:,} durable and {sagas:,} hot copies in {time.monotonic() - began:.0f} s")


async def planned(settings: Path, *more: str) -> tuple[dict[str, Any], float]:
    """The command as a process of its own; its document and seconds."""
    began = time.monotonic()
    command = (sys.executable, "-m", "sagaz_tiering", "plan", "--json", "--config", str(settings), *more)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return json.loads(output), time.monotonic() - began


async def main(rows: int, per_pack: int, durable: int, sagas: int) -> None:
    """The whole run."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        places: dict[str, Any] = {
            "database": "embedded",
            "redis_url": "embedded",
            "cold": {"url": f"file://{folder}/cold", "region": "us-east-1"},
            "embedded": {"data_dir": f"{folder}/data"},
        }
        settings = write_config(Path(folder) / "tiering.yaml", policies=POLICIES, **places)
        other = write_config(
            Path(folder) / "other.yaml", policies=[{**each, "retain": "365d"} for each in POLICIES], **places
        )
        async with open_runtime(read_config(settings)) as runtime:
            await fill(runtime, rows, per_pack, durable, sagas)
            later = f"{SystemClock().now() + timedelta(days=365):%Y-%m-%d}"
            for what in ((), ("--policy", str(other), "--as-of", later)):
                document, seconds = await planned(settings, *what)
                peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
                print(f"plan {' '.join(what[::2])}: {seconds:.1f} s, peak memory of any command {peak:.0f} MiB")
                for line in document["lines"]:
                    print(
                        f"  {line['action']} {line['state']} {line['policy']} {line['source']} -> {line['to']}: "
                        f"{line['snapshots']:,} snapshots, {line['packs']:,} packs"
                    )
                print(f"  {document['requests']:,} requests, ${document['now_usd']:.2f}; {document['estimates']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--per-pack", type=int, default=3000)
    parser.add_argument("--durable", type=int, default=1_000_000)
    parser.add_argument("--sagas", type=int, default=20_000)
    given = parser.parse_args()
    asyncio.run(main(given.rows, given.per_pack, given.durable, given.sagas))
