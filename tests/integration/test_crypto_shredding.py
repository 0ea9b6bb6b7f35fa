"""Encrypted policies: `forget` destroys a key, and with it every copy of a saga's archived bytes."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.encrypted import POLICIES, aged, bucket, copy_database, encrypted, frames_of, key_file, save_all, unharmed
from support.payload import snapshots
from support.tiers import DAY, Places, Product, product

from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import ErasedData, LeaseLost, LegalHold, MasterKeyUnavailable, SnapshotArchived
from sagaz_tiering.jobs import JobReport
from sagaz_tiering.packs.frame import open_frame
from sagaz_tiering.snapshot import SagaSnapshot


@pytest.fixture
async def shop(places: Places, tmp_path: Path):
    """A product over a directory that keeps S3's law, with a master key in a file."""
    key_file(tmp_path)
    async with product(encrypted(places)) as opened:
        yield opened


def small(number: int, shop: Product) -> list[SagaSnapshot]:
    """Sagas of one small snapshot each."""
    return [
        SagaSnapshot(
            snapshot_id=uuid4(),
            saga_id=uuid4(),
            saga_name="secret",
            step_name="pay",
            step_index=0,
            status="completed",
            context={"mail": f"person{n}@example.com", "noise": secrets.token_hex(20)},
            completed_steps=["pay"],
            created_at=shop.clock.now(),
        )
        for n in range(number)
    ]


async def keys_of(shop: Product, saga_id: UUID) -> list[Any]:
    """Rows of its data keys."""
    return await shop.runtime.db.fetch("SELECT * FROM sagaz_tiering.saga_keys WHERE saga_id = $1", saga_id)


async def whole_catalog(shop: Product) -> bytes:
    """Everything in every table, as text."""
    db, found = shop.runtime.db, []
    for table in await db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'sagaz_tiering'"):
        found += await db.fetch(f"SELECT t::text AS row FROM sagaz_tiering.{table['tablename']} t")
    return "\n".join(row["row"] for row in found).encode()


async def test_saga_in_a_pack_of_a_thousand_is_gone_at_once(
    places: Places, database: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """In GLACIER: no byte is rewritten and nobody can read it any more, not with the bucket and an old dump either."""
    key_file(tmp_path)
    settings = encrypted(places)
    async with product(settings) as shop:
        saved = small(1000, shop)
        await aged(shop, saved)
        shop.clock.advance(60 * DAY)
        await shop.run("transition")
        now = shop.clock.now()
        with pytest.raises(SnapshotArchived):
            await shop.storage.get_snapshot(saved[0].snapshot_id)
    old_dump = await copy_database(database, postgres_server.url, f"dump_{secrets.token_hex(4)}")
    async with product(settings, now=now) as shop:
        victim, others = saved[500], saved[:500] + saved[501:]
        before = bucket(tmp_path)
        assert len(before) == 1
        wrapped = (await keys_of(shop, victim.saga_id))[0]["wrapped"]
        assert wrapped.hex().encode() in await whole_catalog(shop)

        receipt = await shop.storage.forget(victim.saga_id, reason="request 1", who="dpo")
        assert receipt.complete
        assert receipt.key_destroyed == shop.clock.now()
        assert (receipt.archived, receipt.packs, receipt.undecipherable_packs) == (1, (), 1)
        assert receipt.to_dict()["key_destroyed"] == receipt.key_destroyed.isoformat()

        assert await shop.storage.get_snapshot(victim.snapshot_id) is None
        assert await shop.storage.list_snapshots(victim.saga_id) == []
        assert await shop.storage.timeline(victim.saga_id) == []
        assert wrapped.hex().encode() not in await whole_catalog(shop)
        assert not (await shop.run("compact")).counts.get("packs")
        assert bucket(tmp_path) == before  # not a byte of it moved

        restore = await shop.storage.restore(snapshot_ids=[others[0].snapshot_id], into="in-place")
        assert restore is not None
        for _ in range(3):
            await shop.run("restore")
            shop.clock.advance(DAY / 2)
        await unharmed(shop, others)
        keyring = await shop.runtime.keys.by_id(
            frame.key_id for data in before.values() for frame, _ in frames_of(data, victim.saga_id)
        )
        assert keyring == {}  # the master key is of no help
        for data in before.values():
            assert b"person500@" not in data
            [(frame, payload)] = frames_of(data, victim.saga_id)
            assert frame.key_id is not None
            with pytest.raises(ErasedData):
                open_frame(payload)
    await read_with_old_dump(encrypted({**places, "database": old_dump}, encryption=None, policies=POLICIES[1:]), saved)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    foreign = encrypted({**places, "database": old_dump}, encryption={"key_file": key_file(stranger)})
    await read_with_old_dump(foreign, saved)


async def read_with_old_dump(settings: Any, saved: list[SagaSnapshot]) -> None:
    """Somebody has the bucket and the catalog as it was, but not the master key."""
    async with product(settings, schema=False) as thief:
        pack_class = await thief.runtime.db.fetchval("SELECT storage_class FROM sagaz_tiering.packs")
        assert pack_class == "GLACIER"
        for snapshot in saved[499:502]:
            with pytest.raises(MasterKeyUnavailable):
                await thief.storage.get_snapshot(snapshot.snapshot_id)
            with pytest.raises(MasterKeyUnavailable):
                await thief.storage.list_snapshots(snapshot.saga_id)


async def test_hold_refuses_to_destroy_a_key(shop: Product) -> None:
    """What is held keeps its key; after the release it goes."""
    saved = list(snapshots(3, created_at=shop.clock.now()))
    await aged(shop, saved)
    await shop.storage.hold(saved[0].saga_id, "case 7")
    with pytest.raises(LegalHold):
        await shop.storage.forget(saved[0].saga_id)
    assert len(await keys_of(shop, saved[0].saga_id)) == 1
    await unharmed(shop, saved)
    await shop.storage.release(saved[0].saga_id)
    assert (await shop.storage.forget(saved[0].saga_id)).complete
    assert await keys_of(shop, saved[0].saga_id) == []
    await unharmed(shop, saved[5:])


async def test_open_frames_of_the_saga_still_need_the_rewrite(places: Places, tmp_path: Path) -> None:
    """What was packed before the policy encrypted is waited for; what was packed since is gone at once."""
    key_file(tmp_path)
    unencrypted = [{**POLICIES[0], "encryption": "none"}, POLICIES[1]]
    async with product(encrypted(places, policies=unencrypted)) as shop:
        first = list(snapshots(4, created_at=shop.clock.now()))
        await aged(shop, first)
        now = shop.clock.now()
    async with product(encrypted(places), now=now) as shop:
        second = [
            SagaSnapshot(**{**fields_of(one), "snapshot_id": uuid4(), "created_at": shop.clock.now()}) for one in first
        ]
        await aged(shop, second)
        packs = bucket(tmp_path)
        victim = first[0].saga_id
        assert [[f.key_id is None for f, _ in frames_of(data, victim)] for data in packs.values()].count([True]) == 1
        receipt = await shop.storage.forget(victim)
        assert not receipt.complete
        assert (len(receipt.packs), receipt.undecipherable_packs) == (1, 1)
        await shop.run("compact")
        shop.clock.advance(2 * DAY)
        await shop.run("expire")
        done = await shop.runtime.catalog.erasures.receipt(receipt.erasure_id)
        assert done is not None
        assert done.complete
        left = [f for data in bucket(tmp_path).values() for f, _ in frames_of(data, victim)]
        assert all(frame.key_id is not None for frame in left)
        for snapshot in first[5:] + second[5:]:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot


def fields_of(snapshot: SagaSnapshot) -> dict[str, Any]:
    """Its fields by name."""
    return {name: getattr(snapshot, name) for name in SagaSnapshot.__dataclass_fields__}


async def test_no_window_in_another_process(shop: Product, places: Places) -> None:
    """A process that has just read the saga, and so has its key in memory, reads nothing after the erasure."""
    saved = list(snapshots(2, created_at=shop.clock.now()))
    await aged(shop, saved)
    async with product(encrypted(places), now=shop.clock.now()) as other:
        await unharmed(other, saved)
        place = (await other.runtime.catalog.locations.find(saved[0].snapshot_id))[0].place
        assert place is not None
        assert place.key is not None
        await shop.storage.forget(saved[0].saga_id)
        assert await other.storage.list_snapshots(saved[0].saga_id) == []
        assert await other.storage.get_snapshot(saved[0].snapshot_id) is None
        assert await other.runtime.keys.by_id([place.key.key_id.bytes]) == {}
        await unharmed(other, saved[5:])


async def test_snapshots_whose_key_is_lost_hide_no_others(shop: Product) -> None:
    """A key that went without an erasure: a typed error for its saga, and every other saga as before."""
    saved = list(snapshots(4, created_at=shop.clock.now()))
    await aged(shop, saved)
    await shop.runtime.db.execute("DELETE FROM sagaz_tiering.saga_keys WHERE saga_id = $1", saved[0].saga_id)
    with pytest.raises(ErasedData, match="destroyed or lost"):
        await shop.storage.get_snapshot(saved[0].snapshot_id)
    with pytest.raises(ErasedData, match="destroyed or lost") as caught:
        await shop.storage.list_snapshots(saved[0].saga_id)
    assert set(caught.value.unreadable) == {snapshot.snapshot_id for snapshot in saved[:5]}
    assert len(await shop.storage.timeline(saved[0].saga_id)) == 5
    walk = shop.storage.iter_snapshots()
    assert len([await anext(walk) for _ in range(15)]) == 15
    with pytest.raises(ErasedData):
        await anext(walk)
    await unharmed(shop, saved[5:])
    shop.clock.advance(61 * DAY)
    await shop.run("transition")
    with pytest.raises(ErasedData):  # and no promise that a restore could keep
        await shop.storage.get_snapshot(saved[0].snapshot_id)


async def test_saga_lives_on_after_it_was_forgotten(shop: Product) -> None:
    """Saved again it gets a new key; forgetting it again destroys that one too."""
    saved = list(snapshots(2, created_at=shop.clock.now()))
    await aged(shop, saved)
    old = (await keys_of(shop, saved[0].saga_id))[0]["key_id"]
    await shop.storage.forget(saved[0].saga_id)
    again = SagaSnapshot(**{**fields_of(saved[0]), "snapshot_id": uuid4(), "created_at": shop.clock.now()})
    await aged(shop, [again])
    assert (await keys_of(shop, saved[0].saga_id))[0]["key_id"] != old
    await unharmed(shop, [again])
    assert (await shop.storage.forget(saved[0].saga_id)).undecipherable_packs == 1
    assert await keys_of(shop, saved[0].saga_id) == []


@pytest.mark.parametrize("saved_again", [False, True])
async def test_saga_forgotten_while_it_is_packed(
    shop: Product, monkeypatch: pytest.MonkeyPatch, saved_again: bool
) -> None:
    """Nothing of it is published; what was saved since is not under the destroyed key, and is never evicted unread."""
    saved = list(snapshots(3, created_at=shop.clock.now()))
    await save_all(shop, saved)
    shop.clock.advance(9 * DAY)
    catalog = shop.runtime.catalog.packs
    real, receipts = catalog.activate, []

    async def forgotten_first(*args: Any, **kwargs: Any) -> int:
        monkeypatch.setattr(catalog, "activate", real)
        receipts.append(await shop.storage.forget(saved[0].saga_id))
        if saved_again:  # as a save that the erasure did not see: not buried by it
            await shop.runtime.db.execute("DELETE FROM sagaz_tiering.tombstones")
            await shop.runtime.db.execute("DELETE FROM sagaz_tiering.forgotten")
            await save_all(shop, saved[:5])
        return await real(*args, **kwargs)

    monkeypatch.setattr(catalog, "activate", forgotten_first)
    if saved_again:
        with pytest.raises(LeaseLost, match="repeat the job"):
            await shop.run("age")
        assert await shop.hot_count() == 15
        shop.clock.advance(DAY)
        await shop.run("age")
        assert await shop.hot_count() == 0
        await unharmed(shop, saved)
        return
    await shop.run("age")
    receipt = await shop.runtime.catalog.erasures.receipt(receipts[0].erasure_id)
    assert receipt is not None
    assert receipt.complete
    assert await shop.storage.list_snapshots(saved[0].saga_id) == []
    await unharmed(shop, saved[5:])


async def test_without_a_master_key_saves_go_on_and_nothing_is_evicted(places: Places, tmp_path: Path) -> None:
    """Encrypted policies wait in their tiers with a clear error, the others age; with the key all goes on."""
    settings = encrypted(places)
    async with product(settings) as shop:
        hidden = list(snapshots(3, created_at=shop.clock.now()))
        clear = list(snapshots(3, start=50, created_at=shop.clock.now(), saga_name="clear"))
        await save_all(shop, hidden + clear)
        shop.clock.advance(9 * DAY)
        for _ in range(2):
            with pytest.raises(MasterKeyUnavailable, match=r"were not aged.*master\.keys"):
                await shop.run("age")
        assert await shop.hot_count() == len(hidden)
        assert (await shop.runtime.catalog.durable.totals(shop.clock.now()))["snapshots"] == len(hidden)
        await unharmed(shop, hidden + clear)
        assert not any(frames_of(data, hidden[0].saga_id) for data in bucket(tmp_path).values())
        key_file(tmp_path)  # found without a restart
        shop.clock.advance(DAY)
        await shop.run("age")
        assert await shop.hot_count() == 0
        await unharmed(shop, hidden + clear)
        (tmp_path / "master.keys").unlink()
        shop.runtime.keys._opened.clear()
        with pytest.raises(MasterKeyUnavailable, match="cannot be read"):
            await shop.storage.get_snapshot(hidden[0].snapshot_id)
        with pytest.raises(MasterKeyUnavailable):
            await shop.storage.list_snapshots(hidden[0].saga_id)
        await unharmed(shop, clear)
        await shop.storage.save_snapshot(hidden[0])


async def test_durable_rows_without_a_master_key_stay(places: Places, tmp_path: Path) -> None:
    """Rows that Redis lost are not packed in the clear either."""
    async with product(encrypted(places)) as shop:
        saved = list(snapshots(2, created_at=shop.clock.now()))
        await save_all(shop, saved)
        for snapshot in saved:
            await shop.runtime.hot.delete(snapshot.snapshot_id, until_us=2**52)
        shop.clock.advance(9 * DAY)
        with pytest.raises(MasterKeyUnavailable):
            await shop.run("age")
        assert await shop.object_keys() == []
        await unharmed(shop, saved)
        key_file(tmp_path)
        shop.clock.advance(DAY)
        await shop.run("age")
        packs = bucket(tmp_path)
        assert [f.key_id is not None for data in packs.values() for f, _ in frames_of(data, saved[0].saga_id)] == [True]
        await unharmed(shop, saved)


async def test_restored_snapshots_come_back_readable(shop: Product, tmp_path: Path) -> None:
    """From GLACIER into Redis; where the key is not there they wait for it, and packs without keys go on."""
    saved = list(snapshots(3, created_at=shop.clock.now()))
    await aged(shop, saved)
    shop.clock.advance(61 * DAY)
    await shop.run("transition")
    request = await shop.storage.restore(saved[0].saga_id, days=3)
    assert request is not None
    hidden = tmp_path / "master.keys"
    text = hidden.read_bytes()
    shop.runtime.keys._opened.clear()
    hidden.write_bytes(b"first:" + b"A" * 43 + b"=\n")
    report: JobReport | None = None
    for _ in range(14):
        report = await shop.run("restore")
        shop.clock.advance(DAY / 24)
    assert report is not None
    assert report.counts["packs_waiting_for_key"] == 1
    hidden.write_bytes(text)
    await shop.run("restore")
    found = await shop.storage.restore_status(request.restore_id)
    assert found is not None
    assert found.state == "READY"
    assert await shop.hot_count() == 5
    await unharmed(shop, saved[:5])
    receipt = await shop.storage.forget(saved[0].saga_id)
    assert (receipt.hot, receipt.complete) == (5, True)
    assert await shop.hot_count() == 0


async def test_compaction_keeps_frames_encrypted(places: Places, tmp_path: Path) -> None:
    """Whole frames are copied, cut ones encrypted again under the same key; without it nothing is touched."""
    key_file(tmp_path)
    async with product(encrypted(places)) as shop:
        saved: list[SagaSnapshot] = []
        for number in range(6):
            fresh = list(snapshots(1, start=number, created_at=shop.clock.now()))
            await aged(shop, fresh)
            saved += fresh
        shop.clock.advance(61 * DAY)
        for snapshot in saved[:3]:
            await shop.storage.delete_snapshot(snapshot.snapshot_id)
        hidden = tmp_path / "master.keys"
        text = hidden.read_bytes()
        hidden.unlink()
        shop.runtime.keys._opened.clear()
        report = await shop.run("compact")
        assert (report.counts["waiting_for_key"], report.counts.get("packs")) == (6, None)
        hidden.write_bytes(text)
        hidden.chmod(0o600)
        assert (await shop.run("compact")).counts["packs"] == 6
        shop.clock.advance(2 * DAY)
        await shop.run("expire")
        packs = bucket(tmp_path)
        assert len(packs) == 1
        for snapshot in saved[::5]:
            [(frame, _)] = frames_of(*packs.values(), snapshot.saga_id)
            assert frame.key_id == (await keys_of(shop, snapshot.saga_id))[0]["key_id"].bytes
        await unharmed(shop, saved[3:])


async def test_scrub_opens_frames_if_it_has_the_keys(shop: Product, tmp_path: Path) -> None:
    """With keys all is opened; without, checksums are compared, and the report says that it was no more."""
    saved = list(snapshots(4, created_at=shop.clock.now()))
    await aged(shop, saved)
    report = await shop.run("scrub")
    assert report.counts["packs_sound"] == 1
    assert "frames_not_opened" not in report.counts
    await shop.storage.forget(saved[0].saga_id)
    shop.clock.advance(31 * DAY)
    report = await shop.run("scrub")
    assert (report.counts["packs_sound"], report.counts["frames_not_opened"]) == (1, 1)
    assert "destroyed or lost" in report.notes[0]
    (tmp_path / "master.keys").unlink()
    shop.runtime.keys._opened.clear()
    shop.clock.advance(31 * DAY)
    report = await shop.run("scrub")
    assert (report.counts["packs_sound"], report.counts["frames_not_opened"]) == (1, 4)
    assert "checksum only" in report.notes[0]


async def test_erasure_tells_the_journal(shop: Product) -> None:
    """Which keys were made and destroyed, in the bucket too; never the keys themselves."""
    saved = list(snapshots(2, created_at=shop.clock.now()))
    await aged(shop, saved)
    row = (await keys_of(shop, saved[0].saga_id))[0]
    await shop.storage.forget(saved[0].saga_id)
    await shop.run("collect")
    journal = b"".join([await shop.runtime.objects.get(key) for key in await shop.object_keys("journal/")])
    assert b"keys_created" in journal
    assert b"key_destroyed" in journal
    assert str(row["key_id"]).encode() in journal
    for key in await shop.object_keys(""):
        data = await shop.runtime.objects.get(key)
        assert row["wrapped"] not in data
        assert row["wrapped"].hex().encode() not in data


async def test_saga_whose_key_does_not_open_keeps_no_other_waiting(shop: Product, tmp_path: Path) -> None:
    """A master key was replaced without a rotation: sagas that it wrapped wait, new ones are packed."""
    first = list(snapshots(2, created_at=shop.clock.now()))
    await aged(shop, first)
    (tmp_path / "master.keys").unlink()
    key_file(tmp_path, "second")
    second = list(snapshots(2, start=30, created_at=shop.clock.now()))
    again = SagaSnapshot(**{**fields_of(first[0]), "snapshot_id": uuid4(), "created_at": shop.clock.now()})
    await save_all(shop, [*second, again])
    shop.clock.advance(9 * DAY)
    shop.runtime.keys._opened.clear()
    with pytest.raises(MasterKeyUnavailable, match="some encrypted sagas"):
        await shop.run("age")
    assert await shop.hot_count() == 1
    await unharmed(shop, second)
    with pytest.raises(MasterKeyUnavailable, match="'first'"):
        await shop.storage.list_snapshots(first[0].saga_id)


async def test_rotation_stopped_half_way(shop: Product, tmp_path: Path, places: Places) -> None:
    """Half-way through, both master keys are needed, and all reads as before; one that went too early is named."""
    saved = list(snapshots(9, created_at=shop.clock.now()))
    await aged(shop, saved)
    path = key_file(tmp_path, "second")
    keys = shop.runtime.keys
    async for count in keys.rotate(batch=4):
        assert count == 4
        break
    totals = await shop.runtime.catalog.saga_keys.totals()
    assert totals.by_master == {"file:first": 5, "file:second": 4}
    keys._opened.clear()
    await unharmed(shop, saved)
    path.write_bytes(path.read_bytes().splitlines()[0])  # too early
    async with product(encrypted(places), now=shop.clock.now()) as early:
        with pytest.raises(MasterKeyUnavailable, match=r"'first', which .* lacks"):
            [snapshot async for snapshot in early.storage.iter_snapshots()]


async def test_rotation_goes_on_where_it_stopped(shop: Product, tmp_path: Path, places: Places) -> None:
    """Nothing is wrapped twice, an erasure in between stays one, and the old master key is not needed afterwards."""
    saved = list(snapshots(9, created_at=shop.clock.now()))
    await aged(shop, saved)
    before = bucket(tmp_path)
    path = key_file(tmp_path, "second")
    done = 0
    async for count in shop.runtime.keys.rotate(batch=2):
        done += count
        if done == 4:
            break
    await shop.storage.forget(saved[0].saga_id)
    gone = 0 if (await shop.runtime.catalog.saga_keys.totals()).by_master["file:second"] == 4 else 1
    rest = [count async for count in shop.runtime.keys.rotate(batch=2)]
    assert sum(rest) == 5 - (1 - gone)
    assert (await shop.runtime.catalog.saga_keys.totals()).by_master == {"file:second": 8}
    assert bucket(tmp_path) == before
    path.write_bytes(path.read_bytes().splitlines()[0])
    async with product(encrypted(places), now=shop.clock.now()) as fresh:
        assert await fresh.storage.list_snapshots(saved[0].saga_id) == []
        await unharmed(fresh, saved[5:])


async def test_erasure_beats_a_rotation_under_way(shop: Product, tmp_path: Path) -> None:
    """A key that is destroyed between the reading and the writing of its batch does not come back."""
    saved = list(snapshots(2, created_at=shop.clock.now()))
    await aged(shop, saved)
    key_file(tmp_path, "second")
    stored = shop.runtime.catalog.saga_keys
    rows = await stored.under_others("file:second", UUID(int=0), 10)
    changes = [(row, await shop.runtime.keys._rewrapped(row)) for row in rows]
    await shop.storage.forget(saved[0].saga_id)
    assert await stored.rewrap(changes) == 1
    assert await keys_of(shop, saved[0].saga_id) == []
