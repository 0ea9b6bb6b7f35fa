"""`catalog verify`: every contradiction in the catalog, or between it and the bucket, is named; nothing is changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.encrypted import aged, encrypted, key_file, save_all
from support.payload import snapshots
from support.servers import fresh_database
from support.tiers import DAY, Places, Product, config, product, rule
from support.yaml_config import write_config

from sagaz_tiering.catalog import verification
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import ForeignCatalog
from sagaz_tiering.operations.verify import VerifyReport, verify
from sagaz_tiering.storage_class import StorageClass

POLICIES: list[dict[str, Any]] = [
    rule("frozen", "frozen", {"STANDARD_IA": "7d", "GLACIER": "60d"}),
    rule("short", "short", {"STANDARD_IA": "7d"}, retain="75d"),
    rule("rest", "*", {"STANDARD_IA": "7d"}, retain="900d"),
]
PACK = {"pack": {"target": "16KiB", "max_frame": "16KiB"}}
SCHEMA = "sagaz_tiering"
KINDS = ("frozen", "short", "orders")
ALIVE = "state = 'ACTIVE' AND storage_class = 'STANDARD_IA'"


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    """A product after some months: packs in two classes, expired and deleted snapshots, a restore, an erasure."""
    async with product(config(**places, **PACK, policies=POLICIES)) as opened:
        await live_through(opened)
        yield opened


async def live_through(shop: Product) -> None:
    """Save, age, freeze, expire, delete, forget, restore, compact, collect; some waits for its turn at the end."""
    chance = random.Random(3)
    saved = [
        snapshot
        for at, name in enumerate(KINDS)
        for snapshot in snapshots(10, start=at * 100, created_at=shop.clock.now(), saga_name=name)
    ]
    await save_all(shop, saved)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    for snapshot in chance.sample(saved[100:], 8):
        await shop.storage.delete_snapshot(snapshot.snapshot_id)
    await shop.storage.forget(saved[-1].saga_id, reason="asked to")
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    await shop.storage.restore(saved[0].saga_id, days=3)
    for name in ("restore", "expire", "compact", "collect"):
        await shop.run(name)
    shop.clock.advance(7 * DAY)
    await shop.run("expire")
    for snapshot in snapshots(3, start=900, created_at=shop.clock.now(), saga_name="orders"):
        await shop.storage.save_snapshot(snapshot)


async def looked(shop: Product, **options: Any) -> VerifyReport:
    return await verify(shop.runtime.job_context(), **options)


async def state(shop: Product, tmp_path: Path) -> tuple[Any, Any]:
    """A digest of every row, and every file of the bucket."""
    tables = await shop.runtime.db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", SCHEMA)
    rows = [
        await shop.runtime.db.fetchval(f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {SCHEMA}.{name} t")
        for (name,) in tables
        if name != "leases"
    ]
    files = {
        path: hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "cold").rglob("*") if path.is_file()
    }
    return rows, files


async def test_sound_catalog_is_clean_and_stays_as_it_is(
    shop: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that has lived; in one range or in many, whole or by sample; no row and no object is changed."""
    before = await state(shop, tmp_path)
    verdict = await looked(shop)
    assert verdict.clean, verdict.findings
    count = await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.snapshots")
    assert verdict.counts["snapshots"] == count > 0
    assert verdict.counts["objects"] == len(await shop.object_keys()) > 5
    assert verdict.counts["footers"] > 0
    assert verdict.leftovers["empty_frames"] > 0
    monkeypatch.setattr(verification, "_SNAPSHOTS", 10)
    in_ranges = await looked(shop)
    assert in_ranges.clean
    assert in_ranges.counts == verdict.counts
    assert len([span async for span in verification.Verification(shop.runtime.db).ranges()]) > 3
    sampled = await looked(shop, sample=3)
    assert sampled.clean
    assert sampled.counts["objects"] == 3
    assert await state(shop, tmp_path) == before


# Each breaks one thing; {name}s are explained in `broken`. The findings that must follow, and no others.
BROKEN = {
    "a count that is too high": ("UPDATE {s}.packs SET live_count = live_count + 1 WHERE {one}", {"live_count": 1}),
    "a row that went": (
        "DELETE FROM {s}.snapshots WHERE snapshot_id = (SELECT min(snapshot_id::text)::uuid FROM {s}.snapshots)",
        {"live_count": 1},
    ),
    "all rows that went": ("DELETE FROM {s}.snapshots WHERE {one}", {"no_rows": 1}),
    "a pack that is dead": ("UPDATE {s}.packs SET state = 'DELETED' WHERE {one}", {"dead_pack": 1}),
    "frames that went": ("DELETE FROM {s}.frames WHERE {one} AND frame_no = 0", {"misplaced": None}),
    "a step that went": (
        "DELETE FROM {s}.steps WHERE step_id = (SELECT step_id FROM {s}.snapshots WHERE {one} LIMIT 1)",
        {"misplaced": None},
    ),
    "snapshots of no pack": (
        "INSERT INTO {s}.snapshots SELECT now(), NULL, 999999, 0, step_id, gen_random_uuid() FROM {s}.steps LIMIT 1",
        {"misplaced": 1},
    ),
    "an expiry nobody waits for": (
        "UPDATE {s}.packs SET next_expiry_at = NULL WHERE pack_id = (SELECT min(pack_id) FROM {s}.packs"
        " WHERE next_expiry_at IS NOT NULL AND state = 'ACTIVE')",
        {"next_expiry": 1},
    ),
    "a frame outside": (
        "UPDATE {s}.frames SET byte_length = 99999999 WHERE {one} AND frame_no = 0",
        {"frame_outside": 1},
    ),
    "a class that is another": ("UPDATE {s}.packs SET storage_class = 'GLACIER_IR' WHERE {one}", {"class": 1}),
    "a size that is another": ("UPDATE {s}.packs SET byte_size = byte_size + 1 WHERE {one}", {"truncated": 1}),
    "a pack nobody knows": (
        "UPDATE {s}.packs SET pack_uuid = gen_random_uuid(), object_key = 'packs/2020/01/never/x' WHERE {one}",
        {"missing": 1, "unknown": 1},
    ),
    "a restore of no pack": ("UPDATE {s}.restore_packs SET pack_id = pack_id + 900000", {"dangling": None}),
    "an erasure of no pack": (
        "INSERT INTO {s}.erasure_packs SELECT erasure_id, 999999 FROM {s}.erasures LIMIT 1",
        {"dangling": 1},
    ),
}


TABLES = ("packs", "frames", "steps", "snapshots", "restore_packs", "erasure_packs")
"""What BROKEN changes."""


async def put_back(conn: Any, rows: dict[str, str]) -> None:
    """The tables as they were."""
    for table, told in rows.items():
        await conn.execute(f"DELETE FROM {SCHEMA}.{table}")
        populated = f"json_populate_recordset(NULL::{SCHEMA}.{table}, $1::json)"
        await conn.execute(f"INSERT INTO {SCHEMA}.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {populated}", told)


async def test_each_contradiction_in_the_catalog_is_named(shop: Product) -> None:
    """One row is broken, as only a bad dump or a defect could: exactly that is found."""
    db, one = shop.runtime.db, f"pack_id = (SELECT min(pack_id) FROM {SCHEMA}.packs WHERE {ALIVE} AND live_count > 1)"
    sound = {name: await db.fetchval(f"SELECT json_agg(t)::text FROM {SCHEMA}.{name} t") for name in TABLES}
    for what, (statement, expected) in BROKEN.items():
        async with db.transaction() as conn:
            await conn.execute("SET LOCAL session_replication_role = replica")  # foreign keys look away
            await put_back(conn, sound)
            await conn.execute(statement.format(s=SCHEMA, one=one))
        found = (await looked(shop)).found
        assert set(found) == set(expected), what
        for kind, count in expected.items():
            assert count is None or found[kind] == count, what
    async with db.transaction() as conn:
        await conn.execute("SET LOCAL session_replication_role = replica")
        await put_back(conn, sound)
    assert (await looked(shop)).clean


async def folder_of(shop: Product, tmp_path: Path) -> Path:
    """Where the bucket keeps the first active pack."""
    row = await shop.runtime.db.fetchrow(f"SELECT object_key FROM {SCHEMA}.packs WHERE {ALIVE} ORDER BY pack_id")
    assert row is not None
    return tmp_path / "cold" / "objects" / f"{row['object_key']}.object"


def _lose(folder: Path) -> None:
    shutil.rmtree(folder)


def _shorten(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "size": record["size"] - 1}))


def _other_sum(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "sha256": "00" * 32}))


@pytest.mark.parametrize(("change", "kind"), [(_lose, "missing"), (_shorten, "truncated")])
async def test_object_that_is_not_as_it_should_be_is_named(
    change: Callable[[Path], None], kind: str, shop: Product, tmp_path: Path
) -> None:
    """By the listing, and by a sample that is large enough to meet it."""
    change(await folder_of(shop, tmp_path))
    for options in ({}, {"sample": 1000}):
        verdict = await looked(shop, **options)
        assert dict(verdict.found) == {kind: 1}
        assert verdict.findings[0].item.startswith("packs/")


async def test_sample_compares_checksums(shop: Product, tmp_path: Path) -> None:
    """HEAD tells what a listing does not."""
    _other_sum(await folder_of(shop, tmp_path))
    assert (await looked(shop)).clean
    assert dict((await looked(shop, sample=1000)).found) == {"altered": 1}


async def test_missing_footer_of_an_archived_pack_is_named(shop: Product, tmp_path: Path) -> None:
    """Without it a lost catalog could be rebuilt only after a thaw (design G7)."""
    row = await shop.runtime.db.fetchrow(f"SELECT pack_uuid FROM {SCHEMA}.packs WHERE storage_class = 'GLACIER'")
    assert row is not None
    _lose(tmp_path / "cold" / "objects" / "footers" / f"{row['pack_uuid']}.footer.object")
    assert dict((await looked(shop)).found) == {"footer_missing": 1}


async def test_strays_and_foreign_objects_are_counted_and_no_fault(shop: Product) -> None:
    """What `collect` will remove, and what is not ours, is told apart from what is lost."""
    objects, data = shop.runtime.objects, b"x"
    pack = (await shop.runtime.db.fetch("SELECT object_key FROM sagaz_tiering.packs WHERE state = 'DELETED'"))[0]
    for key in (pack["object_key"], "packs/readme.txt"):
        await objects.put(key, data, storage_class=StorageClass.STANDARD, sha256=hashlib.sha256(data).digest())
    verdict = await looked(shop)
    assert verdict.clean
    assert (verdict.leftovers["strays"], verdict.leftovers["foreign"]) == (1, 1)


async def test_lost_data_keys_are_named(places: Places, tmp_path: Path) -> None:
    """Encrypted frames with snapshots, whose key is gone without an erasure; an erased saga is no finding."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        saved = list(snapshots(4, created_at=shop.clock.now(), saga_name="secret"))
        await aged(shop, saved)
        await shop.storage.forget(saved[0].saga_id, reason="asked to")
        assert (await looked(shop)).clean
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_keys WHERE saga_id = $1", saved[-1].saga_id)
        assert dict((await looked(shop)).found) == {"key_missing": 1}


async def test_busy_catalog_is_clean_at_every_moment(shop: Product) -> None:
    """Jobs that move, expire, compact and delete beside it give no false alarm."""
    done = asyncio.Event()

    async def work() -> None:
        for at in range(6):
            for snapshot in snapshots(8, start=2000 + at * 10, created_at=shop.clock.now(), saga_name=KINDS[at % 3]):
                await shop.storage.save_snapshot(snapshot)
            shop.clock.advance(25 * DAY)
            for name in ("age", "transition", "expire", "compact", "collect"):
                await shop.run(name)
        done.set()

    async def look() -> int:
        times = 0
        while not done.is_set():
            verdict = await looked(shop)
            assert verdict.clean, verdict.findings
            times += 1
        return times

    _, times = await asyncio.gather(work(), look())
    assert times > 3


async def test_another_catalogs_prefix_is_refused(
    shop: Product, postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """Everything there would look lost or unknown."""
    cold = {"url": f"file://{tmp_path / 'cold'}", **PACK}
    async with (
        fresh_database(postgres_server) as other,
        product(config(database=other, redis_url=redis_url, cold=cold, policies=POLICIES)) as stranger,
    ):
        with pytest.raises(ForeignCatalog):
            await looked(stranger)


async def test_command_tells_people_and_programs(shop: Product, places: Places, tmp_path: Path) -> None:
    """0 and `clean`, or 6 with what is wrong and what to do."""
    settings = write_config(tmp_path / "t.yaml", **places, **PACK, policies=POLICIES)
    answer = await cli("catalog", "verify", "--config", settings)
    assert answer.code == 0, answer.err
    assert answer.out.endswith("clean\n")
    lost = await shop.runtime.db.fetchval(f"SELECT min(object_key) FROM {SCHEMA}.packs WHERE {ALIVE}")
    await shop.runtime.objects.delete([lost])
    answer = await cli("catalog", "verify", "--config", settings)
    assert answer.code == 6
    assert lost in answer.out
    assert "job scrub" in answer.out
    answer = await cli("catalog", "verify", "--json", "--sample", 1000, "--config", settings)
    assert answer.code == 6
    assert answer.document["found"] == {"missing": 1}
    assert answer.document["findings"][0]["item"] == lost


async def test_packs_are_looked_at_when_their_first_snapshot_expires_however_far_away_that_is(places: Places) -> None:
    """To the microsecond, beyond the year 2255 too, from which on a double counts no single ones."""
    policies = [rule("kept", "*", {"STANDARD_IA": "7d"}, retain="110000d")]
    async with product(config(**places, policies=policies)) as shop:
        for at in range(3, 7):
            created_at = shop.clock.now() + timedelta(days=at, microseconds=at)
            shop.clock.advance(9 * DAY)
            await save_all(shop, list(snapshots(1, start=at, created_at=created_at)))
            shop.clock.advance(9 * DAY)
            await shop.run("age")
        rows = await shop.runtime.db.fetch(
            "SELECT next_expiry_at, min(expires_at) FROM sagaz_tiering.packs "
            "JOIN sagaz_tiering.snapshots USING (pack_id) GROUP BY pack_id"
        )
        assert len(rows) == 4
        assert [row[0] for row in rows] == [row[1] for row in rows]
        assert (await looked(shop)).clean
