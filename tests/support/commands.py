"""The command line in processes of their own, forked from one that has imported everything; and what they work on."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import multiprocessing.process
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagaz_tiering.snapshot import SagaSnapshot

DEADLINE_S = 300.0

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["sagaz_tiering.cli.app", "sagaz_tiering.app.runtime", "rich.table", "structlog", "support.commands"]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        return json.loads(self.out)


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of ours and a width, and `extra`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SAGAZ_TIERING_") and k != "COLUMNS"}
    return {**clean, "PYTHONIOENCODING": "utf-8", **extra}


async def cli(*arguments: object, cwd: Path | None = None, **environment: str) -> Answer:
    """Run one command without a terminal; raises TimeoutError after some minutes."""
    return await asyncio.to_thread(_run, list(map(str, arguments)), cwd, clean_environment(**environment))


def start_command(*arguments: object) -> multiprocessing.process.BaseProcess:
    """A command in a process of its own, to be killed at will; its output goes nowhere."""
    nowhere = Path(os.devnull)
    work = (list(map(str, arguments)), None, clean_environment(), nowhere, nowhere)
    process = _PROCESSES.Process(target=_command, args=work)
    process.start()
    return process


def _run(arguments: list[str], cwd: Path | None, environment: dict[str, str]) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _PROCESSES.Process(target=_command, args=(arguments, cwd, environment, out, err))
        process.start()
        process.join(DEADLINE_S)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"still running after {DEADLINE_S} s: {arguments}")
        return Answer(process.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))


def _command(arguments: list[str], cwd: Path | None, environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, descriptor)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    if cwd is not None:
        os.chdir(cwd)
    from sagaz_tiering.cli import main

    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def write_config(
    folder: Path, *, database: str, redis_url: str, policies: str = "", name: str = "tiering.yaml"
) -> Path:
    """A configuration with a directory as its cold tier."""
    path = folder / name
    path.write_text(
        f'tiers:\n  hot: {{url: "{redis_url}"}}\n  cold: {{url: "file://cold", region: us-east-1}}\n'
        f'catalog: {{url: "{database}"}}\n{policies}'
    )
    return path


async def save(storage: Any, snapshots: Sequence[SagaSnapshot]) -> None:
    """Save all."""
    for snapshot in snapshots:
        await storage.save_snapshot(snapshot)
