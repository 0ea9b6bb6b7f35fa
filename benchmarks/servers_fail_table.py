"""The tables of `servers_fail.py`, and their place in a document."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- servers_fail.py: begin -->", "<!-- servers_fail.py: end -->"
_REASON = 110
_HEAD = (
    "fault",
    "three durable steps wait",
    "three hot steps wait",
    "reads of durable, hot, archived",
    "`/readyz`",
    "metrics",
    "log",
    "well again",
)


def written_into(document: Path, rows: list[dict[str, Any]], *, write: bool) -> str:
    """The tables; with `write` they are between the marks of the document, too."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    text = "\n\n".join(_table(kind, [row for row in rows if row["kind"] == kind]) for kind in kinds)
    if write:
        before, _, rest = document.read_text().partition(BEGIN)
        document.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    return text


def _table(kind: str, rows: list[dict[str, Any]]) -> str:
    head = [kind, *_HEAD[1:]]
    lines = [head, ["---"] * len(head), *map(_cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["fault"],
        _waits(row["durable"], row["durable_raised"]),
        _waits(row["hot"], row["hot_raised"]) + (f"; {row['in_place']} saves in PostgreSQL" if row["in_place"] else ""),
        _reads(row),
        _ready(row),
        "<br>".join(_metrics(row["metrics"])) or "-",
        "<br>".join(f"{who}: {_events(events)}" for who, events in row["lines"].items() if events) or "-",
        _well(row["well"]),
    ]


def _waits(waits: list[float], raised: str) -> str:
    said = " + ".join(f"{wait:.1f}" for wait in waits) + " s"
    return f"{said}, `{raised}`" if raised else said


def _reads(row: dict[str, Any]) -> str:
    said = [row["reads"][name] for name in ("durable", "hot", "archived")]
    words = [each if each == "answered" else f"`{each}`" for each in said]
    whole = words[0] if len(set(words)) == 1 else ", ".join(words)
    return f"{whole}; {row['longest_read']:.1f} s at most"


def _ready(row: dict[str, Any]) -> str:
    reason = row["reason"] if len(row["reason"]) <= _REASON else row["reason"][: _REASON - 1] + "…"
    reason = reason.replace("|", "\\|")
    if row["not_ready_after"] is None:
        return f"200, degraded: {reason}" if reason else "200"
    return f"503 after {row['not_ready_after']:.0f} s: {reason}"


def _metrics(moved: list[str]) -> list[str]:
    """Gauges as they are; counters by name and reason, whatever the number and job."""
    found: dict[str, None] = {}
    for each in moved:
        who, name = each.split(" ", 1)
        name, value = name.rsplit(" ", 1)
        name = re.sub(r'job="[^"]*",', "", name).replace("_total", "")
        grows = "grows" if value.startswith("+") else value
        found[f"`{name}` {grows}{' (application)' if who == 'application' else ''}"] = None
    return list(found)


def _events(events: dict[str, int]) -> str:
    return ", ".join(f"{times} `{event}`" for event, times in events.items())


def _well(well: dict[str, float]) -> str:
    names = {"saves": "saves", "reads": "reads", "ready": "`/readyz`", "settled": "all moved on"}
    return ", ".join(f"{names[name]} {seconds:.0f} s" for name, seconds in well.items())
