"""`find` over a generated catalog: how long a page takes, and what PostgreSQL keeps for it.

    python benchmarks/find.py --archived 1000000 --hot 20000 [--searches 300] [--save results/find.json]

Archived sagas have three snapshots in one frame and two attributes each, over two years and forty names; the rows are
made by SQL and taken in by the function that takes in those of an earlier version. Hot ones are durable rows.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.tiers import config, product

from sagaz_tiering.app.tiered import TieredSnapshotStorage
from sagaz_tiering.config.sections import CatalogSettings
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.embedded import PostgresServer, RedisServer

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NAMES, PER_PACK, PER_SAGA, AT_ONCE = 40, 20_000, 3, 1_000
POLICIES = [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}], "retain": "2555d"}]
ATTRIBUTES = [{"name": "order_id", "path": "order"}, {"name": "customer", "path": "customer"}]

_STEPS = """
INSERT INTO sagaz_tiering.steps (digest, saga_name, step_name, step_index, status)
SELECT sha256((n || ':' || s || ':' || e)::bytea), 'shop-' || n || '-order', 'step_' || s, s,
       CASE WHEN s < $2 - 1 THEN 'executing' WHEN e = 0 THEN 'failed' ELSE 'completed' END
  FROM generate_series(0, $1::integer - 1) AS a (n), generate_series(0, $2::integer - 1) AS b (s),
       generate_series(0, 1) AS c (e)
"""
_PACK = """
INSERT INTO sagaz_tiering.packs
    (pack_uuid, object_key, state, storage_class, policy, retention_revision, byte_size, snapshot_count, live_count,
     sha256, min_created_at, max_created_at, max_clock_at, lease_name, lease_epoch, created_at, class_since, evicted_at)
VALUES (gen_random_uuid(), $1, 'ACTIVE', 'STANDARD_IA', 'all', $2, 1, $3, $3, '', $4, $5, $5, 'age/0', 1, $5, $5, $5)
RETURNING pack_id
"""
_FRAMES = """
INSERT INTO sagaz_tiering.frames (saga_id, pack_id, frame_no, byte_offset, byte_length, attributes)
SELECT gen_random_uuid(), $1::integer, n, n * 2500, 2500,
       'customer=C-' || ($2::integer + n) / 5 || U&'\\001F' || 'order_id=A-' || $2::integer + n
  FROM generate_series(0, $3::integer - 1) AS g (n)
"""
_SNAPSHOTS = """
INSERT INTO sagaz_tiering.snapshots (created_at, expires_at, pack_id, frame_no, step_id, snapshot_id)
SELECT at, at + interval '2555 days', f.pack_id, f.frame_no, t.step_id, gen_random_uuid()
  FROM sagaz_tiering.frames f
 CROSS JOIN generate_series(0, $2::integer - 1) AS b (s)
 CROSS JOIN LATERAL (SELECT $3::timestamptz + f.frame_no * $4::interval + s * interval '1 minute') AS m (at)
  JOIN sagaz_tiering.steps t
    ON t.digest = sha256(
       (f.frame_no % $5::integer || ':' || s || ':' || least(1, f.frame_no / $5::integer % 20))::bytea)
 WHERE f.pack_id = $1::integer
"""
_HOT = """
INSERT INTO sagaz_tiering.saga_snapshots
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, body_crc, value, attributes)
SELECT gen_random_uuid(), gen_random_uuid(), 'shop-' || n % $3::integer || '-order', 'step_0', 0, 'executing',
       $2::timestamptz - n * interval '1 second', $2::timestamptz, 0, decode(repeat('00', 2000), 'hex'),
       'customer=C-' || n || U&'\\001F' || 'order_id=B-' || n
  FROM generate_series(1, $1::integer) AS g (n)
"""
_IN_ORDER = (
    "CREATE INDEX in_order ON sagaz_tiering.sagas (place)",
    "CLUSTER sagaz_tiering.sagas USING in_order",
    "DROP INDEX sagaz_tiering.in_order",
)
"""As sagas come in the order in which they begin; those of an earlier version are taken in by their ids."""
_SIZES = """
SELECT (SELECT count(*) FROM sagaz_tiering.sagas) AS sagas,
       (SELECT count(*) FROM sagaz_tiering.saga_attributes) AS values,
       pg_table_size('sagaz_tiering.sagas') AS sagas_table, pg_indexes_size('sagaz_tiering.sagas') AS sagas_indexes,
       pg_relation_size('sagaz_tiering.sagas_pkey') AS by_id,
       pg_relation_size('sagaz_tiering.sagas_place') AS by_place,
       pg_relation_size('sagaz_tiering.sagas_name') AS by_name,
       pg_relation_size('sagaz_tiering.sagas_status') AS by_status,
       pg_table_size('sagaz_tiering.saga_attributes') AS values_table,
       pg_indexes_size('sagaz_tiering.saga_attributes') AS values_indexes,
       (SELECT avg(pg_column_size(attributes)) FROM sagaz_tiering.frames TABLESAMPLE SYSTEM (1)) AS column_of_a_frame
"""


async def generate(db: Database, archived: int, hot: int, revision: str) -> float:
    """Fill an empty catalog; the sagas a second that were taken in."""
    await db.execute(_STEPS, NAMES, PER_SAGA)
    packs = -(-archived // PER_PACK)
    span = timedelta(days=730) / packs
    for number in range(packs):
        count = min(PER_PACK, archived - number * PER_PACK)
        begins = NOW - timedelta(days=740) + span * number
        row = (f"packs/{number}", revision, count * PER_SAGA, begins, begins + span)
        pack_id = await db.fetchval(_PACK, *row)
        await db.execute(_FRAMES, pack_id, number * PER_PACK, count)
        await db.execute(_SNAPSHOTS, pack_id, PER_SAGA, begins, span / count, NAMES)
    for table in ("steps", "packs", "frames", "snapshots"):
        await db.execute(f"VACUUM (ANALYZE) sagaz_tiering.{table}")
    await db.execute("UPDATE sagaz_tiering.sagas_filled SET up_to = '00000000-0000-0000-0000-000000000000'")
    began = time.monotonic()
    while not await db.fetchval("SELECT sagaz_tiering.fill_sagas($1)", AT_ONCE):
        pass
    rate = archived / (time.monotonic() - began)
    for statement in _IN_ORDER:
        await db.execute(statement)
    for done in range(0, hot, AT_ONCE):
        await db.execute(_HOT, min(AT_ONCE, hot - done), NOW - timedelta(seconds=done), NAMES)
    for table in ("sagas", "saga_attributes", "saga_names", "saga_snapshots"):
        await db.execute(f"VACUUM (ANALYZE) sagaz_tiering.{table}")
    return rate


async def measure(storage: TieredSnapshotStorage, archived: int, searches: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a page, p50 and p99, by kind of search."""
    chance = random.Random(7)

    def month() -> tuple[datetime, datetime]:
        begins = NOW - timedelta(days=chance.randint(40, 700))
        return begins, begins + timedelta(days=30)

    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "attribute": lambda: {"attributes": {"order_id": f"A-{chance.randrange(archived)}"}},
        "attribute of several": lambda: {"attributes": {"customer": f"C-{chance.randrange(archived // 5)}"}},
        "names, month, status": lambda: {
            "saga_name": f"shop-{chance.randint(0, 3)}*",
            "status": "failed",
            "created": month(),
        },
        "names, month, status of none": lambda: {
            "saga_name": f"shop-{chance.randint(0, 3)}*",
            "status": "rolled_back",
            "created": month(),
        },
        "month, status": lambda: {"status": "failed", "created": month()},
        "month": lambda: {"created": month()},
        "newest": dict,
    }
    found: dict[str, dict[str, float]] = {}
    for name, asked in kinds.items():
        times, items = list[float](), 0
        for _ in range(searches):
            question = asked()
            began = time.perf_counter()
            page = await storage.find(**question)
            times.append((time.perf_counter() - began) * 1000)
            items += len(page)
        cuts = quantiles(times, n=100)
        found[name] = {"p50_ms": cuts[49], "p99_ms": cuts[98], "found": items / searches}
    return found


async def on_servers(
    asked: argparse.Namespace, servers: dict[str, Any]
) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Sagas a second that were taken in, sizes and times."""
    settings = config(**servers, policies=POLICIES, attributes=ATTRIBUTES)
    patient = CatalogSettings(url=servers["database"], command_timeout=timedelta(seconds=600))
    async with Database(patient) as db, product(settings, now=NOW) as shop:
        rate = await generate(db, asked.archived, asked.hot, shop.runtime.in_force.policies.retention_revision)
        sizes = dict(await db.fetchrow(_SIZES) or {})
        return rate, sizes, await measure(shop.storage, asked.archived, asked.searches)


async def main(asked: argparse.Namespace) -> int:
    """Generate, measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("pg", "redis"):
            (root / name).mkdir()
        async with PostgresServer(root / "pg") as postgres, RedisServer(root / "redis") as redis:
            servers = {"database": postgres.url, "redis_url": redis.url, "cold": root / "cold"}
            rate, sizes, times = await on_servers(asked, servers)
    result = {"archived": asked.archived, "hot": asked.hot, "taken_in_a_second": rate, "sizes": sizes, "times": times}
    result["bytes_a_saga"] = (sizes["sagas_table"] + sizes["sagas_indexes"]) / sizes["sagas"]
    result["bytes_a_value"] = (sizes["values_table"] + sizes["values_indexes"]) / sizes["values"]
    text = json.dumps(result, indent=2, default=float)
    print(text)
    if asked.save is not None:
        asked.save.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archived", type=int, default=1_000_000)
    parser.add_argument("--hot", type=int, default=20_000)
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--save", type=Path)
    sys.exit(asyncio.run(main(parser.parse_args())))
