"""A process that saves snapshots and notes each one that was acknowledged, to be killed at any moment.

What it saves follows from `seed`, worker and turn alone, so that the survivor knows what must be there: each
worker saves every id of its own twice, the second time at another time and in another saga. No two saves are at
the same instant, as on real clocks.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5
from zlib import crc32

from sagaz_tiering.clock import VirtualClock
from sagaz_tiering.snapshot import SagaSnapshot
from support.forked import start_process
from support.stores import open_storage
from support.tiers import NOW

WORKERS = 4
SAGAS = tuple(UUID(int=0xF0 + at) for at in range(3))
_CONTESTED = "contested"
_BEGUN = datetime.fromisoformat("2026-06-01T10:00:00+00:00")


def snapshot_of(seed: str, worker: int, turn: int) -> SagaSnapshot:
    """What a worker saves in a turn: in an even one a new id, in an odd one the same id moved elsewhere."""
    return SagaSnapshot(
        snapshot_id=uuid5(SAGAS[0], f"{seed} {worker} {turn // 2}"),
        saga_id=SAGAS[(turn + worker) % len(SAGAS)],
        saga_name="order",
        step_name="pay",
        step_index=turn,
        status="executing",
        context={"seed": seed, "worker": worker, "turn": turn, "text": f"{turn}." * (turn * 37 % 2000)},
        completed_steps=[],
        created_at=_BEGUN + timedelta(seconds=turn * 37 % 100, milliseconds=turn),
    )


def contested_of(seed: str, turn: int) -> SagaSnapshot:
    """What every worker of every process saves besides: always the same id, in one saga after the other."""
    mine = snapshot_of(seed, 0, turn).to_dict()
    return SagaSnapshot.from_dict(mine | {"snapshot_id": str(uuid5(SAGAS[0], _CONTESTED)), "step_name": _CONTESTED})


CONTESTED_ID = contested_of("", 0).snapshot_id


def start_saver(
    name: str, options: dict[str, Any], *, seed: str, acks: Path, turns: int | None = None, contest: bool = False
) -> BaseProcess:
    """A process over the storage of that class and options; without `turns` it saves until it is killed."""
    return start_process(_run, name, options, seed, acks, turns, contest)


def acknowledged(acks: Path) -> dict[int, int]:
    """The last acknowledged turn of each worker, -1 for none."""
    last = dict.fromkeys(range(WORKERS), -1)
    for line in acks.read_text().split("\n")[:-1] if acks.exists() else ():
        worker, turn = map(int, line.split())
        last[worker] = turn
    return last


def _run(name: str, options: dict[str, Any], seed: str, acks: Path, turns: int | None, contest: bool) -> None:
    asyncio.run(_save(name, options, seed, acks, turns, contest))


async def _save(name: str, options: dict[str, Any], seed: str, acks: Path, turns: int | None, contest: bool) -> None:
    clock = VirtualClock(NOW + timedelta(microseconds=crc32(seed.encode()) % 1000))
    file = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def work(worker: int) -> None:
        for turn in itertools.count() if turns is None else range(turns):
            clock.advance(timedelta(milliseconds=1))
            if contest:
                await storage.save_snapshot(contested_of(seed, turn))
            await storage.save_snapshot(snapshot_of(seed, worker, turn))
            os.write(file, f"{worker} {turn}\n".encode())

    async with open_storage(name, options, clock) as storage:
        await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
