"""Everything people look at speaks of the saga: its outcome, its end, the rule that matched, and what happens to it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.commands import cli
from support.snapshots import OTHER_SAGA, SAGA, make
from support.tiers import DAY, NOW, Product, config, product
from support.yaml_config import write_config

from sagaz_tiering.costs.plan import plan
from sagaz_tiering.operations.survey import survey
from sagaz_tiering.policy import Policy, PolicySet

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
        assert [share.held for share in packed.shares] == [0]
        await shop.storage.hold(SAGA, "case 1")
        held = await shop.storage.explain_saga(SAGA)
        assert held is not None
        assert [share.held for share in held.shares] == [3]


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
        await shop.storage.hold(SAGA, "case 1")
    mine = write_config(tmp_path / "mine.yaml", **places, policies=POLICIES)
    shown = await cli("timeline", str(SAGA), "--config", mine)
    assert shown.code == 0, shown.err
    for words in (
        "rolled_back, ended at",
        "all 2 of its snapshots by policy 'failed': to STANDARD_IA at",
        "; a legal hold is on all of them, and what is held stays until its release",
    ):
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


async def planned(shop: Product, rules: PolicySet, at: datetime) -> dict[tuple[str, str, str], dict[str, int]]:
    """Snapshots by action, policy and source of the planned lines, each by outcome."""
    runtime = shop.runtime
    inputs = await survey(runtime.job_context(), rules, at)
    found = plan(inputs, rules, runtime.prices, at, in_force=runtime.policies)
    assert all(sum(line.outcomes.values()) == line.snapshots for line in found.planned if line.action != "transition")
    return {(line.action, line.policy, line.source): dict(line.outcomes) for line in found.planned}


async def test_plan_counts_by_outcome_and_by_the_clock_of_the_saga(places: dict[str, Any]) -> None:
    """Due and expired in each tier by how sagas end; other policies are asked by outcome, in packs too."""
    mixed = [{**POLICIES[0], "durability": "hot"}, POLICIES[1]]
    async with product(config(**places, policies=mixed)) as shop:
        for saga, statuses in {1: ("executing", "failed"), 2: ("executing", "executing", "completed")}.items():
            for at, status in enumerate(statuses):
                key = UUID(int=saga * 100 + at)
                await shop.storage.save_snapshot(make(at, saga_id=UUID(int=saga), snapshot_id=key, status=status))
        shop.clock.advance(timedelta(seconds=3))
        await shop.storage.note_hot_saves()  # the catalog knows by then how each saga ends
        rules, end = shop.runtime.policies, make(2).created_at
        assert await planned(shop, rules, end + 6 * DAY) == {}
        due = await planned(shop, rules, end + 8 * DAY)
        assert sum((Counter(by) for (_, policy, _), by in due.items() if policy == "failed"), Counter()) == {
            "failed": 2
        }
        assert due["age", "rest", "durable"] == {"completed": 3}
        gone = await planned(shop, rules, end + MONTH)
        assert gone["expire", "rest", "durable"] == {"completed": 3}
        shop.clock.advance(end + 8 * DAY - shop.clock.now())
        await shop.run("age")
        assert await planned(shop, rules, end + MONTH) == {("expire", "rest", "STANDARD_IA"): {"completed": 3}}
        one = PolicySet([Policy.model_validate({**POLICIES[1], "name": "failed"})])
        both = await planned(shop, one, end + MONTH)
        assert sum(map(Counter, both.values()), Counter()) == {"completed": 3, "failed": 2}
        kept = PolicySet([Policy.model_validate({**POLICIES[0], "match": {"outcome": "completed"}, "name": "rest"})])
        assert await planned(shop, kept, end + MONTH) == {}


async def test_plan_of_durable_copies_ends_them_as_the_policies_do(places: dict[str, Any]) -> None:
    """For ever and by the policy alone whatever their own dates say; a saga that runs moves by `running_at_most`."""
    own = NOW + DAY
    policies = [
        {"name": "ever", "match": {"saga_name": "ever"}, "retain": "forever"},
        {"name": "alone", "match": {"saga_name": "alone"}, "retain": "9d", "retention": "policy"},
        {"name": "runs", "match": {"outcome": "running"}, "move": MOVE, "retain": "900d", "running_at_most": "10d"},
    ]
    async with product(config(**places, policies=policies)) as shop:
        for at, name in enumerate(("ever", "alone", "runs")):
            made = make(at, saga_id=UUID(int=at + 1), saga_name=name, created_at=NOW, retention_until=own)
            await shop.storage.save_snapshot(made)
        for day in range(1, 12):
            key = UUID(int=1000 + day)
            later = make(day, saga_id=UUID(int=3), snapshot_id=key, saga_name="runs", created_at=NOW + day * DAY)
            await shop.storage.save_snapshot(later)
        rules = shop.runtime.policies
        assert await planned(shop, rules, NOW + 8 * DAY) == {}
        assert await planned(shop, rules, NOW + 9 * DAY) == {("expire", "alone", "durable"): {"running": 1}}
        found = await planned(shop, rules, NOW + 11 * DAY)
        assert found["age", "runs", "durable"] == {"running": 2}
