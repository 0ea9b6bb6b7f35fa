"""Cells of `benchmarks/servers_fail.py`, which makes the tables of docs/reliability.md."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "servers_fail.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fault", "ready"),
    [("Redis", "read-only", "redis: Redis at"), ("PostgreSQL", "read-only", "postgresql: "), ("S3", "full", "")],
)
async def test_servers_fail_as_the_table_says(kind: str, fault: str, ready: str) -> None:
    """Waits are bounded, nothing is lost, the log is short, `/readyz` says what it is, and all is well afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), "--kind", kind, "--fault", fault, "--json"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    (row,) = json.loads(out)
    assert row["problems"] == []
    assert row["reason"].startswith(ready)
    assert (row["not_ready_after"] is None) is (kind == "S3")
    assert row["saved"] > 0
    assert row["in_place"] > 0 or kind != "Redis"
