"""Bad input and damaged data: a clear error each, nothing lost, and neighbours unharmed."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.payload import saga, snapshots
from support.tiers import DAY, NOW, Product, config, product

from sagaz_tiering.catalog.migrations import check_schema
from sagaz_tiering.errors import (
    CatalogRefused,
    CatalogUnavailable,
    CorruptData,
    CorruptPack,
    ForeignCatalog,
    HotTierUnavailable,
    NotSerializable,
    SchemaMismatch,
    SnapshotLost,
    SnapshotTooLarge,
)
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass

SAVED = list(snapshots(3, created_at=NOW, saga_name="payment-order"))


SECTIONS: dict[str, Any] = {"limits": {"max_snapshot": "16MiB"}}


async def save_and_age(shop: Product) -> str:
    for snapshot in SAVED:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    [key] = await shop.object_keys()
    return key


def with_context(context: dict[str, object]) -> SagaSnapshot:
    made = SAVED[0].to_dict() | {"snapshot_id": str(uuid4()), "saga_id": str(uuid4()), "context": context}
    return SagaSnapshot.from_dict(made)


async def test_schema_that_is_missing_or_newer_is_refused(empty_database: str, redis_url: str, tmp_path: Path) -> None:
    """The error names the command, or says to upgrade."""
    settings = config(database=empty_database, redis_url=redis_url, cold=tmp_path / "cold")
    async with product(settings, schema=False) as shop:
        with pytest.raises(SchemaMismatch, match="no catalog yet") as missing:
            await shop.runtime.check()
        assert "catalog migrate" in missing.value.hint
    async with product(settings) as shop:
        await shop.runtime.check()
        await shop.runtime.db.execute("INSERT INTO sagaz_tiering.schema_migrations VALUES (999, 'later')")
        with pytest.raises(SchemaMismatch, match="knows only"):
            await check_schema(shop.runtime.db)


async def test_servers_that_are_unreachable_or_wrong_are_named(database: str, redis_url: str, tmp_path: Path) -> None:
    """Which server, and what to check; passwords are not shown."""
    nobody = "127.0.0.1:1"
    for changes, error, named in (
        ({"redis_url": f"redis://:secret-word@{nobody}/0"}, HotTierUnavailable, "tiers.hot.url"),
        ({"database": f"postgresql://u:secret-word@{nobody}/x"}, CatalogUnavailable, "catalog.url"),
        ({"database": redis_url.replace("redis://", "postgresql://u")}, CatalogUnavailable, "catalog.url"),
        ({"database": database + "_absent"}, CatalogRefused, "catalog.url"),
    ):
        places = {"database": database, "redis_url": redis_url, "cold": tmp_path / "cold", **changes}
        async with product(config(**places), schema=False) as shop:
            with pytest.raises(error) as failure:
                await shop.runtime.check()
        assert named in failure.value.hint
        assert "secret-word" not in str(failure.value)


async def test_oversized_and_unserializable_snapshots_are_refused_whole(shop: Product) -> None:
    """Nothing of them is written; the message says where and how much."""
    huge, odd = with_context({"blob": "x" * (17 * 2**20)}), with_context({"items": [{"price": object()}]})
    with pytest.raises(SnapshotTooLarge, match="limit"):
        await shop.storage.save_snapshot(huge)
    with pytest.raises(NotSerializable, match=r"context\.items\[0\]\.price"):
        await shop.storage.save_snapshot(odd)
    for refused in (huge, odd):
        assert await shop.storage.get_snapshot(refused.snapshot_id) is None


async def test_ten_megabyte_context_travels_through_every_tier(shop: Product) -> None:
    """Hot, then packed in a frame of its own."""
    big = with_context({"blob": [f"{n:032x}" for n in range(300_000)]})
    await shop.storage.save_snapshot(big)
    assert await shop.storage.get_snapshot(big.snapshot_id) == big
    shop.clock.advance(9 * DAY)
    assert (await shop.run("age")).counts["archived"] == 1
    assert await shop.storage.get_snapshot(big.snapshot_id) == big


async def test_foreign_objects_are_left_alone(shop: Product) -> None:
    """Collect reports what is not ours, and packs that this catalog never knew, and touches neither."""
    await save_and_age(shop)
    stray = f"packs/2026/01/never/{uuid4()}.pack"
    for key in ("packs/holiday-photo.jpg", "packs/2026/01/never/not-a-uuid.pack", stray):
        await shop.runtime.objects.put(
            key, b"not a pack", storage_class=StorageClass.STANDARD, sha256=hashlib.sha256(b"not a pack").digest()
        )
    for _ in range(3):
        shop.clock.advance(2 * DAY)
        assert (await shop.run("collect")).counts == {"foreign": 2, "unknown": 1}
    assert len(await shop.object_keys()) == 4


async def test_abandoned_upload_goes_on_the_second_sight(shop: Product) -> None:
    """The catalog knows that nobody finished it; an object that appears late is seen first, then removed."""
    await save_and_age(shop)
    (key,) = await shop.object_keys()
    await shop.runtime.db.execute("UPDATE sagaz_tiering.packs SET state = 'ABANDONED'")
    shop.clock.advance(2 * DAY)
    assert (await shop.run("collect")).counts == {"strays_seen": 1}
    assert await shop.object_keys() == [key]
    shop.clock.advance(DAY)
    assert (await shop.run("collect")).counts == {"strays_removed": 1}
    assert await shop.object_keys() == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "foreign"])
async def test_damaged_pack_is_an_error_and_harms_no_neighbour(damage: str, shop: Product) -> None:
    """A truncated, altered or swapped object raises CorruptData for its sagas; others read on."""
    key = await save_and_age(shop)
    other = saga(77, begun=shop.clock.now(), saga_name="payment-order")
    for snapshot in other:
        await shop.storage.save_snapshot(snapshot)
    data = bytearray(await shop.runtime.objects.get(key))
    place = (await shop.runtime.catalog.locations.find(SAVED[0].snapshot_id))[0].place
    assert place is not None
    if damage == "flip":
        data[place.offset + place.length // 2] ^= 1
    damaged = {"truncate": bytes(data[: place.offset + 10]), "flip": bytes(data), "foreign": b"JFIF" * 9}[damage]
    await shop.runtime.objects.delete([key])
    await shop.runtime.objects.put(
        key, damaged, storage_class=StorageClass.STANDARD_IA, sha256=hashlib.sha256(damaged).digest()
    )
    with pytest.raises(CorruptData):
        await shop.storage.get_snapshot(SAVED[0].snapshot_id)
    assert len(await shop.storage.timeline(SAVED[0].saga_id)) == 5
    assert await shop.storage.list_snapshots(other[0].saga_id) == other[::-1]


@pytest.mark.guarantee("G2")
async def test_list_tells_of_a_pack_that_is_gone_and_gives_the_rest(shop: Product) -> None:
    """What is in a nearer tier comes with the error, the timeline is whole, and put back it all reads again."""
    await save_and_age(shop)
    later = dataclasses.replace(SAVED[4], snapshot_id=uuid4(), step_index=5, created_at=shop.clock.now())
    await shop.storage.save_snapshot(later)
    keys = await shop.object_keys()
    packs = {key: await shop.runtime.objects.get(key) for key in keys}
    await shop.runtime.objects.delete(keys)
    with pytest.raises(CorruptPack, match="does not have") as caught:
        await shop.storage.list_snapshots(SAVED[0].saga_id)
    assert caught.value.readable == (later,)
    assert set(caught.value.unreadable) == {snapshot.snapshot_id for snapshot in SAVED[:5]}
    with pytest.raises(CorruptPack) as caught:
        await shop.storage.list_snapshots(SAVED[0].saga_id, limit=2)
    assert (caught.value.readable, set(caught.value.unreadable)) == ((later,), {SAVED[4].snapshot_id})
    assert await shop.storage.list_snapshots(SAVED[0].saga_id, limit=1) == [later]
    assert len(await shop.storage.timeline(SAVED[0].saga_id)) == 6
    for key, data in packs.items():
        checksum = hashlib.sha256(data).digest()
        await shop.runtime.objects.put(key, data, storage_class=StorageClass.STANDARD_IA, sha256=checksum)
    assert await shop.storage.list_snapshots(SAVED[0].saga_id) == [later, *SAVED[4::-1]]


async def test_damaged_hot_value_does_not_stop_the_age_job(shop: Product) -> None:
    """The unreadable one is reported and stays; everything else is packed."""
    for snapshot in SAVED:
        await shop.storage.save_snapshot(snapshot)
    await shop.runtime.catalog.durable.reset_due(uuid4(), 0)
    victim = SAVED[0]
    keys = shop.runtime.hot.keys
    async with shop.runtime.hot.connection.pool() as client:
        await client.setrange(keys.value(victim.saga_id.hex, victim.snapshot_id.hex), 300, b"damaged")
    shop.clock.advance(9 * DAY)
    report = await shop.run("age")
    assert report.counts["archived"] >= len(SAVED) - 1
    for snapshot in SAVED[1:]:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def test_value_evicted_behind_our_back_is_lost_not_none(shop: Product) -> None:
    """Redis lost a value that only it had: the read says so instead of answering None."""
    kept, only_hot = saga(5, begun=NOW, saga_name="fast-order")[:2]
    await shop.storage.save_snapshot(kept)
    await shop.storage.save_snapshot(only_hot)
    async with shop.runtime.hot.connection.pool() as client:
        await client.delete(shop.runtime.hot.keys.value(only_hot.saga_id.hex, only_hot.snapshot_id.hex))
    with pytest.raises(SnapshotLost):
        await shop.storage.get_snapshot(only_hot.snapshot_id)
    with pytest.raises(SnapshotLost):
        await shop.storage.get_latest_snapshot(only_hot.saga_id)
    with pytest.raises(SnapshotLost) as caught:
        await shop.storage.list_snapshots(only_hot.saga_id)
    assert (caught.value.readable, set(caught.value.unreadable)) == ((kept,), {only_hot.snapshot_id})
    assert await shop.storage.get_snapshot_at_time(only_hot.saga_id, kept.created_at) == kept
    old, lost = await shop.storage.timeline(only_hot.saga_id)
    assert (old.unreadable, lost.snapshot_id, lost.step_index) == (None, only_hot.snapshot_id, only_hot.step_index)
    assert "which has lost it" in str(lost.unreadable)
    assert await shop.storage.delete_snapshot(only_hot.snapshot_id)
    assert await shop.storage.list_snapshots(only_hot.saga_id) == [kept]


async def test_other_catalog_never_writes_under_an_owned_prefix(
    shop: Product, postgres_server, redis_url: str, tmp_path: Path
) -> None:
    """A clone with its own catalog is refused before it writes or deletes anything (design G8)."""
    from support.servers import fresh_database

    await save_and_age(shop)
    before = [info.key async for info in shop.runtime.objects.list("")]
    async with fresh_database(postgres_server) as url:
        clone = config(database=url, redis_url=redis_url, cold=tmp_path / "cold")
        async with product(clone) as staging:
            for job in ("age", "transition", "expire", "collect"):
                with pytest.raises(ForeignCatalog):
                    await staging.run(job)
            with pytest.raises(ForeignCatalog):
                await staging.runtime.check()
    assert [info.key async for info in shop.runtime.objects.list("")] == before


async def test_deleted_snapshot_does_not_come_back_with_a_pack(shop: Product) -> None:
    """A snapshot that is deleted while the age job holds a copy of it is not published."""
    for snapshot in SAVED:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    objects, real, victim = shop.runtime.objects, shop.runtime.objects.put, SAVED[2]

    async def put_while_deleting(key: str, data: bytes, **kwargs: object) -> None:
        await real(key, data, **kwargs)
        if key.startswith("packs/"):
            assert await shop.storage.delete_snapshot(victim.snapshot_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "put", put_while_deleting)
        assert (await shop.run("age")).counts["archived"] == len(SAVED) - 1
    assert await shop.storage.get_snapshot(victim.snapshot_id) is None
    assert not await shop.storage.delete_snapshot(victim.snapshot_id)
    assert len(await shop.storage.timeline(victim.saga_id)) == 4
    assert await shop.storage.cleanup_saga(victim.saga_id) == 4
    assert await shop.storage.list_snapshots(victim.saga_id) == []
