"""Legal holds: what is held neither expires nor can be deleted, in any tier, until it is released."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from support.commands import cli, write_config
from support.payload import saga
from support.tiers import DAY, NOW, Places, Product, config, product, rule
from support.yaml_config import write_config as write_yaml

from sagaz_tiering.catalog import locations
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.drivers.postgresql.queries import load
from sagaz_tiering.errors import ConfigError, LegalHold
from sagaz_tiering.snapshot import SagaSnapshot

PACKED = "payment-order"
HOT = "session"
POLICIES = (
    rule("payments", "payment-*", {"STANDARD_IA": "7d"}, retain="30d"),
    rule("sessions", "session", durability="hot", retain="30d"),
    rule("rest", retain="30d"),
)


SECTIONS: dict[str, Any] = {"policies": POLICIES}
"""A product whose three policies keep snapshots for 30 days: in packs, in Redis alone, in Redis and PostgreSQL."""


async def saved(shop: Product, number: int, name: str) -> list[SagaSnapshot]:
    """A saga of five snapshots from now."""
    snapshots = saga(number, begun=shop.clock.now(), saga_name=name)
    for snapshot in snapshots:
        await shop.storage.save_snapshot(snapshot)
    return snapshots


async def readable(shop: Product, snapshots: list[SagaSnapshot]) -> bool:
    """By every query or by none."""
    storage, saga_id = shop.storage, snapshots[0].saga_id
    listed = await storage.list_snapshots(saga_id)
    assert listed in ([], snapshots[::-1])
    there = bool(listed)
    assert bool(await storage.timeline(saga_id)) is there
    assert (await storage.get_latest_snapshot(saga_id) == snapshots[-1]) is there
    assert (await storage.get_snapshot_at_time(saga_id, snapshots[0].created_at) == snapshots[0]) is there
    for snapshot in snapshots:
        assert (await storage.get_snapshot(snapshot.snapshot_id) == snapshot) is there
    assert (saga_id in [found async for found in storage.saga_ids()]) is there
    return there


@pytest.mark.parametrize("name", [PACKED, HOT, "other"])
async def test_held_saga_outlives_its_retention_and_goes_after_the_release(shop: Product, name: str) -> None:
    """In the cold, the hot and the durable tier; a neighbour goes on time."""
    held, neighbour = await saved(shop, 1, name), await saved(shop, 2, name)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    await shop.storage.hold(held[0].saga_id, "case 12/345", who="counsel")
    shop.clock.advance(30 * DAY)
    assert await readable(shop, held)
    assert not await readable(shop, neighbour)
    for _ in range(2):
        await shop.run("expire")
        shop.clock.advance(2 * DAY)
    assert await readable(shop, held)
    assert all(ref.held for ref in await shop.storage.timeline(held[0].saga_id))
    blockers = (await shop.storage.explain(held[0].snapshot_id)).blockers
    assert "case 12/345" in blockers[0]
    assert "counsel" in blockers[0]

    assert await shop.storage.release(held[0].saga_id, "settled") == 1
    assert not await readable(shop, held)
    await shop.run("expire")
    assert await shop.hot_count() == 0
    for table in ("snapshots", "saga_snapshots"):
        assert await shop.runtime.db.fetchval(f"SELECT count(*) FROM sagaz_tiering.{table}") == 0


async def test_match_holds_what_is_there_and_what_comes(shop: Product) -> None:
    """By pattern over names and statuses; what does not match expires."""
    early = await saved(shop, 1, PACKED)
    match = Match(saga_name="pay[a-z]*-or?er", status=["completed", "failed"])
    hold = await shop.runtime.catalog.holds.place(match, reason="audit", who="auditor", now=NOW)
    late, other = await saved(shop, 2, PACKED), await saved(shop, 3, "payment_order")
    shop.clock.advance(31 * DAY)
    for snapshots in (early, late):
        assert await shop.storage.list_snapshots(snapshots[0].saga_id) == [snapshots[-1]]
    assert await shop.storage.list_snapshots(other[0].saga_id) == []
    await shop.run("expire")
    assert await shop.storage.list_snapshots(early[0].saga_id) == [early[-1]]
    assert hold.subject == "saga_name=pay[a-z]*-or?er; status=completed,failed"


@pytest.mark.parametrize("name", [PACKED, HOT, "other"])
async def test_hold_by_outcome_keeps_whole_sagas_that_end_so(shop: Product, name: str) -> None:
    """Every snapshot of what failed, in every tier and from the moment that it fails; what completed expires."""
    match = Match(saga_name=name, outcome=["failed", "rolled_*"])
    hold = await shop.storage.holder.hold(match, reason="claims", who="auditor")
    assert hold.subject == f"saga_name={name}; outcome=failed,rolled_*"
    failed, fine = await saved(shop, 1, name), await saved(shop, 2, name)
    failed[-1] = replace(failed[-1], status="failed")
    await shop.storage.save_snapshot(failed[-1])
    covered = await shop.storage.covered(match)
    assert (covered.snapshots, covered.sagas) == (5, 1)
    assert all(ref.held for ref in await shop.storage.timeline(failed[0].saga_id))
    assert not any(ref.held for ref in await shop.storage.timeline(fine[0].saga_id))
    with pytest.raises(LegalHold, match="claims"):
        await shop.storage.save_snapshot(replace(failed[0], context={"changed": 1}))
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    shop.clock.advance(30 * DAY)
    for _ in range(2):
        assert await readable(shop, failed)
        assert not await readable(shop, fine)
        assert (await shop.run("expire", dry_run=True)).counts == (await shop.run("expire")).counts
        shop.clock.advance(2 * DAY)
    assert "claims" in (await shop.storage.explain(failed[0].snapshot_id)).blockers[0]
    with pytest.raises(LegalHold, match="claims"):
        await shop.storage.cleanup_saga(failed[0].saga_id)
    await shop.storage.holder.release([hold], reason="settled", who="auditor")
    await shop.run("expire")
    assert await shop.storage.timeline(failed[0].saga_id) == []


async def test_held_snapshot_cannot_be_deleted(shop: Product) -> None:
    """Neither alone nor with its saga; others can."""
    held, other = await saved(shop, 1, PACKED), await saved(shop, 2, PACKED)
    await shop.storage.hold(held[0].saga_id, "case")
    with pytest.raises(LegalHold, match="case"):
        await shop.storage.delete_snapshot(held[0].snapshot_id)
    with pytest.raises(LegalHold):
        await shop.storage.cleanup_saga(held[0].saga_id)
    assert await readable(shop, held)
    assert await shop.storage.delete_snapshot(other[0].snapshot_id)


async def test_hold_waits_for_a_deletion_that_has_looked_already(
    shop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is acknowledged before or after all of a deletion, never between its look and its end."""
    held = await saved(shop, 1, PACKED)
    looked, go = asyncio.Event(), asyncio.Event()
    remove = locations.remove

    async def slow(*args: Any) -> Any:
        looked.set()
        await go.wait()
        return await remove(*args)

    monkeypatch.setattr(locations, "remove", slow)
    deleting = asyncio.create_task(shop.storage.delete_snapshot(held[0].snapshot_id))
    await looked.wait()
    placing = asyncio.create_task(shop.storage.hold(held[0].saga_id, "case"))
    done, _ = await asyncio.wait([placing], timeout=0.3)
    assert not done
    go.set()
    assert await deleting
    await placing
    with pytest.raises(LegalHold):
        await shop.storage.delete_snapshot(held[1].snapshot_id)
    assert await shop.storage.list_snapshots(held[0].saga_id) == held[:0:-1]


async def test_log_keeps_every_order_and_cannot_be_changed(shop: Product) -> None:
    """A hold needs a reason; releasing what is not held is nothing."""
    saga_id = saga(1)[0].saga_id
    for reason in ("  ", "case \x00 one"):
        with pytest.raises(ConfigError):
            await shop.storage.hold(saga_id, reason)
    await shop.storage.hold(saga_id, "case \\ one", who="ada")
    shop.clock.advance(timedelta(hours=1))
    assert await shop.storage.release(saga_id, "over", who="eve") == 1
    assert await shop.storage.release(saga_id) == 0
    newest, oldest = await shop.runtime.catalog.holds.entries(10)
    assert (newest["action"], newest["who"], newest["reason"]) == ("release", "eve", "over")
    assert (oldest["action"], oldest["reason"], oldest["saga_id"]) == ("hold", "case \\ one", saga_id)
    for change in ("DELETE FROM sagaz_tiering.hold_log", "UPDATE sagaz_tiering.hold_log SET who = 'x'"):
        with pytest.raises(asyncpg.RaiseError, match="appended"):
            await shop.runtime.db.execute(change)


async def test_holds_on_the_command_line(shop: Product, database: str, redis_url: str, tmp_path: Path) -> None:
    """Placed, listed, released, logged."""
    settings = write_config(tmp_path, database=database, redis_url=redis_url)
    saga_id = (await saved(shop, 1, PACKED))[0].saga_id
    placed = await cli("hold", saga_id, "--reason", "case 7", "--who", "ada", "--json", "--config", settings)
    assert placed.code == 0, placed.err
    assert placed.document["covers"]["snapshots"] == 5
    on_all = await cli("hold", "--match", "saga_name=payment-*", "--reason", "audit", "--config", settings)
    assert "also written to the bucket, so it survives the loss of PostgreSQL" in on_all.out
    listed = await cli("holds", "--config", settings)
    assert "case 7" in listed.out
    assert "saga_name=payment-*" in listed.out
    assert (await cli("release", saga_id, "--reason", "over", "--config", settings)).code == 0
    assert (await cli("release", saga_id, "--reason", "over", "--config", settings)).code == 8
    assert (await cli("hold", "--reason", "x", "--config", settings)).code == 2
    assert (await cli("hold", saga_id, "--config", settings)).code == 2
    for pair, words in (
        ("name=x", "no key 'name'\nhint: did you mean saga_name or step_name?"),
        ("outcom=x", "did you mean outcome?"),
        ("saga_name", "is not KEY=PATTERN"),
    ):
        refused = await cli("hold", "--match", pair, "--reason", "y", "--config", settings)
        assert (refused.code, words in refused.err) == (2, True), refused.err
    log = await cli("holds", "--log", "--json", "--config", settings)
    assert [entry["action"] for entry in log.document["log"]] == ["release", "hold", "hold"]


@pytest.mark.guarantee("G14")
async def test_hold_that_holds_nothing_says_so(shop: Product, places: Places, tmp_path: Path) -> None:
    """A mistyped id or pattern is exit code 8 and no hold; what is meant ahead is placed with --future."""
    settings = write_yaml(tmp_path / "t.yaml", **places, policies=POLICIES)
    await saved(shop, 1, PACKED)
    for on in ([str(uuid4())], ["--match", "saga_name=Payment-*"]):
        refused = await cli("hold", *on, "--reason", "case", "--config", settings)
        assert refused.code == 8
        assert "--future" in refused.err
        assert await shop.runtime.catalog.holds.in_force() == []
        ahead = await cli("hold", *on, "--reason", "case", "--future", "--config", settings)
        assert ahead.code == 0, ahead.err
        assert "covers now: 0 snapshots of 0 sagas" in ahead.out
        [hold] = await shop.runtime.catalog.holds.in_force()
        await shop.runtime.catalog.holds.release([hold.hold_id], reason="r", who="w", now=shop.clock.now())
    for more, code in (((), 8), (("--future", "--json"), 0)):
        told = await cli("hold", "--match", "saga_name=^pay(.*)$", "--reason", "case", *more, "--config", settings)
        assert told.code == code
        assert "warning: ^pay(.*)$ looks like a regular expression" in told.err
        assert "did you mean pay*?" in told.err


@pytest.mark.guarantee("G14")
async def test_hold_that_redis_does_not_know_yet_says_so(own_redis: Any, database: str, tmp_path: Path) -> None:
    """Placed all the same while Redis does not answer; whatever job runs next marks it there, `expire` or not."""
    server = await own_redis()
    places: dict[str, Any] = {"database": database, "redis_url": server.url, "cold": f"{tmp_path}/cold"}
    settings = write_yaml(tmp_path / "t.yaml", **places, policies=POLICIES)
    async with product(config(**{**places, "cold": tmp_path / "cold"}, policies=POLICIES)) as shop:
        first, second = await saved(shop, 1, HOT), await saved(shop, 2, PACKED)
        server.pause()
        try:
            said = await cli("hold", first[0].saga_id, "--reason", "case", "--config", settings)
            told = await cli("hold", second[0].saga_id, "--reason", "case", "--json", "--config", settings)
            await shop.run("scrub")  # which does without
        finally:
            server.resume()
        assert (said.code, told.code) == (0, 0)
        assert "not yet in Redis" in said.out
        assert "sagaz-tiering job reconcile --once" in said.out
        assert told.document["in_redis"] is False
        assert "covers now: at least 0 snapshots" in said.out
        assert told.document["covers"]["durable"] == 5
        marks = [shop.runtime.hot.keys.held_mark(one[0].saga_id.hex) for one in (first, second)]
        async with shop.runtime.hot.connection.pool() as client:
            assert await client.exists(*marks) == 0
            await shop.run("scrub")
            assert await client.exists(*marks) == 2
            await client.delete(*marks)
            await shop.run("scrub")
            assert await client.exists(*marks) == 0  # once is enough: what Redis loses is put back by others
        later = await cli("hold", second[0].saga_id, "--reason", "again", "--json", "--config", settings)
        assert later.document["in_redis"] is True


@pytest.mark.guarantee("G14")
async def test_hold_tells_what_it_covers(shop: Product, places: Places, tmp_path: Path) -> None:
    """By tier, for a saga and for a match, what only Redis has included; and whether of sagas only a part."""
    settings = write_yaml(tmp_path / "t.yaml", **places, policies=POLICIES)
    packed = await saved(shop, 1, PACKED)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    again = [replace(one, snapshot_id=uuid4(), created_at=shop.clock.now()) for one in packed[:2]]
    for snapshot in again:
        await shop.storage.save_snapshot(snapshot)
    hot = await saved(shop, 2, HOT)
    assert str(await shop.storage.covered(packed[0].saga_id)) == "7 snapshots of 1 saga (hot 2, durable 0, archived 5)"
    told = await cli("hold", packed[0].saga_id, "--reason", "case", "--config", settings)
    assert "covers now: 7 snapshots of 1 saga (hot 2, durable 0, archived 5)" in told.out
    assert "whole sagas" not in told.out
    match = ["--match", "saga_name=payment-*", "--match", f"saga_name={HOT}"]
    told = await cli("hold", *match, "--reason", "audit", "--json", "--config", settings)
    covers = {"snapshots": 12, "sagas": 2, "hot": 5, "durable": 2, "archived": 5, "exact": True}
    assert told.document["covers"] == covers
    part = await cli("hold", *match, "--match", "status=completed", "--reason", "audit", "--config", settings)
    assert f"{sum(one.status == 'completed' for one in (*packed, *again, *hot))} snapshots of 2 sagas" in part.out
    assert "of each saga only the snapshots that match" in part.out


async def test_holds_are_read_in_pages(shop: Product, database: str, redis_url: str, tmp_path: Path) -> None:
    """Oldest first, those of one instant too; what is released meanwhile is missed by no page."""
    holds = shop.runtime.catalog.holds
    for number in range(12):
        if number % 4 == 0:
            shop.clock.advance(DAY)
        await shop.storage.hold(uuid4(), f"case {number}")
    everything = await holds.in_force()
    found, cursor = await holds.page(5)
    assert (found, await holds.in_force(None, 5)) == (everything[:5], everything[:5])
    await shop.storage.holder.release(found[-1:], reason="done", who="a court")
    behind, cursor = await holds.page(5, cursor)
    last, end = await holds.page(5, cursor)
    assert (behind + last, end) == (everything[5:], None)
    assert await holds.named(everything[7].hold_id) == await holds.named(everything[7].saga_id) == [everything[7]]
    for cursor in ("", "x", "2026-01-01/", f"2026-01-01T00:00:00/{uuid4()}", f"{NOW.isoformat()}/x"):
        with pytest.raises(ConfigError):
            await holds.page(5, cursor)
    written = write_config(tmp_path, database=database, redis_url=redis_url)
    listed, arguments = [], ["holds", "--config", written, "--limit", 4, "--json"]
    page = await cli(*arguments)
    while page.document["next"]:
        listed += page.document["holds"]
        page = await cli(*arguments, "--cursor", page.document["next"])
    assert [each["hold_id"] for each in (*listed, *page.document["holds"])] == [
        str(each.hold_id) for each in everything if each != found[-1]
    ]
    assert (await cli(*arguments, "--cursor", "x")).code == 2


async def test_no_list_of_holds_reads_all_of_them(shop: Product) -> None:
    """PostgreSQL goes by an index for a page, for the holds that an id names, and for the log of some sagas."""
    db = shop.runtime.db
    await db.execute(
        "INSERT INTO sagaz_tiering.hold_log (hold_id, action, at, who, reason, saga_id) "
        "SELECT gen_random_uuid(), 'hold', now(), 'x', 'x', gen_random_uuid() FROM generate_series(1, 20000)"
    )
    await db.execute(
        "INSERT INTO sagaz_tiering.holds (hold_id, saga_id, reason, placed_by, placed_at) "
        "SELECT hold_id, saga_id, reason, who, at FROM sagaz_tiering.hold_log"
    )
    await db.execute("ANALYZE sagaz_tiering.hold_log, sagaz_tiering.holds")
    queries = load("sagaz_tiering.catalog", "holds")
    for name, *arguments in (
        ("page", 50, NOW, uuid4()),
        ("page", 50, None, None),
        ("named", uuid4()),
        ("entries", 50, 10_000),
        ("entries_after", 10_000, 50),
        ("entries_of", 10, 1000, [uuid4() for _ in range(20)]),
    ):
        rows = await db.fetch(f"EXPLAIN {queries[name]}", *arguments)
        plan = "\n".join(row[0] for row in rows)
        assert "Seq Scan" not in plan, plan
        if name == "entries_of":
            assert "hold_log_saga" in plan, plan
