"""How many processes share a backlog, and what each may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagaz_tiering.app import workers
from sagaz_tiering.jobs.context import LEAST_SHARE, UPLOAD_BYTES, share_of

MIB = 2**20


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 6),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 6),
        ("", 6),
        ("what is this", 6),
    ],
)
def test_cores_are_those_that_the_container_may_use(
    quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole ones, and never none; a quota that cannot be read is none."""
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _pid: set(range(6)))
    path = tmp_path / "cpu.max"
    path.write_text(quota, encoding="ascii")
    assert workers.cpus(path) == expected
    assert workers.cpus(tmp_path / "missing") == 6


def test_processes_are_as_many_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 leaves it to the machine, up to a limit."""
    monkeypatch.setattr(workers, "cpus", lambda: 64)
    monkeypatch.setattr(workers, "room", lambda: 64)
    assert workers.process_count(0) == workers.MOST_BY_DEFAULT
    assert workers.process_count(1) == 1
    assert workers.process_count(8) == 8


@pytest.mark.parametrize(
    ("target", "processes", "expected"), [(32 * MIB, 2, 12 * MIB), (32 * MIB, 8, LEAST_SHARE), (4 * MIB, 4, 4 * MIB)]
)
def test_processes_share_the_memory_of_one(target: int, processes: int, expected: int) -> None:
    """Their packs are smaller, but not so small that they would have to be merged."""
    share, upload_bytes = share_of(target, UPLOAD_BYTES, processes)
    assert share == expected
    assert upload_bytes * processes <= UPLOAD_BYTES
