"""Packs are written anew where it pays or an erasure asks for it; nobody's reads notice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.commands import cli
from support.encrypted import encrypted, key_file
from support.payload import SAGA_NAME, saga, snapshots
from support.tiers import DAY, Places, Product, adjust, config, product, rebuilt_from_bucket, rule
from support.yaml_config import write_config

from sagaz_tiering.clock import SystemClock, to_micros
from sagaz_tiering.costs.economics import bucket_of
from sagaz_tiering.errors import LegalHold
from sagaz_tiering.jobs import run_job
from sagaz_tiering.packs.entries import FrameEntry
from sagaz_tiering.packs.reader import PackReader, read_footer
from sagaz_tiering.snapshot import ReplayResult, ReplayStatus, SagaSnapshot
from sagaz_tiering.storage_class import StorageClass

CLASSES: list[dict[str, Any]] = [
    rule("frozen", "frozen", {"STANDARD_IA": "7d", "GLACIER": "60d"}),
    rule("kept", "kept", {"STANDARD_IA": "7d"}, retain="400d"),
    rule("all", "*", {"STANDARD_IA": "7d"}),
]
PACK = {"pack": {"target": "64KiB", "max_frame": "32KiB"}}


SECTIONS: dict[str, Any] = {**PACK, "policies": CLASSES}
"""A product over a directory, with small packs, whose price list makes every compaction pay in the end."""


async def aged(shop: Product, saved: list[SagaSnapshot]) -> None:
    """Into packs."""
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    assert await shop.hot_count() == 0


async def all_equal(shop: Product, saved: list[SagaSnapshot]) -> None:
    """Each by id and all of its saga by list."""
    sagas: dict[Any, list[SagaSnapshot]] = {}
    for snapshot in saved:
        sagas.setdefault(snapshot.saga_id, []).append(snapshot)
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
    for saga_id, of_saga in sagas.items():
        assert await shop.storage.list_snapshots(saga_id) == of_saga[::-1]


async def packs(shop: Product) -> list[Any]:
    """Active packs."""
    return await shop.runtime.db.fetch("SELECT * FROM sagaz_tiering.packs WHERE state = 'ACTIVE' ORDER BY pack_id")


def free(shop: Product) -> None:
    """Requests cost nothing and minimum durations are over: what is left is what the bytes cost."""
    shop.clock.advance(60 * DAY)


async def test_small_packs_are_merged(shop: Product) -> None:
    """Eight small packs become one; every snapshot reads as before, also by a reader that began before."""
    saved: list[SagaSnapshot] = []
    for number in range(8):
        fresh = list(snapshots(1, start=number, created_at=shop.clock.now()))
        await aged(shop, fresh)
        saved += fresh
    before = await packs(shop)
    assert len(before) == 8
    free(shop)
    old = await shop.runtime.catalog.locations.find(saved[0].snapshot_id)
    preview = await shop.run("compact", dry_run=True)
    report = await shop.run("compact")
    assert report.counts["packs"] == preview.counts["packs"] == 8, report
    assert len(await packs(shop)) == 1
    await all_equal(shop, saved)
    place = old[0].place
    assert place is not None
    assert await PackReader(shop.runtime.objects).frame(
        place.object_key, place.offset, place.length, vouched=place.digest
    )
    shop.clock.advance(2 * DAY)
    await shop.run("expire")
    assert len(await shop.object_keys()) == 1
    await all_equal(shop, saved)
    assert not (await shop.run("compact")).counts.get("packs")


async def packed_in_parts(shop: Product, times: int, saga_name: str = SAGA_NAME) -> list[SagaSnapshot]:
    """A saga that went on after it was packed, so that its parts are in so many packs."""
    saved: list[SagaSnapshot] = []
    for _ in range(times):
        part = saga(1, begun=shop.clock.now(), saga_name=saga_name)
        part = [replace(each, snapshot_id=uuid4(), step_index=len(saved) + at) for at, each in enumerate(part)]
        await aged(shop, part)
        saved += part
    return saved


async def frames(shop: Product, saga_id: UUID) -> list[FrameEntry]:
    """Of a saga, in the packs that are active, as their footers have them."""
    reader = PackReader(shop.runtime.objects)
    found: list[FrameEntry] = []
    for row in await packs(shop):
        data = await reader.unvouched_footer_bytes(row["object_key"], row["byte_size"])
        found += [entry for entry in read_footer(data, row["byte_size"]).frames if entry.saga_id == saga_id]
    return found


@pytest.mark.parametrize("encryption", ["none", "per-saga"])
async def test_parts_of_a_saga_become_one_frame(places: Places, tmp_path: Path, encryption: str) -> None:
    """Packed in four runs, it is one frame when its packs are merged: newest first, smaller, under its own key."""
    key_file(tmp_path)
    policies = [{**CLASSES[-1], "encryption": encryption}]
    settings = encrypted(places, policies=policies)
    async with product(settings) as shop:
        saved = await packed_in_parts(shop, 4)
        other = list(snapshots(1, start=9, created_at=shop.clock.now()))
        await aged(shop, other)
        parts = await frames(shop, saved[0].saga_id)
        assert len(parts) == 4
        free(shop)
        assert (await shop.run("compact")).counts["packs"] == 5
        [whole] = await frames(shop, saved[0].saga_id)
        assert [each.meta.snapshot_id for each in whole.snapshots] == [each.snapshot_id for each in reversed(saved)]
        assert whole.length < sum(part.length for part in parts) * 0.6
        assert {whole.key_id} == {part.key_id for part in parts}
        assert (whole.key_id is None) == (encryption == "none")
        [alone] = await frames(shop, other[0].saga_id)
        assert len(alone.snapshots) == 5
        await all_equal(shop, saved + other)
        shop.clock.advance(2 * DAY)
        await shop.run("expire")
        scrubbed = await shop.run("scrub")
        assert not {"corrupt", "missing", "failed"} & scrubbed.counts.keys(), scrubbed
        await all_equal(shop, saved + other)
        receipt = await shop.storage.forget(saved[0].saga_id)
        assert receipt.archived == len(saved)
        assert await shop.storage.timeline(saved[0].saga_id) == []
        await all_equal(shop, other)


async def test_parts_that_do_not_fit_into_one_frame_stay_as_they_are(shop: Product) -> None:
    """What is read at once stays as small as the configuration says."""
    saved = await packed_in_parts(shop, 3)
    before = {part.checksum for part in await frames(shop, saved[0].saga_id)}
    free(shop)
    context = shop.runtime.job_context()
    adjust(context, tiers__cold__pack__max_frame=max(part.raw_length for part in await frames(shop, saved[0].saga_id)))
    assert (await run_job("compact", context)).counts["packs"] == 3
    assert {part.checksum for part in await frames(shop, saved[0].saga_id)} == before
    await all_equal(shop, saved)


async def test_dead_snapshots_leave_the_parts_that_are_merged(shop: Product) -> None:
    """Deleted ones are not in the new frame, whichever part they were in."""
    saved = await packed_in_parts(shop, 2)
    gone = [saved[1], saved[7]]
    for each in gone:
        await shop.storage.delete_snapshot(each.snapshot_id)
    free(shop)
    context = shop.runtime.job_context()
    adjust(context, tiers__cold__pack__max_frame=2**20)
    assert (await run_job("compact", context)).counts["packs"] == 2
    alive = [each for each in saved if each not in gone]
    [whole] = await frames(shop, saved[0].saga_id)
    assert [each.meta.snapshot_id for each in whole.snapshots] == [each.snapshot_id for each in reversed(alive)]
    await all_equal(shop, alive)


async def test_new_pack_says_when_its_sagas_expire_by_now(shop: Product) -> None:
    """Dates that were decided anew are in its footer, in its name and in what a rebuild from the bucket finds."""
    saved = await packed_in_parts(shop, 6, "kept")
    free(shop)
    await shop.run("expire")
    assert (await shop.run("compact")).counts["packs"] == 6
    [pack] = await packs(shop)
    end = saved[-1].created_at + 400 * DAY
    written = {each.expires_us for frame in await frames(shop, saved[0].saga_id) for each in frame.snapshots}
    assert written == {to_micros(end)}
    assert bucket_of(pack["object_key"]) == f"{end:%Y-%m}"
    await rebuilt_from_bucket(shop)
    assert {ref.expires_at for ref in await shop.storage.timeline(saved[0].saga_id)} == {end}


async def test_dead_bytes_go(shop: Product) -> None:
    """A pack of which most was deleted is written anew with what lives, its frames cut where they must be."""
    saved = list(snapshots(20, created_at=shop.clock.now()))
    await aged(shop, saved)
    free(shop)
    alive = [s for i, s in enumerate(saved) if i % 4 == 0]
    for snapshot in saved:
        if snapshot not in alive:
            await shop.storage.delete_snapshot(snapshot.snapshot_id)
    size = sum(pack["byte_size"] for pack in await packs(shop))
    report = await shop.run("compact")
    assert report.counts["snapshots"] == len(alive)
    assert sum(pack["byte_size"] for pack in await packs(shop)) < size * 0.6
    await all_equal(shop, alive)
    assert all(pack["live_count"] == pack["snapshot_count"] for pack in await packs(shop))


async def test_what_does_not_pay_is_left(shop: Product) -> None:
    """Packs that expire soon stay as they are, since requests cost more, and the preview says so."""
    for number in range(3):
        until = shop.clock.now() + 40 * DAY
        await aged(shop, list(snapshots(1, start=number, created_at=shop.clock.now(), retention_until=until)))
    report = await shop.run("compact")
    assert not report.counts.get("packs")
    assert report.counts["not_worth_it"] == 3
    assert len(await packs(shop)) == 3
    for told in (report.notes, (await shop.run("compact", dry_run=True)).notes):
        assert told[0].startswith("not worth it: 3 packs STANDARD_IA -> ")
        assert "costs $" in told[0]


async def test_pack_whose_transition_was_stopped_halfway_is_left(shop: Product) -> None:
    """Its object is archived already, its row does not say so yet: nothing is wrong with it."""
    saved = list(snapshots(4, created_at=shop.clock.now(), saga_name="frozen"))
    await aged(shop, saved)
    shop.clock.advance(60 * DAY)
    await shop.storage.forget(saved[0].saga_id)
    before = await packs(shop)
    for pack in before:
        await shop.runtime.objects.change_class(pack["object_key"], StorageClass.GLACIER)
    report = await shop.run("compact")
    assert report.counts.get("overtaken") == len(before), report
    assert "failed" not in report.counts
    assert await shop.runtime.catalog.quarantine.items(10) == []
    await shop.run("transition")
    assert {pack["storage_class"] for pack in await packs(shop)} == {"GLACIER"}


class Crash(BaseException):
    """Stands for the end of the process at an exact point."""


@pytest.mark.parametrize("step", ["start", "put", "head", "replace"])
async def test_crash_at_each_step_loses_nothing(shop: Product, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each write; the next runs finish the work and leave no stray behind."""
    saved: list[SagaSnapshot] = []
    for number in range(4):
        fresh = list(snapshots(1, start=number, created_at=shop.clock.now()))
        await aged(shop, fresh)
        saved += fresh
    free(shop)
    context = shop.runtime.job_context()
    owner: dict[str, Any] = {"start": context.catalog.packs, "replace": context.catalog.compaction}
    target = owner.get(step, context.objects)
    real = getattr(target, step)
    for after in (False, True):

        async def crashing(*args: Any, _after: bool = after, **kwargs: Any) -> Any:
            raise Crash(await real(*args, **kwargs) if _after else None)

        monkeypatch.setattr(target, step, crashing)
        with pytest.raises(Crash):
            await shop.run("compact")
        monkeypatch.setattr(target, step, real)
        await all_equal(shop, saved)
    for _ in range(3):
        await shop.run("compact")
        await shop.run("expire")
        shop.clock.advance(2 * DAY)
        await shop.run("collect")
    await all_equal(shop, saved)
    assert sorted(await shop.object_keys()) == [pack["object_key"] for pack in await packs(shop)]
    assert len(await packs(shop)) == 1


async def test_forgotten_saga_is_gone_from_its_pack(shop: Product) -> None:
    """At once for readers, physically after the rewrite and its grace; the receipt tells; all others are unharmed."""
    saved = list(snapshots(20, created_at=shop.clock.now()))
    await aged(shop, saved)
    victim, others = saved[:5], saved[5:]
    replay = ReplayResult(
        replay_id=saga(50)[0].saga_id,
        original_saga_id=victim[0].saga_id,
        new_saga_id=saga(51)[0].saga_id,
        checkpoint_step="x",
        replay_status=ReplayStatus.SUCCESS,
        context_override={"mail": "ada@example.com"},
    )
    await shop.storage.save_replay_log(replay)
    await shop.storage.save_snapshot(victim[0])  # hot and durable again
    receipt = await shop.storage.forget(victim[0].saga_id, reason="request 7", who="dpo")
    assert (receipt.hot, receipt.durable, receipt.archived, receipt.replays) == (1, 1, 5, 1)
    assert not receipt.complete
    assert await shop.storage.list_snapshots(victim[0].saga_id) == []
    assert await shop.storage.timeline(victim[0].saga_id) == []
    assert await shop.storage.list_replays(victim[0].saga_id) == []
    for snapshot in victim:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) is None
    old_keys = {pack.object_key for pack in receipt.packs}
    await shop.run("age")
    assert (await shop.run("compact")).counts["packs"] == len(old_keys)
    waiting = await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)
    assert waiting.packs[0].gone_by == shop.clock.now() + DAY
    shop.clock.advance(DAY + timedelta(minutes=1))
    await shop.run("expire")
    done = await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)
    assert done.complete, done
    assert not old_keys & set(await shop.object_keys())
    for key in await shop.object_keys():
        size = (await shop.runtime.objects.head(key)).size
        footer = read_footer(await PackReader(shop.runtime.objects).unvouched_footer_bytes(key, size), size)
        assert victim[0].saga_id not in {frame.saga_id for frame in footer.frames}
    await all_equal(shop, others)


async def test_pack_on_its_way_while_its_saga_is_forgotten(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age job publishes nothing of it, and the pack is noted and written anew."""
    saved = list(snapshots(3, created_at=shop.clock.now()))
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    context = shop.runtime.job_context()
    real, forgotten = context.objects.put, asyncio.Event()

    async def put(key: str, *args: Any, **kwargs: Any) -> None:
        await real(key, *args, **kwargs)
        if key.startswith("packs/") and not forgotten.is_set():
            forgotten.set()
            shop.clock.advance(timedelta(seconds=1))
            await shop.storage.forget(saved[0].saga_id)

    monkeypatch.setattr(context.objects, "put", put)
    await shop.run("age")
    assert forgotten.is_set()
    assert await shop.storage.list_snapshots(saved[0].saga_id) == []
    (receipt,) = await shop.runtime.catalog.erasures.newest(10)
    assert len(receipt.packs) == 1
    await shop.run("compact")
    shop.clock.advance(2 * DAY)
    await shop.run("expire")
    assert (await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)).complete
    await all_equal(shop, saved[5:])


async def test_archived_pack_is_thawed_for_an_erasure(shop: Product) -> None:
    """GLACIER is asked once, read when it is readable, and the new pack is in GLACIER too."""
    saved = list(snapshots(4, created_at=shop.clock.now(), saga_name="frozen"))
    await aged(shop, saved)
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    receipt = await shop.storage.forget(saved[0].saga_id)
    assert (await shop.run("compact")).counts == {"thawing": 1}
    shop.clock.advance(timedelta(hours=13))
    assert (await shop.run("compact")).counts["packs"] == 1
    assert [pack["storage_class"] for pack in await packs(shop)] == ["GLACIER"]
    shop.clock.advance(2 * DAY)
    await shop.run("expire")
    assert (await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)).complete
    assert len(await shop.storage.timeline(saved[5].saga_id)) == 5


async def test_held_saga_cannot_be_forgotten_and_a_crash_is_finished(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hold refuses; a process that ends before Redis is cleared leaves that to the job."""
    saved = saga(1, begun=shop.clock.now())
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    await shop.storage.hold(saved[0].saga_id, "case")
    with pytest.raises(LegalHold):
        await shop.storage.forget(saved[0].saga_id)
    assert len(await shop.storage.list_snapshots(saved[0].saga_id)) == 5
    await shop.storage.release(saved[0].saga_id)

    async def crashing(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(shop.runtime.hot, "delete_many", crashing)
        with pytest.raises(Crash):
            await shop.storage.forget(saved[0].saga_id)
    assert (await shop.run("compact")).counts == {"deleted_hot": 5}
    assert await shop.storage.list_snapshots(saved[0].saga_id) == []


async def test_forget_on_the_command_line(places: Places, tmp_path: Path) -> None:
    """With a receipt that can be asked for again."""
    async with product(config(**places), now=SystemClock().now()) as shop:
        for snapshot in saga(1, begun=shop.clock.now()):
            await shop.storage.save_snapshot(snapshot)
    path = write_config(tmp_path / "t.yaml", **places)
    saga_id = saga(1)[0].saga_id
    assert (await cli("forget", saga_id, "--reason", "r", "--json", "--config", path)).code == 2
    gone = await cli("forget", saga_id, "--reason", "request 9", "--yes", "--json", "--config", path)
    assert gone.code == 0, gone.err
    assert gone.document["removed"] == {"hot": 5, "durable": 5, "archived": 0, "replay_logs": 0}
    shown = await cli("erasures", gone.document["erasure_id"], "--config", path)
    assert "request 9" in shown.out
    assert str(saga_id) in (await cli("erasures", "--config", path)).out
    assert (await cli("erasures", saga_id, "--config", path)).code == 8
