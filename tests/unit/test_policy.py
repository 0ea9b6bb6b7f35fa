"""Policies: what they refuse, what they doubt, and what they decide, to the instant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from sagaz_tiering.attributes import column
from sagaz_tiering.clock import to_micros
from sagaz_tiering.config.lint import policy_notes, policy_warnings
from sagaz_tiering.config.patterns import Match, matcher, patterns_cover
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.errors import PolicyError
from sagaz_tiering.policy import NOT_PROMISED, UNMATCHED, Durability, Policy, PolicySet, SagaEnd
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage_class import StorageClass

DAY = 86_400_000_000
T0 = to_micros(datetime(2026, 1, 1, tzinfo=UTC))
MOVES = [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "90d"}]
PAYMENTS = {
    "name": "payments",
    "match": {"saga_name": "payment-*", "status": ["failed", "rolled_back"]},
    "move": MOVES,
    "retain": "2555d",
}
OF_FAILED = {**PAYMENTS, "match": {"saga_name": "payment-*", "outcome": ["failed", "rolled_back"]}}
DEFAULT = {"name": "default", "match": {}, "move": MOVES[:1], "retain": "forever"}


def policy(**values: Any) -> Policy:
    return Policy.model_validate({"name": "p", **values})


def policies(*given: dict[str, Any]) -> PolicySet:
    return PolicySet([Policy.model_validate(each) for each in given])


def meta(
    saga_name: str = "payment-eu",
    *,
    step_name: str = "charge",
    status: str = "failed",
    created: int = T0,
    saved: int = T0,
    until: int | None = None,
) -> SnapshotMeta:
    return SnapshotMeta(UUID(int=1), UUID(int=2), saga_name, step_name, 0, status, created, saved, until, 0)


def problems(values: dict[str, Any]) -> list[tuple[tuple[int | str, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        policy(**values)
    return [(error["loc"], error["msg"]) for error in caught.value.errors()]


# --- what is refused -------------------------------------------------------------------------------------------


def test_policy_accepts_the_documented_example() -> None:
    """The example of the documentation, with every default."""
    payments = Policy.model_validate(PAYMENTS)
    assert payments.match.saga_name == ("payment-*",)
    assert payments.match.status == ("failed", "rolled_back")
    assert payments.match.step_name == ("*",)
    assert payments.durability is Durability.DURABLE
    assert [(move.to, move.after) for move in payments.move] == [
        (StorageClass.STANDARD_IA, timedelta(days=7)),
        (StorageClass.GLACIER, timedelta(days=90)),
    ]
    assert payments.retain == timedelta(days=2555)
    assert payments.linger == timedelta(hours=24)
    assert Policy(name="x").retain is None


@pytest.mark.parametrize(
    ("values", "location", "fix"),
    [
        ({"move": [{"to": "STANDARD", "after": "7d"}]}, ("move", 0, "to"), "write STANDARD_IA, or remove this move"),
        (
            {"move": [{"to": "GLACIER", "after": "7d"}, {"to": "STANDARD_IA", "after": "90d"}]},
            ("move", 1, "to"),
            "STANDARD_IA is not colder than GLACIER",
        ),
        (
            {"move": [{"to": "GLACIER", "after": "7d"}, {"to": "GLACIER", "after": "90d"}]},
            ("move", 1, "to"),
            "GLACIER is not colder than GLACIER",
        ),
        (
            {"move": [{"to": "STANDARD_IA", "after": "90d"}, {"to": "GLACIER", "after": "7d"}]},
            ("move", 1, "after"),
            "7d is not later than the move before it (STANDARD_IA after 90d); list moves in order of age",
        ),
        (
            {"move": [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "7d"}]},
            ("move", 1, "after"),
            "list moves in order of age",
        ),
        ({"move": MOVES, "retain": "90d"}, ("retain",), "90d would delete the snapshots before they move to GLACIER"),
        ({"move": MOVES, "retain": "30d"}, ("retain",), "retain them longer, or remove that move"),
        ({"move": [{"to": "GLACIER", "after": "0s"}]}, ("move", 0, "after"), "longer than zero"),
        ({"retain": "0d"}, ("retain",), "longer than zero"),
        ({"retain": "for ever"}, ("retain",), "is not a duration"),
        ({"retention": "policy"}, ("retention",), "needs `retain`"),
        ({"retain": 7}, ("retain",), "7 has no unit"),
        ({"match": {"saga_name": []}}, ("match", "saga_name"), "leave the key out to match everything"),
        ({"match": {"saga_name": None}}, ("match", "saga_name"), "leave the key out to match everything"),
        ({"match": {"status": False}}, ("match", "status"), "not a boolean; put it in quotes"),
        ({"match": {"step_name": ["a", ""]}}, ("match", "step_name"), "an empty pattern matches nothing"),
        ({"retian": "7d"}, ("retian",), "not permitted"),
        ({"match": {"saganame": "x"}}, ("match", "saganame"), "not permitted"),
        ({"name": "pay/ments"}, ("name",), "should match pattern"),
    ],
)
def test_policy_refuses_the_impossible(values: dict[str, Any], location: tuple[Any, ...], fix: str) -> None:
    """Each impossible policy is refused where the mistake is, with the fix."""
    assert [(where, fix in text) for where, text in problems(values)] == [(location, True)]


def test_policy_reports_every_wrong_move_at_once() -> None:
    """Two mistakes in one list of moves are two problems."""
    moves = [{"to": "STANDARD", "after": "9d"}, {"to": "GLACIER", "after": "7d"}]
    assert [where for where, _ in problems({"move": moves})] == [("move", 0, "to"), ("move", 1, "after")]


def test_policy_retain_one_instant_after_the_last_move_is_accepted() -> None:
    """The boundary of `retain`: longer than the last move is enough."""
    assert policy(move=MOVES, retain="2160h1ms").retain == timedelta(days=90, milliseconds=1)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a", "a"), "policies[1].name: 'a' is already the name of policies[0]; choose another"),
        (("unmatched",), "policies[0].name: 'unmatched' is reserved"),
    ],
)
def test_policy_set_refuses_names_that_clash(names: tuple[str, ...], expected: str) -> None:
    """A name stands for one policy, also in the packs it wrote."""
    with pytest.raises(PolicyError) as caught:
        policies(*({"name": name} for name in names))
    assert expected in str(caught.value)


# --- what is doubted -------------------------------------------------------------------------------------------


def caveats(*given: dict[str, Any]) -> list[tuple[tuple[int | str, ...], str]]:
    minimum = PriceList.load("us-east-1").minimum_durations
    return list(policy_warnings([Policy.model_validate(each) for each in given], minimum))


def test_policy_warnings_are_none_for_the_documented_example() -> None:
    """The example is beyond doubt, and so is a policy that never expires."""
    assert caveats(OF_FAILED, DEFAULT) == []


@pytest.mark.parametrize(
    ("given", "location", "text"),
    [
        (
            {"move": [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "36d"}]},
            (0, "move", 1, "after"),
            "stays in STANDARD_IA only 29d before GLACIER, but STANDARD_IA bills at least 30d; wait until 37d",
        ),
        (
            {"move": [{"to": "GLACIER_IR", "after": "7d"}], "retain": "96d"},
            (0, "retain"),
            "stays in GLACIER_IR only 89d before deletion, but GLACIER_IR bills at least 90d; wait until 97d",
        ),
        ({"move": [{"to": "GLACIER", "after": "1d"}], "retain": "90d"}, (0, "retain"), "bills at least 90d"),
        ({"move": [{"to": "DEEP_ARCHIVE", "after": "1d"}], "retain": "180d"}, (0, "retain"), "bills at least 180d"),
        (
            {"move": [{"to": "GLACIER", "after": "7d"}, {"to": "DEEP_ARCHIVE", "after": "365d"}]},
            (0, "move", 1, "to"),
            "has to restore every pack first",
        ),
    ],
)
def test_policy_warnings_name_what_costs_more_than_it_should(
    given: dict[str, Any], location: tuple[Any, ...], text: str
) -> None:
    """A class left before its minimum duration, and a move out of an archive."""
    assert [(where, text in message) for where, message in caveats({"name": "p", "retain": "forever", **given})] == [
        (location, True)
    ]


@pytest.mark.guarantee("G3")
def test_policy_warnings_name_a_policy_whose_snapshots_end_by_a_date_that_nobody_wrote_down() -> None:
    """Without `retain` the engine's 30 days decide, also for what no policy matches; to say so is no doubt."""
    bare = {key: value for key, value in DEFAULT.items() if key != "retain"}
    ((where, message),) = caveats(bare)
    assert where == (0,)
    assert "30 days" in message
    assert "retain: forever" in message
    assert caveats({**bare, "retention": "snapshot"}) == []
    ((_, message),) = caveats(OF_FAILED)
    assert "30 days" in message
    ((where, message),) = caveats({**DEFAULT, "retention": "snapshot"})
    assert where == (0, "retain")
    assert "does not count" in message


def test_policy_warnings_accept_a_stay_of_exactly_the_minimum() -> None:
    """The boundary: 30 days in STANDARD_IA are enough."""
    moves = [{"to": "STANDARD_IA", "after": "7d"}, {"to": "GLACIER", "after": "37d"}]
    assert caveats({"name": "p", "move": moves, "retain": "127d"}) == []


def test_policy_warnings_name_a_policy_that_is_never_used() -> None:
    """What stands below a catch-all, or below a pattern that includes it, can never match."""
    match = {"saga_name": "payment-eu", "status": "failed", "outcome": "*"}
    narrow = {"name": "narrow", "match": match, "retain": "1d"}
    wide = {"name": "wide", "match": {"saga_name": ["order-*", "pay*"]}, "retain": "1d"}
    (never,) = caveats(wide, narrow, DEFAULT)
    assert never[0] == (1, "match")
    assert "policy 'narrow' is never used: 'wide' above it" in never[1]
    assert [where for where, _ in caveats(DEFAULT, narrow)] == [(1, "match")]
    assert caveats(narrow, wide, DEFAULT) == []


@pytest.mark.parametrize("given", [(), (OF_FAILED,)])
def test_policy_warnings_say_what_happens_without_a_catch_all(given: tuple[dict[str, Any], ...]) -> None:
    """What no policy matches stays hot and durable for ever, and the warning says so."""
    ((where, message),) = caveats(*given)
    assert where == ()
    assert "stay in Redis and PostgreSQL, never move" in message
    assert "match: {}" in message


LAST = {"name": "last", "match": {}, "retain": "forever"}


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("payment-.*", "did you mean payment-*?"),
        ("^payment-.+$", "did you mean payment-*?"),
        ("^payment-(.*)$", "did you mean payment-*?"),
        ("pay(ment|out)", "write a list of patterns"),
        ("order|refund", "write a list of patterns"),
        ("order-[0-9]+", "write a list of patterns"),
        (r"order-\d", "write a list of patterns"),
    ],
)
def test_policy_warnings_name_patterns_that_look_like_regular_expressions(pattern: str, advice: str) -> None:
    """They match names with just these signs in them, which hardly any name has."""
    for match, place in (
        ({"saga_name": pattern}, ("saga_name",)),
        ({"attributes": {"tenant": ["acme", pattern]}}, ("attributes", "tenant")),
    ):
        [(where, text)] = caveats({"name": "a", "match": match, "retain": "forever"}, LAST)
        assert where == (0, "match", *place)
        assert f"{pattern} looks like a regular expression" in text
        assert advice in text


@pytest.mark.parametrize(
    "pattern", ["payment-*", "order-[0-9]*", "com.acme.*", "v1[.]*", "a?c", "com.acme.Order", "x[|]y"]
)
def test_policy_warnings_accept_patterns_of_a_shell(pattern: str) -> None:
    """Dotted names among them."""
    for match in ({"saga_name": pattern}, {"attributes": {"tenant": pattern}}):
        assert caveats({"name": "a", "match": match, "retain": "forever"}, LAST) == []


@pytest.mark.guarantee("G3")
def test_policy_warnings_ask_whether_outcome_was_meant_by_status() -> None:
    """`match.status` tears sagas apart: what it does is said, unless `outcome` beside it says that it is meant."""
    ((where, message),) = caveats(PAYMENTS, DEFAULT)
    assert where == (0, "match", "status")
    assert "looks at each snapshot by itself" in message
    assert "was outcome: [failed, rolled_back] meant" in message
    assert caveats({**PAYMENTS, "match": {**PAYMENTS["match"], "outcome": "*"}}, DEFAULT) == []


@pytest.mark.parametrize(
    ("given", "where", "text"),
    [
        ({"match": {"outcome": ["failed", "compensated"]}}, ("match", "outcome"), "compensated is no outcome"),
        ({"match": {"outcome": "roll*"}}, None, ""),
        ({"clock": "created_at", "running_at_most": "30d"}, ("running_at_most",), "created_at moves each snapshot"),
        ({"move": [], "running_at_most": "9d"}, ("running_at_most",), "nothing moves"),
        ({"match": {"outcome": "failed"}, "running_at_most": "9d"}, ("running_at_most",), "no saga that is running"),
        ({"running_at_most": "1d"}, ("running_at_most",), "nothing moves before 7d"),
        ({"running_at_most": "90d"}, ("retain",), "a saga that waits 60d for its next step is deleted while it runs"),
        ({"running_at_most": "60d"}, None, ""),
    ],
)
def test_policy_warnings_name_what_counts_for_no_saga(given: dict[str, Any], where: Any, text: str) -> None:
    """Outcomes that no saga has, bounds that bind nothing, and running sagas that go before their time."""
    found = caveats({"name": "p", "move": MOVES[:1], "retain": "60d", **given})
    expected = [] if where is None else [((0, *where), True)]
    assert [(at, text in message) for at, message in found if at != ()] == expected


def test_policy_warnings_name_running_sagas_that_no_policy_matches() -> None:
    """A list of outcomes without `running` leaves out each saga that runs, or of which no end was recorded."""
    ended = {"name": "ended", "match": {"outcome": ["completed", "failed"]}, "retain": "9d"}
    ((_, message),) = caveats(ended)
    assert "those of every saga that is running, or of which no end was recorded, among them" in message
    ((_, message),) = caveats({**ended, "match": {"outcome": ["r*"]}})
    assert "no end was recorded" not in message


def test_policy_notes_tell_the_default_clock_and_what_outcomes_need() -> None:
    """Who counts from the end of sagas without having written it, and which policies rule sagas without an end."""
    clock, outcomes = policy_notes([Policy.model_validate(each) for each in (OF_FAILED, DEFAULT)])
    assert clock == (
        "'payments', 'default': ages count from the end of each saga (clock: saga_end; created_at counts for each "
        "snapshot by itself)"
    )
    assert "counts as running, so 'default' may rule it" in outcomes
    assert "sagaz_tiering.capture records the end of each" in outcomes
    assert list(policy_notes([Policy.model_validate({**DEFAULT, "clock": "saga_end"})])) == []
    (attributes,) = policy_notes([policy(match={"attributes": {"tenant": "acme"}})])
    assert "'p': what was saved before an attribute was configured" in attributes


# --- which policy ----------------------------------------------------------------------------------------------


def test_policy_set_uses_the_first_policy_that_matches() -> None:
    """Order decides; what nothing matches is UNMATCHED."""
    both = policies(PAYMENTS, DEFAULT)
    assert both.for_meta(meta(), SagaEnd.of(meta())).name == "payments"
    assert both.policy_for("payment-eu", "charge", "completed").name == "default"
    assert policies(DEFAULT, PAYMENTS).for_meta(meta(), SagaEnd.of(meta())).name == "default"
    assert policies(PAYMENTS).for_meta(meta("order"), SagaEnd.of(meta("order"))) is UNMATCHED


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("payment-*", "payment-eu", True),
        ("payment-*", "Payment-eu", False),
        ("payment-*", "xpayment-eu", False),
        ("payment-?", "payment-eu", False),
        ("[op]*", "order", True),
        ("order", "order\n", False),
        ("*", "", True),
        ("*", "a\nb", True),
    ],
)
def test_matcher_is_case_sensitive_and_matches_whole_names(pattern: str, name: str, matches: bool) -> None:
    """Shell-style patterns over the whole name."""
    assert matcher([pattern])(name) is matches


names = st.text(alphabet="ab", max_size=4)
globs = st.text(alphabet="ab*?[]", min_size=1, max_size=4)


@given(globs, globs, names)
@example("*a]", "x[a]", "xa")
@example("a?c", "a*c", "abbc")
@example("[*]", "*", "a")
def test_patterns_cover_only_what_they_surely_match(wide: str, narrow: str, name: str) -> None:
    """A pattern that covers another matches every name that the other does."""
    if patterns_cover([wide], [narrow]) and fnmatchcase(name, narrow):
        assert fnmatchcase(name, wide)


@given(st.lists(globs, min_size=1, max_size=3), names)
def test_matcher_agrees_with_fnmatch(patterns: list[str], name: str) -> None:
    """Compiled patterns mean what fnmatch means."""
    assert matcher(patterns)(name) is any(fnmatchcase(name, pattern) for pattern in patterns)


def test_policy_set_remembers_only_so_many_names() -> None:
    """The memory of matched names is bounded, and forgetting changes no answer."""
    both = policies(PAYMENTS, DEFAULT)
    for i in range(40_000):
        both.policy_for(f"saga-{i}", "step", "completed")
    assert both._find.cache_info().currsize <= 32_768
    assert both.policy_for("saga-0", "step", "completed").name == "default"


# --- what is decided -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retain", "until", "expires"),
    [
        (None, None, None),
        (None, T0 + 5 * DAY, T0 + 5 * DAY),
        ("30d", None, T0 + 30 * DAY),
        ("30d", T0 + 5 * DAY, T0 + 30 * DAY),
        ("30d", T0 + 30 * DAY, T0 + 30 * DAY),
        ("30d", T0 + 31 * DAY, T0 + 31 * DAY),
        ("30d", T0 - DAY, T0 + 30 * DAY),
    ],
)
def test_expiry_is_the_later_of_policy_and_snapshot(retain: str | None, until: int | None, expires: int | None) -> None:
    """Neither: never; one: that one; both: the later one."""
    rules = policies({"name": "p", "retain": retain})
    snapshot = meta(until=until)
    assert rules.expires_us(snapshot, SagaEnd.of(snapshot)) == expires
    assert rules.decide(snapshot, SagaEnd.of(snapshot), T0).expires_us == expires


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize(
    ("rule", "until", "expires", "why"),
    [
        ({"retain": "forever"}, T0 + 30 * DAY, None, "it never expires: the policy retains it forever."),
        ({"retain": "forever", "retention": "policy"}, T0 + 30 * DAY, None, "retains it forever."),
        ({"retain": "forever", "retention": "snapshot"}, T0 + 30 * DAY, T0 + 30 * DAY, "its own retention_until."),
        ({"retain": "10d", "retention": "policy"}, T0 + 30 * DAY, T0 + 10 * DAY, "whatever its own retention_until"),
        ({"retain": "10d", "retention": "policy"}, None, T0 + 10 * DAY, "retains it 10d after the end of its saga."),
        ({"retain": "10d", "retention": "longest"}, T0 + 30 * DAY, T0 + 30 * DAY, "later than the policy's 10d"),
        ({"retain": "40d", "retention": "snapshot"}, T0 + 30 * DAY, T0 + 30 * DAY, "its own retention_until."),
        ({"retain": "40d", "retention": "snapshot"}, None, None, "it never expires."),
    ],
)
def test_expiry_is_by_whom_retention_names(
    rule: dict[str, Any], until: int | None, expires: int | None, why: str
) -> None:
    """`retention` says whose word counts, `forever` outlasts every date, and the reason says whose word it was."""
    rules = policies({"name": "p", **rule})
    snapshot = meta(until=until)
    assert rules.expires_us(snapshot, SagaEnd.of(snapshot)) == expires
    decision = rules.decide(snapshot, SagaEnd.of(snapshot), T0)
    assert decision.expires_us == expires
    assert why in decision.reason


def test_retention_revision_changes_with_whose_word_counts_and_not_with_the_key_written_out() -> None:
    """`retention` may change dates, so it is in the revision; its default is not, so that old revisions stand."""
    plain = policies({"name": "p", "retain": "10d"})
    assert (
        policies({"name": "p", "retain": "10d", "retention": "longest"}).retention_revision == plain.retention_revision
    )
    for other in ({"retain": "10d", "retention": "policy"}, {"retain": "forever"}, {"retain": "11d"}):
        assert policies({"name": "p", **other}).retention_revision != plain.retention_revision
    assert policies({"name": "p", "retain": "10d", "clock": "created_at"}).retention_revision == "2ce821244bb4"


def test_expiry_of_an_unmatched_snapshot_is_its_own() -> None:
    """The implicit policy adds no retention."""
    assert (
        policies(PAYMENTS).expires_us(meta("order", until=T0 + DAY), SagaEnd.of(meta("order", until=T0 + DAY)))
        == T0 + DAY
    )
    assert policies(PAYMENTS).expires_us(meta("order"), SagaEnd.of(meta("order"))) is None


@pytest.mark.parametrize(("offset", "expired"), [(-1, False), (0, True), (1, True)])
def test_decision_expires_exactly_at_the_instant(offset: int, expired: bool) -> None:
    """Expired from the very microsecond on, not one earlier."""
    rules = policies({"name": "p", "retain": "30d"})
    assert rules.decide(meta(), SagaEnd.of(meta()), T0 + 30 * DAY + offset).expired is expired


@pytest.mark.parametrize(("offset", "due"), [(-1, False), (0, True), (1, True)])
def test_decision_is_due_exactly_at_the_instant(offset: int, due: bool) -> None:
    """Due from the very microsecond on, not one earlier."""
    decision = policies(DEFAULT).decide(meta(), SagaEnd.of(meta()), T0 + 7 * DAY + offset)
    assert (decision.due, decision.due_us) == (due, T0 + 7 * DAY)


def test_decision_without_moves_is_never_due() -> None:
    """No moves, no due time, however old."""
    decision = policies({"name": "p"}).decide(meta(), SagaEnd.of(meta()), T0 + 10_000 * DAY)
    assert (decision.due, decision.due_us, decision.expired) == (False, None, False)


@pytest.mark.parametrize(
    ("clock", "created", "saved", "expected"),
    [
        ("created_at", T0, T0 + 400 * DAY, T0),
        ("saved_at", T0, T0 + 400 * DAY, T0 + 400 * DAY),
        ("saved_at", T0 + DAY, T0, T0 + DAY),
    ],
)
def test_decision_counts_ages_from_the_policys_clock(clock: str, created: int, saved: int, expected: int) -> None:
    """A back-fill by saved_at ages from its save, and never from before its creation."""
    rules = policies({**PAYMENTS, "clock": clock})
    decision = rules.decide(meta(created=created, saved=saved), SagaEnd.of(meta(created=created, saved=saved)), T0)
    assert decision.clock_us == expected
    assert decision.due_us == expected + 7 * DAY
    assert decision.expires_us == expected + 2555 * DAY


@pytest.mark.parametrize(
    ("now", "until", "reason"),
    [
        (
            T0,
            None,
            "policy 'payments' matches: it stays hot until 2026-01-08T00:00:00Z (7d after the end of its saga), "
            "then moves to STANDARD_IA, and it expires at 2032-12-30T00:00:00Z: the policy retains it 2555d after the "
            "end of its saga.",
        ),
        (T0 + 8 * DAY, None, "due for STANDARD_IA since 2026-01-08T00:00:00Z (7d after the end of its saga)"),
        (T0, T0 + 9999 * DAY, "its own retention_until, later than the policy's 2555d after the end of its saga."),
        (T0 + 3000 * DAY, None, "policy 'payments' matches: expired at 2032-12-30T00:00:00Z: the policy retains it"),
    ],
)
def test_decision_reason_says_what_next_when_and_why(now: int, until: int | None, reason: str) -> None:
    """`explain` tells which policy, what next, when, and which of the two retentions decided."""
    assert reason in policies(PAYMENTS).decide(meta(until=until), SagaEnd.of(meta(until=until)), now).reason


def test_decision_reason_of_an_unmatched_snapshot() -> None:
    """What no policy matches says so."""
    reason = policies(PAYMENTS).decide(meta("order"), SagaEnd.of(meta("order")), T0).reason
    assert reason == "no policy matches: it never leaves the hot tier, and it never expires."
    own = policies(PAYMENTS).decide(meta("order", until=T0 + 1), SagaEnd.of(meta("order", until=T0 + 1)), T0).reason
    assert "it expires at 2026-01-01T00:00:00.000001Z: its own retention_until." in own


# --- hot only, classes ------------------------------------------------------------------------------------------


HOT = {"durability": "hot"}


@pytest.mark.parametrize(
    ("given", "saga_name", "expected"),
    [
        ([DEFAULT], "order", False),
        ([DEFAULT], None, False),
        ([], "order", False),
        ([{**DEFAULT, **HOT}], "order", True),
        ([{**DEFAULT, **HOT}], None, True),
        ([{**PAYMENTS, **HOT}, DEFAULT], "payment-eu", True),
        ([{**PAYMENTS, **HOT}, DEFAULT], "order", False),
        ([{**PAYMENTS, **HOT}, DEFAULT], None, True),
        ([DEFAULT, {**PAYMENTS, **HOT}], "payment-eu", False),
        ([DEFAULT, {**PAYMENTS, **HOT}], None, False),
        ([PAYMENTS, {**DEFAULT, **HOT}], "payment-eu", True),
        ([{"name": "p", "match": {"saga_name": "pay*"}}, {**DEFAULT, **HOT}], "payment-eu", False),
        ([{"name": "p", "match": {"saga_name": "pay*"}}, {**DEFAULT, **HOT}], "order", True),
        ([{"name": "p", "match": {"saga_name": "pay*"}}, {**PAYMENTS, **HOT}], None, False),
        (
            [{"name": "f", "match": {"status": "failed"}}, {"name": "g", "match": {"status": "failed"}, **HOT}],
            "x",
            False,
        ),
    ],
)
def test_may_be_hot_only_follows_the_first_match(
    given: list[dict[str, Any]], saga_name: str | None, expected: bool
) -> None:
    """Only a `hot` policy that a snapshot of that saga name can reach counts."""
    assert policies(*given).may_be_hot_only(saga_name) is expected


some_match = st.fixed_dictionaries(
    {}, optional={key: st.lists(st.sampled_from(["a", "b", "a*", "*"]), min_size=1, max_size=2)
                  for key in ("saga_name", "step_name", "status")}
)  # fmt: skip


@given(st.lists(st.tuples(some_match, st.sampled_from(["hot", "durable"])), max_size=4), st.data())
def test_may_be_hot_only_never_misses_a_hot_snapshot(given: list[Any], data: st.DataObject) -> None:
    """If some snapshot's policy is `hot`, its saga name may be hot only."""
    rules = policies(*({"name": f"p{i}", "match": m, "durability": d} for i, (m, d) in enumerate(given)))
    name, step, status = (data.draw(st.sampled_from(["a", "b", "ab", "c"])) for _ in range(3))
    if rules.policy_for(name, step, status).durability is Durability.HOT:
        assert rules.may_be_hot_only(name)
        assert rules.may_be_hot_only(None)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0, None),
        (7 * DAY - 1, None),
        (7 * DAY, StorageClass.STANDARD_IA),
        (90 * DAY - 1, StorageClass.STANDARD_IA),
        (90 * DAY, StorageClass.GLACIER),
        (9000 * DAY, StorageClass.GLACIER),
    ],
)
def test_class_at_is_the_last_move_that_is_due(age: int, expected: StorageClass | None) -> None:
    """The class changes at the very instant."""
    assert policies(PAYMENTS).class_at("payments", T0, T0 + age) is expected


def test_policy_that_is_gone_moves_nothing() -> None:
    """Packs of a policy that is no longer configured stay where they are."""
    rules = policies(DEFAULT)
    assert rules.class_at("payments", T0, T0 + 9000 * DAY) is None
    assert rules.named("payments") is None
    assert rules.named("unmatched") is UNMATCHED


def test_revision_follows_the_content_and_not_the_layout() -> None:
    """Other spellings of the same policies have the same revision; any change has another."""
    same = {**PAYMENTS, "move": [{"to": "STANDARD_IA", "after": "168h"}, MOVES[1]], "durability": "durable"}
    assert policies(PAYMENTS).revision == policies(same).revision
    assert policies(PAYMENTS) == policies(same)
    assert len(policies(PAYMENTS).revision) == 12
    changed = [{**PAYMENTS, "retain": "2556d"}, {**PAYMENTS, "name": "other"}, {**PAYMENTS, "clock": "saved_at"}]
    revisions = {policies(each).revision for each in changed} | {policies(PAYMENTS, DEFAULT).revision}
    assert len(revisions | {policies(PAYMENTS).revision}) == 5


def test_match_is_catch_all_only_when_everything_matches() -> None:
    """A star in each of the three."""
    assert Match().is_catch_all
    assert Match.model_validate({"saga_name": ["x", "**"]}).is_catch_all
    assert not Match.model_validate({"status": "failed"}).is_catch_all


# --- the saga as a whole -----------------------------------------------------------------------------------------


def ended(status: str, days: float = 0.0, kept_us: int | None = NOT_PROMISED) -> SagaEnd:
    """A saga whose newest snapshot was made so many days after T0."""
    return SagaEnd(T0 + int(days * DAY), 9, UUID(int=9), status, kept_us)


OUTCOMES = policies(
    {"name": "failed", "match": {"outcome": ["failed", "rolled_back"]}, "move": MOVES, "retain": "2555d"},
    {"name": "rest", "match": {}, "move": MOVES[:1], "retain": "30d"},
)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize(
    ("status", "name"), [("failed", "failed"), ("rolled_back", "failed"), ("completed", "rest"), ("executing", "rest")]
)
def test_outcome_rules_every_snapshot_of_the_saga(status: str, name: str) -> None:
    """A step that was executing has the policy, and the dates, that the newest snapshot of its saga calls for."""
    step = meta(status="executing")
    decision = OUTCOMES.decide(step, ended(status, 3), T0)
    lifetime = 2555 if name == "failed" else 30
    assert (decision.policy, decision.expires_us) == (name, T0 + (3 + lifetime) * DAY)
    assert decision.due_us == T0 + 10 * DAY


@pytest.mark.parametrize("status", ["pending", "executing", "compensating", "forward_recovery"])
def test_saga_under_way_is_running_and_no_other_outcome(status: str) -> None:
    """`running` matches what has no end; a pattern of the status itself is refused, with what to write."""
    running = policies({"name": "r", "match": {"outcome": "running"}})
    assert running.decide(meta(), ended(status), T0).policy == "r"
    assert running.decide(meta(), ended("completed"), T0).rule is UNMATCHED
    assert problems({"match": {"outcome": status}}) == [
        (("match", "outcome"), f"{status} is no outcome; a saga whose newest snapshot says so is `running`")
    ]


BY_ATTRIBUTE = policies(
    {"name": "ours", "match": {"attributes": {"tenant": ["acme", "glob*"], "region": "eu-*"}}, "retain": "2555d"},
    {"name": "any", "match": {"saga_name": "payment-*", "attributes": {"tenant": "*"}}, "retain": "90d"},
    {"name": "rest", "match": {}, "retain": "30d"},
)


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (["tenant=acme", "region=eu-1"], "ours"),
        (["tenant=other", "tenant=globex", "region=us", "region=eu-1"], "ours"),
        (["tenant=acme"], "any"),
        (["tenant=acme", "region=us"], "any"),
        (["tenant=ACME", "region=eu-1"], "any"),
        (["tenants=acme", "region=eu-1"], "rest"),
        (["region=eu-1"], "rest"),
        ([], "rest"),
    ],
)
def test_attributes_of_the_newest_snapshot_rule_every_snapshot_of_the_saga(tokens: list[str], name: str) -> None:
    """Of each attribute that is named some value must match; what the snapshot itself has does not count."""
    end = ended("executing", 3)._replace(attributes=column([*tokens, "order_id=A-17"]))
    step = meta()._replace(attributes=column(["tenant=acme", "region=eu-1"]))
    decision = BY_ATTRIBUTE.decide(step, end, T0)
    assert decision.policy == name
    assert ("its newest snapshot has tenant acme or glob*, its newest snapshot has region eu-*" in decision.who) is (
        name == "ours"
    )
    assert BY_ATTRIBUTE.policy_for("payment-eu", "charge", "failed", "running", end.attributes).name == name


@pytest.mark.guarantee("G3")
def test_snapshot_lives_surely_as_long_as_the_shortest_rule_that_its_saga_may_come_under() -> None:
    """Of a saga of which a later end may be elsewhere; rules behind one for any end are none of those."""
    assert OUTCOMES.expires_not_before_us(meta(), ended("failed", 3)) == T0 + 33 * DAY
    assert OUTCOMES.expires_not_before_us(meta(until=T0 + 60 * DAY), ended("failed", 3)) == T0 + 60 * DAY
    assert OUTCOMES.honouring(policies(DEFAULT)).expires_not_before_us(meta(), ended("failed")) is None
    end = ended("failed", 3)._replace(attributes=column(["tenant=acme", "region=eu-1"]))
    assert BY_ATTRIBUTE.expires_not_before_us(meta(), end) == T0 + 33 * DAY
    behind = policies({"name": "all", "retain": "90d"}, {"name": "r", "match": {"outcome": "running"}, "retain": "1d"})
    assert behind.expires_not_before_us(meta(), ended("failed", 3)) == T0 + 93 * DAY
    unmatched = policies({"name": "r", "match": {"outcome": "failed"}, "retain": "90d"})
    assert unmatched.expires_not_before_us(meta(), ended("failed", 3)) == T0 + 93 * DAY
    assert unmatched.expires_not_before_us(meta(until=T0 + DAY), ended("failed", 3)) == T0 + DAY


def test_only_attributes_that_rule_tell_sagas_apart() -> None:
    """A look-up is remembered by what rules look at: order numbers do not fill the memory."""
    assert BY_ATTRIBUTE.ruling_attributes == ("region", "tenant")
    assert BY_ATTRIBUTE.ruling(column(["order_id=1", "tenant=acme", "tenant=b"])) == column(["tenant=acme", "tenant=b"])
    assert OUTCOMES.ruling("tenant=acme") == ""
    before = BY_ATTRIBUTE._find.cache_info().currsize
    for order in range(100):
        BY_ATTRIBUTE.decide(meta(), ended("failed")._replace(attributes=f"order_id={order}"), T0)
    assert BY_ATTRIBUTE._find.cache_info().currsize <= before + 1


def test_rules_by_attribute_may_be_hot_only_and_hide_what_they_cover() -> None:
    """Whether Redis alone may have one is known whatever its attributes; a rule with fewer covers one with more."""
    rules = policies({"name": "h", "match": {"attributes": {"tenant": "acme"}}, "durability": "hot"}, DEFAULT)
    assert rules.may_be_hot_only("payment-eu")
    wide, narrow = Match(attributes={"tenant": "a*"}), Match(attributes={"tenant": ["acme", "a?"], "region": "eu"})
    assert wide.covers(narrow)
    assert not narrow.covers(wide)
    assert not wide.covers(Match())
    assert not wide.is_catch_all
    assert Match(attributes={}).is_catch_all
    ((where, message),) = (
        found
        for found in caveats(
            {"name": "w", "match": wide, "retain": "9d"}, {"name": "n", "match": narrow, "retain": "9d"}
        )
        if "never used" in found[1]
    )
    assert where == (1, "match")
    assert "'n' is never used" in message


def test_revisions_and_texts_without_attributes_are_as_they_were() -> None:
    """A configuration that names none has the revision, and the text in the catalog, that versions before gave it."""
    assert policies({"name": "p", "retain": "10d", "clock": "created_at"}).retention_revision == "2ce821244bb4"
    assert "attributes" not in policies(OF_FAILED, DEFAULT).retention_text
    assert (
        PolicySet.of_retention_text(BY_ATTRIBUTE.retention_text).retention_revision == BY_ATTRIBUTE.retention_revision
    )
    others = policies({"name": "ours", "match": {"attributes": {"tenant": "acme"}}, "retain": "2555d"})
    assert others.retention_revision != BY_ATTRIBUTE.retention_revision


def test_end_keeps_its_attributes_where_the_same_snapshot_is_told_without() -> None:
    """A pack's place does not tell them; another snapshot, newer than the end, does."""
    known = SagaEnd.of(meta()._replace(attributes="tenant=acme"))
    assert known.and_of(meta()) == known
    assert known.and_of(meta()._replace(attributes="tenant=b")).attributes == "tenant=b"
    assert known.and_of(meta(created=T0 + 1)).attributes == ""


def test_snapshots_made_after_what_is_known_of_a_saga_are_its_end() -> None:
    """A snapshot that is newer than the known end is it; an older one is not; what was promised stays."""
    known = ended("completed", 1, kept_us=T0 + 99 * DAY)
    late = meta(created=T0 + 2 * DAY)
    assert known.and_of(late) == SagaEnd.of(late)._replace(kept_us=T0 + 99 * DAY)
    assert known.and_of(meta()) == known
    assert known.and_of(ended("failed", 0.5, kept_us=None)) == known._replace(kept_us=None)
    assert known.and_of(None) == known


@pytest.mark.parametrize(
    ("status", "after", "due_days"), [("executing", "7d", 30), ("executing", "90d", 90), ("completed", "7d", 47)]
)
def test_running_sagas_keep_no_more_than_running_at_most(status: str, after: str, due_days: int) -> None:
    """What is 30 days old of a running saga moves, after `after`; of one that has ended all moves together."""
    rules = policies({"name": "p", "move": [{"to": "STANDARD_IA", "after": after}]})
    assert rules.decide(meta(), ended(status, 40), T0).due_us == T0 + due_days * DAY


@pytest.mark.parametrize("clock", ["created_at", "saved_at"])
def test_other_clocks_count_each_snapshot_by_itself(clock: str) -> None:
    """With `clock: created_at` or `saved_at` the end of the saga changes no date."""
    rules = policies({"name": "p", "clock": clock, "retain": "10d", "move": MOVES[:1]})
    decision = rules.decide(meta(saved=T0 + DAY), ended("completed", 40), T0)
    own = T0 + (DAY if clock == "saved_at" else 0)
    assert (decision.due_us, decision.expires_us) == (own + 7 * DAY, own + 10 * DAY)


@pytest.mark.guarantee("G14")
def test_promise_of_a_longer_rule_is_kept_unless_the_policy_alone_counts() -> None:
    """What was archived of a failed saga was promised seven years; completing later shortens that by `policy` alone."""
    kept = ended("completed", 3, kept_us=T0 + 2555 * DAY)
    assert OUTCOMES.expires_us(meta(status="executing"), kept) == T0 + 2555 * DAY
    assert OUTCOMES.expires_us(meta(), kept._replace(kept_us=None)) is None
    alone = policies({"name": "p", "retain": "30d", "retention": "policy"})
    assert alone.expires_us(meta(), kept) == T0 + 33 * DAY
    assert alone.expires_at_least_us(meta(), kept, T0 + 2555 * DAY) == T0 + 33 * DAY


@pytest.mark.guarantee("G14")
@pytest.mark.parametrize("match", [{"outcome": "completed"}, {"attributes": {"tenant": "acme"}}])
def test_a_date_by_the_save_is_no_last_word_where_sagas_go_from_rule_to_rule(match: dict[str, Any]) -> None:
    """Recorded when another rule kept less; the rule that holds now keeps it for as long as it says, at least."""
    by_save = {"clock": "saved_at", "retention": "policy", "move": MOVES[:1]}
    rules = policies(
        {"name": "long", "match": match, "retain": "90d", **by_save}, {"name": "all", "retain": "9d", **by_save}
    )
    end = ended("completed", 0)._replace(attributes=column({"tenant=acme"}))
    told = rules.expires_at_least_us(meta(), end, T0 + 9 * DAY, (rules.retention_revision, "long"))
    assert told == T0 + 90 * DAY
