"""Calls from other event loops than a storage's own, and from forked processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.storage.base import SnapshotStorage
from support.snapshots import make, number
from support.stores import open_storage
from support.tiers import NOW

T = TypeVar("T")

DEADLINE_S = 300


async def in_thread(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns on a loop of its own in another thread."""

    async def main() -> T:
        return await work()

    return await asyncio.to_thread(lambda: asyncio.run(main()))


async def in_process_that_forks(name: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """What a process and the one forked from it were answered: forked from a running loop, then between two loops.

    Every warning is an error there, and nothing may be said on standard error.
    """
    strict = [
        "-W",
        "error",
        "-W",
        "ignore:This process:DeprecationWarning",
    ]  # Python 3.12 warns of any fork with threads
    arguments = [sys.executable, *strict, "-m", "support.elsewhere", name, json.dumps(options)]
    tests = Path(__file__).parent.parent
    path = os.pathsep.join(map(str, (tests, tests.parent)))
    ended = await asyncio.to_thread(
        subprocess.run,
        arguments,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    return [told[at] | told[at + 1] | told[at + 2] for at in range(0, len(told), 3)]


async def _asked(storage: SnapshotStorage, at: int) -> bool:
    return await storage.get_snapshot(number(at)) == make(at)


def _child(storage: SnapshotStorage) -> None:
    """Loop after loop, as a worker forked by Celery has them."""
    own = [asyncio.run(_asked(storage, 1)) for _ in range(3)]
    asyncio.run(storage.save_snapshot(make(3)))
    own.append(asyncio.run(_asked(storage, 3)))
    print(json.dumps({"child": own}), flush=True)


def _forked(storage: SnapshotStorage, *, end: Callable[[int], object]) -> None:
    """Fork, and wait for the child to end."""
    pid = os.fork()
    if pid == 0:
        try:
            _child(storage)
        except BaseException as exc:
            print(json.dumps({"child": repr(exc)}), flush=True)
            raise
        end(0)
    _, status = os.waitpid(pid, 0)
    print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


async def _begin(storage: SnapshotStorage) -> None:
    for at in (1, 2):
        await storage.save_snapshot(make(at))
        await storage.get_snapshot(number(at))


async def _go_on(storage: SnapshotStorage) -> None:
    own = [await _asked(storage, 2) for _ in range(5)]
    own += await asyncio.gather(*(_asked(storage, 1 + at % 3) for at in range(60)))
    print(json.dumps({"parent": own}), flush=True)


def _main(name: str, options: dict[str, Any]) -> None:
    opening = open_storage(name, options, VirtualClock(NOW))

    async def whole() -> None:
        async with opening as storage:
            await _begin(storage)
            _forked(storage, end=os._exit)
            await _go_on(storage)

    asyncio.run(whole())
    opening = open_storage(name, options, VirtualClock(NOW))
    runner = asyncio.Runner()  # not as a block, which the child would leave too, and close the parent's loop with it
    storage = runner.run(opening.__aenter__())
    runner.run(_begin(storage))
    _forked(storage, end=sys.exit)
    runner.run(_go_on(storage))
    runner.run(opening.__aexit__(None, None, None))
    runner.close()


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
