"""A dictionary that only Redis has is read, but never used: Redis may be gone tomorrow (G1, G13)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import orjson
import pytest
import zstandard
from support.forgery import overwrite
from support.payload import SAGA_NAME, snapshots
from support.processes import redis_do
from support.tiers import DAY, Places, Product, config, product

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import encode, read_header, to_value
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.dictionaries import cache as dictionary_objects
from sagaz_tiering.dictionaries.cache import BucketDictionaries, dictionary_key
from sagaz_tiering.errors import ColdTierUnavailable
from sagaz_tiering.hot.dictionaries import HotDictionaries
from sagaz_tiering.jobs.dictionary_copies import keep
from sagaz_tiering.packs.reader import PackReader, read_footer
from sagaz_tiering.policy import SagaEnd
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass

pytestmark = [pytest.mark.guarantee("G13"), pytest.mark.guarantee("G1")]


@cache
def alien() -> Dictionary:
    """One that somebody put into Redis."""
    samples = [orjson.dumps(each.context) for each in snapshots(60, start=700)]
    return Dictionary(zstandard.train_dictionary(8192, samples, k=500, d=8).as_bytes())


@pytest.fixture
def settings(places: Places) -> Any:
    """One process after the other."""
    return config(**places)


@pytest.fixture
async def shop(settings: Any) -> AsyncIterator[Product]:
    """Redis, and it alone, names a dictionary for new data."""
    async with product(settings) as opened:
        redis = HotDictionaries(opened.runtime.hot)
        await redis.put(alien())
        await redis.name({SAGA_NAME: alien().id})
        await opened.runtime.dictionaries.refresh()
        yield opened


async def save(shop: Product, count: int = 2) -> list[SagaSnapshot]:
    """Sagas that begin now."""
    made = list(snapshots(count, created_at=shop.clock.now()))
    for snapshot in made:
        await shop.storage.save_snapshot(snapshot)
    return made


async def published(shop: Product) -> bool:
    """Whether the alien dictionary is in the bucket, and in the catalog."""
    in_bucket = dictionary_key(alien().digest) in await shop.object_keys("dictionaries/")
    in_catalog = alien().digest in await shop.runtime.catalog.dictionaries.digests()
    assert in_bucket == in_catalog
    return in_bucket


async def pack_dictionaries(shop: Product) -> set[bytes]:
    """What the packs in the bucket need."""
    found: set[bytes] = set()
    for key in await shop.object_keys():
        size = (await shop.runtime.objects.head(key)).size
        stored = await PackReader(shop.runtime.objects).unvouched_footer_bytes(key, size)
        found |= set(read_footer(stored, size).dictionaries)
    return found


async def test_durable_copies_and_packs_do_without_it(shop: Product, settings: Any, redis_url: str) -> None:
    """Redis is emptied afterwards, and everything can be read."""
    saved = await save(shop)
    values = [await shop.runtime.hot.get(each.snapshot_id) for each in saved]
    assert {read_header(value).dictionary_id for value in values if isinstance(value, bytes)} == {None}
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    more = await save(shop)
    report = await shop.run("scrub")
    assert report.counts["dictionaries_in_redis_alone"] == 1, report
    assert await pack_dictionaries(shop) == set()
    assert not await published(shop)
    await redis_do(redis_url, "FLUSHALL")
    async with product(settings, now=shop.clock.now()) as fresh:
        for snapshot in saved[10:] + more:
            assert await fresh.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def test_value_that_needs_it_is_compressed_anew_when_it_moves(
    shop: Product, settings: Any, redis_url: str
) -> None:
    """It is read as long as Redis has it; the pack is readable without Redis."""
    saved = list(snapshots(2, created_at=shop.clock.now()))
    for snapshot in saved:
        now_us = to_micros(shop.clock.now())
        record = encode(snapshot, saved_us=now_us)
        due_us = shop.runtime.policies.decide(record.meta, SagaEnd.of(record.meta), now_us).due_us
        value = to_value(record, level=3, dictionary=alien())
        assert read_header(value).dictionary_id == alien().id
        await shop.runtime.hot.save(record.meta, value, due_us=due_us, expires_us=None)
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
    shop.clock.advance(9 * DAY)
    assert (await shop.run("age")).counts["archived"] == len(saved)
    assert await pack_dictionaries(shop) == set()
    await redis_do(redis_url, "FLUSHALL")
    async with product(settings, now=shop.clock.now()) as fresh:
        for snapshot in saved:
            assert await fresh.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def aged_with_it(shop: Product, monkeypatch: pytest.MonkeyPatch) -> list[SagaSnapshot]:
    """A pack that needs the dictionary, as packs were made while writers asked Redis."""
    saved = await save(shop)
    with monkeypatch.context() as patch:
        patch.setattr(shop.runtime.dictionaries, "chosen", lambda: {SAGA_NAME: alien()})
        shop.clock.advance(9 * DAY)
        await shop.run("age")
    assert await pack_dictionaries(shop) == {alien().digest}
    return saved


async def test_pack_is_published_only_with_its_dictionary_in_the_bucket(
    shop: Product, settings: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is made of: it is put there, and into the catalog, first."""
    saved = await aged_with_it(shop, monkeypatch)
    assert await published(shop)
    await redis_do(redis_url, "FLUSHALL")
    async with product(settings, now=shop.clock.now()) as fresh:
        assert await fresh.storage.get_snapshot(saved[0].snapshot_id) == saved[0]


async def test_pack_whose_dictionary_cannot_be_kept_is_refused(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is published, and nothing leaves the hot tier; once it can be, whatever had its name is replaced."""
    key = dictionary_key(alien().digest)
    await overwrite(shop, key, b"something else", StorageClass.STANDARD)
    saved = await save(shop)
    shop.clock.advance(9 * DAY)

    async def unavailable(*_: Any) -> None:
        raise ColdTierUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(shop.runtime.dictionaries, "chosen", lambda: {SAGA_NAME: alien()})
        with monkeypatch.context() as down:
            down.setattr(BucketDictionaries, "put", unavailable)
            with pytest.raises(ColdTierUnavailable):
                await shop.run("age")
        assert await shop.object_keys() == []
        assert await shop.hot_count() == len(saved)
        shop.clock.advance(DAY)
        await shop.run("age")
    assert await pack_dictionaries(shop) == {alien().digest}
    assert await shop.runtime.objects.get(key) == alien().data


async def test_scrub_rescues_the_dictionary_of_a_pack_from_redis(
    shop: Product, settings: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that was made before: as long as any place has it, it comes into bucket and catalog."""
    saved = await aged_with_it(shop, monkeypatch)
    await shop.runtime.objects.delete([dictionary_key(alien().digest)])
    await shop.runtime.db.execute("DELETE FROM sagaz_tiering.dictionaries")
    report = await shop.run("scrub")
    assert report.counts["put_back"] == 1, report
    assert await published(shop)
    await redis_do(redis_url, "FLUSHALL")
    async with product(settings, now=shop.clock.now()) as fresh:
        assert await fresh.storage.get_snapshot(saved[0].snapshot_id) == saved[0]


async def test_bucket_and_catalog_repair_each_other_by_digest(shop: Product) -> None:
    """Whichever of the two has other bytes than the sha256 says."""
    await keep(shop.runtime.job_context(), [alien()])
    key = dictionary_key(alien().digest)
    await shop.runtime.db.execute("UPDATE sagaz_tiering.dictionaries SET data = 'altered'")
    await shop.run("scrub")
    assert await shop.runtime.catalog.dictionaries.fetch(alien().id) == alien().data
    await overwrite(shop, key, alien().data[:-1] + b"!")
    report = await shop.run("scrub")
    assert report.counts["repaired"] == 1, report
    assert await shop.runtime.objects.get(key) == alien().data


async def test_object_that_only_begins_like_a_dictionary_hides_none(shop: Product) -> None:
    """Somebody puts another object before it in the listing."""
    await keep(shop.runtime.job_context(), [alien()])
    await overwrite(shop, f"dictionaries/{alien().id.hex()}{'0' * 48}", b"something else", StorageClass.STANDARD)
    await shop.runtime.db.execute("DELETE FROM sagaz_tiering.dictionaries")
    await redis_do(shop.runtime.settings.tiers.hot.url.get_secret_value(), "FLUSHALL")
    shop.runtime.dictionaries._kept.clear()
    assert alien().id in await shop.runtime.dictionaries.need(alien().id)


async def test_object_that_is_too_large_for_a_dictionary_is_not_read(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, and neither the catalog nor the memory of a job has it."""
    await overwrite(shop, f"dictionaries/{'ab' * 32}", bytes(1000), StorageClass.STANDARD)
    monkeypatch.setattr(dictionary_objects, "MOST_BYTES", 999)
    report = await shop.run("scrub")
    assert (report.counts["altered"], report.counts["unreadable"]) == (1, 1), report
    assert any("more than the 999 bytes" in note for note in report.notes)
    assert await shop.runtime.catalog.dictionaries.digests() == set()
