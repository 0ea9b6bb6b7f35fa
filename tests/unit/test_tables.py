"""Tables in windows of any width: ids can be copied, and what has no room is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sagaz_tiering.cli.commands import snapshot, status
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
    show_usd,
)

ID = UUID("7f9c2f5e-9a4b-4f0e-8a53-3a2d2d1e9f10")
COLUMNS = ("created at", "step>", "name", "status", "tier", "expires", "snapshot")
ROW = ("2026-03-01 12:00:00Z", 1, "reserve_stock", "executing", "cold STANDARD_IA", "never", ID)


def printed(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The table as a terminal of that width shows it."""
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(make_console(), make_table(COLUMNS, [ROW]))
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
def test_ids_are_whole_at_every_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every column is there or named as left out, and no line is longer than the window."""
    text = printed(width, monkeypatch, capsys)
    assert str(ID) in text
    assert all(column.rstrip(">") in text for column in COLUMNS[-1:])
    table, _, left_out = text.partition("no room for: ")
    names = {column.rstrip(">") for column in COLUMNS}
    shown = {name for name in names if all(word in table for word in name.split())}
    assert shown | set(left_out.strip().split(", ")) >= names
    assert all(len(line) <= width for line in table.splitlines())
    assert bool(left_out) if width <= 80 else width < 132 or not left_out


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
    """All of its times to the millisecond then, so that they stand in one column."""
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
