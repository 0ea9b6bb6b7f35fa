"""A process that dies before each of its changes to the filesystem in turn.

For each number from 1 on, a copy of the prepared directory gets a child that kills itself before its change of that
number (a write: after half of it), until one ends without having died. What the children leave is in `<work>/<number>`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

from sagaz_tiering import FilesystemSnapshotStorage
from support.snapshots import OTHER_SAGA, SAGA, make, number, replay

Act = Callable[[FilesystemSnapshotStorage], Awaitable[object]]

ACTS: dict[str, Act] = {
    "first": lambda storage: storage.save_snapshot(make(0, saga_id=OTHER_SAGA)),
    "replace": lambda storage: storage.save_snapshot(make(1, status="new", created_at=make(9).created_at)),
    "move": lambda storage: storage.save_snapshot(make(1, status="new", saga_id=OTHER_SAGA)),
    "move_the_last": lambda storage: storage.save_snapshot(make(5, status="new")),
    "delete": lambda storage: storage.delete_snapshot(number(1)),
    "delete_the_last": lambda storage: storage.delete_snapshot(number(5)),
    "replay": lambda storage: storage.save_replay_log(replay(1)),
    "replay_again": lambda storage: storage.save_replay_log(replay(0, original_saga_id=OTHER_SAGA)),
}
"""What is interrupted. Another name of the storage's options follows after a dot: `replace.packed`."""

OPTIONS: dict[str, dict[str, Any]] = {"": {}, "packed": {"enable_compression": True}}


def storage_at(base: Path, options: str = "") -> FilesystemSnapshotStorage:
    return FilesystemSnapshotStorage(base, **OPTIONS[options])


async def prepare(base: Path) -> None:
    """What is there before: three snapshots of one saga, one of another, one replay record."""
    async with storage_at(base) as storage:
        for at in range(1, 4):
            await storage.save_snapshot(make(at))
        await storage.save_snapshot(make(5, saga_id=_THIRD))
        await storage.save_replay_log(replay(0))
        await storage.list_replays(SAGA)


_THIRD = number(0xFFFF)


def _die_before(change: int) -> None:
    """Replace what changes the filesystem by functions that count."""
    done = 0

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            done += 1
            if done == change:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, call)

    for name in ("open", "write", "fsync", "rename", "unlink", "mkdir", "rmdir"):
        counted(name)


async def _act(base: Path, act: Act, options: str) -> None:
    async with storage_at(base, options) as storage:
        await act(storage)


def main(work: Path, scenario: str) -> None:
    """The whole of it, in a process of its own."""
    name, _, options = scenario.partition(".")
    work.mkdir()
    asyncio.run(prepare(work / "before"))
    for change in count(1):
        base = work / str(change)
        shutil.copytree(work / "before", base)
        child = os.fork()
        if child == 0:
            _die_before(change)
            asyncio.run(_act(base, ACTS[name], options))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return
