"""What is wrong in the bucket or the catalog is found and named, harms no neighbour, and is repaired where possible."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.payload import snapshots
from support.servers import fresh_database
from support.tiers import DAY, Places, Product, config, product
from support.yaml_config import write_config

from sagaz_tiering.catalog.mark import parse
from sagaz_tiering.clock import SystemClock
from sagaz_tiering.embedded import PostgresServer
from sagaz_tiering.errors import CatalogBehind, CorruptData, CorruptPack
from sagaz_tiering.jobs import run_job
from sagaz_tiering.jobs.context import Tally
from sagaz_tiering.operations.rebuild import adopt
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage_class import StorageClass

POLICIES: list[dict[str, Any]] = [{"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}]}]
PACK = {"pack": {"target": "16KiB", "max_frame": "16KiB"}}


SECTIONS: dict[str, Any] = {**PACK, "policies": POLICIES}
"""A product with many small packs in a directory."""


async def aged(shop: Product, sagas: int = 24) -> list[SagaSnapshot]:
    """Sagas in several packs."""
    saved = list(snapshots(sagas, created_at=shop.clock.now()))
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    await shop.run("age")
    assert await shop.hot_count() == 0
    return saved


def objects(tmp_path: Path) -> list[Path]:
    """The folders of the packs, in key order."""
    return sorted((tmp_path / "cold" / "objects" / "packs").rglob("*.pack.object"))


def change_record(folder: Path, **fields: Any) -> None:
    """Alter what the directory says of an object, as a bucket would."""
    path = folder / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


async def unreadable(shop: Product, saved: list[SagaSnapshot]) -> set[Any]:
    """Snapshots that cannot be read; every other one is equal."""
    found = set()
    for snapshot in saved:
        try:
            assert await shop.storage.get_snapshot(snapshot.snapshot_id) == snapshot
        except CorruptData:
            found.add(snapshot.snapshot_id)
    return found


async def quarantined(shop: Product) -> dict[str, str]:
    """Reasons by item."""
    return {one.item: one.reason for one in await shop.runtime.catalog.quarantine.items(100)}


async def test_sound_store_has_no_findings(shop: Product) -> None:
    """Every pack is looked into once a cycle."""
    await aged(shop)
    report = await shop.run("scrub")
    packs = len(await shop.object_keys())
    assert packs > 3
    assert report.counts["packs_sound"] == packs
    assert report.notes == []
    again = await shop.run("scrub")
    assert again.counts == {"objects": packs, "packs_looked_into_before": packs}
    assert f"{packs} packs were looked into within jobs.scrub_cycle already" in again.notes[0]
    assert (await shop.run("scrub", dry_run=True)).counts == again.counts
    shop.clock.advance(31 * DAY)
    assert (await shop.run("scrub")).counts["packs_sound"] == packs
    assert await quarantined(shop) == {}


async def test_damage_after_a_look_is_named_by_a_read_and_by_a_look_at_all(shop: Product, tmp_path: Path) -> None:
    """A read says which object and frame, and what to do; a scrub that is asked to looks into packs that it knows."""
    saved = await aged(shop)
    await shop.run("scrub")
    [victim, *others] = objects(tmp_path)
    raw = bytearray((victim / "data").read_bytes())
    raw[100] ^= 1
    (victim / "data").write_bytes(bytes(raw))
    name = victim.relative_to(tmp_path / "cold" / "objects").as_posix().removesuffix(".object")
    broken = await unreadable(shop, saved)
    with pytest.raises(CorruptPack, match=rf"{name}, the frame at byte \d+: frame: the payload") as caught:
        await shop.storage.get_snapshot(min(broken))
    assert "job scrub --once --all" in caught.value.hint

    assert "altered" not in (await shop.run("scrub")).counts
    shop.clock.advance(DAY)
    context = replace(shop.runtime.job_context(), all_packs=True)
    dry = await run_job("scrub", context, dry_run=True)
    real = await run_job("scrub", context)
    assert dry.counts["packs_to_look_into"] == real.counts["packs_to_look_into"] == 1 + len(others)
    assert (real.counts["altered"], real.counts["packs_sound"]) == (1, len(others))
    assert list(await quarantined(shop)) == [name]


async def test_packs_beyond_the_budget_of_a_scrub_are_counted(places: Places) -> None:
    """They are left to later runs, and a dry run says how many too."""
    settings = config(**places, **PACK, policies=POLICIES, jobs={"scrub_requests": 9, "scrub_bytes": 1})
    async with product(settings) as shop:
        await aged(shop)
        packs = len(await shop.object_keys())
        dry, real = await shop.run("scrub", dry_run=True), await shop.run("scrub")
        assert dry.counts["packs_left"] == real.counts["packs_left"] == packs - real.counts["packs_to_look_into"] > 0


async def test_scrub_that_is_stopped_says_so_of_what_it_left(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that its budget is spent."""
    await aged(shop)
    context, real = shop.runtime.job_context(), shop.runtime.catalog.scrubbing.oldest

    async def oldest(*asked: Any) -> Any:
        context.stopping.set()
        return await real(*asked)

    monkeypatch.setattr(shop.runtime.catalog.scrubbing, "oldest", oldest)
    report = await run_job("scrub", context)
    assert report.counts["packs_left"] == len(await shop.object_keys())
    assert report.notes == [f"{report.counts['packs_left']} packs are left to later runs: it was stopped"]


async def test_planted_damage_is_named_and_harms_no_neighbour(shop: Product, tmp_path: Path) -> None:
    """Truncated, a flipped byte in a frame, in the footer, deleted, a foreign object, two swapped."""
    saved = await aged(shop, sagas=60)
    packs = objects(tmp_path)
    assert len(packs) >= 7
    truncated, frame, footer, deleted, left, right, *others = packs
    data = (truncated / "data").read_bytes()
    (truncated / "data").write_bytes(data[: len(data) // 2])
    change_record(truncated, size=len(data) // 2)
    for folder, at in ((frame, 100), (footer, -60)):
        raw = bytearray((folder / "data").read_bytes())
        raw[at] ^= 1
        (folder / "data").write_bytes(bytes(raw))
    shutil.rmtree(deleted)
    left.rename(tmp_path / "aside")
    right.rename(left)
    (tmp_path / "aside").rename(right)
    foreign = tmp_path / "cold" / "objects" / "packs" / "readme.txt.object"
    shutil.copytree(others[0], foreign)

    def key(folder: Path) -> str:
        relative = folder.relative_to(tmp_path / "cold" / "objects")
        return str(relative).removesuffix(".object")

    harmed = {key(folder) for folder in (truncated, frame, footer, deleted, left, right)}
    rows = await shop.runtime.db.fetch(
        "SELECT s.snapshot_id FROM sagaz_tiering.snapshots s JOIN sagaz_tiering.packs p USING (pack_id)"
        " WHERE p.object_key = ANY($1::text[])",
        list(harmed),
    )
    assert await unreadable(shop, saved) <= {row["snapshot_id"] for row in rows}
    preview = await shop.run("scrub", dry_run=True)
    assert (preview.counts["missing"], preview.counts["foreign"]) == (1, 1)
    report = await shop.run("scrub")
    found = await quarantined(shop)
    assert set(found) == harmed | {"packs/readme.txt"}
    assert found[key(truncated)].startswith("truncated")
    assert found[key(deleted)].startswith("missing")
    assert found[key(frame)].startswith("altered")
    assert found[key(footer)].startswith("altered")
    assert "swapped" in found[key(left)] or "altered" in found[key(left)] or "truncated" in found[key(left)]
    assert found["packs/readme.txt"].startswith("foreign")
    assert report.counts["packs_sound"] == len(others)
    for job in ("transition", "compact", "collect", "expire"):
        await shop.run(job)
    assert foreign.exists()


async def test_lost_pack_whose_snapshots_are_still_near_is_packed_anew(
    shop: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash left hot copies, then the object was lost: nothing is."""
    saved = list(snapshots(10, created_at=shop.clock.now()))
    for snapshot in saved:
        await shop.storage.save_snapshot(snapshot)
    shop.clock.advance(9 * DAY)
    context = shop.runtime.job_context()
    with monkeypatch.context() as patch:
        patch.setattr(context.hot.queue, "evict_claimed", crash)
        with pytest.raises(Crash):
            await shop.run("age")
    for folder in objects(tmp_path):
        shutil.rmtree(folder)
    report = await shop.run("scrub")
    assert report.counts.get("to_be_packed_anew"), (report, await quarantined(shop))
    for job in ("age", "expire"):
        shop.clock.advance(2 * DAY)
        await shop.run(job)
    assert await unreadable(shop, saved) == set()
    assert await shop.hot_count() == 0


class Crash(BaseException):
    """Stands for the end of the process."""


async def crash(metas: Any, _tokens: Any = None) -> int:
    """The process ended before the eviction."""
    if metas:
        raise Crash
    return 0


async def test_class_changed_behind_our_back_is_noted(shop: Product, tmp_path: Path) -> None:
    """By a lifecycle rule, say; and wrong places in the catalog are corrected from the footer."""
    saved = await aged(shop)
    change_record(objects(tmp_path)[0], storage_class="GLACIER_IR")
    report = await shop.run("scrub")
    assert report.counts["class"] == 1
    classes = {pack.storage_class for pack in await shop.runtime.catalog.packs.totals()}
    assert StorageClass.GLACIER_IR in classes
    await shop.runtime.db.execute("UPDATE sagaz_tiering.frames SET byte_offset = byte_offset + 1")
    assert await unreadable(shop, saved)
    shop.clock.advance(31 * DAY)
    assert (await shop.run("scrub")).counts["repaired"] > 0
    assert await unreadable(shop, saved) == set()


async def test_pack_archived_behind_our_back_stops_no_transition(shop: Product, tmp_path: Path) -> None:
    """The catalog follows the bucket, and the other packs move."""
    from sagaz_tiering.policy import Policy, PolicySet

    await aged(shop)
    change_record(objects(tmp_path)[0], storage_class="GLACIER")
    rule = {"to": "GLACIER", "after": "8d"}
    colder = Policy.model_validate({**POLICIES[0], "move": [*POLICIES[0]["move"], rule], "even_if_costlier": True})
    shop.runtime.in_force.policies = PolicySet([colder])
    shop.clock.advance(3 * DAY)
    report = await shop.run("transition")
    assert report.counts["class_noted"] == 1
    assert report.counts["packs"] == len(objects(tmp_path)) - 1
    assert {total.storage_class for total in await shop.runtime.catalog.packs.totals()} == {StorageClass.GLACIER}


async def test_old_catalog_dump_deletes_nothing(
    shop: Product, postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """No job runs on it; and packs that a catalog does not know are never collected, but read in by `catalog adopt`."""
    saved = await aged(shop)
    keys = await shop.object_keys()
    identity = await shop.runtime.catalog.identity()
    cold = {"url": f"file://{tmp_path / 'cold'}", **PACK}
    async with fresh_database(postgres_server) as older:
        settings = config(database=older, redis_url=redis_url, cold=cold, policies=POLICIES)
        async with product(settings, now=shop.clock.now() + 10 * DAY) as dump:
            assert await dump.runtime.catalog.take_identity(identity)
            with pytest.raises(CatalogBehind):
                await dump.run("collect")
            mark = parse(await dump.runtime.objects.get("owner.json"))
            assert mark is not None
            await dump.runtime.catalog.ownership.take_mark(mark.counter, mark.nonce, mark.journal)
            for _ in range(3):
                report = await dump.run("collect")
                dump.clock.advance(2 * DAY)
            assert report.counts["unknown"] == len(keys)
            assert await dump.object_keys() == keys
            assert all("catalog adopt" in reason for reason in (await quarantined(dump)).values())
            await adopt(dump.runtime.job_context(), Tally(None))
            assert await unreadable(dump, saved) == set()
            assert "unknown" not in (await dump.run("collect")).counts


async def test_failing_pack_is_left_alone_after_its_budget(shop: Product, tmp_path: Path) -> None:
    """The job goes on with the rest; `quarantine retry` gives it another try."""
    from sagaz_tiering.policy import Policy, PolicySet

    await aged(shop)
    broken = objects(tmp_path)[0]
    (broken / "data").write_bytes(bytes(10))
    change_record(broken, size=10)
    rule = {"to": "GLACIER", "after": "8d"}
    moves = [*POLICIES[0]["move"], rule]
    colder = Policy.model_validate({**POLICIES[0], "move": moves, "even_if_costlier": True})
    shop.runtime.in_force.policies = PolicySet([colder])
    shop.clock.advance(3 * DAY)
    failed = [(await shop.run("transition")).counts.get("failed", 0) for _ in range(7)]
    assert failed == [1, 1, 1, 1, 1, 0, 0]
    (item,) = await shop.runtime.catalog.quarantine.items(10)
    assert (item.state, item.attempts) == ("QUARANTINED", 5)


async def test_quarantine_on_the_command_line(database: str, redis_url: str, tmp_path: Path) -> None:
    """Listed, tried again once it is sound, dropped."""
    places: dict[str, Any] = {
        "database": database,
        "redis_url": redis_url,
        "cold": {"url": f"file://{tmp_path / 'cold'}", **PACK},
        "policies": POLICIES,
    }
    async with product(config(**places), now=SystemClock().now() - 9 * DAY) as shop:
        await aged(shop)
    path = write_config(tmp_path / "t.yaml", **places)
    folder = objects(tmp_path)[0]
    good = (folder / "data").read_bytes()
    (folder / "data").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert (await cli("job", "scrub", "--once", "--config", path)).code == 0
    listed = await cli("quarantine", "list", "--json", "--config", path)
    (item,) = listed.document["items"]
    (folder / "data").write_bytes(good)
    retried = await cli("quarantine", "retry", item["item"], "--json", "--config", path)
    assert retried.document["sound"] is True, retried.err
    assert "nothing" in (await cli("quarantine", "list", "--config", path)).out
    assert (await cli("quarantine", "drop", item["item"], "--config", path)).code == 8
