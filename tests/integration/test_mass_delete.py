"""A run that would remove most of a store stops and says how to go on (design G9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.payload import snapshots
from support.tiers import DAY, config, product
from support.yaml_config import write_config

from sagaz_tiering.clock import SystemClock
from sagaz_tiering.errors import MassDelete

JOBS = {"expire_free_count": 10}


def policies(short: str) -> list[dict[str, Any]]:
    """Two kinds of sagas; `short` keeps one of them for a week only."""
    move = [{"to": "STANDARD_IA", "after": "2d"}]
    return [
        {"name": "short", "match": {"saga_name": short}, "move": move, "retain": "7d"},
        {"name": "rest", "match": {}, "move": move},
    ]


@pytest.mark.parametrize("aged", [True, False], ids=["packed", "hot"])
async def test_expire_of_most_snapshots_stops_and_goes_on_when_told(
    aged: bool, database: str, redis_url: str, tmp_path: Path
) -> None:
    """60 % of all: refused and nothing removed; 40 %: done; with the override: done."""
    places: dict[str, Any] = {"database": database, "redis_url": redis_url, "cold": f"file://{tmp_path}/cold"}
    places["cold"] = {"url": places["cold"]}
    begun, now = SystemClock().now() - 10 * DAY, SystemClock().now()
    rules = policies("most")
    async with product(config(**places, policies=rules, jobs=JOBS), now=now - 6 * DAY) as shop:
        for name, count, start in (("most", 12, 0), ("few", 8, 100)):
            for snapshot in snapshots(count, start=start, created_at=begun, saga_name=name):
                await shop.storage.save_snapshot(snapshot)
        if aged:
            await shop.run("age")
        shop.clock.advance(6 * DAY)
        with pytest.raises(MassDelete, match=r"60%"):
            await shop.run("expire")
        if aged:
            assert await shop.runtime.db.fetchval("SELECT count(*) FROM sagaz_tiering.snapshots") == 100
        else:
            assert await shop.hot_count() == 100
        assert (await shop.run("expire", dry_run=True)).counts["archived" if aged else "hot"] == 60

    path = write_config(tmp_path / "tiering.yaml", **places, policies=rules, jobs=JOBS)
    refused = await cli("job", "expire", "--once", "--config", path)
    assert refused.code == 10
    assert "--allow-mass-delete" in refused.err
    assert (await cli("job", "expire", "--allow-mass-delete", "--config", path)).code == 2
    done = await cli("job", "expire", "--once", "--allow-mass-delete", "--json", "--config", path)
    assert done.code == 0, done.err
    assert done.document["counts"]["archived" if aged else "hot"] == 60

    async with product(config(**places, policies=policies("few"), jobs=JOBS), now=now) as shop:
        for snapshot in snapshots(20, start=200, created_at=begun, saga_name="other"):
            await shop.storage.save_snapshot(snapshot)
        await shop.run("age")  # which learns of the new retention first
        counts = (await shop.run("expire")).counts
        assert counts["archived" if aged else "hot"] == 40
