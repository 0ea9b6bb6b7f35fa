"""Dictionaries are trained from real data, make values and packs smaller, and are found by whoever needs one."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.encrypted import save_all
from support.payload import SAGA_NAME, snapshots
from support.processes import redis_do
from support.servers import fresh_database
from support.tiers import DAY, Places, Product, config, product, rebuilt_from_bucket

from sagaz_tiering.catalog.dictionaries import CatalogDictionaries
from sagaz_tiering.catalog.mark import parse
from sagaz_tiering.codec.value import Header, encode, read_header
from sagaz_tiering.codec.zstd import Dictionary
from sagaz_tiering.dictionaries.cache import BucketDictionaries
from sagaz_tiering.embedded import PostgresServer, RedisServer
from sagaz_tiering.errors import ColdTierUnavailable, CorruptRecord, HotTierUnavailable
from sagaz_tiering.hot.dictionaries import HotDictionaries
from sagaz_tiering.packs.reader import PackReader, read_footer
from sagaz_tiering.snapshot import SagaSnapshot

SAGAS = 24
FEW = {"dictionaries": {"min_sagas": 20, "size": "32KiB"}}
PACK = {"pack": {"target": "256KiB", "max_frame": "128KiB"}}


def settings(places: Places, **sections: Any) -> Any:
    return config(**places, **PACK, **{**FEW, **sections})


@pytest.fixture
async def shop(places: Places) -> AsyncIterator[Product]:
    async with product(settings(places)) as opened:
        yield opened


async def save(shop: Product, count: int, *, start: int = 0, name: str = SAGA_NAME) -> list[SagaSnapshot]:
    """So many sagas that begin now."""
    made = list(snapshots(count, start=start, created_at=shop.clock.now(), saga_name=name))
    await save_all(shop, made)
    return made


async def trained(shop: Product) -> list[SagaSnapshot]:
    """Saved without a dictionary, and one trained from them."""
    saved = await save(shop, SAGAS)
    report = await shop.run("train")
    assert report.counts["dictionaries"] == 1, report
    return saved


async def headers(shop: Product, saved: Sequence[SagaSnapshot]) -> list[Header]:
    """Of their values in Redis."""
    values = [await shop.runtime.hot.get(snapshot.snapshot_id) for snapshot in saved]
    return [read_header(value) for value in values if isinstance(value, bytes)]


async def hot_bytes(shop: Product, saved: Sequence[SagaSnapshot]) -> int:
    values = [await shop.runtime.hot.get(snapshot.snapshot_id) for snapshot in saved]
    return sum(len(value) for value in values if isinstance(value, bytes))


async def all_equal(shop: Product, saved: Sequence[SagaSnapshot]) -> None:
    """By id, latest, at a time and by list, each equal."""
    sagas: dict[Any, list[SagaSnapshot]] = {}
    for snapshot in saved:
        sagas.setdefault(snapshot.saga_id, []).append(snapshot)
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
    for saga_id, of_saga in sagas.items():
        assert await shop.storage.list_snapshots(saga_id) == of_saga[::-1]
        assert await shop.storage.get_latest_snapshot(saga_id) == of_saga[-1]
        assert await shop.storage.get_snapshot_at_time(saga_id, of_saga[1].created_at) == of_saga[1]


async def frame_dictionaries(shop: Product) -> set[bytes | None]:
    """What the frames of all packs are compressed with."""
    found: set[bytes | None] = set()
    for row in await shop.runtime.db.fetch("SELECT * FROM sagaz_tiering.packs WHERE state = 'ACTIVE'"):
        stored = await PackReader(shop.runtime.objects).unvouched_footer_bytes(row["object_key"], row["byte_size"])
        footer = read_footer(stored, row["byte_size"])
        found |= {frame.dictionary_id for frame in footer.frames}
    return found


async def the_dictionary(shop: Product) -> Dictionary:
    (current,) = await shop.runtime.catalog.dictionaries.list_current()
    return (await shop.runtime.dictionaries.need(current.dictionary_id))[current.dictionary_id]


async def aged(shop: Product) -> None:
    shop.clock.advance(9 * DAY)
    report = await shop.run("age")
    assert not report.counts.get("failed"), report
    assert await shop.hot_count() == 0


async def test_dictionary_makes_values_and_packs_smaller(shop: Product) -> None:
    """What is saved after the training takes a quarter less, and everything reads as it was, from Redis and packs."""
    saved = await trained(shop)
    more = await save(shop, SAGAS, start=1000)
    assert {header.dictionary_id for header in await headers(shop, saved)} == {None}
    assert {header.dictionary_id for header in await headers(shop, more)} == {(await the_dictionary(shop)).id}
    assert await hot_bytes(shop, more) < 0.75 * await hot_bytes(shop, saved)
    await all_equal(shop, saved + more)
    await aged(shop)
    assert await frame_dictionaries(shop) == {(await the_dictionary(shop)).id}
    await all_equal(shop, saved + more)


async def test_dictionary_is_trained_once_a_day_at_most(shop: Product) -> None:
    """A second run finds nothing to do, nor does a later one whose dictionary would be as good as the one there is."""
    await trained(shop)
    assert "dictionaries" not in (await shop.run("train")).counts
    shop.clock.advance(2 * DAY)
    report = await shop.run("train")
    assert report.counts["not_worth_it"] == 1
    assert any("would only save" in note for note in report.notes)


async def test_dry_run_publishes_nothing(shop: Product) -> None:
    """It says what it would publish."""
    await save(shop, SAGAS)
    report = await shop.run("train", dry_run=True)
    assert any("would save" in note for note in report.notes)
    assert await shop.object_keys("dictionaries/") == []
    assert await shop.runtime.catalog.dictionaries.list_current() == []


async def test_two_daemons_train_once(shop: Product, places: Places) -> None:
    """Of two at once one waits for its next turn; one dictionary is there."""
    await save(shop, SAGAS)
    async with product(settings(places)) as other:
        first, second = await asyncio.gather(shop.run("train"), other.run("train"))
        assert {first.skipped, second.skipped} == {False, True}
        assert "dictionaries" not in (await other.run("train")).counts
    assert len(await shop.object_keys("dictionaries/")) == 1


async def test_names_with_few_sagas_and_encrypted_ones_get_none(places: Places, tmp_path: Path) -> None:
    """Neither is enough in common with few, nor may what is encrypted per saga be in an object that is not."""
    move = [{"to": "STANDARD_IA", "after": "7d"}]
    key_file = tmp_path / "keys"
    key_file.write_text("first:" + "A" * 43 + "=\n")
    key_file.chmod(0o600)
    policies = [
        {"name": "secret", "match": {"saga_name": "secret"}, "move": move, "encryption": "per-saga"},
        {"name": "rest", "match": {}, "move": move},
    ]
    opened = settings(places, policies=policies, encryption={"key_file": str(key_file)})
    async with product(opened) as shop:
        await save(shop, SAGAS, name="secret")
        await save(shop, 8, start=500, name="few")
        report = await shop.run("train")
        assert report.counts == {"sagas": SAGAS + 8, "names": 1, "names_with_few_sagas": 1}


async def test_dictionaries_can_be_turned_off(places: Places) -> None:
    """None is trained or used any more; what was compressed with one is read."""
    async with product(settings(places)) as shop:
        await trained(shop)
        saved = await save(shop, 3, start=1000)
    async with product(settings(places, dictionaries={"enabled": False})) as shop:
        assert "names" not in (await shop.run("train")).counts
        more = await save(shop, 3, start=2000)
        assert {header.dictionary_id for header in await headers(shop, more)} == {None}
        await all_equal(shop, saved + more)


async def test_durable_copies_are_sampled_where_redis_has_few(
    places: Places, own_redis: Callable[..., Awaitable[RedisServer]]
) -> None:
    """A Redis that was emptied is no reason to wait for new data."""
    server = await own_redis()
    async with product(settings({**places, "redis_url": server.url})) as shop:
        await save(shop, SAGAS)
        await redis_do(server.url, "FLUSHALL")
        assert (await shop.run("train")).counts["dictionaries"] == 1


async def test_process_that_started_before_reads_and_learns(shop: Product, places: Places) -> None:
    """It reads what others compressed with a dictionary that it never heard of, and writes with it once it looks."""
    async with product(settings(places)) as early:
        assert early.runtime.dictionaries.for_writing(SAGA_NAME) is None
        await trained(shop)
        saved = await save(shop, 2, start=1000)
        await all_equal(early, saved)
        await early.runtime.dictionaries.refresh()
        more = await save(early, 1, start=2000)
        assert {header.dictionary_id for header in await headers(early, more)} == {(await the_dictionary(shop)).id}


async def test_first_save_waits_for_no_dictionary(shop: Product, places: Places) -> None:
    """A process that just started saves without one, and with it as soon as it was read in the background."""
    await trained(shop)
    async with product(settings(places)) as late:
        (first, *_) = await save(late, 1, start=1000)
        assert (await headers(late, [first]))[0].dictionary_id is None
        for _ in range(1000):
            if late.runtime.dictionaries.for_writing(SAGA_NAME) is not None:
                break
            await asyncio.sleep(0.01)
        (then, *_) = await save(late, 1, start=2000)
        assert (await headers(late, [then]))[0].dictionary_id == (await the_dictionary(shop)).id


async def test_every_place_alone_is_enough(shop: Product, places: Places, redis_url: str, tmp_path: Path) -> None:
    """Values and frames are read with what Redis, the catalog or the bucket has, whichever two have lost it."""
    saved = await trained(shop)
    await aged(shop)
    more = await save(shop, 2, start=1000)
    found = await the_dictionary(shop)
    key = f"sagaz:dictionary:{found.id.hex()}"
    (folder,) = (tmp_path / "cold").glob("**/dictionaries/*")
    hidden = folder.with_name("hidden")

    async def reads() -> None:
        async with product(settings(places), now=shop.clock.now()) as fresh:
            await all_equal(fresh, more)
            await all_equal(fresh, saved[:10])

    rename = "UPDATE sagaz_tiering.dictionaries SET dictionary_id = $2 WHERE dictionary_id = $1"
    away = bytes(8)
    folder.rename(hidden)
    await shop.runtime.db.execute(rename, found.id, away)
    await reads()
    await redis_do(redis_url, "DEL", key)
    await shop.runtime.db.execute(rename, away, found.id)
    await reads()
    hidden.rename(folder)
    await shop.runtime.db.execute(rename, found.id, away)
    await reads()


async def test_lost_dictionary_is_named_and_leaves_the_rest_readable(
    shop: Product, places: Places, redis_url: str, tmp_path: Path
) -> None:
    """With all three gone a read says which; the snapshots that need it not are read, and the jobs go on."""
    plain = await trained(shop)
    lost = await save(shop, 1, start=1000)
    found = await the_dictionary(shop)
    await redis_do(redis_url, "DEL", f"sagaz:dictionary:{found.id.hex()}")
    await shop.runtime.db.execute("DELETE FROM sagaz_tiering.dictionaries")
    (folder,) = (tmp_path / "cold").glob("**/dictionaries/*")
    folder.rename(tmp_path / "elsewhere")
    async with product(settings(places), now=shop.clock.now()) as fresh:
        await all_equal(fresh, plain[:10])
        with pytest.raises(CorruptRecord, match=found.id.hex()):
            await fresh.storage.get_snapshot(lost[0].snapshot_id)
        with pytest.raises(CorruptRecord) as caught:
            await fresh.storage.list_snapshots(lost[0].saga_id)
        assert (caught.value.readable, len(caught.value.unreadable)) == ((), len(lost))
        fresh.clock.advance(9 * DAY)
        report = await fresh.run("age")
        assert report.counts["archived"] == len(plain), report
        assert any("unreadable" in note for note in report.notes)
        (tmp_path / "elsewhere").rename(folder)
        await all_equal(fresh, lost)


async def test_unreachable_place_is_no_loss(
    shop: Product, places: Places, own_redis: Callable[..., Awaitable[RedisServer]], tmp_path: Path
) -> None:
    """A dictionary that only a server has that is down makes the read fail as unavailable, not as damaged."""
    server = await own_redis()
    async with product(settings({**places, "redis_url": server.url})) as other:
        await trained(other)
        await save(other, 1, start=1000)
        found = await the_dictionary(other)
        await other.runtime.db.execute("DELETE FROM sagaz_tiering.dictionaries")
        (folder,) = (tmp_path / "cold").glob("**/dictionaries/*")
        folder.rename(tmp_path / "elsewhere")
        await server.stop()
    async with product(settings({**places, "redis_url": server.url})) as fresh:
        with pytest.raises(HotTierUnavailable):
            await fresh.runtime.dictionaries.need(found.id)


async def test_flushed_redis_is_filled_again(shop: Product, redis_url: str) -> None:
    """The next run of `train` tells Redis anew; until then writers learn from the catalog."""
    await trained(shop)
    await redis_do(redis_url, "FLUSHALL")
    await shop.runtime.dictionaries.refresh()
    assert shop.runtime.dictionaries.for_writing(SAGA_NAME) is not None
    assert (await shop.run("train")).counts["put_back"] == 1
    assert await redis_do(redis_url, "HLEN", "sagaz:dictionaries") == 1


@pytest.mark.parametrize("job", ["scrub", "train"])
@pytest.mark.parametrize("place", ["bucket", "catalog", "redis"])
async def test_dry_run_tells_what_is_put_back(shop: Product, redis_url: str, job: str, place: str) -> None:
    """And puts nothing back: the run after it finds the same."""
    await trained(shop)
    if place == "bucket":
        await shop.runtime.objects.delete(await shop.object_keys("dictionaries/"))
    elif place == "catalog":
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.dictionaries")
    else:
        await redis_do(redis_url, "FLUSHALL")
    kind = "dictionaries_learnt" if place == "catalog" else "put_back"
    for dry_run in (True, True, False):
        report = await shop.run(job, dry_run=dry_run)
        told = {name: report.counts[name] for name in ("put_back", "dictionaries_learnt") if report.counts.get(name)}
        assert told == {kind: 1}, report


async def test_object_that_was_deleted_is_put_back(shop: Product, tmp_path: Path) -> None:
    """From the catalog, byte for byte, under the same key; `scrub` says so."""
    await trained(shop)
    keys = await shop.object_keys("dictionaries/")
    await shop.runtime.objects.delete(keys)
    report = await shop.run("scrub")
    assert report.counts["put_back"] == 1
    assert await shop.object_keys("dictionaries/") == keys
    assert (await shop.runtime.objects.get(keys[0])) == (await the_dictionary(shop)).data


async def test_corrupted_object_is_repaired_or_named_by_scrub(shop: Product, tmp_path: Path) -> None:
    """From the catalog; where that has not got it, as altered in the quarantine until it is sound again."""
    saved = await trained(shop)
    found = await the_dictionary(shop)
    (folder,) = (tmp_path / "cold").glob("**/dictionaries/*")
    good = (folder / "data").read_bytes()
    (folder / "data").write_bytes(bytes([good[0] ^ 1]) + good[1:])
    report = await shop.run("scrub")
    assert (report.counts["altered"], report.counts["repaired"]) == (1, 1)
    assert await shop.runtime.objects.get(f"dictionaries/{found.digest.hex()}") == good
    assert await shop.runtime.catalog.quarantine.items(10) == []
    (folder,) = (tmp_path / "cold").glob("**/dictionaries/*")
    (folder / "data").write_bytes(bytes([good[0] ^ 1]) + good[1:])
    await shop.runtime.db.execute("DELETE FROM sagaz_tiering.dictionaries")
    assert (await shop.run("scrub")).counts["altered"] == 1
    (item,) = await shop.runtime.catalog.quarantine.items(10)
    assert item.item.startswith("dictionaries/")
    assert "altered" in item.reason
    await all_equal(shop, saved[:5])
    (folder / "data").write_bytes(good)
    assert (await shop.run("scrub")).counts["dictionaries_sound"] == 1
    assert await shop.runtime.catalog.quarantine.items(10) == []


async def test_collect_leaves_dictionaries_alone(shop: Product) -> None:
    """Also after a year in which nothing was saved."""
    await trained(shop)
    keys = await shop.object_keys("dictionaries/")
    for _ in range(3):
        shop.clock.advance(400 * DAY)
        assert not (await shop.run("collect")).counts.keys() & {"foreign", "unknown", "strays_seen", "strays_removed"}
    assert await shop.object_keys("dictionaries/") == keys


async def test_rebuilt_catalog_knows_the_dictionaries(
    shop: Product, postgres_server: PostgresServer, redis_url: str, places: Places
) -> None:
    """With PostgreSQL gone and Redis emptied, packs are read, and new data are compressed as before."""
    saved = await trained(shop)
    await aged(shop)
    found = await the_dictionary(shop)
    await redis_do(redis_url, "FLUSHALL")
    async with (
        fresh_database(postgres_server) as other,
        product(settings({**places, "database": other}), now=shop.clock.now()) as rebuilt,
    ):
        await rebuilt_from_bucket(rebuilt)
        await all_equal(rebuilt, saved)
        assert dict(await rebuilt.runtime.catalog.dictionaries.current()) == {SAGA_NAME: found.id}
        assert "dictionaries" not in (await rebuilt.run("train")).counts


async def test_older_catalog_dump_learns_what_it_missed(
    shop: Product, postgres_server: PostgresServer, places: Places
) -> None:
    """Hot values that need a newer dictionary than the dump has are read, and it is entered again with its name."""
    identity = await shop.runtime.catalog.identity()
    await trained(shop)
    saved = await save(shop, 2, start=1000)
    found = await the_dictionary(shop)
    async with (
        fresh_database(postgres_server) as dump,
        product(settings({**places, "database": dump}), now=shop.clock.now()) as restored,
    ):
        assert await restored.runtime.catalog.take_identity(identity)
        await all_equal(restored, saved)
        mark = parse(await restored.runtime.objects.get("owner.json"))
        assert mark is not None
        await restored.runtime.catalog.ownership.take_mark(mark.counter, mark.nonce, mark.journal)
        await restored.run("train")
        assert dict(await restored.runtime.catalog.dictionaries.current()) == {SAGA_NAME: found.id}


async def test_old_frames_and_new_ones_are_compacted_together(shop: Product) -> None:
    """Frames without a dictionary are copied as they are beside those with one; all of them read as before."""
    old = await save(shop, SAGAS)
    report = await shop.run("train")
    assert report.counts["dictionaries"] == 1
    shop.runtime.dictionaries.enabled = False
    await aged(shop)
    assert await frame_dictionaries(shop) == {None}
    shop.runtime.dictionaries.enabled = True
    new = await save(shop, SAGAS, start=1000)
    await aged(shop)
    gone = [each for each in old + new if each.step_index and each.saga_id.int % 4]
    for snapshot in gone:
        await shop.storage.delete_snapshot(snapshot.snapshot_id)
    shop.clock.advance(60 * DAY)
    assert (await shop.run("compact")).counts["packs"] > 1
    assert await frame_dictionaries(shop) == {None, (await the_dictionary(shop)).id}
    left = [each for each in old + new if each not in gone]
    for snapshot in left:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
    shop.clock.advance(31 * DAY)
    report = await shop.run("scrub")
    assert report.counts["packs_sound"] == 1, report


async def test_restore_brings_values_back_with_the_dictionary(places: Places) -> None:
    """From a frame with a dictionary into Redis, compressed with the one that is current."""
    move = [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "60d"}]
    policies = [{"name": "all", "match": {}, "move": move}]
    async with product(settings(places, policies=policies)) as shop:
        saved = await trained(shop)
        await aged(shop)
        shop.clock.advance(60 * DAY)
        await shop.run("transition")
        request = await shop.storage.restore(saga_id=saved[0].saga_id, days=2)
        assert request is not None
        for _ in range(4):
            await shop.run("restore")
            shop.clock.advance(DAY / 4)
        assert {header.dictionary_id for header in await headers(shop, saved[:5])} == {(await the_dictionary(shop)).id}
        await all_equal(shop, saved[:5])


async def test_forgotten_saga_leaves_nothing_in_the_dictionary(shop: Product) -> None:
    """No text that only a few sagas have is in it: ids, addresses, numbers, the whole of nothing that was erased."""
    saved = await trained(shop)
    data = (await the_dictionary(shop)).data
    sagas: dict[Any, set[bytes]] = {}
    for snapshot in saved:
        body = encode(snapshot, saved_us=1).body
        sagas.setdefault(snapshot.saga_id, set()).update(re.findall(rb'[^"\s,:{}\[\]]{6,}', body))
    counts = Counter(text for texts in sagas.values() for text in texts)
    for saga_id, texts in list(sagas.items())[::4]:
        await shop.storage.forget(saga_id)
        rare = {text for text in texts if counts[text] < 5 and len(text) >= 10}
        assert len(rare) > 30
        assert [text for text in rare if text in data] == []


STEPS = {
    "bucket": (BucketDictionaries, "put"),
    "catalog": (CatalogDictionaries, "publish"),
    "redis content": (HotDictionaries, "put"),
    "redis name": (HotDictionaries, "name"),
}


@pytest.mark.parametrize("step", STEPS)
async def test_crash_while_publishing_is_finished_by_the_next_run(
    shop: Product, redis_url: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever step was done before the end: then all three places have the one that is in use."""
    saved = await save(shop, SAGAS)

    async def crash(*_: Any, **__: Any) -> None:
        raise ColdTierUnavailable("killed")

    with monkeypatch.context() as patch:
        patch.setattr(*STEPS[step], crash)
        with pytest.raises(ColdTierUnavailable):
            await shop.run("train")
    more = await save(shop, 2, start=1000)
    await shop.run("train")
    found = await the_dictionary(shop)
    assert f"dictionaries/{found.digest.hex()}" in await shop.object_keys("dictionaries/")
    assert await redis_do(redis_url, "GET", f"sagaz:dictionary:{found.id.hex()}") == found.data
    assert dict(await HotDictionaries(shop.runtime.hot).current()) == {SAGA_NAME: found.id}
    await all_equal(shop, saved[:5] + more)


async def test_nothing_is_written_with_a_dictionary_that_is_not_everywhere(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step of publishing fails, no writer uses what the bucket and the catalog do not have."""
    await save(shop, SAGAS)

    async def unavailable(*_: Any, **__: Any) -> None:
        raise ColdTierUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(type(shop.runtime.objects), "put", unavailable)
        with pytest.raises(ColdTierUnavailable):
            await shop.run("train")
    await shop.runtime.dictionaries.refresh()
    assert shop.runtime.dictionaries.for_writing(SAGA_NAME) is None

    seen: list[tuple[int, int, int]] = []

    async def where() -> None:
        rows = len(await shop.runtime.catalog.dictionaries.list_current())
        redis = len(await HotDictionaries(shop.runtime.hot).current())
        seen.append((len(await shop.object_keys("dictionaries/")), rows, redis))

    for holder, name in STEPS.values():
        original = getattr(holder, name)

        async def watched(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            await where()
            return await _original(*args, **kwargs)

        monkeypatch.setattr(holder, name, watched)
    await shop.run("train")
    await where()
    assert [state for number, state in enumerate(seen) if not number or seen[number - 1] != state] == [
        (0, 0, 0),
        (1, 0, 0),
        (1, 1, 0),
        (1, 1, 1),
    ]
