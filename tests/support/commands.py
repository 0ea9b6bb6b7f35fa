"""The command line in processes of their own, forked from one that has imported everything; and what they work on."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sagaz_tiering.snapshot import SagaSnapshot
from support.forked import start_process

DEADLINE_S = 300.0


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
    return await in_process(_command, list(map(str, arguments)), cwd=cwd, **environment)


async def script(path: Path, *arguments: object, cwd: Path, **environment: str) -> Answer:
    """What `python PATH ARGUMENTS` does, where all that it imports is in memory already."""
    return await in_process(_script, path, list(map(str, arguments)), cwd=cwd, **environment)


async def in_process(
    target: Callable[..., None], *arguments: Any, cwd: Path | None = None, **environment: str
) -> Answer:
    """What `target(*arguments)` prints, in a process of its own with that folder and `clean_environment`."""
    return await asyncio.to_thread(_run, target, arguments, cwd, clean_environment(**environment))


def start_command(*arguments: object, out: Path = Path(os.devnull), **environment: str) -> BaseProcess:
    """A command in a process of its own, to be killed at will; what it says goes to `out`."""
    command = list(map(str, arguments))
    return start_process(_call, _command, (command,), None, clean_environment(**environment), out, out)


def _run(target: Callable[..., None], arguments: tuple[Any, ...], cwd: Path | None, environ: dict[str, str]) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start_process(_call, target, arguments, cwd, environ, out, err)
        process.join(DEADLINE_S)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"still running after {DEADLINE_S} s: {arguments}")
        return Answer(process.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))


def _call(
    target: Callable[..., None],
    arguments: tuple[Any, ...],
    cwd: Path | None,
    environ: dict[str, str],
    out: Path,
    err: Path,
) -> None:
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None  # which may be told by the environment
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, descriptor)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    if cwd is not None:
        os.chdir(cwd)
    try:
        target(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _script(path: Path, arguments: list[str]) -> None:
    ours = Path(__file__).parents[2]
    sys.path[:] = [
        str(path.parent),
        *(each for each in sys.path if not Path(each).is_relative_to(ours) or ".venv" in each),
    ]
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")


def _command(arguments: list[str]) -> None:
    from sagaz_tiering.cli import main

    sys.exit(main(arguments))


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
