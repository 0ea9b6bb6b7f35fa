"""What something else wrote into Redis or a row: refused on read, quarantined one by one, and the rest goes on."""

from __future__ import annotations

from uuid import uuid4

import pytest
from support.snapshots import make
from support.tiers import DAY, NOW, Product

from sagaz_tiering.errors import CorruptRecord, HotTierUnavailable, SnapshotLost
from sagaz_tiering.jobs import JOBS
from sagaz_tiering.snapshot import SagaSnapshot


def pair(name: str) -> list[SagaSnapshot]:
    """A saga of two snapshots."""
    saga_id = uuid4()
    return [
        make(at, snapshot_id=uuid4(), saga_id=saga_id, saga_name=name, created_at=NOW + at * DAY / 24)
        for at in range(2)
    ]


async def quarantined(shop: Product) -> dict[str, str]:
    """Items by name, and why."""
    return {each.item: each.reason for each in await shop.runtime.catalog.quarantine.items(100)}


@pytest.mark.guarantee("G6")
@pytest.mark.guarantee("G13")
async def test_what_others_wrote_into_redis_stops_no_job(shop: Product) -> None:
    """Junk in every index, swapped values, wrong types and pointers at once: all else is packed, expired, read."""
    sound = [pair("payment-order") for _ in range(4)]
    junk, extra, listed, pointed = (pair("payment-order") for _ in range(4))
    swapped, sibling = pair("fast-order"), pair("fast-order")
    mended = pair("payment-order")
    for snapshots in (*sound, junk, extra, listed, pointed, swapped, sibling, mended):
        for snapshot in snapshots:
            await shop.storage.save_snapshot(snapshot)
    keys = shop.runtime.hot.keys

    def value(snapshot: SagaSnapshot) -> str:
        return keys.value(snapshot.saga_id.hex, snapshot.snapshot_id.hex)

    async with shop.runtime.hot.connection.pool() as redis:
        for index in (keys.due("0"), keys.due("f"), keys.expiry("0")):
            await redis.zadd(index, {b"not-hex": 0, b"\xff\xfe" * 16: 0})
        await redis.zadd(keys.index(junk[0].saga_id.hex), {b"short": 1e15})
        await redis.zadd(keys.index(extra[0].saga_id.hex), {b"\0\0\0\0" + extra[0].snapshot_id.bytes: float("inf")})
        await redis.set(f"{keys.prefix}:{{foo}}:bar", b"x")
        await redis.zadd(f"{keys.prefix}:{{{'g' * 32}}}", {b"x": 1})
        await redis.set(value(swapped[1]), await redis.get(value(sound[0][0])) or b"")
        await redis.set(value(sibling[1]), await redis.get(value(sibling[0])) or b"")
        await redis.set(value(mended[1]), await redis.get(value(mended[0])) or b"")
        await redis.delete(value(listed[1]))
        await redis.lpush(value(listed[1]), b"x")
        await redis.set(keys.pointer(pointed[1].snapshot_id.hex), b"zz")
        await redis.hset(keys.dictionaries(), mapping={b"\xff\xfe": b"12345678"})
    for foreign, holds in ((swapped[1], sound[0][0]), (sibling[1], sibling[0])):
        with pytest.raises(CorruptRecord, match=str(holds.snapshot_id)):
            await shop.storage.get_snapshot(foreign.snapshot_id)
        with pytest.raises(CorruptRecord):
            await shop.storage.get_latest_snapshot(foreign.saga_id)
        with pytest.raises(CorruptRecord) as caught:
            await shop.storage.list_snapshots(foreign.saga_id)
        assert set(caught.value.unreadable) == {foreign.snapshot_id}
    with pytest.raises(CorruptRecord):
        await shop.storage.get_latest_snapshot(extra[0].saga_id)
    assert await shop.storage.list_snapshots(junk[0].saga_id) == junk[::-1]
    assert (await shop.storage.health_check()).status == "healthy"
    for days in (0, 9, 9):
        shop.clock.advance(days * DAY)
        await shop.runtime.db.execute("UPDATE sagaz_tiering.saga_snapshots SET claimed_until = NULL")  # by a real clock
        for job in JOBS:
            await shop.run(job)
    items = await quarantined(shop)
    assert {str(swapped[1].snapshot_id), str(sibling[1].snapshot_id), str(mended[1].snapshot_id)} <= items.keys()
    assert sum("names no saga" in reason for reason in items.values()) == 6
    assert sum("names no snapshot" in reason for reason in items.values()) == 1
    assert f"{keys.index(extra[0].saga_id.hex)} 00000000{extra[0].snapshot_id.hex}" in items
    named = {"swapped": swapped, "sibling": sibling, "mended": mended, "pointed": pointed, "extra": extra, "junk": junk}
    names = {snapshot.snapshot_id: (name, at) for name, each in named.items() for at, snapshot in enumerate(each)}
    left = [names.get(snapshot_id) async for _, snapshot_id, _ in shop.runtime.hot.snapshots()]
    assert sorted(map(str, left)) == ["('sibling', 1)", "('swapped', 1)"]
    for snapshots in (*sound, junk, extra, listed, pointed, mended):
        assert await shop.storage.list_snapshots(snapshots[0].saga_id) == snapshots[::-1]
        assert await shop.storage.get_snapshot(snapshots[1].snapshot_id) == snapshots[1]
    with pytest.raises(CorruptRecord) as caught:
        await shop.storage.list_snapshots(sibling[0].saga_id)
    assert (caught.value.readable, set(caught.value.unreadable)) == ((sibling[0],), {sibling[1].snapshot_id})
    shop.clock.advance(500 * DAY)
    await shop.run("expire")
    assert await shop.storage.list_snapshots(sound[1][0].saga_id) == []
    assert await shop.storage.delete_snapshot(sibling[1].snapshot_id)
    assert await shop.storage.list_snapshots(sibling[0].saga_id) == [sibling[0]]


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize("loses", [False, True], ids=["as-it-is", "reconciled"])
async def test_keys_of_another_type_stop_no_job(shop: Product, loses: bool) -> None:
    """In the place of a saga's index, of pointers, values and the dictionaries' names: named, and the rest goes on.

    Reads of the saga say so, and its saves are in PostgreSQL, until a job has made its index anew.
    """
    sound, broken, hot, pointed, valued, erased = (
        pair(name)
        for name in ("payment-order", "payment-order", "fast-order", "payment-order", "payment-order", "order")
    )
    for one in (*sound, broken[0], *hot, *pointed, *valued, *erased):
        await shop.storage.save_snapshot(one)
    keys = shop.runtime.hot.keys
    indexes = [keys.index(one[0].saga_id.hex) for one in (broken, hot, erased)]
    async with shop.runtime.hot.connection.pool() as redis:
        for key in (*indexes, keys.pointer(pointed[0].snapshot_id.hex), keys.dictionaries()):
            await redis.delete(key)
            await redis.lpush(key, b"x")
        value = keys.value(valued[0].saga_id.hex, valued[0].snapshot_id.hex)
        await redis.delete(value)
        await redis.lpush(value, b"x")
        if loses:
            shard = sound[0].saga_id.hex[0]
            await redis.delete(keys.incarnation(), keys.due(shard), keys.expiry(shard))
            await redis.mset({keys.due(shard): b"x", keys.expiry(shard): b"x"})
    await shop.storage.save_snapshot(broken[1])
    assert await shop.storage.get_snapshot(broken[1].snapshot_id) == broken[1]
    with pytest.raises(HotTierUnavailable):
        await shop.storage.list_snapshots(hot[0].saga_id)
    with pytest.raises(HotTierUnavailable):  # as while Redis is away: a daemon ends it
        await shop.storage.forget(erased[0].saga_id)
    await shop.storage.delete_snapshot(hot[0].snapshot_id)
    for days in (0, 9, 9):
        shop.clock.advance(days * DAY)
        await shop.runtime.db.execute("UPDATE sagaz_tiering.saga_snapshots SET claimed_until = NULL")
        for job in JOBS:
            await shop.run(job)
            await shop.run(job, dry_run=True)
    assert {f"{index}:set-aside" for index in indexes} <= (await quarantined(shop)).keys()
    assert {ref.tier.value for ref in await shop.storage.timeline(sound[0].saga_id)} == {"cold"}
    for one in (sound, broken, pointed, valued):
        assert await shop.storage.list_snapshots(one[0].saga_id) == one[::-1]
    assert await shop.storage.list_snapshots(hot[0].saga_id) == hot[1:]
    assert await shop.storage.list_snapshots(erased[0].saga_id) == []


@pytest.mark.guarantee("G6")
async def test_index_of_turns_that_was_overwritten_is_made_anew(shop: Product) -> None:
    """Something else in its place: set aside, named, and every saga of the shard is due again."""
    saved = pair("payment-order")
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    due = shop.runtime.hot.keys.due(saved[0].saga_id.hex[0])
    async with shop.runtime.hot.connection.pool() as redis:
        await redis.delete(due)
        await redis.set(due, b"x")
    shop.clock.advance(9 * DAY)
    report = await shop.run("age")
    assert report.counts["archived"] == 2
    assert list(await quarantined(shop)) == [f"{due}:set-aside"]
    assert await shop.hot_count() == 0


@pytest.mark.guarantee("G6")
async def test_what_is_in_the_place_of_the_incarnation_is_set_aside(shop: Product) -> None:
    """A key of another type: reads and saves go on, Redis counts as another one until `reconcile` has looked."""
    saved = pair("fast-order")
    await shop.storage.save_snapshot(saved[0])
    assert await shop.storage.list_snapshots(saved[0].saga_id) == saved[:1]
    key = shop.runtime.hot.keys.incarnation()
    async with shop.runtime.hot.connection.pool() as redis:
        await redis.delete(key)
        await redis.lpush(key, b"x")
    assert await shop.storage.get_snapshot(saved[0].snapshot_id) == saved[0]
    await shop.storage.save_snapshot(saved[1])
    assert await shop.storage.list_snapshots(saved[0].saga_id) == saved[::-1]
    await shop.run("reconcile")
    assert await shop.storage.get_snapshot(uuid4()) is None
    assert (await shop.storage.health_check()).status == "healthy"
    async with shop.runtime.hot.connection.pool() as redis:
        assert await redis.lrange(f"{key}:set-aside", 0, -1) == [b"x"]


@pytest.mark.guarantee("G13")
async def test_row_with_the_value_of_another_is_neither_read_nor_packed(shop: Product) -> None:
    """Where only PostgreSQL has them: the reads name both, `age` quarantines it and packs the others."""
    first, second = pair("payment-order"), pair("payment-order")
    for snapshot in (*first, *second):
        await shop.storage.save_snapshot(snapshot)
    async with shop.runtime.hot.connection.pool() as redis:
        await redis.flushdb()
    await shop.runtime.db.execute(
        "UPDATE sagaz_tiering.saga_snapshots SET value = (SELECT value FROM sagaz_tiering.saga_snapshots"
        " WHERE snapshot_id = $2) WHERE snapshot_id = $1",
        first[1].snapshot_id,
        second[1].snapshot_id,
    )
    for ask in (
        shop.storage.get_snapshot(first[1].snapshot_id),
        shop.storage.get_latest_snapshot(first[0].saga_id),
        shop.storage.get_snapshot_at_time(first[0].saga_id, NOW + DAY),
        shop.storage.get_latest_snapshot(first[0].saga_id, before_step=first[1].step_name),
    ):
        with pytest.raises(CorruptRecord, match=str(second[1].snapshot_id)) as caught:
            await ask
        assert str(first[1].snapshot_id) in str(caught.value)
    shop.clock.advance(9 * DAY)
    assert (await shop.run("age")).counts["archived"] == 3
    assert list(await quarantined(shop)) == [str(first[1].snapshot_id)]
    with pytest.raises(CorruptRecord) as listed:
        await shop.storage.list_snapshots(first[0].saga_id)
    assert listed.value.readable == (first[0],)
    assert await shop.storage.list_snapshots(second[0].saga_id) == second[::-1]


@pytest.mark.guarantee("G13")
async def test_frame_in_the_place_of_another_is_refused(shop: Product) -> None:
    """A catalog row that leads to another saga's frame: neither its reads nor a restore give what is there."""
    first, second = pair("payment-order"), pair("payment-order")
    for snapshot in (*first, *second):
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    await shop.runtime.db.execute(
        "UPDATE sagaz_tiering.frames f SET byte_offset = g.byte_offset, byte_length = g.byte_length"
        " FROM sagaz_tiering.frames g WHERE f.saga_id = $1 AND g.saga_id = $2",
        first[0].saga_id,
        second[0].saga_id,
    )
    with pytest.raises(Exception, match=str(first[1].snapshot_id)):
        await shop.storage.get_snapshot(first[1].snapshot_id)
    assert await shop.storage.list_snapshots(second[0].saga_id) == second[::-1]


async def test_lost_value_goes_with_its_saga(shop: Product) -> None:
    """One that only Redis had: it counts as one of the saga, and its entry goes."""
    lost = pair("fast-order")
    for snapshot in lost:
        await shop.storage.save_snapshot(snapshot)
    async with shop.runtime.hot.connection.pool() as redis:
        await redis.delete(shop.runtime.hot.keys.value(lost[1].saga_id.hex, lost[1].snapshot_id.hex))
    with pytest.raises(SnapshotLost):
        await shop.storage.list_snapshots(lost[0].saga_id)
    assert await shop.storage.cleanup_saga(lost[0].saga_id) == 2
    assert await shop.storage.timeline(lost[0].saga_id) == []
