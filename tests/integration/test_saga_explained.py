"""Everything people look at speaks of the saga: its outcome, its end, the rule that matched, and what happens to it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.snapshots import OTHER_SAGA, SAGA, make
from support.tiers import DAY, NOW, config, product
from support.yaml_config import write_config

MOVE = [{"to": "STANDARD_IA", "after": "7d"}]
YEARS, MONTH = 2555 * DAY, 30 * DAY
POLICIES: list[dict[str, Any]] = [
    {"name": "failed", "match": {"outcome": ["failed", "rolled_back"]}, "move": MOVE, "retain": "2555d"},
    {"name": "rest", "match": {}, "move": MOVE, "retain": "30d"},
]


@pytest.fixture
def places(database: str, redis_url: str, tmp_path: Path) -> dict[str, Any]:
    """Servers and a directory."""
    return {"database": database, "redis_url": redis_url, "cold": tmp_path / "cold"}


async def test_explanation_tells_outcome_end_rule_and_what_happens_to_the_whole_saga(places: dict[str, Any]) -> None:
    """Of each step of a failed saga, hot and packed: the saga failed, when, and all of it moves and expires as one."""
    async with product(config(**places, policies=POLICIES)) as shop:
        saved = [make(at, status=status) for at, status in enumerate(("executing", "executing", "failed"))]
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        end = saved[-1].created_at
        found = await shop.storage.explain(saved[0].snapshot_id)
        assert (found.policy, found.matched) == ("failed", "outcome failed or rolled_back")
        assert (found.outcome, found.saga_ended_at, found.expires_at) == ("failed", end, end + YEARS)
        assert "policy 'failed' (the saga is failed) matches" in found.reason
        whole = found.saga
        assert whole is not None
        assert (whole.snapshots, whole.tiers, whole.promise) == (3, {"hot": 3}, None)
        [share] = whole.shares
        assert (share.policy, share.snapshots, share.to) == ("failed", 3, "STANDARD_IA")
        assert (share.moves_first, share.moves_last) == (end + 7 * DAY, end + 7 * DAY)
        assert (share.expires_first, share.expires_last) == (end + YEARS, end + YEARS)
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        packed = await shop.storage.explain_saga(SAGA)
        assert packed is not None
        assert packed.tiers == {"cold STANDARD_IA": 3}
        assert [(one.to, one.expires_last) for one in packed.shares] == [(None, end + YEARS)]
        by_saga = await shop.storage.explain(SAGA)
        assert (by_saga.asked_saga, by_saga.snapshot_id, by_saga.saga) == (True, saved[-1].snapshot_id, packed)
        assert "policy 'failed' (the saga is failed) matches: it is in a pack" in by_saga.reason


async def test_explanation_says_that_no_end_was_recorded(places: dict[str, Any]) -> None:
    """A saga whose newest snapshot says `executing` counts as running: said where rules look at outcomes."""
    async with product(config(**places, policies=POLICIES)) as shop:
        await shop.storage.save_snapshot(make(0))
        found = await shop.storage.explain(make(0).snapshot_id)
        assert (found.policy, found.outcome, found.saga_ended_at) == ("rest", "running", None)
        assert found.saga is not None
        assert "no end was recorded, so it counts as running" in found.saga.why
    running = [{**POLICIES[0], "match": {"outcome": "running"}}, POLICIES[1]]
    async with product(config(**places, policies=running)) as shop:
        reason = (await shop.storage.explain(make(0).snapshot_id)).reason
        assert "no end of the saga was recorded, so it counts as running" in reason
    async with product(config(**places, policies=POLICIES[1:])) as shop:
        whole = await shop.storage.explain_saga(SAGA)
        assert whole is not None
        assert "says executing, which is no end" in whole.why
        assert await shop.storage.explain_saga(OTHER_SAGA) is None


async def test_explanation_names_the_promise_that_keeps_a_saga_longer(places: dict[str, Any]) -> None:
    """Failed and packed for seven years, then completed: the rule says thirty days, the promise keeps all of it."""
    async with product(config(**places, policies=POLICIES)) as shop:
        for at, status in enumerate(("executing", "failed")):
            await shop.storage.save_snapshot(make(at, status=status))
        shop.clock.advance(8 * DAY)
        await shop.run("age")
        late = make(9, status="completed", created_at=shop.clock.now())
        await shop.storage.save_snapshot(late)
        kept = make(1).created_at + YEARS
        for snapshot_id in (make(0).snapshot_id, late.snapshot_id):
            found = await shop.storage.explain(snapshot_id)
            assert (found.policy, found.outcome, found.expires_at) == ("rest", "completed", kept)
            assert "as its saga was promised when part of it was packed" in found.reason
            assert found.saga is not None
            assert found.saga.promise is not None
            assert "as its saga was promised" in found.saga.promise


async def test_saga_of_several_policies_is_told_share_by_share(places: dict[str, Any]) -> None:
    """Rules of single steps and a clock of each snapshot by itself: how many go which way, from when to when."""
    policies = [
        {"name": "step", "match": {"step_name": "step-0"}, "retain": "forever"},
        {"name": "each", "match": {}, "move": MOVE, "retain": "30d", "clock": "created_at"},
    ]
    async with product(config(**places, policies=policies)) as shop:
        saved = [make(at, step_name=f"step-{at}") for at in range(4)]
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        whole = await shop.storage.explain_saga(SAGA)
        assert whole is not None
        shares = {share.policy: share for share in whole.shares}
        assert (shares["step"].snapshots, shares["step"].to, shares["step"].expires_last) == (1, None, None)
        each = shares["each"]
        assert (each.snapshots, each.moves_first) == (3, saved[1].created_at + 7 * DAY)
        assert (each.expires_first, each.expires_last) == (saved[1].created_at + MONTH, saved[3].created_at + MONTH)


async def test_commands_speak_of_the_saga(places: dict[str, Any], tmp_path: Path) -> None:
    """`timeline` and `explain` as text and as JSON, by a snapshot's id and by the saga's."""
    places["cold"] = {"url": f"file://{tmp_path}/cold"}
    begun = NOW - timedelta(minutes=10)
    saved = [
        make(at, status=status, created_at=begun + timedelta(seconds=at))
        for at, status in enumerate(("executing", "rolled_back"))
    ]
    async with product(config(**places, policies=POLICIES)) as shop:
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
    mine = write_config(tmp_path / "mine.yaml", **places, policies=POLICIES)
    shown = await cli("timeline", str(SAGA), "--config", mine)
    assert shown.code == 0, shown.err
    for words in ("rolled_back, ended at", "all 2 of its snapshots by policy 'failed': to STANDARD_IA at"):
        assert words in shown.out
    document = (await cli("timeline", str(SAGA), "--config", mine, "--json")).document
    assert (document["outcome"], document["saga_ended_at"]) == ("rolled_back", saved[1].created_at.isoformat())
    assert document["saga"]["shares"][0]["policy"] == "failed"
    assert len(document["snapshots"]) == 2
    by_saga = await cli("explain", str(SAGA), "--config", mine)
    assert by_saga.code == 0, by_saga.err
    for words in (f"{SAGA} is the id of a saga", "because:", "outcome failed or rolled_back", "all of it:"):
        assert words in by_saga.out
    explained = (await cli("explain", str(saved[0].snapshot_id), "--config", mine, "--json")).document
    assert (explained["outcome"], explained["asked_saga"]) == ("rolled_back", False)
    assert explained["saga_ended_at"] == saved[1].created_at.isoformat()
    assert explained["saga"]["snapshots"] == 2
