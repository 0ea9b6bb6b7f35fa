"""The planner over real servers: what it says is what the jobs then do; losing moves are refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import cli
from support.payload import saga, snapshots
from support.tiers import DAY, NOW, Places, Product, adjust, config, product
from support.yaml_config import write_config

from sagaz_tiering.clock import SystemClock
from sagaz_tiering.costs.plan import Plan, plan
from sagaz_tiering.operations.survey import survey
from sagaz_tiering.policy import Policy, PolicySet
from sagaz_tiering.storage_class import StorageClass

pytestmark = pytest.mark.guarantee("G10")

TO_IA = {"to": "STANDARD_IA", "after": "7d"}
POLICIES: list[dict[str, Any]] = [
    {
        "name": "payments",
        "match": {"saga_name": "payment-*"},
        "move": [TO_IA, {"to": "GLACIER", "after": "90d"}],
        "retain": "400d",
        "even_if_costlier": False,
    },
    {"name": "fast", "match": {"saga_name": "fast-*"}, "durability": "hot", "move": [TO_IA]},
    {"name": "rest", "match": {}, "move": [TO_IA]},
]


async def planned(shop: Product, policies: PolicySet | None = None, now: Any = None) -> Plan:
    """A plan, now and by the policies in force unless told otherwise."""
    runtime = shop.runtime
    rules, at = policies or runtime.policies, now or shop.clock.now()
    inputs = await survey(runtime.job_context(), rules, at)
    return plan(inputs, rules, runtime.prices, at, in_force=runtime.policies)


def lines(found: Plan, action: str) -> dict[tuple[str, str, str | None], int]:
    """Snapshots by policy, source and target of the planned and refused lines of one action."""
    return {(line.policy, line.source, line.to): line.snapshots for line in found.lines if line.action == action}


async def save(shop: Product, name: str, count: int, start: int = 0, age: timedelta = 10 * DAY) -> None:
    """Sagas of five snapshots each, begun `age` ago."""
    for snapshot in snapshots(count, start=start, created_at=shop.clock.now() - age, saga_name=name):
        await shop.storage.save_snapshot(snapshot)


SECTIONS: dict[str, Any] = {"policies": POLICIES}
"""Three policies over a directory."""


async def fill(shop: Product) -> None:
    """Sagas of all three policies that are due, and some that are not."""
    await save(shop, "payment-card", 4)
    await save(shop, "fast-track", 3, start=100)
    await save(shop, "order", 2, start=200)
    await save(shop, "order", 2, start=300, age=DAY)


async def test_plan_counts_what_the_jobs_then_do(shop: Product) -> None:
    """Durable copies, what only Redis holds, packs: snapshots and classes as after `age` and `transition`."""
    await fill(shop)
    found = await planned(shop)
    assert lines(found, "age") == {
        ("payments", "durable", "STANDARD"): 20,
        ("fast", "hot", "STANDARD_IA"): 15,
        ("rest", "durable", "STANDARD_IA"): 10,
    }
    assert not found.estimates
    report = await shop.run("age")
    assert report.counts["archived"] == 45
    assert report.counts["packs"] == sum(line.packs for line in found.lines)
    assert report.counts["packs_kept_warmer"] == 1
    assert any(" in STANDARD, so they go to STANDARD first;" in note for note in report.notes), report.notes
    totals = {total.storage_class: total.snapshots for total in await shop.runtime.catalog.packs.totals()}
    assert totals == {StorageClass.STANDARD: 20, StorageClass.STANDARD_IA: 25}
    after = await planned(shop)
    assert lines(after, "age") == {}
    assert after.month_before_usd == pytest.approx(
        sum(
            shop.runtime.prices.monthly_usd(t.storage_class, object_count=t.packs, total_bytes=t.bytes)
            for t in await shop.runtime.catalog.packs.totals()
        )
    )


async def test_plan_of_a_later_day_sees_what_is_due_by_then(shop: Product) -> None:
    """Nothing is due today; in eight days the youngest are, and in two years the payments expire."""
    await save(shop, "order", 2, age=DAY)
    await save(shop, "payment-card", 1, start=50, age=DAY)
    assert (await planned(shop)).lines == ()
    assert lines(await planned(shop, now=NOW + 8 * DAY), "age") == {
        ("rest", "durable", "STANDARD_IA"): 10,
        ("payments", "durable", "STANDARD"): 5,
    }
    assert lines(await planned(shop, now=NOW + 500 * DAY), "expire") == {("payments", "durable", None): 5}
    shop.clock.advance(8 * DAY)
    await shop.run("age")
    assert lines(await planned(shop, now=NOW + 500 * DAY), "expire") == {("payments", "STANDARD", None): 5}
    assert lines(await planned(shop, now=NOW + 200 * DAY), "expire") == {}


async def test_undersized_packs_stay_where_they_are_cheapest(shop: Product) -> None:
    """Small packs of a policy for STANDARD_IA are written to STANDARD, and no transition moves them (G10)."""
    for number in range(12):
        await save(shop, "payment-card", 1, start=number)
        await shop.run("age")
        shop.clock.advance(2 * DAY)
    packs = await shop.runtime.catalog.packs.totals()
    assert [(total.storage_class, total.packs) for total in packs] == [(StorageClass.STANDARD, 12)]
    assert [line.state for line in (await planned(shop)).lines if line.action == "transition"] == ["refused"]
    report = await shop.run("transition")
    assert (report.counts.get("packs"), report.counts["not_worth_it"]) == (None, 12)
    assert "saves -$" in report.notes[0]
    assert "costs $" in report.notes[0]


async def test_packs_of_a_renamed_policy_go_by_the_one_that_rules_them(places: Places) -> None:
    """All of what is in a pack must have one policy now; what several rule stays, and the run says so."""
    cold = [TO_IA, {"to": "GLACIER", "after": "90d"}]
    async with product(config(**places, policies=[{"name": "old", "match": {}, "move": cold}])) as shop:
        await save(shop, "payment-card", 2)
        await shop.run("age")
        await save(shop, "payment-card", 1, start=10)
        await save(shop, "order", 1, start=20)
        await shop.run("age")
    split = [{"name": "new", "match": {"saga_name": "payment-*"}, "move": cold}, {"name": "rest", "match": {}}]
    for at, moved in ((NOW + 10 * DAY, 0), (NOW + 200 * DAY, 1), (NOW + 200 * DAY, 0)):
        async with product(config(**places, policies=split), now=at) as shop:
            dry, report = await shop.run("transition", dry_run=True), await shop.run("transition")
            assert dry.counts.get("packs", 0) == report.counts.get("packs", 0) == moved
            packs = {total.storage_class: total.packs for total in await shop.runtime.catalog.packs.totals()}
            if at > NOW + 100 * DAY:
                assert report.counts["ruled_by_several"] == 1
                assert "new, rest" in report.notes[0]
                assert packs == {StorageClass.GLACIER: 1, StorageClass.STANDARD_IA: 1}


async def test_merged_packs_take_the_class_of_their_policy(places: Places) -> None:
    """Eight packs of 64 KB in STANDARD: one of STANDARD_IA saves more than its requests."""
    move = {"name": "all", "match": {}, "move": [TO_IA], "even_if_costlier": False}
    async with product(config(**places, policies=[move])) as shop:
        for number in range(8):
            await save(shop, "order", 8, start=100 * number)
            await shop.run("age")
        before = await shop.runtime.catalog.packs.totals()
        assert [(t.storage_class, t.packs) for t in before] == [(StorageClass.STANDARD, 8)]
        found = await planned(shop)
        assert [(line.state, line.packs, line.to) for line in found.lines if line.action == "compact"] == [
            ("planned", 8, "STANDARD_IA")
        ]
        await shop.run("compact")
        active = [t for t in await shop.runtime.catalog.packs.totals() if t.state == "ACTIVE"]
        assert [(t.storage_class, t.packs, t.snapshots) for t in active] == [(StorageClass.STANDARD_IA, 1, 320)]
        assert await shop.storage.get_snapshot(saga(105, begun=shop.clock.now())[0].snapshot_id) is not None


@pytest.mark.parametrize("insists", [False, True])
async def test_losing_transition_is_refused_and_explained(insists: bool, places: Places) -> None:
    """A small pack stays in STANDARD_IA with the figures in the report and in `explain`, unless the policy insists."""
    policy = {"name": "all", "match": {}, "move": [TO_IA, {"to": "GLACIER", "after": "90d"}]}
    async with product(config(**places, policies=[policy])) as shop:
        await save(shop, "order", 2)
        await shop.run("age")  # tests insist, or it would be in STANDARD
        rules = PolicySet([Policy.model_validate({**policy, "even_if_costlier": insists})])
        shop.runtime.in_force.policies = rules
        shop.clock.advance(90 * DAY)
        dry, report = await shop.run("transition", dry_run=True), await shop.run("transition")
        one = next(iter(snapshots(1, created_at=NOW - 10 * DAY, saga_name="order")))
        explanation = await shop.storage.explain(one.snapshot_id)
        [summary] = [each for each in await shop.storage.find() if each.saga_id == one.saga_id]
        assert summary.next_move == explanation.next_move
        whole = explanation.saga
        assert whole is not None
        assert [share.blocked for share in whole.shares] == [None if insists else "costs more than it saves"]
        if insists:
            assert (dry.counts["packs"], report.counts["packs"]) == (1, 1)
            assert explanation.copies[0].storage_class == "GLACIER"
            assert not explanation.blockers
            return
        assert dry.counts == report.counts == {"not_worth_it": 1}
        assert "STANDARD_IA -> GLACIER" in report.notes[0]
        assert "costs more than it saves" in explanation.blockers[0]
        assert explanation.next_move is not None
        assert explanation.next_move.startswith("to GLACIER at ")
        assert explanation.next_move.endswith(" (blocked: costs more than it saves)")
        assert f"next it moves {explanation.next_move}" in explanation.reason
        assert explanation.copies[0].storage_class == "STANDARD_IA"


async def test_explanation_tells_place_clock_revision_and_cost(shop: Product) -> None:
    """A packed snapshot: its frame, its share of the pack's bill by bytes; a hot one costs nothing at the store."""
    await save(shop, "order", 2)
    await shop.run("age")
    shop.clock.advance(30 * DAY)
    one = next(iter(snapshots(1, created_at=NOW - 10 * DAY, saga_name="order")))
    found = await shop.storage.explain(one.snapshot_id)
    assert (found.policy, found.policy_revision, found.clock) == ("rest", shop.runtime.policies.revision, "saga_end")
    pack = await shop.runtime.db.fetchrow("SELECT * FROM sagaz_tiering.packs")
    frame = await shop.runtime.db.fetchrow("SELECT * FROM sagaz_tiering.frames WHERE saga_id = $1", one.saga_id)
    assert pack is not None
    assert frame is not None
    place = found.places[0]
    assert (place.where, place.offset, place.length) == (pack["object_key"], frame["byte_offset"], frame["byte_length"])
    share = frame["byte_length"] / 5 / pack["byte_size"]
    month = shop.runtime.prices.monthly_usd(StorageClass.STANDARD_IA, object_count=1, total_bytes=pack["byte_size"])
    assert found.usd_per_month == pytest.approx(month * share)
    assert found.usd_to_date == pytest.approx((month + 0.013 / 1000) * share)
    await save(shop, "order", 1, start=900, age=timedelta(0))
    fresh = saga(900, begun=shop.clock.now(), saga_name="order")[0]
    hot = await shop.storage.explain(fresh.snapshot_id)
    assert [place.where for place in hot.places] == ["Redis", "PostgreSQL"]
    assert hot.usd_per_month is None


async def test_large_stores_are_estimated_and_say_so(shop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """More sagas in Redis than are sampled, more packs than are looked at one by one: close, and named as such."""
    await save(shop, "fast-track", 60)
    await save(shop, "order", 3, start=200)
    await shop.run("age")
    await save(shop, "fast-track", 300, start=1000)
    monkeypatch.setattr("sagaz_tiering.operations.survey.SAMPLED_SAGAS", 32)
    monkeypatch.setattr("sagaz_tiering.catalog.surveys.EXACT_PACKS", 0)
    found = await planned(shop)
    assert lines(found, "age")[("fast", "hot", "STANDARD_IA")] == pytest.approx(1500, rel=0.01)
    assert any("put together" in note for note in found.estimates)
    exact = sum(total.bytes for total in await shop.runtime.catalog.packs.totals())
    assert sum(advice.bytes for advice in found.advice) >= exact


async def test_plan_command_compares_policies_and_days(database: str, redis_url: str, tmp_path: Path) -> None:
    """Text and JSON, `--policy`, `--as-of`; a wrong day is a usage error; a down Redis is an estimate."""
    places: dict[str, Any] = {"database": database, "redis_url": redis_url, "cold": {"url": f"file://{tmp_path}/cold"}}
    now = SystemClock().now()
    async with product(config(**places, policies=POLICIES), now=now) as shop:
        await save(shop, "payment-card", 2)
        await save(shop, "order", 2, start=100)
        await shop.run("age")
        await save(shop, "order", 3, start=200)
    mine = write_config(tmp_path / "mine.yaml", **places, policies=POLICIES)
    shorter: Sequence[dict[str, Any]] = [{**POLICIES[0], "retain": "100d"}, *POLICIES[1:]]
    other = write_config(tmp_path / "other.yaml", **places, policies=shorter)

    text = await cli("plan", "--config", mine)
    assert text.code == 0, text.err
    assert "age" in text.out
    for words in ("refused: transition payments", "STANDARD is cheapest over", "2 packs"):
        assert words in text.out
    assert "directory" in text.out
    day = f"{now + 150 * DAY:%Y-%m-%d}"
    answer = await cli("plan", "--config", mine, "--policy", other, "--as-of", day, "--json")
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["at"] == f"{day}T00:00:00+00:00"
    assert {(c["action"], c["policy"], c["source"]) for c in document["difference"]} == {
        ("expire", "payments", "STANDARD"),
        ("transition", "payments", "STANDARD"),
    }
    expire = next(c for c in document["difference"] if c["action"] == "expire")
    assert (expire["before"], expire["after"]["snapshots"]) == (None, 10)
    shown = await cli("plan", "--config", mine, "--policy", other, "--as-of", day)
    assert "difference" in shown.out
    assert "— -> 10" in shown.out
    assert (await cli("plan", "--config", mine, "--as-of", "tomorrow")).code == 2
    down = write_config(tmp_path / "down.yaml", **{**places, "redis_url": "redis://127.0.0.1:1"}, policies=POLICIES)
    without = await cli("plan", "--config", down, "--json")
    assert without.code == 0, without.err
    assert "left out" in without.document["estimates"][0]


async def test_budget_stops_each_job_until_tomorrow(places: Places) -> None:
    """Two packs' uploads fit into the day's requests; the third waits, visibly, and goes the next day."""
    policies = [{"name": n, "match": {"saga_name": n}, "move": [TO_IA]} for n in ("one", "two", "three")]
    async with product(config(**places, policies=policies, budget={"requests_per_day": 9})) as shop:
        for number, name in enumerate(("one", "two", "three")):
            await save(shop, name, 1, start=number * 10)
        report = await shop.run("age")
        assert (report.counts["packs"], report.counts["budget_spent"]) == (2, 1)
        assert "today's budget is used up: 8 requests" in report.notes[-1]
        run = next(run for run in await shop.runtime.catalog.history.last_runs() if run.job == "age")
        assert (run.error, run.ended_well) == (None, False)
        assert run.stopped is not None
        assert "budget" in run.stopped
        spent = await shop.runtime.catalog.spending.on(shop.clock.now().date())
        assert [(s.kind, s.requests) for s in spent] == [("age", 8)]
        assert spent[0].usd == pytest.approx(2 * 0.013 / 1000)
        assert await shop.hot_count() == 5
        shop.clock.advance(DAY)
        assert (await shop.run("age")).counts["packs"] == 1
        assert await shop.hot_count() == 0


async def test_restore_that_waits_for_the_budget_says_so(places: Places) -> None:
    """The request names what it waits for; tomorrow it goes on by itself and the text is gone."""
    policy = {"name": "all", "match": {}, "move": [{"to": "GLACIER", "after": "1d"}]}
    async with product(config(**places, policies=[policy])) as shop:
        await save(shop, "order", 1)
        await shop.run("age")
        context = shop.runtime.job_context()
        adjust(context, budget__usd_per_day=1e-6)
        one = next(iter(snapshots(1, created_at=NOW - 10 * DAY, saga_name="order")))
        request = await shop.storage.restore(one.saga_id)
        assert request is not None
        report = await shop.run("restore")
        assert report.counts["budget_spent"] == 1
        waiting = await shop.storage.restore_status(request.restore_id)
        assert waiting is not None
        assert waiting.packs == {"WAITING": 1}
        assert "waits: today's budget is used up" in waiting.errors[0]
        adjust(context, budget__usd_per_day=1.0)
        shop.clock.advance(DAY)
        await shop.run("restore")
        going = await shop.storage.restore_status(request.restore_id)
        assert going is not None
        assert (going.packs, going.errors) == ({"ASKED": 1}, ())
        shop.clock.advance(DAY)
        await shop.run("restore")
        assert await shop.storage.get_snapshot(one.snapshot_id) == one


async def test_transition_compaction_and_scrub_count_what_they_spend(shop: Product) -> None:
    """Each kind has its row, and with nothing left each stops without touching the store."""
    context = shop.runtime.job_context()
    await save(shop, "order", 2)
    await shop.run("age")
    await shop.run("scrub")
    rules = PolicySet(
        [
            Policy.model_validate(
                {**each, "even_if_costlier": True, "move": [TO_IA, {"to": "GLACIER", "after": "20d"}]}
            )
            for each in POLICIES
        ]
    )
    context.in_force.policies = rules
    shop.clock.advance(40 * DAY)
    adjust(context, budget__requests_per_day=1)
    stopped = await shop.run("transition")
    assert (stopped.counts.get("packs"), stopped.counts["budget_spent"]) == (None, 1)
    assert (await shop.run("scrub")).counts["budget_spent"] == 1
    adjust(context, budget__requests_per_day=None)
    assert (await shop.run("transition")).counts["packs"] == 1
    today = {s.kind: s.requests for s in await shop.runtime.catalog.spending.on(shop.clock.now().date())}
    assert today == {"transition": 7}
    first = {s.kind: s.requests for s in await shop.runtime.catalog.spending.on(NOW.date())}
    assert first == {"age": 4, "scrub": 2}


async def test_status_shows_what_was_spent_today(database: str, redis_url: str, tmp_path: Path) -> None:
    """In the text against the budget, and by kind in the JSON."""
    places: dict[str, Any] = {"database": database, "redis_url": redis_url, "cold": {"url": f"file://{tmp_path}/cold"}}
    budget = {"usd_per_day": 5, "requests_per_day": 100}
    async with product(config(**places, budget=budget), now=SystemClock().now()) as shop:
        await save(shop, "order", 1)
        await shop.run("age")
    path = write_config(tmp_path / "tiering.yaml", **places, budget=budget)
    answer = await cli("status", "--json", "--config", path)
    spending = answer.document["spending"]
    assert spending["by_kind"]["age"]["requests"] == 4
    assert (spending["requests_per_day"], spending["usd_per_day"]) == (100, 5)
    assert "spent today: 4 of 100 requests" in (await cli("status", "--config", path)).out
