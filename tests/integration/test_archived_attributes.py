"""What sagas can be found by stays with them in packs, whatever happens to those (guarantees G7, G12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.attributes import ATTRIBUTES, columns, found_by, in_frames, order, saga
from support.encrypted import POLICIES, aged, bucket, encrypted, key_file, save_all
from support.servers import fresh_database
from support.tiers import DAY, Places, Product, product, rebuilt_from_bucket

from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.operations.keys import export_keys, import_keys
from sagaz_tiering.packs.reader import footer_part
from sagaz_tiering.snapshot import SagaSnapshot

KEEP = [{**policy, "retain": "forever"} for policy in POLICIES]


def settings(places: Places, **sections: Any) -> TieringConfig:
    """Sagas `order-*` are encrypted, the others are not; both have attributes."""
    return encrypted(places, policies=KEEP, **{"attributes": ATTRIBUTES, **sections})


@pytest.fixture
async def shop(places: Places, tmp_path: Path):
    """A product over a directory that keeps S3's law."""
    key_file(tmp_path)
    async with product(settings(places)) as opened:
        yield opened


def sagas(shop: Product) -> list[SagaSnapshot]:
    """Two sagas that are encrypted and two that are not; some values come later, one is none of PostgreSQL's text."""
    found, at = [], shop.clock.now()
    for number, name in enumerate(("order-a", "order-b", "parcel", "letter")):
        found += saga(
            name, number, at, [{}, order(number, "Müller"), order(number, "Müller", f"odd \0\ud800\\{number}")]
        )
    return found


async def everything_found(shop: Product, saved: list[SagaSnapshot]) -> None:
    """The catalog knows of each archived snapshot what it carries, and finds the sagas by it."""
    assert await in_frames(shop) == columns(saved, shop)
    for number in range(4):
        assert await found_by(shop, f"order_id=A-{number}") == {saved[3 * number].saga_id}
        assert await found_by(shop, f"customer=odd \\u0000\ud800\\\\{number}") == {saved[3 * number].saga_id}
    assert await found_by(shop, "customer=Müller") == {each.saga_id for each in saved}


def footers(folder: Path) -> list[bytes]:
    """The footers of all packs, as anybody can read them."""
    return [zstandard.decompress(footer_part(data)[:-28]) for data in bucket(folder).values()]


async def test_packs_have_attributes_and_show_those_that_are_not_encrypted(shop: Product, tmp_path: Path) -> None:
    """In the catalog all, in the bucket what no key seals."""
    saved = sagas(shop)
    await aged(shop, saved)
    await everything_found(shop, saved)
    seen = b"".join(footers(tmp_path))
    assert b"order_id=A-2" in seen
    assert b"order_id=A-3" in seen
    assert b"A-0" not in seen
    assert b"A-1" not in seen


async def test_pack_without_attributes_stays_one_that_earlier_code_reads(places: Places, tmp_path: Path) -> None:
    """Nobody upgrades a reader for what nobody configured."""
    key_file(tmp_path)
    async with product(settings(places, attributes=())) as shop:
        await aged(shop, sagas(shop))
        assert {(data[7], data[-1]) for data in bucket(tmp_path).values()} == {(1, 1)}


async def test_snapshot_that_goes_singly_takes_its_values_along(shop: Product, tmp_path: Path) -> None:
    """From what finds its saga at once, from the bucket with the pack that is written anew."""
    saved = sagas(shop)
    await aged(shop, saved)
    gone = saved[2::3]
    for each in gone:
        assert await shop.storage.delete_snapshot(each.snapshot_id)
    left = [each for each in saved if each not in gone]
    assert await in_frames(shop) == columns(left, shop)
    assert await found_by(shop, "customer=odd \\u0000\ud800\\\\3") == set()
    assert await found_by(shop, "order_id=A-3") == {saved[9].saga_id}
    assert any(b"odd" in footer for footer in footers(tmp_path))
    await shop.storage.forget(saved[9].saga_id, reason="asked", who="officer")  # so that its pack is written anew
    left = [each for each in left if each.saga_id != saved[9].saga_id]
    assert (await shop.run("compact")).counts["packs"] == 1
    assert await in_frames(shop) == columns(left, shop)
    shop.clock.advance(9 * DAY)
    await shop.run("expire")
    assert not any(b"odd" in footer for footer in footers(tmp_path))
    assert any(b"order_id=A-2" in footer for footer in footers(tmp_path))
    assert await found_by(shop, "order_id=A-0") == {saved[0].saga_id}


async def test_compaction_keeps_attributes_of_frames_that_it_copies_and_merges(shop: Product) -> None:
    """Of parts of a saga that become one frame, and of frames that stay as they are."""
    saved = sagas(shop)
    await aged(shop, saved)
    later = [
        each
        for number, name in enumerate(("order-a", "parcel"))
        for each in saga(name, 2 * number, shop.clock.now(), [{}] * 3 + [order(77, "Zoë")])[3:]
    ]
    assert {each.saga_id for each in later} == {saved[0].saga_id, saved[6].saga_id}
    await aged(shop, later)
    shop.clock.advance(60 * DAY)  # what is billed for leaving a class early is over
    assert (await shop.run("compact")).counts["packs"] == 4
    assert await in_frames(shop) == columns(saved + later, shop)
    assert await found_by(shop, "order_id=A-77") == {each.saga_id for each in later}
    assert await found_by(shop, "order_id=A-2") == {saved[6].saga_id}


async def test_restored_values_carry_their_attributes(shop: Product) -> None:
    """In Redis, and back in no pack but the one that has them."""
    saved = sagas(shop)
    await aged(shop, saved)
    restore = await shop.storage.restore(snapshot_ids=[each.snapshot_id for each in saved], days=3)
    assert restore is not None
    await shop.run("restore")
    for each in saved:
        value = await shop.runtime.hot.get(each.snapshot_id)
        assert isinstance(value, bytes)
        assert read_meta(value).attributes == columns(saved, shop)[each.snapshot_id]
    await everything_found(shop, saved)
    shop.clock.advance(9 * DAY)
    for job in ("restore", "age"):
        await shop.run(job)
    assert await shop.hot_count() == 0
    await everything_found(shop, saved)


@pytest.mark.guarantee("G7")
async def test_rebuild_from_the_bucket_gives_attributes_back(
    shop: Product, postgres_server: PostgresServer, places: Places
) -> None:
    """Those of encrypted frames with their keys, which the bucket does not have."""
    saved = sagas(shop)
    await aged(shop, saved)
    backup = [line async for line in export_keys(shop.runtime.job_context())]
    tally = Tally(None)
    async with (
        fresh_database(postgres_server) as database,
        product(settings({**places, "database": database})) as again,
    ):
        again.clock.advance(10 * DAY)
        await rebuilt_from_bucket(again, tally)
        assert tally.counts["attributes_sealed"] == 2
        told = columns(saved, again)
        open_ones = {each.snapshot_id for each in saved if not each.saga_name.startswith("order-")}
        assert await in_frames(again) == {one: told[one] if one in open_ones else "" for one in told}
        assert await found_by(again, "order_id=A-0") == set()
        assert await found_by(again, "order_id=A-2") == {saved[6].saga_id}
        await import_keys(again.runtime.job_context(), backup)
        await everything_found(again, saved)
        await import_keys(again.runtime.job_context(), backup)
        await everything_found(again, saved)


async def test_rebuild_with_the_keys_there_gives_all_attributes_back(shop: Product) -> None:
    """A catalog that lost its rows, and not its keys."""
    saved = sagas(shop)
    await aged(shop, saved)
    db = shop.runtime.db
    for table in ("snapshots", "frames", "packs"):
        await db.execute(f"DELETE FROM sagaz_tiering.{table}")
    assert await found_by(shop, "order_id=A-0") == set()
    await rebuilt_from_bucket(shop)
    await everything_found(shop, saved)


async def test_scrub_puts_right_what_the_catalog_says_otherwise(shop: Product) -> None:
    """Lost and changed attributes of frames, and what finds their sagas."""
    saved = sagas(shop)
    await aged(shop, saved)
    db = shop.runtime.db
    await db.execute("UPDATE sagaz_tiering.frames SET attributes = NULL WHERE frame_no = 0")
    await db.execute("UPDATE sagaz_tiering.frames SET attributes = 'order_id=B-1' WHERE frame_no = 1")
    await db.execute("DELETE FROM sagaz_tiering.saga_attributes WHERE saga_id = $1", saved[0].saga_id)
    assert await in_frames(shop) != columns(saved, shop)
    shop.clock.advance(40 * DAY)
    assert (await shop.run("scrub")).counts["attributes_repaired"] == 4
    await everything_found(shop, saved)
    shop.clock.advance(40 * DAY)
    assert "attributes_repaired" not in (await shop.run("scrub")).counts


async def test_saga_that_is_forgotten_while_it_is_packed_leaves_no_attribute(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pack comes after the erasure, with bytes that nobody publishes."""
    saved = sagas(shop)
    await save_all(shop, saved)
    shop.clock.advance(9 * DAY)
    packs, victim = shop.runtime.catalog.packs, saved[6].saga_id
    activate = type(packs).activate

    async def forgotten_first(self: Any, *args: Any, **kwargs: Any) -> int:
        monkeypatch.setattr(type(packs), "activate", activate)
        await shop.storage.forget(victim, reason="asked", who="officer")
        return await activate(self, *args, **kwargs)

    monkeypatch.setattr(type(packs), "activate", forgotten_first)
    await shop.run("age")
    left = [each for each in saved if each.saga_id != victim]
    assert {key: text for key, text in (await in_frames(shop)).items() if key in columns(left, shop)} == columns(
        left, shop
    )
    rows = await shop.runtime.db.fetch("SELECT attributes FROM sagaz_tiering.frames WHERE saga_id = $1", victim)
    assert [row["attributes"] for row in rows] == [None] * len(rows)
    assert await found_by(shop, "order_id=A-2") == set()
