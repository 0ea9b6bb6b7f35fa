"""What must not slow down with the number of rows: look-ups are index reads, and `status` counts no large table."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.snapshots import make, save_all
from support.tiers import DAY, NOW, Product, config, product

from sagaz_tiering.drivers.postgresql.queries import load

pytestmark = pytest.mark.guarantee("G6")

PACKS = """
INSERT INTO sagaz_tiering.packs
    (pack_uuid, object_key, state, storage_class, policy, retention_revision, byte_size, snapshot_count, live_count,
     sha256, min_created_at, max_created_at, max_clock_at, lease_name, lease_epoch, created_at, class_since)
SELECT gen_random_uuid(), 'packs/2026/01/never/' || n, 'ACTIVE', 'STANDARD_IA', 'default', 'r', 1, 5000, 5000, '',
       now(), now(), now(), 'age/0', 1, now(), now() FROM generate_series(1, 10) AS n
"""
STEPS = """
INSERT INTO sagaz_tiering.steps (digest, saga_name, step_name, step_index, status)
SELECT sha256(n::text::bytea), 'order', 'step', n, 'completed' FROM generate_series(1, 5) AS n
"""
FRAMES = """
INSERT INTO sagaz_tiering.frames (saga_id, pack_id, frame_no, byte_offset, byte_length)
SELECT gen_random_uuid(), pack_id, frame_no, 0, 1 FROM sagaz_tiering.packs, generate_series(0, 999) AS frame_no
"""
PLACES = """
INSERT INTO sagaz_tiering.snapshots (created_at, pack_id, frame_no, step_id, snapshot_id)
SELECT now(), pack_id, frame_no, step_id, gen_random_uuid() FROM sagaz_tiering.frames, sagaz_tiering.steps
"""
DURABLE = """
INSERT INTO sagaz_tiering.saga_snapshots
    (snapshot_id, saga_id, saga_name, step_name, step_index, status, created_at, saved_at, due_at, body_crc, value)
SELECT gen_random_uuid(), gen_random_uuid(), 'order', 'step', 1, 'completed', now(), now(), $2, 1,
       repeat('x', 900)::bytea
  FROM generate_series(1, $1::integer)
"""


@pytest.fixture
async def shop(empty_database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Product]:
    """A product whose tables are about to be filled."""
    async with product(config(database=empty_database, redis_url=redis_url, cold=tmp_path / "cold")) as opened:
        yield opened


async def scanned(shop: Product, query: str, *args: Any) -> set[str]:
    """The tables that a query reads from end to end."""
    found: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        if node["Node Type"] == "Seq Scan":
            found.add(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(json.loads(await shop.runtime.db.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *args))[0]["Plan"])
    return found


async def test_lookups_are_index_reads(shop: Product) -> None:
    """By id, of a saga, and where a saga's packs are: no plan reads a table that grows."""
    for statement in (PACKS, STEPS, FRAMES, PLACES):
        await shop.runtime.db.execute(statement)
    await shop.runtime.db.execute(DURABLE, 5000, NOW)
    await shop.runtime.db.execute("ANALYZE")
    growing = {"snapshots", "frames", "saga_snapshots"}
    sql, saga_id = load("sagaz_tiering.catalog", "locations"), UUID(int=5)
    assert not growing & await scanned(shop, sql["find"], saga_id)
    for limit in (1, 5, 2**31 - 1):
        for not_after, step in ((None, None), (NOW, None), (None, "step")):
            asked = (saga_id, not_after, step, limit, True)
            assert not growing & await scanned(shop, sql["find_of_saga"], *asked)
    assert not growing & await scanned(shop, sql["packs_of"], [saga_id])
    assert not growing & await scanned(
        shop, load("sagaz_tiering.catalog", "durable")["expired"], NOW, NOW, saga_id, 2000
    )


async def test_status_does_not_count_many_rows(shop: Product) -> None:
    """A few durable rows are counted; of many the statistics tell, about right."""
    durable, now = shop.runtime.catalog.durable, shop.clock.now()
    await save_all(shop.storage, [make(at) for at in range(3)])
    exact = await durable.totals(now)
    assert await durable.estimate(now) == {**exact, "estimated": False}
    assert exact["snapshots"] == 3
    await shop.runtime.db.execute(DURABLE, 20_000, NOW)
    await shop.runtime.db.execute("ANALYZE sagaz_tiering.saga_snapshots")
    found = await durable.estimate(now)
    assert found["estimated"]
    assert found["snapshots"] == pytest.approx(20_003, rel=0.02)
    assert found["bytes"] == pytest.approx(20_000 * 1100, rel=0.3)
    assert found["due"] == 20_000
    explain = f"EXPLAIN (ANALYZE, COSTS off) {load('sagaz_tiering.catalog', 'durable')['estimate']}"
    plan = [row[0] for row in await shop.runtime.db.fetch(explain, NOW - DAY, 1000, 9)]
    scans = [line for line in plan if "Seq Scan on saga_snapshots" in line]
    assert scans
    assert all("never executed" in line for line in scans)
