"""What pages tell people to type does what they say."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support.pages import operator

from sagaz_tiering import TieredSnapshotStorage

DOCS = Path(__file__).parents[2] / "docs"


def answers(port: int) -> bool:
    """Whether something listens there on this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_five_minutes_lead_from_nothing_to_own_snapshots_in_a_pack(tmp_path: Path) -> None:
    """In an empty folder, on servers that the commands start themselves; then they run on, as beside a daemon."""
    if any(answers(port) for port in (5432, 6379)):
        pytest.skip("this machine has servers of its own, which `init` takes, and who may log in there is not known")
    made, _, rest = (DOCS / "start.md").read_text(encoding="utf-8").partition("## Save")
    async with operator(tmp_path, HOME=str(tmp_path)) as newcomer:
        await newcomer.follow(made)
        async with TieredSnapshotStorage.from_config(tmp_path / "config" / "tiering.yaml") as storage:
            await storage.health_check()
            said = await newcomer.follow(rest)
    shown = [answer.out for line, answer in said if line.startswith("sagaz-tiering timeline")]
    assert "+parcel" in shown[0]
    assert shown[1].count("cold STANDARD") == 3
    (ran,) = [answer.out for line, answer in said if line.startswith("python own.py")]
    assert " checkout completed " in ran
    (found,) = [answer.out for line, answer in said if "order_id=A-17" in line and "find" in line]
    assert "checkout" in found
    (newest,) = [answer.out for line, answer in said if line.startswith("sagaz-tiering show")]
    assert '"parcel": "P-1"' in newest
