"""A run that would end most of a store earlier than promised stops and says how to go on (design G9)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.payload import snapshots
from support.tiers import DAY, config, product
from support.yaml_config import write_config

from sagaz_tiering.clock import SystemClock
from sagaz_tiering.config.sections import JobSettings
from sagaz_tiering.jobs.expire.mass_delete import Shortened, may_shorten, too_much
from sagaz_tiering.policy import Policy, PolicySet


def policies(retain: str) -> list[dict[str, Any]]:
    """Two kinds of sagas, one of which is kept so long."""
    move = [{"to": "STANDARD_IA", "after": "2d"}]
    return [
        {"name": "most", "match": {"saga_name": "most"}, "move": move, "retain": retain},
        {"name": "rest", "match": {}, "move": move},
    ]


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("aged", [True, False], ids=["packed", "hot"])
async def test_expire_that_ends_a_policy_early_stops_and_goes_on_when_told(
    aged: bool, database: str, redis_url: str, tmp_path: Path
) -> None:
    """Refused and nothing removed, at the command line too; with the override: done."""
    places: dict[str, Any] = {"database": database, "redis_url": redis_url, "cold": {"url": f"file://{tmp_path}/cold"}}
    begun, now = SystemClock().now() - 10 * DAY, SystemClock().now()
    async with product(config(**places, policies=policies("30d")), now=now - 6 * DAY) as shop:
        for name, count, start in (("most", 12, 0), ("few", 8, 100)):
            for snapshot in snapshots(count, start=start, created_at=begun, saga_name=name):
                await shop.storage.save_snapshot(snapshot)
        if aged:
            await shop.run("age")
        await shop.run("expire")

    path = write_config(tmp_path / "tiering.yaml", **places, policies=policies("7d"))
    refused = await cli("job", "expire", "--once", "--config", path)
    assert refused.code == 10
    assert "60 of 60 snapshots of policy 'most'" in refused.err
    assert "--allow-mass-delete" in refused.err
    assert (await cli("job", "expire", "--allow-mass-delete", "--config", path)).code == 2
    async with product(config(**places, policies=policies("7d")), now=now) as shop:
        saga = next(snapshots(1, created_at=begun)).saga_id
        assert len(await shop.storage.list_snapshots(saga)) == 5
    done = await cli("job", "expire", "--once", "--allow-mass-delete", "--json", "--config", path)
    assert done.code == 0, done.err
    async with product(config(**places, policies=policies("7d")), now=now) as shop:
        assert await shop.storage.list_snapshots(saga) == []
    if aged:
        assert done.document["counts"]["archived"] == 60


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize(
    ("earlier", "total", "options", "asks"),
    [
        (1, 99, {}, True),
        (1, 100, {}, False),
        (2, 100, {}, True),
        (20, 20, {}, True),
        (140, 140, {}, True),
        (1000, 1800, {"expire_max_share": 0.5}, True),
        (900, 1800, {"expire_max_share": 0.5}, False),
        (10, 1000, {"expire_max_share": 0.001}, False),
        (10, 1000, {"expire_max_share": 0.001, "expire_free_count": 0}, True),
    ],
)
def test_share_is_of_what_each_policy_keeps(earlier: int, total: int, options: dict[str, Any], asks: bool) -> None:
    """However much other policies keep; at most one in a hundred goes unasked by default."""
    rules = PolicySet([])
    counts = Shortened(before=None, after=rules, now_us=0, totals=Counter(mine=total, others=10**9))
    counts.earlier["mine"] = earlier
    assert bool(too_much(counts, JobSettings(**options))) is asks


@pytest.mark.parametrize(
    ("old", "new", "may"),
    [
        ({"retain": "7d"}, {"retain": "8d"}, False),
        ({"retain": "7d"}, {"retain": "forever"}, False),
        ({"retain": "7d"}, {"retain": "7d", "move": [{"to": "GLACIER", "after": "1d"}]}, False),
        ({"retain": "7d"}, {"retain": "6d"}, True),
        ({"retain": "forever"}, {"retain": "9999d"}, True),
        ({}, {"retain": "9999d"}, True),
        ({"retain": "7d"}, {}, True),
        ({"retain": "7d"}, {"retain": "8d", "retention": "policy"}, True),
        ({"retain": "7d"}, {"retain": "8d", "match": {"saga_name": "a"}}, True),
        ({"retain": "7d"}, {"retain": "8d", "clock": "saved_at"}, True),
        ({"retain": "7d", "clock": "created_at"}, {"retain": "7d"}, False),
        ({"retain": "7d"}, {"retain": "7d", "clock": "created_at"}, True),
        ({"retain": "7d", "clock": "saved_at"}, {"retain": "7d"}, True),
        ({"retain": "7d"}, {"retain": "7d", "match": {"outcome": "failed"}}, True),
    ],
)
def test_what_cannot_end_anything_earlier_is_not_counted(old: dict[str, Any], new: dict[str, Any], may: bool) -> None:
    """A longer `retain` alone is plain; all else is looked at."""
    before, after = (PolicySet([Policy.model_validate({"name": "p", **each})]) for each in (old, new))
    assert may_shorten(before, after) is may


def test_policy_that_is_never_used_ends_nothing_earlier() -> None:
    """One above it matches everything that it could; with what is kept for ever in front nothing can end earlier."""
    before = PolicySet([Policy.model_validate({"name": "p", "match": {"saga_name": "a"}, "retain": "7d"})])
    unused = {"name": "unused", "match": {"saga_name": "a"}, "retain": "1d"}
    kept = {"name": "all", "match": {}, "retain": "forever"}
    rules = [{"name": "p", "match": {"saga_name": "a"}, "retain": "7d"}, unused]
    assert may_shorten(before, PolicySet([Policy.model_validate(each) for each in rules])) is False
    assert may_shorten(before, PolicySet([Policy.model_validate(each) for each in (kept, unused)])) is False
    assert may_shorten(before, PolicySet([Policy.model_validate(each) for each in (unused, kept)])) is True
