"""Deletions and erasures end where they began: whoever finishes one takes nothing that was saved after it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from support.commands import cli
from support.payload import snapshots
from support.processes import redis_do, sql
from support.snapshots import make, replay
from support.tiers import DAY, NOW, Places, Product, config, product, rule
from support.yaml_config import write_config

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import read_meta
from sagaz_tiering.errors import HotTierUnavailable
from sagaz_tiering.packs.reader import PackReader
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass

POLICIES: list[dict[str, Any]] = [
    rule("hot", "fast-*", {"STANDARD_IA": "7d"}, durability="hot"),
    rule("frozen", "frozen", {"STANDARD_IA": "7d", "GLACIER": "60d"}),
    rule("rest", "*", {"STANDARD_IA": "7d"}),
]
MANY = 1100
"""More than two pages of an index."""


class Crash(BaseException):
    """Stands for the end of the process at an exact point."""


SECTIONS: dict[str, Any] = {"policies": POLICIES}
"""A product with a policy that acknowledges in Redis alone and one that waits for PostgreSQL."""


async def saved(shop: Product, count: int, name: str, saga_id: UUID, *, start: int = 0) -> list[SagaSnapshot]:
    """So many snapshots of a saga, each a second after the other and saved now, by the clock of the test."""
    shop.clock.advance(timedelta(seconds=1))
    begun = shop.clock.now()
    made = [
        make(
            at,
            snapshot_id=uuid4(),
            saga_id=saga_id,
            saga_name=name,
            created_at=begun + timedelta(milliseconds=at),
            context={"secret": f"{name}-{at}"},
            completed_steps=[],
        )
        for at in range(start, start + count)
    ]
    for first in range(0, count, 100):
        await asyncio.gather(*(shop.storage.save_snapshot(one) for one in made[first : first + 100]))
    shop.clock.advance(timedelta(seconds=1))
    return made


async def are_all_that_is_left(shop: Product, snapshots: list[SagaSnapshot], saga_id: UUID) -> None:
    """In every list and by id; and the old ones are in no tier."""
    assert await shop.storage.list_snapshots(saga_id, 2000) == snapshots[::-1]
    assert len(await shop.storage.timeline(saga_id)) == len(snapshots)
    for snapshot in snapshots:
        assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


async def crash_at(shop: Product, step: str, after: bool, monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    """The process ends right before or after a step of `call`."""
    catalog, hot = shop.runtime.catalog, shop.runtime.hot
    owner: Any = {
        "erasures.erase": catalog.erasures,
        "erasures._sweep": catalog.erasures,
        "locations.delete": catalog.locations,
        "locations.gone_from_redis": catalog.locations,
    }.get(step, hot)
    name = step.rpartition(".")[2]
    real = getattr(owner, name)

    async def crashing(*args: Any, **kwargs: Any) -> Any:
        result = await real(*args, **kwargs) if after else None
        raise Crash(result)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crashing)
        with pytest.raises(Crash):
            await call()


@pytest.mark.guarantee("G1", "G3")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["erasures.erase", "hot.delete_many", "erasures._sweep", "locations.gone_from_redis"])
@pytest.mark.parametrize("name", ["fast-saga", "payment"])
async def test_forget_cut_off_and_finished_takes_nothing_saved_since(
    shop: Product, name: str, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before or after each step, while the saga goes on: `compact` ends it where it began."""
    saga_id = uuid4()
    packed = await saved(shop, 3, name, saga_id)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    old = packed + await saved(shop, 20, name, saga_id)
    await crash_at(shop, step, after, monkeypatch, lambda: shop.storage.forget(saga_id))
    new = await saved(shop, 5, name, saga_id, start=100)
    begun = step != "erasures.erase" or after
    await shop.run("compact")
    await are_all_that_is_left(shop, new if begun else old + new, saga_id)
    if not begun:
        await shop.storage.forget(saga_id)
        new = await saved(shop, 5, name, saga_id, start=200)
    shop.clock.advance(9 * DAY)
    for job in ("age", "compact", "expire"):
        await shop.run(job)
    await are_all_that_is_left(shop, new, saga_id)
    [receipt] = await shop.runtime.catalog.erasures.newest(10)
    assert len(receipt.packs) == 1
    shop.clock.advance(2 * DAY)
    await shop.run("expire")
    assert [one for one in await shop.runtime.catalog.erasures.newest(10) if not one.complete] == []
    await are_all_that_is_left(shop, new, saga_id)
    assert not await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.tombstones WHERE in_redis")


@pytest.mark.guarantee("G3")
async def test_erasure_of_a_long_saga_is_finished_whole(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many pages of its index, damaged values among them; what came since stays."""
    saga_id = uuid4()
    old = await saved(shop, MANY, "fast-saga", saga_id)
    keys, hot = shop.runtime.hot.keys, shop.runtime.hot
    async with hot.connection.pool() as client:
        await client.set(keys.value(saga_id.hex, old[7].snapshot_id.hex), b"damaged")
        await client.delete(keys.pointer(old[8].snapshot_id.hex))
    new = await saved(shop, 3, "fast-saga", saga_id, start=MANY)
    await crash_at(shop, "hot.delete_many", False, monkeypatch, lambda: shop.storage.forget(saga_id))
    newer = await saved(shop, 700, "fast-saga", saga_id, start=MANY + 10)
    assert len(new) == 3
    await shop.run("compact")
    await are_all_that_is_left(shop, newer, saga_id)
    assert await shop.hot_count() == len(newer)


@pytest.mark.guarantee("G1")
async def test_finishing_beside_a_forget_under_way_takes_nothing(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compact` reads an erasure, `forget` returns, the saga goes on, and only then the job comes to work."""
    saga_id = uuid4()
    await saved(shop, 5, "fast-saga", saga_id)
    erasures = shop.runtime.catalog.erasures
    await crash_at(shop, "hot.delete_many", False, monkeypatch, lambda: shop.storage.forget(saga_id))
    [open_one] = await erasures.uncleared()
    await erasures.clear(open_one, shop.runtime.hot, shop.clock.now())
    new = await saved(shop, 5, "fast-saga", saga_id, start=10)
    members = [header.member for header in await shop.runtime.hot.headers_from(saga_id, 0)]
    assert len(members) == 5
    assert await shop.runtime.hot.erase(saga_id, members, to_micros(open_one.requested_at)) == 0
    await erasures.clear(open_one, shop.runtime.hot, shop.clock.now())
    await are_all_that_is_left(shop, new, saga_id)


@pytest.mark.guarantee("G1")
@pytest.mark.parametrize("name", ["fast-saga", "payment"])
async def test_forget_leaves_what_moved_to_another_saga(shop: Product, name: str) -> None:
    """An archived id that was saved anew under another saga is the other saga's; its old version goes."""
    saga_id, other = uuid4(), uuid4()
    packed = await saved(shop, 3, name, saga_id)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    moved = make(50, snapshot_id=packed[0].snapshot_id, saga_id=other, saga_name=name, created_at=shop.clock.now())
    await shop.storage.save_snapshot(moved)
    shop.clock.advance(timedelta(seconds=1))
    receipt = await shop.storage.forget(saga_id)
    assert receipt.archived == 3
    await are_all_that_is_left(shop, [moved], other)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    await are_all_that_is_left(shop, [moved], other)


@pytest.mark.guarantee("G3")
async def test_erasure_waits_for_no_pack_of_later_saves(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved after it and deleted on its way into a pack is nothing of the erasure; what was before it is."""
    saga_id = uuid4()
    old = await saved(shop, 2, "payment", saga_id)
    shop.clock.advance(9 * DAY)
    await deleted_while_packed(shop, monkeypatch, lambda: shop.storage.forget(saga_id))
    [receipt] = await shop.runtime.catalog.erasures.newest(10)
    assert len(receipt.packs) == 1
    await shop.run("expire")
    shop.clock.advance(2 * DAY)
    await shop.run("expire")
    assert [one for one in await shop.runtime.catalog.erasures.newest(10) if not one.complete] == []
    new = await saved(shop, 2, "payment", saga_id)
    shop.clock.advance(9 * DAY)
    await deleted_while_packed(shop, monkeypatch, lambda: shop.storage.delete_snapshot(new[0].snapshot_id))
    [receipt] = await shop.runtime.catalog.erasures.newest(10)
    assert receipt.complete
    assert len(receipt.packs) == 1
    await are_all_that_is_left(shop, new[1:], saga_id)
    assert await shop.storage.get_snapshot(old[0].snapshot_id) is None


async def deleted_while_packed(shop: Product, monkeypatch: pytest.MonkeyPatch, delete: Any) -> None:
    """A run of `age` whose pack is in the bucket when `delete` comes."""
    packs = shop.runtime.catalog.packs
    real = packs.activate

    async def late(*args: Any, **kwargs: Any) -> Any:
        await delete()
        return await real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(packs, "activate", late)
        await shop.run("age")


@pytest.mark.guarantee("G3")
async def test_erasure_waits_for_uploads_under_way(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that is in the bucket and not yet published may hold it: not complete until it is known or collected."""
    saga_id = uuid4()
    await saved(shop, 3, "payment", saga_id)
    shop.clock.advance(9 * DAY)

    async def crash() -> None:
        await shop.storage.forget(saga_id)
        assert (await shop.storage.forget(uuid4())).found_nothing
        raise Crash

    with pytest.raises(Crash):
        await deleted_while_packed(shop, monkeypatch, crash)

    async def states() -> dict[UUID, tuple[bool, list[str]]]:
        receipts = await shop.runtime.catalog.erasures.newest(10)
        return {one.saga_id: (one.complete, [pack.state for pack in one.packs]) for one in receipts}

    for job in ("age", "compact", "expire", "collect"):
        assert (await states())[saga_id] == (False, ["UPLOADING"])
        await shop.run(job)
    for job in ("collect", "expire"):
        shop.clock.advance(2 * DAY)
        assert not (await states())[saga_id][0]
        await shop.run(job)
    assert (await states())[saga_id] == (False, ["ABANDONED"])
    assert await shop.object_keys() != []
    shop.clock.advance(2 * DAY)
    await shop.run("collect")
    assert (await states())[saga_id] == (True, ["ABANDONED"])


@pytest.mark.guarantee("G3")
async def test_erasure_waits_for_what_went_before_it(shop: Product) -> None:
    """Snapshots of it that were deleted or expired earlier are still in a pack, whatever `expire` did in that since."""
    saga_id, begun = uuid4(), shop.clock.now()
    days = [(saga_id, 40)] * 2 + [(saga_id, 36), (uuid4(), 36), (uuid4(), 44)]
    made = [
        make(at, saga_id=each, saga_name="payment", created_at=begun, retention_until=begun + ends * DAY)
        for at, (each, ends) in enumerate(days)
    ]
    for snapshot in made:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    assert len(await shop.object_keys()) == 1
    for snapshot in made[:2]:
        assert await shop.storage.delete_snapshot(snapshot.snapshot_id)
    shop.clock.advance(28 * DAY)
    await shop.run("expire")
    receipt = await shop.storage.forget(saga_id)
    assert ([pack.state for pack in receipt.packs], receipt.complete, receipt.found_nothing) == (
        ["ACTIVE"],
        False,
        False,
    )
    await shop.run("compact")
    shop.clock.advance(2 * DAY)
    await shop.run("expire")
    [receipt] = await shop.runtime.catalog.erasures.newest(10)
    assert receipt.complete
    assert await shop.storage.get_snapshot(made[-1].snapshot_id) == made[-1]
    assert not await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.frames WHERE saga_id = $1", saga_id)


@pytest.mark.guarantee("G3")
async def test_pack_that_was_deleted_while_it_is_copied_does_not_come_back(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move to another class that ends after the pack's deletion leaves no object behind a complete receipt."""
    saga_id, objects = uuid4(), shop.runtime.objects
    await saved(shop, 3, "frozen", saga_id)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    shop.clock.advance(60 * DAY)

    async def slow(key: str, to: StorageClass) -> None:
        data = await objects.get(key)
        await shop.storage.forget(saga_id)
        for _ in range(2):
            await shop.run("expire")
            shop.clock.advance(2 * DAY)
        assert (await shop.runtime.catalog.erasures.newest(1))[0].complete
        await objects.put(key, data, storage_class=to, sha256=sha256(data).digest())

    monkeypatch.setattr(objects, "change_class", slow)
    await shop.run("transition")
    assert await shop.object_keys() == []
    assert await shop.object_keys("footers/") == []


@pytest.mark.guarantee("G3")
async def test_erasure_waits_for_no_upload_without_it(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a pack that was on its way is published, only erasures of what it holds wait for it."""
    saga_id, other = uuid4(), uuid4()
    await saved(shop, 3, "payment", saga_id)
    await saved(shop, 3, "payment", uuid4())
    await shop.storage.save_replay_log(replay(1, original_saga_id=other))
    shop.clock.advance(9 * DAY)

    async def forget() -> None:
        await shop.storage.forget(saga_id)
        await shop.storage.forget(other)
        assert [one.complete for one in await shop.runtime.catalog.erasures.newest(10)] == [False, False]

    await deleted_while_packed(shop, monkeypatch, forget)
    found = {one.saga_id: one for one in await shop.runtime.catalog.erasures.newest(10)}
    assert ([pack.state for pack in found[saga_id].packs], found[saga_id].complete) == (["ACTIVE"], False)
    assert (found[other].packs, found[other].complete) == ((), True)


@pytest.mark.guarantee("G1", "G2")
@pytest.mark.parametrize("step", ["locations.delete", "hot.delete_many", "locations.gone_from_redis"])
@pytest.mark.parametrize("whole", [False, True], ids=["one", "saga"])
@pytest.mark.parametrize("name", ["fast-saga", "payment"])
async def test_deletion_cut_off_and_finished_takes_nothing_saved_since(
    shop: Product, name: str, whole: bool, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step: a save of the same id since then stays, what was not saved anew goes with the next `expire`."""
    saga_id = uuid4()
    old = await saved(shop, 2, name, saga_id)

    async def delete() -> None:
        if whole:
            await shop.storage.cleanup_saga(saga_id)
        else:
            await shop.storage.delete_snapshot(old[0].snapshot_id)

    await crash_at(shop, step, True, monkeypatch, delete)
    shop.clock.advance(timedelta(seconds=1))
    gone = old if whole else old[:1]
    again = make(7, snapshot_id=old[0].snapshot_id, saga_id=saga_id, saga_name=name, created_at=shop.clock.now())
    await shop.storage.save_snapshot(again)
    shop.clock.advance(timedelta(seconds=1))
    await shop.run("expire")
    left = [one for one in old if one not in gone] + [again]
    await are_all_that_is_left(shop, left, saga_id)
    assert await shop.hot_count() == len(left)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    await are_all_that_is_left(shop, left, saga_id)


@pytest.mark.guarantee("G1", "G2")
async def test_cancelled_deletion_is_whole_or_finished(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that is cancelled while Redis is asked leaves no tier that says otherwise for ever."""
    saga_id = uuid4()
    old = await saved(shop, 2, "payment", saga_id)
    reached, hot = asyncio.Event(), shop.runtime.hot
    real = hot.delete_many

    async def stuck(*args: Any) -> Any:
        await real(*args)
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(hot, "delete_many", stuck)
        task = asyncio.create_task(shop.storage.delete_snapshot(old[0].snapshot_id))
        await reached.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await are_all_that_is_left(shop, old[1:], saga_id)
    assert await shop.storage.get_snapshot(old[0].snapshot_id) is None
    await shop.run("expire")
    await are_all_that_is_left(shop, old[1:], saga_id)


@pytest.mark.parametrize("how", ["cleanup_saga", "forget", "delete_snapshot"])
async def test_removal_holds_no_transaction_while_redis_works(
    shop: Product, database: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Redis may take long: idle_in_transaction_session_timeout would end it half way, and locks hold up others."""
    saga_id = uuid4()
    gone = await saved(shop, 3, "payment", saga_id)
    idle: list[object] = []
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state ~ 'in transaction'"

    def watched(real: Any) -> Any:
        async def ask(*args: Any, **kwargs: Any) -> Any:
            idle.append(await sql(database, count))
            return await real(*args, **kwargs)

        return ask

    for name in ("delete", "delete_many", "erase"):
        monkeypatch.setattr(shop.runtime.hot, name, watched(getattr(shop.runtime.hot, name)))
    await getattr(shop.storage, how)(gone[0].snapshot_id if how == "delete_snapshot" else saga_id)
    assert set(idle) == {0}


async def frozen(shop: Product) -> list[SagaSnapshot]:
    """A saga in GLACIER, beside another in its pack, and a restore of it that only has to be brought back."""
    snapshots = await saved(shop, 3, "frozen", uuid4())
    await saved(shop, 1, "frozen", uuid4())
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    shop.clock.advance(60 * DAY)
    await shop.run("transition")
    assert await shop.storage.restore(saga_id=snapshots[0].saga_id) is not None
    await shop.run("restore")
    shop.clock.advance(DAY)
    return snapshots


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("forget", [False, True], ids=["delete", "forget"])
@pytest.mark.parametrize("step", ["frame", "save"])
async def test_restore_brings_nothing_back_that_goes_meanwhile(
    shop: Product, step: str, forget: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted or forgotten after its frame was read, or while it is put into Redis: it is in neither afterwards."""
    snapshots = await frozen(shop)
    saga_id, removing = snapshots[0].saga_id, []
    owner: Any = PackReader if step == "frame" else shop.runtime.hot
    real = getattr(owner, step)

    async def remove() -> None:
        if forget:
            await shop.storage.forget(saga_id)
        else:
            await shop.storage.cleanup_saga(saga_id)

    async def meanwhile(*args: Any, **kwargs: Any) -> Any:
        if not removing:
            removing.append(asyncio.create_task(remove()))
            await asyncio.wait(removing, timeout=0.3)  # a save holds it up until it is done
        return await real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, meanwhile)
        await shop.run("restore")
    await removing[0]
    await are_all_that_is_left(shop, [], saga_id)
    assert await shop.hot_count() == 0


@pytest.mark.guarantee("G2")
async def test_restore_brings_back_no_older_version(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved anew, packed and evicted after its frame was read: the new version is the one that is read."""
    snapshots = await frozen(shop)
    wanted = snapshots[0]
    again = make(
        0, snapshot_id=wanted.snapshot_id, saga_id=wanted.saga_id, saga_name="frozen", created_at=wanted.created_at
    )
    real, done = PackReader.frame, []

    async def meanwhile(*args: Any, **kwargs: Any) -> Any:
        records = await real(*args, **kwargs)
        if not done:
            done.append(True)
            await shop.storage.save_snapshot(again)
            await shop.run("age")
        return records

    with monkeypatch.context() as patch:
        patch.setattr(PackReader, "frame", meanwhile)
        await shop.run("restore")
    await are_all_that_is_left(shop, [again, *snapshots[1:]], wanted.saga_id)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("when", ["before", "during"])
async def test_refill_brings_nothing_back_that_goes_meanwhile(
    shop: Product, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that Redis missed and that is deleted while it is put there is in neither afterwards."""
    saga_id = uuid4()
    old = await saved(shop, 2, "payment", saga_id)
    hot = shop.runtime.hot
    members = [header.member for header in await hot.headers_from(saga_id, 0)]
    assert await hot.erase(saga_id, members, to_micros(shop.clock.now())) == len(old)
    await shop.runtime.db.execute("UPDATE sagaz_tiering.saga_snapshots SET spilled = true")
    await shop.runtime.db.execute("UPDATE sagaz_tiering.spill SET since = now()")
    real, removing = hot.save, []

    async def meanwhile(*args: Any, **kwargs: Any) -> Any:
        if when == "during":
            await real(*args, **kwargs)
        if not removing:
            removing.append(asyncio.create_task(shop.storage.cleanup_saga(saga_id)))
            await asyncio.wait(removing, timeout=0.3)
        return None if when == "during" else await real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(hot, "save", meanwhile)
        await shop.run("age")
    await removing[0]
    await are_all_that_is_left(shop, [], saga_id)
    assert await shop.hot_count() == 0


@pytest.mark.guarantee("G14")
async def test_erasure_that_erased_nothing_says_so(shop: Product, places: Places, tmp_path: Path) -> None:
    """Exit code 8 and no receipt that says "complete"; of one that was erased before, the receipt of that."""
    path = write_config(tmp_path / "t.yaml", **places, policies=POLICIES)
    nobody = await cli("forget", uuid4(), "--reason", "r", "--yes", "--json", "--config", path)
    assert nobody.code == 8
    assert "nothing was erased" in nobody.document["error"]
    assert "check the id" in nobody.document["hint"]
    [listed] = (await cli("erasures", "--json", "--config", path)).document["erasures"]
    assert listed["found_nothing"]
    assert not listed["complete"]
    assert "there was nothing to erase" in (await cli("erasures", listed["erasure_id"], "--config", path)).out

    saga_id = uuid4()
    await saved(shop, 2, "payment", saga_id)
    first = await shop.storage.forget(saga_id)
    assert (first.snapshots, first.complete, first.found_nothing) == (2, True, False)
    again = await shop.storage.forget(saga_id)
    assert (again.snapshots, again.complete, again.found_nothing) == (0, False, True)
    told = await cli("forget", saga_id, "--reason", "r", "--yes", "--config", path)
    assert told.code == 8
    assert str(first.erasure_id) in told.err
    await shop.storage.save_replay_log(replay(original_saga_id=saga_id))
    assert not (await shop.storage.forget(saga_id)).found_nothing


@pytest.mark.guarantee("G14")
async def test_receipt_says_what_it_waits_for(
    shop: Product, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore under way that reads a pack first, Redis, and what PostgreSQL may keep, in text and in JSON."""
    path = write_config(tmp_path / "t.yaml", **places, policies=POLICIES)
    snapshots = await frozen(shop)
    saga_id = snapshots[0].saga_id
    await saved(shop, 1, "frozen", saga_id, start=10)
    await crash_at(shop, "hot.delete_many", False, monkeypatch, lambda: shop.storage.forget(saga_id))
    [receipt] = await shop.runtime.catalog.erasures.newest(1)
    assert receipt.snapshots == 4
    assert not receipt.complete
    text = (await cli("erasures", receipt.erasure_id, "--config", path)).out
    assert "Redis was not cleared yet" in text
    [restore] = await shop.runtime.catalog.restores.in_state("RESTORING")
    assert f"waits for restore {restore.restore_id}" in text
    assert "job compact --once" not in text
    assert "not yet vacuumed" in text
    await shop.run("expire")
    told = (await cli("erasures", receipt.erasure_id, "--json", "--config", path)).document
    assert told["packs"][0]["restore_id"] == str(restore.restore_id)
    left = told["postgresql"]
    assert left["vacuumed_at"] == shop.clock.now().isoformat()
    assert "write-ahead log" in left["note"]
    await shop.runtime.db.execute(left["command"])
    text = (await cli("erasures", receipt.erasure_id, "--config", path)).out
    assert f'psql -c "{left["command"]}"' in text
    assert "bytes of it are still in 1 pack below" in text


@pytest.mark.guarantee("G14")
async def test_receipt_says_when_compact_runs_next(shop: Product, places: Places, tmp_path: Path) -> None:
    """And how to have it at once, for as long as a pack waits for that job."""
    path = write_config(tmp_path / "t.yaml", **places, policies=POLICIES)
    saga_id = uuid4()
    await saved(shop, 2, "payment", saga_id)
    await saved(shop, 2, "payment", uuid4())
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    said = (await cli("forget", saga_id, "--reason", "r", "--yes", "--config", path)).out
    [receipt] = await shop.runtime.catalog.erasures.newest(1)
    for text in (said, (await cli("erasures", receipt.erasure_id, "--config", path)).out):
        assert "waits for `compact`" in text
        assert re.search(r"next run: +compact at \d{4}-.* \(.*\), by every ", text), text
        assert "sagaz-tiering job compact --once" in text
    await shop.run("compact")
    assert "job compact --once" not in (await cli("erasures", receipt.erasure_id, "--config", path)).out


@pytest.mark.guarantee("G14")
async def test_vacuum_after_erasures_is_at_most_hourly(shop: Product) -> None:
    """Each erasure is followed by one; several within the hour share it."""
    vacuumed = []
    for minutes in (0, 10, 70):
        saga_id = uuid4()
        await saved(shop, 1, "payment", saga_id)
        await shop.storage.forget(saga_id)
        shop.clock.advance(timedelta(minutes=minutes))
        vacuumed.append((await shop.run("expire")).counts.get("vacuumed", 0))
    assert vacuumed == [1, 0, 1]
    assert all(receipt.vacuumed_at is not None for receipt in await shop.runtime.catalog.erasures.newest(9))
    assert not (await shop.run("expire")).counts.get("vacuumed")


@pytest.mark.guarantee("G14")
async def test_role_that_may_not_vacuum_is_told_once(
    shop: Product, database: str, redis_url: str, tmp_path: Path
) -> None:
    """The job goes on, says it once, and the receipt says who must."""
    role, db = f"app_{uuid4().hex[:8]}", shop.runtime.db
    for grant in (
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret'",
        f"GRANT USAGE ON SCHEMA sagaz_tiering TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA sagaz_tiering TO {role}",
        f"REVOKE MAINTAIN ON ALL TABLES IN SCHEMA sagaz_tiering FROM {role}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA sagaz_tiering TO {role}",
    ):
        await db.execute(grant)
    parts = urlsplit(database)
    url = parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
    saga_id = uuid4()
    await saved(shop, 1, "payment", saga_id)
    receipt = await shop.storage.forget(saga_id)
    settings = config(database=url, redis_url=redis_url, cold=tmp_path / "cold", policies=POLICIES)
    async with product(settings, now=shop.clock.now(), schema=False) as other:
        reports = [await other.run("expire") for _ in range(2)]
    assert ["may not" in "".join(report.notes) for report in reports] == [True, False]
    now = await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)
    assert now is not None
    assert (now.vacuumed_at, now.vacuum_refused) == (None, True)


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("remove", ["delete", "forget"])
async def test_removal_that_redis_does_not_follow_shows_no_older_save(
    own_redis: Any, database: str, tmp_path: Path, remove: str
) -> None:
    """Redis has the first save, PostgreSQL alone took the second, and only PostgreSQL could remove it."""
    server = await own_redis()
    async with product(config(database=database, redis_url=server.url, cold=tmp_path / "cold")) as shop:
        first = next(iter(snapshots(1, created_at=NOW, saga_name="orders")))
        await shop.storage.save_snapshot(first)
        await redis_do(server.url, "CONFIG", "SET", "maxmemory", "1")
        shop.clock.advance(timedelta(seconds=5))
        await shop.storage.save_snapshot(replace(first, context={"second": True}))
        shop.clock.advance(timedelta(seconds=5))
        removing: Awaitable[object] = (
            shop.storage.delete_snapshot(first.snapshot_id)
            if remove == "delete"
            else shop.storage.forget(first.saga_id)
        )
        with pytest.raises(HotTierUnavailable):
            await removing
        await redis_do(server.url, "CONFIG", "SET", "maxmemory", "0")
        for job in ("reconcile", "age", "expire", "age"):
            assert await shop.storage.get_snapshot(first.snapshot_id) is None, job
            assert await shop.storage.list_snapshots(first.saga_id) == [], job
            assert await shop.storage.get_latest_snapshot(first.saga_id) is None, job
            await shop.run(job)
        assert await shop.runtime.db.fetchval("SELECT since FROM sagaz_tiering.spill") is None


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("removal", ["delete", "forget"])
async def test_note_under_way_brings_back_nothing_that_is_removed(shop: Product, database: str, removal: str) -> None:
    """What Redis alone has is deleted, or forgotten, while the catalog is being told of it."""
    _, last = await saved(shop, 2, "fast-saga", saga := uuid4())
    await shop.storage._notes.flush()
    await shop.runtime.db.execute("DELETE FROM sagaz_tiering.hot_saves WHERE snapshot_id = $1", last.snapshot_id)
    value = await shop.runtime.hot.get(last.snapshot_id)
    assert isinstance(value, bytes)
    blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'advisory')"
    holding = await asyncpg.connect(database)
    try:
        async with holding.transaction():
            await holding.execute("SELECT 1 FROM sagaz_tiering.sagas WHERE saga_id = $1 FOR UPDATE", saga)
            noting = asyncio.create_task(shop.runtime.catalog.hot_saves.note([read_meta(value)], [None]))
            while await holding.fetchval(blocked) < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if removal == "delete":
                removing: Any = asyncio.create_task(shop.storage.delete_snapshot(last.snapshot_id))
            else:
                removing = asyncio.create_task(shop.storage.forget(saga, reason="asked", who="officer"))
            while not removing.done() and await holding.fetchval(blocked) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.gather(noting, removing)
    finally:
        await holding.close()
    left = await shop.runtime.db.fetch("SELECT snapshot_id FROM sagaz_tiering.hot_saves")
    assert last.snapshot_id not in {row["snapshot_id"] for row in left}
