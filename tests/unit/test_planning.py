"""The planner against figures worked out by hand (docs/costs.md shows the same), without any server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sagaz_tiering.catalog.packs import Pack
from sagaz_tiering.costs.economics import Cost, choose_class, ends_at, first_class, judge_move, share_cost
from sagaz_tiering.costs.lines import Due, Expired, Inputs, PackGroup, difference
from sagaz_tiering.costs.plan import Plan, plan
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.jobs.compact.plan import Merge
from sagaz_tiering.policy import Policy, PolicySet
from sagaz_tiering.storage_class import StorageClass

KB, MB, GB = 2**10, 2**20, 2**30
MILLION = 10**6
DAY = timedelta(days=1)
NOW = datetime(2026, 12, 1, tzinfo=UTC)
PRICES = PriceList.load("us-east-1")
STANDARD, IA, IR, GLACIER, DEEP = (
    StorageClass.STANDARD,
    StorageClass.STANDARD_IA,
    StorageClass.GLACIER_IR,
    StorageClass.GLACIER,
    StorageClass.DEEP_ARCHIVE,
)
MOVES = [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "90d"}]


def policies(*given: dict[str, Any]) -> PolicySet:
    """Policies that match everything unless they say more."""
    return PolicySet([Policy.model_validate({"name": "all", "move": MOVES, **each}) for each in given or ({},)])


def group(rules: PolicySet, **changes: Any) -> PackGroup:
    """A pack of 32 MiB in STANDARD_IA, half a year old, for ever."""
    values: dict[str, Any] = {
        "policy": "all",
        "storage_class": IA,
        "bucket": "never",
        "retention_revision": rules.retention_revision,
        "packs": 1,
        "bytes": 32 * MB,
        "snapshots": 3000,
        "packed": 3000,
        "min_created_at": NOW - 181 * DAY,
        "max_clock_at": NOW - 180 * DAY,
        "class_since": NOW - 173 * DAY,
        "next_expiry_at": None,
        "expired": 0,
    }
    return PackGroup(**{**values, **changes})


def planned(rules: PolicySet, packs: Sequence[PackGroup] = (), now: datetime = NOW, **more: Any) -> Plan:
    """A plan over these packs."""
    return plan(Inputs(packs=tuple(packs), **more), rules, PRICES, now)


def actions(found: Plan) -> list[tuple[str, str, str, str | None]]:
    """Action, state, source and target of each line."""
    return [(line.action, line.state, line.source, line.to) for line in found.lines]


# 100 M snapshots of 3 KB as objects of their own, in packs of 32 MiB, and in packs compressed 19 times.
LAYOUTS = {
    "single objects": (100 * MILLION, 100 * MILLION * 3 * KB),
    "packs": (9156, 100 * MILLION * 3 * KB),
    "packs + dictionary": (482, round(100 * MILLION * 3 * KB / 19)),
}


def test_documented_table_is_what_the_code_says() -> None:
    """The table of docs/costs.md, cell by cell; it was worked out by hand."""
    text = (Path(__file__).parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")
    for name, (objects, size) in LAYOUTS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        *months, put = (float(cell.replace(",", "")) for cell in row.strip("|").split("|")[1:])
        costs = [
            PRICES.monthly_usd(each, object_count=objects, total_bytes=size) for each in (STANDARD, IA, IR, GLACIER)
        ]
        assert months == [round(cost, 2) for cost in costs]
        assert put == pytest.approx(PRICES.put_usd(IA, objects), rel=0.05)


def test_single_small_objects_to_infrequent_access_are_refused_with_the_figures() -> None:
    """3 KB billed as 128 KB: 146 dollars a month more, and a thousand for the requests."""
    count = 100 * MILLION
    verdict = judge_move(
        PRICES, current=STANDARD, to=IA, objects=count, total_bytes=count * 3 * KB, in_class=DAY, stay=365 * DAY
    )
    assert not verdict.pays
    assert round(verdict.month_before_usd, 2) == 6.58
    assert round(verdict.month_after_usd, 2) == 152.59
    assert verdict.requests_usd == pytest.approx(count * (0.01 + 3 * 0.001) / 1000)
    for figure in ("100,000,000 objects of 3,072 bytes", "STANDARD -> STANDARD_IA", "$6.58 -> $152.59 a month"):
        assert figure in verdict.why


def test_full_pack_to_glacier_pays_by_the_hand_calculation() -> None:
    """1/32 GB from STANDARD_IA to GLACIER for a year: every term by hand."""
    verdict = judge_move(
        PRICES, current=IA, to=GLACIER, objects=1, total_bytes=32 * MB, in_class=10 * DAY, stay=365 * DAY
    )
    before = 0.0125 / 32
    after = (32 * MB + 32 * KB) / GB * 0.0036 + 8 * KB / GB * 0.023
    assert verdict.month_before_usd == pytest.approx(before)
    assert verdict.month_after_usd == pytest.approx(after)
    assert verdict.requests_usd == pytest.approx(0.03 / 1000 + 3 * 0.0004 / 1000 + 2 * 0.001 / 1000 + 0.005 / 1000)
    assert verdict.retrieval_usd == pytest.approx(0.01 / 32)
    assert verdict.early_usd == pytest.approx(before * 20 / 30)
    assert verdict.shortfall_usd == 0
    assert verdict.saves_usd == pytest.approx((before - after) * 365 / 30)
    assert verdict.pays


def test_minimum_duration_makes_a_late_move_lose() -> None:
    """A pack that expires in three weeks would be billed 90 days of GLACIER."""
    short = judge_move(
        PRICES, current=IA, to=GLACIER, objects=1, total_bytes=32 * MB, in_class=100 * DAY, stay=21 * DAY
    )
    assert short.shortfall_usd == pytest.approx(short.month_after_usd * 69 / 30)
    assert not short.pays


def test_from_one_archive_to_another_the_thaw_counts() -> None:
    """GLACIER -> DEEP_ARCHIVE: a Bulk restore (free) and its copies for two days; early leaving is billed."""
    verdict = judge_move(PRICES, current=GLACIER, to=DEEP, objects=1, total_bytes=GB, in_class=90 * DAY, stay=365 * DAY)
    assert verdict.retrieval_usd == pytest.approx(0.023 * 2 / 30)
    assert verdict.early_usd == 0
    assert verdict.pays


@pytest.mark.parametrize(
    ("size", "asked", "stay", "expected"),
    [
        (20 * KB, IA, 365, STANDARD),  # billed as 128 KB: 1.5 instead of 0.44 millionths a month
        (32 * MB, IA, 365, IA),
        (32 * MB, IA, 3, STANDARD),  # 30 days are billed
        (32 * MB, GLACIER, 365, GLACIER),
        (20 * KB, GLACIER, 365, STANDARD),
        (125 * KB, GLACIER, 365, IA),  # ONEZONE_IA would cost less still
        (20 * KB, StorageClass.ONEZONE_IA, 365, STANDARD),
        (125 * KB, StorageClass.ONEZONE_IA, 365, StorageClass.ONEZONE_IA),
    ],
)
def test_class_of_a_new_pack_is_the_cheapest_readable_one_where_the_asked_one_loses(
    size: int, asked: StorageClass, stay: int, expected: StorageClass
) -> None:
    """Never colder than asked, and never the one zone that nobody asked for."""
    assert choose_class(PRICES, asked, size=size, stay=stay * DAY) is expected


def test_even_if_costlier_takes_the_policy_by_its_word() -> None:
    """The same small pack: STANDARD with the figures, or what the policy says."""
    about: dict[str, Any] = {"size": 20 * KB, "clock_at": NOW - 8 * DAY, "until": None, "now": NOW}
    found = first_class(PRICES, policies().policies[0], **about)
    assert found.storage_class is STANDARD
    assert "20,480 bytes" in found.why
    told = first_class(PRICES, policies({"even_if_costlier": True}).policies[0], **about)
    assert (told.storage_class, told.why) == (IA, "")


def test_due_transition_is_planned_with_its_bill() -> None:
    """Packs alike become one line; its monthly bills are those of the price list."""
    rules = policies()
    found = planned(rules, [group(rules), group(rules)])
    assert actions(found) == [("transition", "planned", "STANDARD_IA", "GLACIER")]
    line = found.lines[0]
    assert (line.packs, line.snapshots, line.bytes) == (2, 6000, 64 * MB)
    assert line.month_before_usd == pytest.approx(64 / 1024 * 0.0125)
    assert found.month_before_usd == pytest.approx(64 / 1024 * 0.0125)
    assert found.month_after_usd == pytest.approx(line.month_after_usd)
    assert found.now_usd == line.now_usd
    assert line.break_even_months is not None


def test_losing_transition_is_refused_unless_the_policy_insists() -> None:
    """A pack of 20 KB stays in STANDARD_IA; `even_if_costlier` moves it."""
    rules = policies()
    found = planned(rules, [group(rules, bytes=20 * KB)])
    assert actions(found) == [("transition", "refused", "STANDARD_IA", "GLACIER")]
    assert found.month_after_usd == found.month_before_usd
    assert any("even_if_costlier" in warning for warning in found.warnings)
    insists = policies({"even_if_costlier": True})
    assert actions(planned(insists, [group(insists, bytes=20 * KB)]))[0][1] == "planned"


def test_refused_colder_class_leaves_the_next_warmer_one() -> None:
    """DEEP_ARCHIVE bills 180 days; a pack with 100 days left goes to GLACIER_IR instead."""
    moves = [*MOVES[:1], {"to": "GLACIER_IR", "after": "30d"}, {"to": "DEEP_ARCHIVE", "after": "120d"}]
    rules = policies({"move": moves, "retain": "200d"})
    pack = group(rules, max_clock_at=NOW - 130 * DAY, next_expiry_at=NOW + 69 * DAY, bucket="2027-02", bytes=300 * KB)
    assert [(line.state, line.to) for line in planned(rules, [pack]).lines] == [
        ("refused", "DEEP_ARCHIVE"),
        ("refused", "GLACIER_IR"),
    ]
    large = replace(pack, bytes=32 * MB, max_clock_at=NOW - 121 * DAY, next_expiry_at=NOW + 78 * DAY)
    states = [(line.state, line.to) for line in planned(rules, [large]).lines]
    assert states[-1] == ("planned", "DEEP_ARCHIVE")


def test_due_snapshots_are_packed_or_wait_for_company() -> None:
    """100 MiB of packs: three full ones go, the rest waits until it has lingered; then it goes too."""
    rules = policies()
    due = Due(
        tier="durable",
        policy="all",
        bucket="never",
        snapshots=40_000,
        value_bytes=400 * MB,
        since=NOW - DAY / 2,
        youngest_clock_at=NOW - 7 * DAY,
    )
    found = planned(rules, due=(due,))
    assert [(line.state, line.packs, line.bytes, line.to) for line in found.lines] == [
        ("planned", 3, 96 * MB, "STANDARD_IA"),
        ("waiting", 0, 4 * MB, "STANDARD_IA"),
    ]
    assert sum(line.snapshots for line in found.lines) == 40_000
    assert found.lines[0].requests == 12
    assert found.lines[0].now_usd == pytest.approx(3 * (0.01 + 3 * 0.001) / 1000)
    assert found.lines[0].month_after_usd == pytest.approx(96 / 1024 * 0.0125)
    later = planned(rules, due=(replace(due, since=NOW - 2 * DAY),))
    assert [(line.state, line.packs) for line in later.lines] == [("planned", 4)]


def test_packed_size_is_learnt_from_the_packs_that_are_there() -> None:
    """10 KB a snapshot in the packs of this policy, whatever the values' size is."""
    rules = policies()
    due = Due(
        tier="hot",
        policy="all",
        bucket="never",
        snapshots=1000,
        value_bytes=1,
        since=NOW - 2 * DAY,
        youngest_clock_at=NOW - 7 * DAY,
    )
    packs = [group(rules, storage_class=GLACIER, bytes=30_000 * KB)]
    line = next(line for line in planned(rules, packs, due=(due,)).lines if line.action == "age")
    assert line.bytes == 10_000 * KB


def test_expiry_counts_what_died_and_what_leaving_early_costs() -> None:
    """A dead pack's bill ends, GLACIER bills the rest of its 90 days; a partly dead one only loses snapshots."""
    rules = policies({"retain": "100d"})
    dead = group(rules, storage_class=GLACIER, class_since=NOW - 60 * DAY, expired=3000, next_expiry_at=NOW - DAY)
    partly = group(rules, expired=100, next_expiry_at=NOW - DAY, max_clock_at=NOW - 50 * DAY)
    near = Expired(tier="durable", policy="all", snapshots=5, value_bytes=50)
    found = planned(rules, [dead, partly], expired=(near,))
    lines = {line.source: line for line in found.lines if line.action == "expire"}
    assert (lines["GLACIER"].snapshots, lines["GLACIER"].packs) == (3000, 1)
    month = (32 * MB + 32 * KB) / GB * 0.0036 + 8 * KB / GB * 0.023
    assert lines["GLACIER"].now_usd == pytest.approx(month)
    assert (lines["STANDARD_IA"].snapshots, lines["STANDARD_IA"].packs, lines["STANDARD_IA"].now_usd) == (100, 0, 0)
    assert lines["durable"].snapshots == 5
    assert found.month_before_usd - found.month_after_usd == pytest.approx(month)


def test_uncounted_expiry_is_spread_over_the_time_that_it_takes() -> None:
    """Half of a month's expiries at half of the month; all of them after its end."""
    rules = policies()
    pack = group(rules, bucket="2026-11", next_expiry_at=datetime(2026, 11, 1, tzinfo=UTC), expired=None)
    half = datetime(2026, 11, 16, tzinfo=UTC)
    assert next(line for line in planned(rules, [pack], half).lines if line.action == "expire").snapshots == 1500
    assert next(line for line in planned(rules, [pack]).lines if line.action == "expire").packs == 1


def test_other_policies_give_packs_other_expiries() -> None:
    """With `retain: 100d` instead of nothing, packs of half a year are past it; the difference names the line."""
    mine, other = policies(), policies({"retain": "100d"})
    pack = group(mine)
    before = planned(mine, [pack])
    after = plan(Inputs(packs=(pack,)), other, PRICES, NOW, in_force=mine)
    assert actions(after) == [("expire", "planned", "STANDARD_IA", None)]
    changes = difference(before.lines, after.lines)
    assert [(c.line.action, c.before is None, c.after is None) for c in changes] == [
        ("expire", True, False),
        ("transition", False, True),
    ]
    assert difference(before.lines, before.lines) == ()
    assert actions(plan(Inputs(packs=(group(other),)), mine, PRICES, NOW, in_force=other))[0][0] == "transition"


def test_advice_prefers_instant_glacier_where_overheads_eat_the_savings() -> None:
    """Packs of 200 KB for years: 40 KB of overhead each make GLACIER dearer than GLACIER_IR, which reads at once."""
    rules = policies({"move": MOVES[:1], "retain": "2555d"})
    small = planned(rules, [group(rules, packs=100, bytes=100 * 200 * KB, snapshots=100, packed=100)]).advice[0]
    assert small.cheapest_readable is IR
    costs = {cost.storage_class: cost.usd_over_life for cost in small.classes}
    assert costs[IR] < costs[GLACIER] < costs[IA]
    assert small.cheapest is DEEP
    assert "GLACIER_IR is as readable as STANDARD_IA at 32%" in small.why
    full = planned(rules, [group(rules, packs=100, bytes=100 * 32 * MB, snapshots=100, packed=100)]).advice[0]
    costs = {cost.storage_class: cost.usd_over_life for cost in full.classes}
    assert costs[DEEP] < costs[GLACIER] < costs[IR] < costs[IA]
    assert StorageClass.ONEZONE_IA not in costs
    assert full.cheapest is DEEP


def test_warnings_name_old_prices_other_regions_lost_policies_and_the_budget() -> None:
    """Each once, with what to do."""
    rules = policies()
    old = replace(PRICES, as_of=date(2026, 5, 1), is_estimate=True)
    inputs = Inputs(packs=(group(rules), group(rules, policy="gone")), budget_usd=1e-6, budget_requests=1)
    warnings = "\n".join(plan(inputs, rules, old, NOW).warnings)
    for text in ("214 days before", "as an estimate", "not configured move no more: gone", "usd_per_day", "several"):
        assert text in warnings
    assert planned(rules, [group(rules)]).warnings == ()
    [only] = plan(
        Inputs(packs=(group(rules),), in_directory=True), rules, replace(PRICES, is_estimate=True), NOW
    ).warnings
    assert "a directory, which bills nothing: the figures are those of S3 in us-east-1" in only


def test_compaction_lines_tell_what_pays() -> None:
    """Paying rewrites are planned, losing ones refused, an erasure's done whatever it costs."""
    pack = Pack(
        pack_id=1,
        pack_uuid=uuid4(),
        object_key="packs/2026/06/never/one.pack",
        state="ACTIVE",
        storage_class=IA,
        policy="all",
        retention_revision="",
        byte_size=100,
        snapshot_count=10,
        live_count=9,
        sha256=b"",
        footer_digest=None,
        attributes_digest=None,
        attributes_revision=None,
        min_created_at=NOW,
        max_clock_at=NOW,
        next_expiry_at=None,
        created_at=NOW,
        class_since=NOW,
    )
    losing = Merge(
        packs=(pack, pack),
        to=GLACIER,
        erased=False,
        cost=Cost(requests=14, usd=1.5),
        thaw=Cost(),
        early_usd=0.5,
        shortfall_usd=0,
        saves_usd=1,
        month_before_usd=1.0,
        month_after_usd=0.5,
    )
    rewrites = (
        replace(losing, saves_usd=3),
        replace(losing, to=IA),
        replace(losing, packs=(pack,), erased=True, to=IR),
    )
    found = planned(policies(), rewriting=tuple(each.to_line() for each in rewrites))
    assert [(line.state, line.to) for line in found.lines] == [
        ("planned", "GLACIER"),
        ("refused", "STANDARD_IA"),
        ("planned", "GLACIER_IR"),
    ]
    assert [(line.packs, line.snapshots, line.bytes, line.requests) for line in found.lines[1:]] == [
        (2, 18, 200, 14),
        (1, 9, 100, 14),
    ]
    assert found.lines[1].why == "2 packs become one of about 180 bytes: saves $1.00, costs $2.00"
    assert found.lines[2].why == "a pack is written anew of about 90 bytes: needed by an erasure"
    assert found.now_usd == 4


def test_share_of_a_pack_costs_its_bytes() -> None:
    """A thousandth of a 32 MiB pack that spent 3 months in STANDARD_IA and 3 in GLACIER, by hand."""
    rules = policies()
    pack = group(rules, storage_class=GLACIER, class_since=NOW - 90 * DAY)
    cost = share_cost(PRICES, rules.policies[0], pack, share=0.001, written_at=NOW - 180 * DAY, now=NOW)
    infrequent, archived = 0.0125 / 32, (32 * MB + 32 * KB) / GB * 0.0036 + 8 * KB / GB * 0.023
    requests = 4 * 0.001 / 1000 + 0.009 / 1000  # PUT at 0.01, HEAD and two GET at 0.001
    moved = 0.03 / 1000 + 3 * 0.0004 / 1000 + 2 * 0.001 / 1000 + 0.005 / 1000 + 0.01 / 32
    assert cost.usd_per_month == pytest.approx(archived / 1000)
    assert cost.usd_to_date == pytest.approx((requests + moved + 3 * infrequent + 3 * archived) / 1000)


def test_end_of_a_pack_is_that_of_its_youngest_snapshot() -> None:
    """By the policy's `retain`, by the month in its key where only snapshots say, or never."""
    retains, silent = policies({"retain": "400d"}).policies[0], policies().policies[0]
    clock, first = NOW - 10 * DAY, NOW + 5 * DAY
    pack = group(policies(), bucket="2026-12", max_clock_at=clock, next_expiry_at=first)
    assert ends_at(retains, replace(pack, bucket="2028-01")) == clock + 400 * DAY
    assert ends_at(silent, pack) == datetime(2027, 1, 1, tzinfo=UTC)
    assert ends_at(silent, replace(pack, bucket="never")) == first
    assert ends_at(silent, replace(pack, bucket="never", next_expiry_at=None)) is None
    assert ends_at(None, pack) == datetime(2027, 1, 1, tzinfo=UTC)
