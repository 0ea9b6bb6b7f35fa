"""A dense minute of `benchmarks/storm.py`: nothing acknowledged is lost, doubled or wrong; nothing dead comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.servers import server_folder

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from storm import storm

pytestmark = [
    pytest.mark.guarantee("G1"),
    pytest.mark.guarantee("G2"),
    pytest.mark.guarantee("G3"),
    pytest.mark.guarantee("G11"),
]

KINDS = 14
"""More than half of them, by the seed: each server is killed or does not answer, and Redis loses what it had."""


async def test_storm_of_faults_loses_and_invents_nothing() -> None:
    """Three daemons and two applications, kills, wrong clocks and faults of every server, from a seed."""
    with server_folder() as folder:
        verdict, examples = await storm(60.0, 20261129, folder, rest_s=(0.5, 1.5), kinds=KINDS)
    assert {name: verdict[name] for name in ("lost", "doubled", "wrong", "undead", "orphans")} == dict.fromkeys(
        ("lost", "doubled", "wrong", "undead", "orphans"), 0
    ), examples
    assert verdict["acknowledged saves"] > 0
    assert verdict["kinds of fault"] >= KINDS
    assert verdict["faults in which Redis lost something"] > 1
    assert verdict["daemon starts that became ready"] > 0
    assert verdict["packs made"] > 0
