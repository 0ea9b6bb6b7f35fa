"""How long each test takes: measured by `pytest --measure`, kept in `tests/durations.json`.

By it the quick share is chosen (marker `slow`), and what takes longest begins first.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LIST = Path(__file__).parent.parent / "durations.json"
SLOW_S = 0.5
"""A test that takes longer is left to `make check`."""
KEPT_S = 0.5
"""Shorter ones are not in the list."""
FIRST_S = 10.0
"""A test that takes longer begins before the others, so that no worker is alone with it at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What pytest found before anything was left out: files, and guarantees that a quick test proves."""

    files: frozenset[str]
    quick_proofs: frozenset[str]


COLLECTED = pytest.StashKey[Collected]()


def known() -> dict[str, float]:
    """Seconds by test, its path as in `tests/`; what is not there takes less than KEPT_S, or is new."""
    found: dict[str, float] = json.loads(LIST.read_text(encoding="utf-8"))
    return found


def name_of(nodeid: str) -> str:
    """As the list names it."""
    return nodeid.removeprefix("tests/")


def arrange(items: list[pytest.Item], seconds: Mapping[str, float]) -> None:
    """Mark what is slow, and put what takes longest first."""
    for item in items:
        if seconds.get(name_of(item.nodeid), 0.0) > SLOW_S:
            item.add_marker(pytest.mark.slow)

    def place(item: pytest.Item) -> float:
        took = seconds.get(name_of(item.nodeid), 0.0)
        return -took if took > FIRST_S else 0.0

    items.sort(key=place)


def collected(items: list[pytest.Item]) -> Collected:
    """After `arrange`."""
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    return Collected(
        files=frozenset(item.path.stem.removeprefix("test_") for item in items),
        quick_proofs=frozenset(name for item in quick for mark in item.iter_markers("guarantee") for name in mark.args),
    )


class Measure:
    """The plugin behind `--measure`: the list as this run found it, for the tests that passed in it.

    Servers that a session starts once are not counted to the test that came first.
    """

    def __init__(self, *, writes: bool) -> None:
        self._writes = writes
        self._began: float | None = None
        self._shared_s = 0.0
        self._took: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Count what the fixtures of the session take; one may ask for another."""
        if fixturedef.scope != "session" or self._began is not None:
            return (yield)
        self._began = time.monotonic()
        try:
            return (yield)
        finally:
            self._shared_s += time.monotonic() - self._began
            self._began = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Where the test runs."""
        report = yield
        report.duration = max(report.duration - self._shared_s, 0.0)
        self._shared_s = 0.0
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Where the results are gathered."""
        self._took[name_of(report.nodeid)] += report.duration
        if report.failed:
            self._failed.add(name_of(report.nodeid))

    def pytest_sessionfinish(self) -> None:
        """Write the list."""
        if not self._writes:
            return
        measured = {name: took for name, took in self._took.items() if name not in self._failed}
        whole = {**{name: took for name, took in known().items() if _is_there(name)}, **measured}
        kept = {name: round(took, 1) for name, took in sorted(whole.items()) if took >= KEPT_S}
        LIST.write_text(json.dumps(kept, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_there(name: str) -> bool:
    """Whether there is such a test yet."""
    file, _, test = name.partition("::")
    path = LIST.parent / file
    return path.exists() and f"def {test.partition('[')[0]}(" in path.read_text(encoding="utf-8")
