"""Steps of a saga side by side: by name, number, time and id, over tiers and sagas, on the command line too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonpatch
import pytest
from support.commands import cli, write_config
from support.snapshots import OTHER_SAGA, SAGA, make
from support.tiers import DAY, Places, Product, config, product

from sagaz_tiering.errors import NoSuchSnapshot, SnapshotArchived
from sagaz_tiering.snapshot import SagaSnapshot, Tier

POLICIES: list[dict[str, Any]] = [
    {"name": "all", "match": {}, "move": [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "30d"}]}
]
BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def order(at: int, step: str, status: str = "executing", **context: Any) -> SagaSnapshot:
    """Snapshot `at` of an order's saga."""
    return make(at, step_name=step, status=status, context=context, created_at=BEGUN + at * MINUTE, completed_steps=[])


STEPS = (
    order(0, "reserve", total=Decimal("10.00"), items=[{"sku": "A"}, {"sku": "B"}]),
    order(1, "charge", total=Decimal("12.50"), items=[{"sku": "B"}], tags={"new"}),
    order(2, "charge", "failed", total=Decimal("12.50"), items=[{"sku": "B"}], tags={"new", "late"}),
)


@pytest.fixture
async def shop(places: Places):
    """A product with a saga that charged twice."""
    async with product(config(**places, policies=POLICIES), now=BEGUN + timedelta(hours=1)) as opened:
        for each in STEPS:
            await opened.storage.save_snapshot(each)
        yield opened


async def paths(shop: Product, *which: Any, **kinds: Any) -> list[str]:
    """What differs."""
    found = await shop.storage.diff(SAGA, *which, **kinds)
    return [f"{each.kind} {each.path}" for each in found.changes]


RESERVE_TO_CHARGE = ["changed /context/total", "removed /context/items/0", "added /context/tags"]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("reserve", "charge#1"),
        (BEGUN, BEGUN + 1.5 * MINUTE),
        ("2026-03-01T12:00:30Z", "2026-03-01T13:01:00+01:00"),
        (STEPS[0].snapshot_id, str(STEPS[1].snapshot_id)),
    ],
)
async def test_snapshots_are_named_as_people_know_them(shop: Product, a: Any, b: Any) -> None:
    """By step and number, instant or id; in Redis and in a pack."""
    assert await paths(shop, a, b) == RESERVE_TO_CHARGE
    shop.clock.advance(10 * DAY)
    await shop.run("age")
    assert {ref.tier for ref in await shop.storage.timeline(SAGA)} == {Tier.COLD}
    assert await paths(shop, a, b) == RESERVE_TO_CHARGE


async def test_newest_counts_of_a_step_that_ran_several_times(shop: Product) -> None:
    """And without `b` the newest of the saga."""
    assert await paths(shop, "charge#1", "charge") == ["changed /status", "added /context/tags"]
    assert await paths(shop, "charge#1") == ["changed /status", "added /context/tags"]
    assert await paths(shop, "charge", "charge#2") == []


async def test_diff_has_typed_values_and_a_patch_of_the_whole_snapshot(shop: Product) -> None:
    """Decimals stay Decimals; the patch makes of what `show` prints of one what it prints of the other."""
    found = await shop.storage.diff(SAGA, "reserve", "charge#1")
    total = next(each for each in found.changes if each.path == "/context/total")
    assert (total.before, total.after) == (Decimal("10.00"), Decimal("12.50"))
    assert (found.before, found.after) == STEPS[:2]
    assert {each["path"] for each in found.patch} >= {"/snapshot_id", "/step_name", "/created_at"}


async def test_two_sagas_are_compared(shop: Product) -> None:
    """The same step of both, or any of each; an id of the other saga is no answer."""
    twin = make(9, saga_id=OTHER_SAGA, step_name="reserve", context={**STEPS[0].context, "vip": True})
    await shop.storage.save_snapshot(twin)
    assert "added /context/vip" in await paths(shop, "reserve", "reserve", other=OTHER_SAGA)
    assert "added /context/vip" in await paths(shop, "reserve", other=str(OTHER_SAGA))
    with pytest.raises(NoSuchSnapshot, match=str(OTHER_SAGA)):
        await shop.storage.diff(SAGA, twin.snapshot_id, "reserve")


async def test_what_is_not_there_is_told_with_what_is(shop: Product) -> None:
    """A step, a number, a time before the first, a time without a zone, a saga."""
    for which, said, hint in (
        ("ship", "'ship'", "reserve (2026-03-01T12:00:00+00:00), charge#1"),
        ("charge#3", "charge#3", "charge#2 (2026-03-01T12:02:00+00:00)"),
        ("charge#0", "charge#0", "charge#1"),
        (BEGUN - MINUTE, "2026-03-01T11:59:00+00:00", "reserve"),
        ("2026-03-01T12:00:00", "no zone", "2026-03-01T12:00:00Z"),
        (uuid4(), "no snapshot", "reserve"),
    ):
        with pytest.raises(NoSuchSnapshot) as caught:
            await shop.storage.diff(SAGA, "reserve", which)
        assert said in str(caught.value)
        assert hint in caught.value.hint
    with pytest.raises(NoSuchSnapshot, match="no snapshots of saga"):
        await shop.storage.diff(uuid4(), "reserve", "charge")
    await shop.storage.save_snapshot(order(5, "charge#1", total=1))
    assert "changed /context/total" in await paths(shop, "charge", "charge#1")  # a step of that very name comes first


async def test_archived_snapshots_answer_with_how_to_restore(shop: Product) -> None:
    """Both at once; the steps that are readable are told of all the same."""
    shop.clock.advance(10 * DAY)
    await shop.run("age")
    shop.clock.advance(30 * DAY)
    await shop.run("transition")
    with pytest.raises(SnapshotArchived) as caught:
        await shop.storage.diff(SAGA, "reserve", "charge")
    assert set(caught.value.snapshot_ids) == {STEPS[0].snapshot_id, STEPS[2].snapshot_id}
    assert "sagaz-tiering restore" in caught.value.hint
    late, later = (make(at, step_name="refund", created_at=shop.clock.now() + at * MINUTE) for at in (0, 1))
    for each in (late, later):
        await shop.storage.save_snapshot(make(each.step_index + 90, step_name="refund", created_at=each.created_at))
    told = [each async for each in shop.storage.changes(SAGA)]
    assert [each.unknown for each in told] == [*["archived in GLACIER"] * 3, "the one before it cannot be read", None]


async def test_changes_of_each_step_are_told(shop: Product) -> None:
    """Since the one before it, the first from nothing."""
    told = [each async for each in shop.storage.changes(SAGA)]
    assert [[f"{change.kind} {change.path}" for change in each.changes] for each in told] == [
        ["added /context/total", "added /context/items", "added /status"],
        RESERVE_TO_CHARGE,
        ["changed /status", "added /context/tags"],
    ]


async def test_commands_show_changes(database: str, redis_url: str, tmp_path: Path) -> None:
    """`diff` for people and as a patch, `timeline --changes` within 80 columns, errors with what to do."""
    settings = write_config(tmp_path, database=database, redis_url=redis_url, policies="policies: [{name: all}]\n")
    plain = config(database=database, redis_url=redis_url, cold=settings.parent / "cold", policies=POLICIES)
    async with product(plain, now=datetime.now(UTC)) as shop:
        for each in STEPS:
            await shop.storage.save_snapshot(each)

    async def run(*arguments: object, **environment: str) -> Any:
        return await cli(*arguments, "--config", settings, **environment)

    shown = await run("diff", SAGA, "reserve", "charge")
    assert shown.code == 0, shown.err
    assert '~ /context/total    decimal 10.00 → decimal 12.50\n- /context/items/0  {"sku": "A"}\n' in shown.out
    assert '+ /context/tags     {"late", "new"}\n' in shown.out
    assert "1 added, 1 removed, 2 changed" in shown.out
    assert "\x1b" not in shown.out
    patch = (await run("diff", SAGA, "reserve", "charge", "--json")).document
    before, after = [(await run("show", STEPS[at].snapshot_id, "--json")).document for at in (0, 2)]
    assert jsonpatch.apply_patch(before, patch) == after
    assert (await run("diff", SAGA, "charge", "charge")).out.endswith("nothing differs\n")
    missing = await run("diff", SAGA, "ship", "charge")
    assert (missing.code, "charge#2" in missing.err) == (8, True)
    assert (await run("diff", SAGA)).code == 2
    assert (await run("diff", SAGA, "--with", SAGA)).out.endswith("nothing differs\n")

    told = await run("timeline", SAGA, "--changes", COLUMNS="80")
    lines = [line for line in told.out.splitlines() if line.startswith("2026-03-01")]
    assert [line[:30].split()[2] for line in lines] == ["reserve", "charge#1", "charge#2"]
    assert "~total 10.00 → 12.50" in lines[1]
    assert max(map(len, lines)) <= 80
    document = (await run("timeline", SAGA, "--changes", "--json")).document
    assert document["snapshots"][2]["changes"][0] == {
        "change": "changed",
        "path": "/status",
        "before": "executing",
        "after": "failed",
    }
