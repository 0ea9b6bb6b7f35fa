"""Attributes that are configured later find what was saved before, wherever it is and whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.attributes import ATTRIBUTES, ORDER_ID, columns, found_by, in_frames, order, saga
from support.encrypted import POLICIES, aged, encrypted, key_file, save_all
from support.servers import fresh_database
from support.tiers import DAY, Places, Product, product, rebuilt_from_bucket, rule

from sagaz_tiering.codec.value import attributed, read_header, read_meta
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.drivers.postgresql.queries import from_column
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import ColdTierUnavailable
from sagaz_tiering.jobs import run_job
from sagaz_tiering.jobs.age.writes import AgeWrites
from sagaz_tiering.operations.keys import export_keys, import_keys
from sagaz_tiering.snapshot import SagaSnapshot

FAST = rule("fast", "fast", {"STANDARD_IA": "7d"}, durability="hot", retain="forever")
KEEP = [FAST, *({**policy, "retain": "forever"} for policy in POLICIES)]
NAMES = ("order-a", "parcel", "fast")


class Shop:
    """Sagas that were saved before any attribute was configured: packed ones, and ones that are not due yet."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.packed: list[SagaSnapshot] = []
        self.near: list[SagaSnapshot] = []
        self.now: datetime | None = None

    def settings(self, database: str = "", **sections: Any) -> TieringConfig:
        places = {**self.places, "database": database or self.places["database"]}
        return encrypted(places, policies=KEEP, **{"attributes": ATTRIBUTES, **sections})

    async def fill(self) -> None:
        async with product(self.settings(attributes=())) as shop:
            self.packed = self._sagas(shop, 0)
            await aged(shop, self.packed)
            self.near = self._sagas(shop, 10)
            await save_all(shop, self.near)
            await shop.storage._notes.flush()
            assert await in_frames(shop) == {each.snapshot_id: "" for each in self.packed}
            self.now = shop.clock.now() + DAY

    def _sagas(self, shop: Product, start: int) -> list[SagaSnapshot]:
        found = []
        for number, name in enumerate(NAMES, start):
            found += saga(
                name, number, shop.clock.now(), [{}, order(number, "Müller"), order(number, f"only {number}")]
            )
        return found

    @property
    def saved(self) -> list[SagaSnapshot]:
        return self.packed + self.near


@pytest.fixture
async def before(places: Places, tmp_path: Path) -> Shop:
    """Filled, and closed."""
    key_file(tmp_path)
    shop = Shop(places)
    await shop.fill()
    return shop


async def everything_found(shop: Product, saved: list[SagaSnapshot]) -> None:
    """Each saga by its order and by what only its last snapshot has."""
    for each in saved[2::3]:
        number = each.context["order"]["id"].removeprefix("A-")
        assert await found_by(shop, f"order_id=A-{number}") == {each.saga_id}
        assert await found_by(shop, f"customer=only {number}") == {each.saga_id}


async def in_redis(shop: Product, saved: list[SagaSnapshot]) -> dict[UUID, str]:
    """What the values of these say that they carry."""
    values = [await shop.runtime.hot.get(each.snapshot_id) for each in saved]
    return {read_meta(value).snapshot_id: read_meta(value).attributes for value in values if isinstance(value, bytes)}


async def in_rows(shop: Product) -> dict[UUID, str]:
    """What durable rows and notes of hot saves say."""
    found = {}
    for table in ("saga_snapshots", "hot_saves"):
        rows = await shop.runtime.db.fetch(f"SELECT snapshot_id, attributes FROM sagaz_tiering.{table}")
        found |= {row["snapshot_id"]: from_column(row["attributes"] or "") for row in rows}
    return found


async def test_everything_that_was_saved_before_gets_its_attributes(before: Shop) -> None:
    """Packs, Redis, durable rows and notes; nothing is read twice, and every read gives what it gave."""
    async with product(before.settings(), now=before.now) as shop:
        told = await shop.run("reindex", dry_run=True)
        assert told.counts["packs"] == 3
        assert told.counts["requests"] == 6
        assert any("$" in note for note in told.notes)
        assert await found_by(shop, "order_id=A-0") == set()
        done = await shop.run("reindex")
        assert done.counts["packs"] == done.counts["packs_changed"] == 3
        assert done.counts["bytes_read"] == told.counts["bytes"]
        near = columns(before.near, shop)
        assert await in_frames(shop) == columns(before.packed, shop)
        assert await in_redis(shop, before.near) == near
        assert await in_rows(shop) == near
        await everything_found(shop, before.saved)
        for each in before.saved:
            assert await shop.storage.get_snapshot(each.snapshot_id) == each
        again = await shop.run("reindex")
        assert not {"packs", "hot_changed", "durable_changed"} & again.counts.keys()
        assert not (await shop.run("reindex", dry_run=True)).counts.get("packs")


async def test_what_is_packed_after_a_reindex_is_complete_and_not_looked_into_again(before: Shop) -> None:
    """Also a value that a reindex did not see, since it was elsewhere then."""
    async with product(before.settings(), now=before.now) as shop:
        await shop.run("reindex")
        late = before.near[2]
        await without_attributes(shop, late)
        shop.clock.advance(9 * DAY)
        assert (await shop.run("age")).counts["packs"] == 3
        assert await in_frames(shop) == columns(before.saved, shop)
        assert not (await shop.run("reindex", dry_run=True)).counts.get("packs")
        await everything_found(shop, before.saved)


async def without_attributes(shop: Product, snapshot: SagaSnapshot) -> None:
    """Its value in Redis and its row as an application without the new definitions would leave them."""
    found = await shop.runtime.hot.get(snapshot.snapshot_id)
    assert isinstance(found, bytes)
    header = read_header(found)
    bare = attributed(found, header, "")
    put = [(header.meta, found[: header.length], bare[: read_header(bare).length])]
    assert await shop.runtime.hot.queue.put_headers(put) == 1
    assert (await in_redis(shop, [snapshot]))[snapshot.snapshot_id] == ""


@pytest.mark.parametrize("step", ["sealed", "uploaded"])
async def test_reindex_is_not_done_before_the_packs_that_were_under_way(
    before: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Built before it began, published after it: it says so, and the next run looks into them and into nothing else."""
    paused, go_on = asyncio.Event(), asyncio.Event()
    async with product(before.settings(), now=before.now) as shop:
        where: Any = AgeWrites if step == "sealed" else shop.runtime.objects
        method = "store" if step == "sealed" else "put"
        whole: Callable[..., Awaitable[Any]] = getattr(where, method)

        async def at_a_pause(*args: Any, **kwargs: Any) -> Any:
            if method == "store" or args[0].startswith("packs/"):
                paused.set()
                await go_on.wait()
            return await whole(*args, **kwargs)

        shop.clock.advance(9 * DAY)
        monkeypatch.setattr(where, method, at_a_pause)
        ageing = asyncio.create_task(shop.run("age"))
        await paused.wait()
        early = await shop.run("reindex")
        assert early.counts["age_runs_before"] == 1
        assert any("run reindex again" in note for note in early.notes)
        go_on.set()
        assert (await ageing).counts["packs"] == 3
        assert (await shop.run("reindex", dry_run=True)).counts["packs"] == 3
        later = await shop.run("reindex")
        assert later.counts["packs_changed"] == 3
        assert not {"age_runs_before", "hot", "durable", "packs_left"} & later.counts.keys()
        assert await in_frames(shop) == columns(before.saved, shop)
        await everything_found(shop, before.saved)


async def test_pack_that_is_published_by_other_definitions_undoes_a_reindex(before: Shop) -> None:
    """By a daemon that was not told of them: the next run looks into what that packed, and into nothing else."""
    async with product(before.settings(), now=before.now) as shop:
        assert "packs_left" not in (await shop.run("reindex")).counts
    async with product(before.settings(attributes=()), now=before.now) as other:
        other.clock.advance(9 * DAY)
        assert (await other.run("age")).counts["packs"] == 3
        await save_all(other, saga("order-a", 50, other.clock.now(), [{}]))
    async with product(before.settings(), now=before.now + 10 * DAY) as shop:
        again = await shop.run("reindex")
        assert again.counts["packs"] == 3
        assert not {"hot", "durable"} & again.counts.keys()
        await everything_found(shop, before.saved)


async def test_found_attributes_survive_compaction_and_a_rebuild(before: Shop, postgres_server: PostgresServer) -> None:
    """Beside the packs first, then in the footers of those that replace them."""
    async with product(before.settings(), now=before.now) as shop:
        await shop.run("reindex")
        assert len([key for key in await shop.object_keys("footers/") if key.endswith(".attributes")]) == 3
        backup = [line async for line in export_keys(shop.runtime.job_context())]
    async with fresh_database(postgres_server) as database, product(before.settings(database), now=before.now) as again:
        await rebuilt_from_bucket(again)
        await import_keys(again.runtime.job_context(), backup)
        assert await in_frames(again) == columns(before.packed, again)
        await everything_found(again, before.packed)
        later = saga("parcel", 99, again.clock.now(), [order(99, "Zoë")])
        await aged(again, later)
        await again.storage.forget(later[0].saga_id, reason="asked", who="officer")
        again.clock.advance(60 * DAY)
        assert (await again.run("compact")).counts["packs"]
        frames = await in_frames(again)
        assert {key: frames[key] for key in columns(before.packed, again)} == columns(before.packed, again)
        await everything_found(again, before.packed)


async def test_attributes_beside_a_pack_go_with_it(before: Shop) -> None:
    """Nothing of a forgotten saga stays in the bucket once its pack is written anew."""
    async with product(before.settings(), now=before.now) as shop:
        await shop.run("reindex")
        parcel = before.packed[3].saga_id
        await shop.storage.forget(parcel, reason="asked", who="officer")
        assert await found_by(shop, "order_id=A-1") == set()
        shop.clock.advance(2 * DAY)
        for job in ("compact", "expire"):
            await shop.run(job)
        shop.clock.advance(2 * DAY)
        await shop.run("expire")
        for key in await shop.object_keys(""):
            if "owner" not in key:
                assert b"A-1" not in await shop.runtime.objects.get(key)
        assert len([key for key in await shop.object_keys("footers/") if key.endswith(".attributes")]) == 2


async def test_reindex_that_was_stopped_goes_on(before: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every pack; what was put beside one before the catalog noted it does no harm."""
    async with product(before.settings(), now=before.now) as shop:
        objects = shop.runtime.objects
        put: Callable[..., Awaitable[None]] = objects.put

        async def torn(key: str, *args: Any, **kwargs: Any) -> None:
            await put(key, *args, **kwargs)
            raise ColdTierUnavailable("the answer was lost")

        monkeypatch.setattr(objects, "put", torn)
        with pytest.raises(ColdTierUnavailable):
            await shop.run("reindex")
        monkeypatch.undo()
        assert (await shop.run("reindex")).counts["packs"] == 3
        assert await in_frames(shop) == columns(before.packed, shop)
        await everything_found(shop, before.saved)


async def test_archived_packs_are_left_out_or_asked_for(before: Shop) -> None:
    """Only what their class allows is read; what was asked for is read once it is there."""
    async with product(before.settings(), now=before.now) as shop:
        shop.clock.advance(70 * DAY)
        await shop.run("transition")
        told = await shop.run("reindex", dry_run=True)
        assert (told.counts["packs"], told.counts["packs_archived"]) == (2, 1)
        assert (await shop.run("reindex")).counts["packs_archived"] == 1
        assert await found_by(shop, "order_id=A-0") == set()
        context = replace(shop.runtime.job_context(), thaw=True)
        assert (await run_job("reindex", context)).counts["packs_asked"] == 1
        shop.clock.advance(2 * DAY)
        assert (await shop.run("reindex")).counts["packs_changed"] == 1
        assert await in_frames(shop) == columns(before.packed, shop)


async def test_attribute_that_is_configured_no_more_goes(before: Shop) -> None:
    """A later reindex makes all as the definitions of then say."""
    async with product(before.settings(), now=before.now) as shop:
        await shop.run("reindex")
    async with product(before.settings(attributes=(ORDER_ID,)), now=before.now) as shop:
        assert (await shop.run("reindex")).counts["packs_changed"] == 3
        assert await in_frames(shop) == columns(before.packed, shop)
        assert await found_by(shop, "customer=only 1") == set()
        assert await found_by(shop, "order_id=A-1") == {before.packed[3].saga_id}


async def test_scrub_makes_lost_and_altered_attributes_anew(before: Shop) -> None:
    """Beside packs, from the catalog."""
    async with product(before.settings(), now=before.now) as shop:
        await shop.run("reindex")
        keys = [key for key in await shop.object_keys("footers/") if key.endswith(".attributes")]
        await shop.runtime.objects.delete(keys[:1])
        there, tag = await shop.runtime.objects.get_tagged(keys[1], most=10**6)
        assert await shop.runtime.objects.swap(keys[1], there[::-1], tag)
        shop.clock.advance(40 * DAY)
        assert (await shop.run("scrub")).counts["repaired"] == 2
        for table in ("snapshots", "frames", "packs"):
            await shop.runtime.db.execute(f"DELETE FROM sagaz_tiering.{table}")
        await rebuilt_from_bucket(shop)
        assert await in_frames(shop) == columns(before.packed, shop)
