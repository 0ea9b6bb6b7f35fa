"""Slow is what was measured to be slow, and what takes longest begins first."""

from __future__ import annotations

from typing import Any

from support import durations


class Item:
    """What `arrange` sees of a test."""

    def __init__(self, nodeid: str) -> None:
        self.nodeid = nodeid
        self.marks: list[str] = []

    def add_marker(self, marker: Any) -> None:
        """See `pytest.Item`."""
        self.marks.append(marker.name)


def test_durations_mark_what_is_slow_and_put_the_longest_first() -> None:
    """What was never measured is quick; the others stay in their order."""
    items: Any = [Item(f"tests/unit/test_x.py::test_{name}") for name in ("new", "slow", "long", "longest", "quick")]
    took = {"slow": durations.SLOW_S + 0.1, "long": durations.FIRST_S + 1, "longest": 99.0, "quick": durations.SLOW_S}
    durations.arrange(items, {f"unit/test_x.py::test_{name}": seconds for name, seconds in took.items()})
    assert [item.nodeid.rpartition("_")[2] for item in items] == ["longest", "long", "new", "slow", "quick"]
    assert [item.marks for item in items] == [["slow"], ["slow"], [], ["slow"], []]


def test_durations_list_names_files_that_exist() -> None:
    """A file that moved takes its numbers with it."""
    files = {name.partition("::")[0] for name in durations.known()}
    assert [file for file in sorted(files) if not (durations.LIST.parent / file).exists()] == []
