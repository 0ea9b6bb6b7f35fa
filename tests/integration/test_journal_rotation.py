"""A master key is replaced: what the bucket's journal tells still counts under the new one alone (G7, G13)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from support.commands import Answer, cli
from support.encrypted import POLICIES, aged, encrypted, key_file
from support.payload import snapshots
from support.servers import fresh_database
from support.tiers import DAY, Places, Product, product
from support.yaml_config import write_config

from sagaz_tiering.catalog.journal import JournalEntry
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.jobs.journal import build, object_key, publish_journal, read_journal
from sagaz_tiering.operations.keys import entries_by_master, sign_journal_anew
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass


def drop_line(folder: Path, name: str) -> None:
    """That master key is gone."""
    path = folder / "master.keys"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(f"{name}:")))


async def eventful(shop: Product) -> list[SagaSnapshot]:
    """Five sagas in packs: the first erased, one snapshot of the second deleted, the third held, the fourth no more."""
    saved = list(snapshots(5, created_at=shop.clock.now()))
    await aged(shop, saved)
    await shop.storage.forget(saved[0].saga_id)
    await shop.storage.delete_snapshot(saved[5].snapshot_id)
    await shop.storage.hold(saved[10].saga_id, "case 1")
    await shop.storage.hold(saved[15].saga_id, "case 2")
    await shop.storage.release(saved[15].saga_id, "done")
    await publish_journal(shop.runtime.job_context())
    return saved


@pytest.mark.guarantee("G13")
async def test_holds_and_erasures_survive_a_rotation_and_a_rebuild(
    places: Places, database: str, postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """As the pages print it: a new key, `rotate`, the old line goes, the catalog is lost. Too early, it is told."""

    async def typed(*arguments: Any, database: str = database) -> Answer:
        path = write_config(
            tmp_path / "tiering.yaml",
            database=database,
            redis_url=redis_url,
            cold=tmp_path / "cold",
            policies=POLICIES,
            encryption={"key_file": "master.keys"},
        )
        return await cli(*arguments, "--config", path)

    key_file(tmp_path)
    async with product(encrypted(places), now=SystemClock().now() - 10 * DAY) as shop:
        saved = await eventful(shop)
    key_file(tmp_path, "second")
    before = (await typed("keys", "status", "--json")).document
    assert set(before["journal_entries"]) == {"file:first"}
    with_both = (tmp_path / "master.keys").read_bytes()
    drop_line(tmp_path, "first")
    async with fresh_database(postgres_server) as other:
        assert (await typed("catalog", "migrate", database=other)).code == 0
        rebuilt = await typed("catalog", "rebuild", "--yes", "--take-over", database=other)
        assert rebuilt.code == 6, rebuilt.out
        assert "holds and erasures may be missing" in rebuilt.err
        assert "file:first" in rebuilt.out
    status = await typed("keys", "status")
    assert status.code == 4  # data keys, too
    assert "a rebuild would leave out" in status.out
    (tmp_path / "master.keys").write_bytes(with_both)
    await typed("catalog", "adopt", "--yes", "--take-over")
    rotated = (await typed("keys", "rotate", "--json")).document
    assert rotated["journal_left"] == 0, rotated
    assert rotated["journal_signed"] == before["journal_entries"]["file:first"]
    after = (await typed("keys", "status", "--json")).document
    assert set(after["journal_entries"]) == {"file:second"}
    assert (await typed("keys", "rotate", "--json")).document["journal_signed"] == 0
    drop_line(tmp_path, "first")
    async with fresh_database(postgres_server) as other:
        assert (await typed("catalog", "migrate", database=other)).code == 0
        rebuilt = await typed("catalog", "rebuild", "--yes", "--take-over", database=other)
        assert rebuilt.code == 0, rebuilt.out
        async with product(encrypted({**places, "database": other}), now=SystemClock().now()) as shop:
            assert [hold.reason for hold in await shop.runtime.catalog.holds.in_force()] == ["case 1"]
            assert [each.saga_id for each in await shop.runtime.catalog.erasures.newest(9)] == [saved[0].saga_id]
            assert await shop.storage.timeline(saved[0].saga_id) == []
            assert [each.snapshot_id for each in await shop.storage.timeline(saved[5].saga_id)] == [
                each.snapshot_id for each in saved[6:10]
            ]


@pytest.mark.guarantee("G13")
async def test_what_was_forged_under_the_old_key_is_not_signed_anew(places: Places, tmp_path: Path) -> None:
    """Whoever has the old key and may write to the bucket gains nothing by it: the catalog does not know these."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        saved = await eventful(shop)
        context, now = shop.runtime.job_context(), shop.clock.now()
        whose = await shop.runtime.catalog.identity()
        signing = await shop.runtime.keys.signing(whose)
        [hold] = await shop.runtime.catalog.holds.in_force()
        [erasure] = await shop.runtime.catalog.erasures.newest(1)
        over = next(each for each in await shop.runtime.catalog.holds.entries(9) if each["action"] == "release")
        other, by = saved[20], {"who": "w", "reason": "r"}
        [alive] = (await shop.runtime.catalog.saga_keys.writing([other.saga_id])).values()
        fresh = next(snapshots(1, start=50, created_at=now))
        await shop.storage.save_snapshot(fresh)
        await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_snapshots")
        assert await shop.hot_count() == 1
        forged = {
            "forget": (now, {"saga_id": other.saga_id, **by}),
            "forget under a known id": (now, {"saga_id": other.saga_id, "erasure_id": erasure.erasure_id, **by}),
            "forget by another": (erasure.requested_at, {"saga_id": erasure.saga_id, **by}),
            "delete": (now, {"snapshot_ids": [other.snapshot_id]}),
            "delete of before its pack": (now - 5 * DAY, {"snapshot_ids": [other.snapshot_id]}),
            "delete of what Redis alone has": (now, {"snapshot_ids": [fresh.snapshot_id]}),
            "release": (now, {"hold_id": hold.hold_id, **by}),
            "release by another": (over["at"], {"hold_id": over["hold_id"], **by}),
            "hold": (now, {**hold.to_dict(), "hold_id": uuid4()}),
            "hold under a known id": (now, {**hold.to_dict(), "saga_id": other.saga_id}),
            "hold by another": (now, {**hold.to_dict(), "placed_by": "w"}),
            "hold that was released": (now, {**hold.to_dict(), "hold_id": over["hold_id"]}),
            "key_destroyed": (now, {"key_ids": [alive.key_id]}),
            "something": (now, {}),
        }
        for number, (kind, (at, body)) in enumerate(forged.items(), start=1):
            body = orjson.loads(orjson.dumps(body, default=str))
            entry = JournalEntry(number=number, at=at, kind=kind.partition(" ")[0], body=body)
            data = build(whose, [entry], signing)
            sha256 = hashlib.sha256(data).digest()
            await shop.runtime.objects.put(
                object_key(number, uuid4()), data, storage_class=StorageClass.STANDARD, sha256=sha256
            )
        key_file(tmp_path, "second")
        tally = Tally(None)
        await sign_journal_anew(context, tally)
        assert tally.counts["journal_left"] == len(forged), tally.notes
        signed, left_out = await entries_by_master(context)
        assert (signed["file:first"], left_out) == (len(forged), {})
        drop_line(tmp_path, "first")
        shop.runtime.keys._opened.clear()
        signed, left_out = await entries_by_master(context)
        assert left_out == {"file:first": len(forged)}
        assert signed["file:second"] == tally.counts["journal_signed"]


@pytest.mark.guarantee("G13")
async def test_what_was_taken_out_of_the_journal_is_told_again(places: Places, tmp_path: Path) -> None:
    """Entries of no weight under the old key fill the numbers of those that went, so that a rebuild would miss none."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        saved = await eventful(shop)
        context, now = shop.runtime.job_context(), shop.clock.now()
        whose = await shop.runtime.catalog.identity()
        signing = await shop.runtime.keys.signing(whose)
        async for told in read_journal(context, whose):
            if any(entry.kind in ("hold", "forget") for entry in told.entries):
                filling = [JournalEntry(number=e.number, at=now, kind="keys_created", body={}) for e in told.entries]
                assert await context.objects.swap(told.key, build(whose, filling, signing), told.tag)
        key_file(tmp_path, "second")
        for notes in (["2 holds and erasures were missing in the bucket's journal, and told again"], []):
            tally = Tally(None)
            await sign_journal_anew(context, tally)
            assert tally.notes == notes
        drop_line(tmp_path, "first")
        entries = [entry async for told in read_journal(context, whose) for entry in told.entries if not told.doubtful]
        assert [e.body["on"] for e in entries if e.kind == "hold"] == [saved[10].saga_id]
        assert [e.body["saga_id"] for e in entries if e.kind == "forget"] == [saved[0].saga_id]


async def test_a_running_process_signs_under_the_key_that_became_current(places: Places, tmp_path: Path) -> None:
    """A daemon that signed before the rotation does not go on under the old key."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        await eventful(shop)
        context = shop.runtime.job_context()
        key_file(tmp_path, "second")
        await sign_journal_anew(context, Tally(None))
        await shop.storage.hold(uuid4(), "case 3")
        assert set((await entries_by_master(context))[0]) == {"file:second"}


async def test_what_nobody_signed_is_signed_once_there_is_a_master_key(places: Places, tmp_path: Path) -> None:
    """A store that is encrypted from some day on; its journal of the days before counts no less."""
    key_file(tmp_path)
    plain = encrypted(places, encryption=None, policies=POLICIES[1:])
    async with product(plain) as shop:
        match = Match(saga_name=("order-*",), outcome=("failed",), attributes={"region": ("eu",)})
        await shop.runtime.catalog.holds.place(match, reason="case 0", who="w", now=shop.clock.now())
        await eventful(shop)
        now = shop.clock.now()
    async with product(encrypted(places), now=now) as shop:
        context, tally = shop.runtime.job_context(), Tally(None)
        signed, left_out = await entries_by_master(context)
        assert signed == left_out == {"unsigned": signed["unsigned"]}
        await sign_journal_anew(context, tally)
        assert await entries_by_master(context) == ({"file:first": signed["unsigned"]}, {}), tally.notes
