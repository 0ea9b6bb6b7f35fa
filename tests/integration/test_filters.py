"""Commands that take a saga by its id take sagas by what they are found by, too, and say which before they act."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli, write_config
from support.payload import saga
from support.tiers import DAY, Places, Product, config, product

from sagaz_tiering.clock import SystemClock
from sagaz_tiering.errors import ConfigError, InvalidSnapshot
from sagaz_tiering.exports.verify import verify_export
from sagaz_tiering.snapshot import SagaSnapshot

ATTRIBUTES = [{"name": "order_id", "path": "order.number"}]
TEXT = 'attributes: [{name: order_id, path: "order.number"}]\n'


@pytest.fixture
async def shop(places: Places):
    """A product that finds sagas by their order, at the time of the commands that are run beside it."""
    async with product(config(**places, attributes=ATTRIBUTES), now=SystemClock().now()) as opened:
        yield opened


@pytest.fixture
def written(database: str, redis_url: str, tmp_path: Path) -> Path:
    """The same as a file."""
    return write_config(tmp_path, database=database, redis_url=redis_url, policies=TEXT)


async def filled(shop: Product) -> list[list[SagaSnapshot]]:
    """Four sagas, two of them of one name, each with its order."""
    saved = []
    for number, name in enumerate(("payment", "payment", "order", "session")):
        some = [
            replace(each, context={**each.context, "order": {"number": f"A-{number}"}})
            for each in saga(number, begun=shop.clock.now() - DAY, saga_name=name)
        ]
        for each in some:
            await shop.storage.save_snapshot(each)
        saved.append(some)
    return saved


async def test_timeline_takes_the_only_saga_that_is_found(shop: Product, written: Path) -> None:
    """Of several it names each and shows none; of none it says so."""
    saved = await filled(shop)
    one = await cli("timeline", "--config", written, "--attribute", "order_id=A-2", "--json")
    assert (one.code, one.document["saga_id"]) == (0, str(saved[2][0].saga_id))
    several = await cli("timeline", "--config", written, "--name", "pay*")
    assert several.code == 2
    assert all(str(some[0].saga_id) in several.err for some in saved[:2])
    assert (await cli("timeline", "--config", written, "--attribute", "order_id=A-9")).code == 8
    assert (await cli("timeline", "--config", written)).code == 2
    both = await cli("timeline", saved[0][0].saga_id, "--config", written, "--name", "pay*")
    assert both.code == 2


async def test_forget_asks_with_the_count_and_keeps_what_is_held(shop: Product, written: Path) -> None:
    """Without a yes nothing is erased; with it all that was found is, but for what a hold keeps."""
    saved = await filled(shop)
    asked = await cli("forget", "--config", written, "--name", "pay*", "--reason", "a request")
    assert asked.code == 13
    assert "erase 2 sagas with 10 snapshots" in asked.err
    assert str(saved[0][0].saga_id) in asked.err
    assert await shop.storage.list_snapshots(saved[0][0].saga_id)
    await shop.storage.hold(saved[1][0].saga_id, "case 1")
    done = await cli("forget", "--config", written, "--name", "pay*", "--reason", "a request", "--yes", "--json")
    assert done.code == 9, done.err
    assert [each["saga_id"] for each in done.document["erased"]] == [str(saved[0][0].saga_id)]
    assert [each["saga_id"] for each in done.document["refused"]] == [str(saved[1][0].saga_id)]
    assert [len(await shop.storage.timeline(some[0].saga_id)) for some in saved] == [0, 5, 5, 5]


async def test_hold_is_placed_on_each_saga_that_is_found(shop: Product, written: Path) -> None:
    """On one at once, on several after a yes; each by its id."""
    saved = await filled(shop)
    one = await cli("hold", "--config", written, "-a", "order_id=A-3", "--reason", "case 3", "--json")
    assert (one.code, one.document["holds"][0]["saga_id"]) == (0, str(saved[3][0].saga_id))
    assert (await cli("hold", "--config", written, "--name", "pay*", "--reason", "case 4")).code == 13
    several = await cli("hold", "--config", written, "--name", "pay*", "--reason", "case 4", "--yes", "--json")
    assert several.code == 0, several.err
    held = {hold.saga_id for hold in await shop.runtime.catalog.holds.in_force()}
    assert held == {some[0].saga_id for some in (saved[0], saved[1], saved[3])}
    both = await cli("hold", "--config", written, "--name", "pay*", "--match", "saga_name=x", "--reason", "x")
    assert both.code == 2


async def test_restore_asks_for_each_saga_that_is_found(shop: Product, written: Path) -> None:
    """What is in no pack needs none, and says so; several are asked about, since what S3 is asked for is billed."""
    await filled(shop)
    asked = await cli("restore", "--config", written, "--name", "pay*")
    assert asked.code == 13
    assert "2 sagas" in asked.err
    done = await cli("restore", "--config", written, "--attribute", "order_id=A-1")
    assert done.code == 8
    assert "nothing of that is in a pack" in done.err


async def test_export_takes_what_is_found(shop: Product, written: Path, tmp_path: Path) -> None:
    """By the command line and from code, and the manifest says what was asked for."""
    saved = await filled(shop)
    none = await cli("export", "--config", written, "--out", tmp_path / "none", "-a", "order_id=NOPE")
    assert none.code == 0
    assert "warning: no saga is meant, so the export is complete and has nothing in it" in none.out
    made = await cli("export", "--config", written, "--out", tmp_path / "one", "-a", "order_id=A-0", "--json")
    assert made.code == 0, made.err
    assert made.document["counts"]["exported"] == 5
    report = await shop.storage.export(
        tmp_path / "two", saga_name="pay*", created=(shop.clock.now() - 2 * DAY, None), attributes={"order_id": "A-1"}
    )
    assert (report.counts.selected, report.counts.exported) == (1, 5)
    manifest: Any = verify_export(tmp_path / "two").manifest
    assert manifest.asked_for["attributes"] == {"order_id": "A-1"}
    assert manifest.parts[0].first_saga == saved[1][0].saga_id
    assert (await cli("export", "--config", written, "--out", tmp_path / "x", "--saga", "x", "--name", "y")).code == 2


async def test_empty_id_is_no_id_that_was_left_out(shop: Product, written: Path) -> None:
    """What a script gives of a variable that is not set is refused, and nothing is done by the filters alone."""
    saved = await filled(shop)
    because = ("--reason", "a slip", "--yes")
    for command, *more in (("hold", *because), ("forget", *because), ("restore", "--yes"), ("timeline",)):
        refused = await cli(command, "", "--name", "*", "--config", written, *more)
        assert refused.code == 2, (command, refused.err)
        assert "the SAGA_ID is empty" in refused.err
    assert (await cli("hold", "", "--match", "saga_name=*", "--config", written, *because)).code == 2
    assert (await cli("export", "--out", written.parent / "x", "--config", written, "--saga", "")).code == 2
    for option in ("--after", "--before", "--tier"):
        given = (saved[0][0].saga_id, option, "")
        assert (await cli("restore", *given, "--config", written, "--yes")).code == 2, option
    assert not await shop.runtime.catalog.holds.in_force()
    assert not (await shop.runtime.catalog.restores.newest(10))
    assert [len(await shop.storage.timeline(some[0].saga_id)) for some in saved] == [5, 5, 5, 5]
    for way in ({"saga_name": ""}, {"status": []}, {"attributes": {"order_id": []}}, {"attributes": {"order_id": ""}}):
        with pytest.raises(ConfigError):
            await shop.storage.find(**way)
        with pytest.raises(ConfigError):
            await shop.storage.export(written.parent / "y", **way)
    nothing = await shop.storage.export(written.parent / "z", saga_ids=[])
    assert (nothing.counts.selected, nothing.counts.exported) == (0, 0)
    for wrong in ("", None):
        with pytest.raises(InvalidSnapshot):
            await shop.storage.hold(wrong, "a slip")
        with pytest.raises(InvalidSnapshot):
            await shop.storage.forget(wrong, reason="a slip")
    with pytest.raises(InvalidSnapshot):
        await shop.storage.restore("")
    with pytest.raises(ConfigError):
        await shop.storage.restore()
    assert await shop.storage.restore(snapshot_ids=[]) is None
