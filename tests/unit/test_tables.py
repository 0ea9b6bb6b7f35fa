"""Tables in windows of any width: ids can be copied, and what has no room is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from sagaz_tiering.cli.commands import find, plan, snapshot, status
from sagaz_tiering.cli.parsing import parse_id
from sagaz_tiering.cli.progress import counters
from sagaz_tiering.cli.session import Answer
from sagaz_tiering.cli.stderr import UsageError
from sagaz_tiering.policy import Policy
from sagaz_tiering.snapshot import SnapshotRef, Tier
from sagaz_tiering.terminal import (
    counted,
    make_console,
    make_table,
    need_millis,
    print_table,
    show_counts,
    show_distance,
    show_time,
    show_times,
    show_usd,
)

ID = UUID("7f9c2f5e-9a4b-4f0e-8a53-3a2d2d1e9f10")
COLUMNS = ("created at", "step>", "name", "status", "tier", "expires", "snapshot")
ROW = ("2026-03-01 12:00:00Z", 1, "reserve_stock", "executing", "cold STANDARD_IA", "never", ID)


def printed(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *tables: Any) -> str:
    """The table as a terminal of that width shows it."""
    monkeypatch.setenv("COLUMNS", str(width))
    for table in tables or [make_table(COLUMNS, [ROW], spare=("step", "snapshot"))]:
        if isinstance(table, str):
            print(table)
        else:
            print_table(make_console(), table)
    text = capsys.readouterr().out
    assert all(len(line) <= width for line in text.splitlines() if not line.startswith("no room")), text
    return text


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_columns_drop_out_in_the_order_that_the_table_names(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """First the number of the step, then the id, which is whole or not there; what is not there is named."""
    text = printed(width, monkeypatch, capsys)
    gone = text.partition("no room for: ")[2].strip()
    assert gone == {80: "step, snapshot", 100: "step, snapshot"}.get(width, ""), text
    assert (str(ID) in text) == ("snapshot" not in gone)
    assert all(each in text for each in ("reserve_stock", "executing", "STANDARD_IA", "never", "2026-03-01 12:00:00Z"))


@pytest.mark.parametrize("width", [40, 80, 120, 160])
def test_rows_become_blocks_where_no_column_may_go(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids are whole at any width, and nothing is left out."""
    columns = ("since", "subject", "by", "reason", "hold")
    other = UUID("00000000-9a4b-4f0e-8a53-3a2d2d1e9f10")
    row = ("2026-03-01 12:00:00Z", ID, "anna.counsel", "case 2026-17, the order of the court of Hamburg", other)
    text = printed(width, monkeypatch, capsys, make_table(columns, [row, row]))
    said = " ".join(text.split())
    assert said.count(str(ID)) == said.count(str(other)) == 2
    assert said.count("anna.counsel") == said.count("2026-03-01 12:00:00Z") == 2
    assert ("reason: case 2026-17" in said) == (width < 160), text


@pytest.mark.parametrize("width", [80, 120])
def test_plan_keeps_words_and_amounts_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no room, packs and requests go first, then bytes and how sagas end."""
    line: Any = SimpleNamespace(
        action="transition",
        policy="order-checkout",
        source="STANDARD",
        to="STANDARD_IA",
        snapshots=1_234,
        outcomes={"completed": 1_000, "failed": 234},
        packs=3,
        bytes=50_662,
        requests=1_000,
        now_usd=0.0000069,
        month_before_usd=0.0123,
        state="planned",
        month_after_usd=0.0091,
        break_even_months=3.1,
    )
    found: Any = SimpleNamespace(
        at=datetime(2026, 3, 1, tzinfo=UTC),
        revision="r",
        region="r",
        prices_as_of="p",
        lines=[line],
        requests=0,
        now_usd=0,
        month_before_usd=0,
        month_after_usd=0,
        advice=(),
    )
    change: Any = SimpleNamespace(line=line, before=line, after=None)
    text = printed(width, monkeypatch, capsys, next(plan._plan_lines(found, "plan")))
    text += printed(width, monkeypatch, capsys, next(plan._change_lines([change], found, found)))
    assert all(text.split().count(word) == 2 for word in ("transition", "order-checkout", "STANDARD_IA")), text
    assert all(word in text for word in ("1,234", "$0.0000069", "$0.0091"))
    gone = [part.splitlines()[0] for part in text.split("no room for: ")[1:]]
    spare = {80: "packs, requests, bytes, of sagas, pays after, $ a month before", 120: "packs, requests"}
    assert gone[0].startswith(spare[width]), gone


@pytest.mark.parametrize("width", [80, 120])
def test_found_sagas_have_their_status_and_place(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole names and words beside whole ids."""
    one: Any = SimpleNamespace(saga_id=ID, first_at=datetime(2026, 3, 1, tzinfo=UTC), saga_name="order-checkout")
    one.status, one.last_step, one.snapshots, one.held = "completed", "ship_order", {"cold": 3}, True
    page: Any = SimpleNamespace(items=[one], cursor=None, count=None)
    page = type("Found", (list,), vars(page))([one])
    text = printed(width, monkeypatch, capsys, *find._lines(page, "postgresql://db/sagaz"))
    assert all(word in text for word in (str(ID), "order-checkout", "completed", "ship_order", "held"))
    assert ("no room for: began" in text) == (width == 80)


@pytest.mark.parametrize("width", [80, 120])
def test_history_is_told_without_broken_amounts(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The amount of a month stays on one line."""
    held = [{"tier": "cold", "storage_class": "STANDARD_IA", "bytes": 2_000, "snapshots": 72, "usd_per_month": 6e-7}]
    points = [{"hour": f"2026-03-01T{hour:02}:00:00+00:00", "holdings": held} for hour in range(24)]
    document = {"points": points, "came": {}, "spent": [], "step_hours": 1}
    text = printed(width, monkeypatch, capsys, *status._history_lines(document))
    assert "$0.0000006" in text


@pytest.mark.parametrize("width", [80, 120])
def test_policies_are_shown_by_whole_words(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retention_until` is a word to look for."""
    policies = [
        Policy.model_validate(
            {
                "name": "order-checkout",
                "match": {"saga_name": "order*"},
                "move": [{"to": "STANDARD_IA", "after": "30d"}],
            }
        )
    ]
    document = {"ok": True, "warnings": [], "notes": [], "file": "f.yaml", "revision": "r"}
    text = printed(width, monkeypatch, capsys, *plan._checked(document, policies))
    assert all(word in text for word in ("order-checkout", "STANDARD_IA", "retention_until")), text


@pytest.mark.parametrize("width", [80, 120])
def test_watched_status_fits_the_window(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiers first, a line for each of them and for each job; what has no room is counted."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    at = now + timedelta(hours=5, minutes=51)
    names = [f"verify_hot_{number:02}" for number in range(11)]
    counts = {"sagas": 12, "snapshots": 36, "packs": 3, "raw_bytes": 102_071, "bytes": 40_000, "requests": 9}
    runs = [
        {"job": name, "summary": counts, "error": None, "stopped": None, "started_at": (now - (at - now)).isoformat()}
        for name in names
    ]
    starts = [
        {"job": name, "times": "every 6h", "at": at.isoformat(), "latest": (at + timedelta(minutes=36)).isoformat()}
        for name in names
    ]
    hot = {
        "sagas_waiting": 1,
        "sagas_due": 0,
        "snapshots": 3,
        "used_memory": 2_000_000,
        "maxmemory_policy": "noeviction",
    }
    hot["maxmemory_policy"] = "noeviction"
    pack = {"state": "ACTIVE", "snapshots": 9, "packs": 3, "bytes": 4_000, "usd_per_month": 6.9e-7}
    packs = [{**pack, "storage_class": name} for name in ("STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER")]
    document: dict[str, Any] = {"hot": hot, "packs": packs, "jobs": runs, "next_runs": starts}
    document |= {"policies": {"names": ["order"], "revision": "r"}}
    document |= {"leases": [{"name": f"lease {number}", "owner": "o", "epoch": 1} for number in range(9)]}
    Answer(document, status._lines(document, now, in_a_line=True)).show_screen()
    lines = capsys.readouterr().out.removeprefix("\x1b[H\x1b[2J").splitlines()
    assert len(lines) == 23, lines
    assert all(len(line) <= width for line in lines)
    assert lines[0].split()[0] == "tier"
    assert "1 saga waiting" in lines[2]
    assert [line.split()[0] for line in lines[9:20]] == names
    assert all("in 5 h 51 min to 6 h 27 min" in line for line in lines[9:20])
    assert lines[-1] == "… 8 more lines in a higher window"


def test_history_says_what_its_points_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Not how far apart they are, which nobody knows of the last row of some hours."""
    point = {"hour": "2026-03-01T13:00:00+00:00", "holdings": []}
    for step, count, told in ((6, 2, "2 points, the last of each 6 h"), (1, 1, "1 point, one an hour")):
        document = {"points": [point] * count, "came": {}, "spent": [], "step_hours": step}
        assert next(status._history_lines(document)).endswith(told)


def test_times_in_a_sentence_read_as_all_others() -> None:
    """Of a move, a hold or a restore, whatever zone they were written in."""
    told = "to GLACIER at 2026-11-30T13:49:19.319507+00:00 (due), since 2026-11-30T14:00:00+02:00"
    assert show_times(told) == "to GLACIER at 2026-11-30 13:49:19Z (due), since 2026-11-30 12:00:00Z"


def test_counters_of_a_job_are_one_line() -> None:
    """What there is a total of comes first, with its rate; the rest has units."""
    done = {"raw_bytes": 102_071, "sagas": 1_200, "packs": 2}
    told = "age: sagas 1,200 of about 5,000, 600/s, 6 s left; raw bytes 99.7 KiB, packs 2"
    assert counters("age", done, {"sagas": 5_000}, 2.0) == told
    assert counters("expire", {"packs": 1}, {}, 0.0) == "expire: packs 1"


def test_id_that_was_cut_is_told_by_how_much() -> None:
    """Text of another kind is the id that a saga was run with."""
    for text, hint in ((str(ID)[:-1], "1 character short"), (str(ID)[:20], "16 characters short")):
        with pytest.raises(UsageError) as found:
            parse_id(text, "HOLD_ID")
        assert found.value.hint == f"this id is {hint}"
    for text in ("order-17", "deadbeef", "cafe-2026-03"):
        with pytest.raises(UsageError) as found:
            parse_id(text, "SAGA_ID")
        assert "it is stored under" in found.value.hint


def test_table_without_ids_keeps_its_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words wrap."""
    monkeypatch.setenv("COLUMNS", "40")
    print_table(
        make_console(), make_table(("tier", "notes", "bytes>"), [("hot (Redis)", "several words of it", "3 KiB")])
    )
    text = capsys.readouterr().out
    assert "no room" not in text
    assert all(word in text for word in ("hot", "several", "words", "3"))


def test_sentence_that_names_an_id_leaves_the_ids_beside_it_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reason wraps; the key that a command must be given does not, and keeps its column."""
    monkeypatch.setenv("COLUMNS", "120")
    key = f"packs/2026/11/2033-11/{ID}.pack"
    reason = f"the catalog names an object that the store does not have: s3://acme/production/{key}"
    print_table(make_console(), make_table(("kind", "item", "reason"), [("pack", key, reason)]))
    text = capsys.readouterr().out
    assert key in text
    assert "no room" not in text


def test_what_a_run_did_has_units() -> None:
    """Numbers of bytes have units; what is 0 is left out."""
    counts = {"packs": 2, "raw_bytes": 50_662, "bytes_before": 812, "left_out": 0}
    assert show_counts(counts) == "packs 2, raw bytes 49.5 KiB, bytes before 812 B"
    assert show_counts({"packs": 0}) == "nothing to do"


def test_one_thing_is_named_in_the_singular() -> None:
    """Also words that take more than an s."""
    assert [counted(count, "pack") for count in (0, 1, 2_000)] == ["0 packs", "1 pack", "2,000 packs"]
    assert [counted(count, "policy", "policies") for count in (1, 2)] == ["1 policy", "2 policies"]


def test_amounts_are_never_in_exponents() -> None:
    """However small or large, and what is lost has its sign before the currency."""
    amounts = (0, 12.3, 1e-05, 0.0000018, 1234.5, -0.5, -1e-05)
    shown = ["$0.00", "$12.30", "$0.00001", "$0.0000018", "$1,234.50", "-$0.50", "-$0.00001"]
    assert list(map(show_usd, amounts)) == shown


def test_start_that_is_drawn_by_chance_is_told_as_a_span() -> None:
    """Also one that is due; what has no jitter is told as one time."""
    now, hour = datetime(2026, 3, 1, 12, tzinfo=UTC), timedelta(hours=1)
    assert show_distance(now + 5 * hour, now, now + 6 * hour) == "in 5 h to 6 h"
    assert show_distance(now, now, now + hour) == "in 0 s to 1 h"
    assert show_distance(now + hour, now, now + hour) == "in 1 h"
    assert show_distance(now - hour, now) == "1 h ago"


def test_milliseconds_are_shown_where_seconds_do_not_tell_apart() -> None:
    """Not where moments are the same, or seconds apart."""
    first = datetime(2026, 3, 1, 12, 0, 0, 1_500, tzinfo=UTC)
    assert need_millis([first, first + timedelta(milliseconds=7)])
    assert not need_millis([first, first, first + timedelta(seconds=1)])
    assert show_time(first, millis=True) == "2026-03-01 12:00:00.001Z"
    assert show_time(first) == "2026-03-01 12:00:00Z"


def test_timeline_tells_the_steps_of_one_second_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """All of its times to the millisecond then, so that they stand in one column, with their day above them."""
    first = datetime(2026, 3, 1, 12, tzinfo=UTC)
    about: dict[str, Any] = {"saga_id": ID, "saga_name": "order", "step_name": "pay", "status": "done"}
    refs = [
        SnapshotRef(snapshot_id=ID, step_index=at, created_at=when, expires_at=None, tier=Tier.HOT, **about)
        for at, when in enumerate([first, first + timedelta(milliseconds=7)])
    ]
    for found, shown in ((refs, ("12:00:00.000Z", "12:00:00.007Z")), (refs[:1], ("12:00:00Z",))):
        [table] = snapshot._timeline(ID, found, None, first, None)
        print_table(make_console(), table)
        text = capsys.readouterr().out
        assert all(time in text for time in shown), text
        assert text.count("2026-03-01") == 1


@pytest.mark.parametrize("width", [80, 160])
def test_job_takes_a_line_in_status(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a narrow terminal without its schedule, and by the distance of its times alone."""
    monkeypatch.setenv("COLUMNS", str(width))
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    run = {"job": "verify_hot", "summary": {}, "error": None, "stopped": None}
    run["started_at"] = (now - timedelta(hours=5, minutes=51)).isoformat()
    following = {"job": "verify_hot", "times": "every 6h", "at": (now + timedelta(hours=5, minutes=51)).isoformat()}
    following["latest"] = (now + timedelta(hours=6, minutes=27)).isoformat()
    document: dict[str, Any] = {"jobs": [run], "next_runs": [following], "policies": {"names": [], "revision": "r"}}
    _, jobs, _ = status._lines(document, now)
    print_table(make_console(), jobs)
    text = capsys.readouterr().out
    told = [line for line in text.splitlines() if line.strip()][2:]
    assert len(told) == 1, text
    assert "in 5 h 51 min to 6 h 27 min" in told[0]
    assert ("every 6h" in text) == ("2026-03-01" in text) == (width == 160)
