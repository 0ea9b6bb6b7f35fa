"""One storage in mixed use: its home loop, threads with loop after loop, forked processes; every answer compared."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.storage.base import SnapshotStorage
from support.snapshots import BEGUN, make, number

SAGAS = 20
STEPS = 4
AT_ONCE = 32
LOOP_LIVES_FOR = 512
"""Answers that a thread or forked process asks for on one loop before it takes another."""

Told = Counter[str]


def snapshot(at: int) -> SagaSnapshot:
    """One of a saga's, each unlike every other."""
    saga, step = divmod(at, STEPS)
    return make(at, saga_id=number(10_000 + saga), step_name=f"step_{step}", context={"at": at, "pad": "é" * (at % 97)})


def _moment(step: int, saga: int) -> Any:
    return BEGUN + timedelta(minutes=saga * STEPS + step, seconds=30)


async def _ask(storage: SnapshotStorage, chance: random.Random) -> bool:
    """One question whose answer is known; whether that was the answer."""
    at = chance.randrange(SAGAS * STEPS)
    saga, step = divmod(at, STEPS)
    mine, saga_id = [snapshot(saga * STEPS + each) for each in range(STEPS)], number(10_000 + saga)
    match chance.randrange(16):
        case 0:
            return await storage.get_latest_snapshot(saga_id) == mine[-1]
        case 1:
            return await storage.get_latest_snapshot(saga_id, before_step=f"step_{step}") == mine[step]
        case 2:
            return await storage.get_snapshot_at_time(saga_id, _moment(step, saga)) == mine[step]
        case 3:
            return await storage.list_snapshots(saga_id) == mine[::-1]
        case 4:
            new = make(at, snapshot_id=uuid4(), saga_id=uuid4(), context={"new": chance.random()})
            await storage.save_snapshot(new)
            return await storage.get_latest_snapshot(new.saga_id) == new
        case _:
            return await storage.get_snapshot(mine[step].snapshot_id) == mine[step]


async def _burst(storage: SnapshotStorage, answers: int, chance: random.Random) -> Told:
    """So many questions, AT_ONCE of them at a time."""
    told, left = Told(), iter(range(answers))

    async def work() -> None:
        for _ in left:
            try:
                told["own" if await _ask(storage, chance) else "foreign"] += 1
            except SagazTieringError as exc:
                told[type(exc).__name__] += 1

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return told


def _loop_after_loop(storage: SnapshotStorage, answers: int, seed: int) -> Told:
    told, chance = Told(), random.Random(seed)
    while answers > 0:
        told += asyncio.run(_burst(storage, min(answers, LOOP_LIVES_FOR), chance))
        answers -= LOOP_LIVES_FOR
    return told


async def _in_thread(storage: SnapshotStorage, answers: int, seed: int) -> Told:
    told, ended, loop = list[Told](), asyncio.Event(), asyncio.get_running_loop()

    def work() -> None:
        try:
            told.append(_loop_after_loop(storage, answers, seed))
        finally:
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=work, name=f"user-{seed}").start()
    await ended.wait()
    return told[0] if told else Told(died=1)


async def _forked(storage: SnapshotStorage, answers: int, seed: int) -> Told:
    """Asked by a process that is forked now."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(_loop_after_loop(storage, answers, seed)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    _, said = await asyncio.gather(asyncio.to_thread(os.waitpid, pid, 0), asyncio.to_thread(os.read, reading, 65_536))
    os.close(reading)
    return Told(json.loads(said) if said else {"died": 1})


async def mixed_use(
    storage: SnapshotStorage,
    answers: int,
    *,
    seed: int = 1,
    threads: int = 3,
    forks: int = 2,
    tell: Callable[[str, Told], None] = lambda _who, _told: None,
) -> dict[str, Told]:
    """By whom so many questions were asked, and how they were answered: `own`, `foreign`, or by an error's name.

    The home loop asks a quarter; threads and processes that are forked while all of that goes on share the rest.
    """
    for at in range(SAGAS * STEPS):
        await storage.save_snapshot(snapshot(at))
    share = answers * 3 // 4 // (threads + forks)
    parts: Sequence[tuple[str, Awaitable[Told]]] = [
        ("home", _burst(storage, answers - share * (threads + forks), random.Random(seed))),
        *((f"thread {at + 1}", _in_thread(storage, share, seed * 100 + at)) for at in range(threads)),
        *((f"forked {at + 1}", _forked(storage, share, seed * 1000 + at)) for at in range(forks)),
    ]
    results: dict[str, Told] = {}

    async def noted(who: str, part: Awaitable[Told]) -> None:
        results[who] = await part
        tell(who, results[who])

    await asyncio.gather(*(noted(who, part) for who, part in parts))
    return {who: results[who] for who, _ in parts}
