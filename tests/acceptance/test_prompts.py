"""Commands that ask before they change anything: every way not to say yes ends with what happened and how to go on."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.commands import Answer, clean_environment, cli, write_config
from support.payload import snapshots
from support.tiers import DAY, NOW, config, product

from sagaz_tiering.cli import stderr

SAVED = next(iter(snapshots(1, created_at=NOW, saga_name="payment-order")))
OTHER = replace(SAVED, snapshot_id=uuid4(), saga_id=uuid4())
COMMANDS: dict[str, tuple[object, ...]] = {
    "forget": ("forget", SAVED.saga_id, "--reason", "order 7"),
    "adopt": ("catalog", "adopt"),
    "rebuild": ("catalog", "rebuild"),
    "hold": ("hold", "--name", "payment-*", "--reason", "case 7"),
    "restore": ("restore", "--name", "payment-*"),
}


@pytest.fixture
async def world(database: str, redis_url: str, tmp_path: Path) -> Path:
    """The configuration of a catalog that has a pack."""
    async with product(config(database=database, redis_url=redis_url, cold=tmp_path / "cold")) as shop:
        for each in (SAVED, OTHER):
            await shop.storage.save_snapshot(each)
        shop.clock.advance(9 * DAY)
        await shop.run("age")
    return write_config(tmp_path, database=database, redis_url=redis_url)


async def on_terminal(config: Path, command: tuple[object, ...], act: Callable[[Any, int], None]) -> Answer:
    """The command with a terminal as its stdin; `act(process, keyboard)` once it has asked."""
    keyboard, terminal = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sagaz_tiering", *map(str, command), "--config", str(config)),
            stdin=terminal,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(),
            # Whoever started the tests in the background may have had Ctrl-C ignored, for all below.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stderr is not None
        assert process.stdout is not None
        asked = await asyncio.wait_for(process.stderr.readuntil(b"[y/N]: "), 300)
        act(process, keyboard)
        out, err, _ = await asyncio.wait_for(
            asyncio.gather(process.stdout.read(), process.stderr.read(), process.wait()), 300
        )
        return Answer(process.returncode or 0, out.decode(), (asked + err).decode())
    finally:
        os.close(keyboard)
        os.close(terminal)


def typing(text: bytes) -> Callable[[Any, int], None]:
    return lambda _process, keyboard: os.write(keyboard, text) and None


@pytest.mark.parametrize("name", COMMANDS)
async def test_question_that_nobody_answers_changes_nothing_and_names_yes(name: str, world: Path) -> None:
    """Without a terminal and with --json: a sentence, the option, a documented exit code; --yes answers it."""
    silent = await cli(*COMMANDS[name], "--config", world)
    assert silent.code == stderr.Declined.exit_code
    assert "nothing was changed: no answer came" in silent.err
    assert "--yes" in silent.err
    program = await cli(*COMMANDS[name], "--json", "--config", world)
    assert (program.code, program.document["error"]) == (
        2,
        "nothing was changed: --json needs --yes, there is nobody to ask",
    )
    async with product_of(world) as shop:
        assert await shop.get_snapshot(SAVED.snapshot_id) == SAVED


def product_of(path: Path) -> Any:
    from sagaz_tiering.app.tiered import TieredSnapshotStorage

    return TieredSnapshotStorage.from_config(path)


async def test_question_on_a_terminal_takes_no_ctrl_c_and_yes(world: Path) -> None:
    """ "n" and Ctrl-C (at once, while it waits) change nothing and say so; what is no answer is asked again."""
    forget = COMMANDS["forget"]
    no = await on_terminal(world, forget, typing(b"n\n"))
    assert (no.code, "nothing was changed: the answer was no" in no.err) == (13, True)
    interrupted = await on_terminal(world, forget, lambda process, _: process.send_signal(signal.SIGINT))
    assert (interrupted.code, "nothing was changed: interrupted" in interrupted.err) == (130, True)
    assert "--yes" in interrupted.err
    closed = await on_terminal(world, forget, typing(b"\x04"))
    assert (closed.code, "no answer came" in closed.err) == (13, True)
    async with product_of(world) as storage:
        assert await storage.get_snapshot(SAVED.snapshot_id) == SAVED
    done = await on_terminal(world, forget, typing(b"what?\nYes\n"))
    assert (done.code, done.err.count("[y/N]")) == (0, 2)
    assert "erasure:" in done.out


def test_every_command_with_a_question_is_tried() -> None:
    """Whatever has --yes is in the table above, and nothing asks but through `confirm`."""
    import typer

    from sagaz_tiering.cli.app import make_app

    asks = set()

    def walk(command: Any) -> None:
        for each in getattr(command, "commands", {}).values():
            walk(each)
        if any("--yes" in getattr(each, "opts", ()) for each in command.params):
            asks.add(command.name)

    walk(typer.main.get_command(make_app()))
    assert asks == set(COMMANDS)
    folder = Path(stderr.__file__).parent
    asking = re.compile(r"\b(?:typer|click)\.(?:confirm|prompt)\b|\binput\(")
    assert [path.name for path in folder.rglob("*.py") if asking.search(path.read_text(encoding="utf-8"))] == []


def test_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the account often has no entry: that is no error of a hold or an erasure."""

    def nameless() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert stderr.login_name() == f"uid {os.getuid()}"
