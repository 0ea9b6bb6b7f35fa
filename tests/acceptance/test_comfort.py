"""What makes the command line pleasant: pages, watching, completion, colours where somebody sees them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.commands import clean_environment, cli, write_config
from support.payload import saga
from support.tiers import config as configuration
from support.tiers import product

from sagaz_tiering.cli.progress import how_far

NOW = datetime.now(UTC)


async def pages(*command: object, key: str, config: Path) -> list[list[Any]]:
    """All pages of two, by the cursors that they say."""
    found, cursor = list[list[Any]](), []
    while True:
        answer = await cli(*command, "--limit", 2, *cursor, "--json", "--config", config)
        assert answer.code == 0, answer.err
        found.append(answer.document[key])
        if answer.document["next"] is None:
            return found
        cursor = ["--cursor", answer.document["next"]]


async def test_every_list_can_be_paged(tmp_path: Path, database: str, redis_url: str) -> None:
    """Pages of two hold what one list holds, in its order; the last one says so."""
    file = write_config(tmp_path, database=database, redis_url=redis_url)
    saved = saga(1, begun=NOW - timedelta(hours=1))
    async with product(configuration(database=database, redis_url=redis_url, cold=tmp_path / "cold"), now=NOW) as shop:
        for snapshot in saved:
            await shop.storage.save_snapshot(snapshot)
        for number in range(5):
            await shop.storage.holder.hold(uuid4(), reason=f"case {number}", who="us")
            await shop.storage.forget(uuid4(), reason="asked", who="us")
            moment = NOW - timedelta(minutes=number // 2)
            await shop.runtime.catalog.quarantine.record("pack", f"packs/{number}", "altered", moment)
    lists: list[tuple[tuple[object, ...], str]] = [
        (("holds",), "holds"),
        (("holds", "--log"), "log"),
        (("erasures",), "erasures"),
        (("quarantine", "list"), "items"),
        (("timeline", saved[0].saga_id), "snapshots"),
        (("replay", "list-changes", saved[0].saga_id), "changes"),
    ]
    for command, key in lists:
        whole = (await cli(*command, "--json", "--config", file)).document
        found = await pages(*command, key=key, config=file)
        assert [each for page in found for each in page] == whole[key], command
        assert len(whole[key]) == 5, command
        assert [len(page) for page in found] == [2, 2, 1], command
        assert whole["next"] is None
    said = await cli("erasures", "--limit", 2, "--config", file)
    assert "more: --cursor " in said.out
    assert not {"True", "False"} & set(said.out.split())
    wrong = await cli("timeline", saved[0].saga_id, "--cursor", "elsewhere", "--config", file)
    assert (wrong.code, "is no cursor of this list" in wrong.err) == (2, True)
    wrong = await cli("erasures", "--cursor", "elsewhere", "--config", file)
    assert (wrong.code, "is no cursor of this list" in wrong.err) == (2, True)


def test_status_is_shown_again_and_again_until_ctrl_c(tmp_path: Path, database: str, redis_url: str) -> None:
    """With --json a document a line; the exit code tells the signal that ended it."""
    file = write_config(tmp_path, database=database, redis_url=redis_url)
    command = [sys.executable, "-m", "sagaz_tiering", "status", "--watch", "--every", "0.1", "--json", "--config", file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=clean_environment()) as process:
        assert process.stdout is not None
        times = [json.loads(process.stdout.readline())["at"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert times == sorted(set(times))
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("sagaz-tiering pol", "policy"),
        ("sagaz-tiering job tr", "transition"),
        ("sagaz-tiering restore --tier Exp", "Expedited"),
        ("sagaz-tiering find --tier dur", "durable"),
        ("sagaz-tiering find --tier GLACIER_", "GLACIER_IR"),
        ("sagaz-tiering timeline --status rolled", "rolled_back"),
        ("sagaz-tiering find --attribute ord", "order_id="),
        ("sagaz-tiering export --format par", "parquet"),
    ],
)
def test_shell_completes_commands_and_values(typed: str, expected: str, tmp_path: Path) -> None:
    """As bash asks for it."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("""
tiers: {hot: {url: "redis://localhost:1/0"}, cold: {url: "file:///nowhere"}}
catalog: {url: "postgresql://localhost/none"}
attributes: [{name: order_id, path: order_id}]
""")
    environ = clean_environment(
        SAGAZ_TIERING_CONFIG=str(mine),
        _SAGAZ_TIERING_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
    )
    command = [sys.executable, "-c", "from sagaz_tiering.cli import main; main()"]
    said = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert expected in said.stdout.split(), said


def test_colours_and_moving_lines_are_for_terminals(tmp_path: Path) -> None:
    """A pipe gets plain text; a terminal bold titles; NO_COLOR is heard."""
    shown = "from sagaz_tiering.terminal import *; print_table(make_console(), make_table(('a',), [(1,)], title='t'))"
    command = [sys.executable, "-c", shown]
    environ = clean_environment(TERM="xterm-256color")
    assert "\x1b" not in subprocess.check_output(command, env=environ, text=True)
    assert "\x1b[1m" in on_terminal(command, environ)
    assert not re.search(r"\x1b\[3\d", on_terminal(command, {**environ, "NO_COLOR": "1"}))


def on_terminal(command: list[str], environ: dict[str, str]) -> str:
    """What a terminal is sent."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, env=environ) as process:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # how a terminal says that nobody writes to it any more
            pass
        os.close(ours)
    assert process.returncode == 0
    return text.decode()


@pytest.mark.parametrize(
    ("done", "total", "rate", "text"),
    [
        (12_000, 50_000, 830.0, "12,000 of about 50,000, 830/s, 45 s left"),
        (12_000, None, 830.0, "12,000, 830/s"),
        (12, 10, 0.0, "12 of about 12, 0/s"),
    ],
)
def test_progress_tells_rate_and_time_left(done: int, total: int | None, rate: float, text: str) -> None:
    """The time only where total and rate are known; more than was thought is the total then."""
    assert how_far(done, total, rate) == text
