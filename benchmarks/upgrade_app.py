"""What the code of any commit does to the store of `upgrade.py`: fill it, or be an application that goes on and on.

    PYTHONPATH=TREE python benchmarks/upgrade_app.py fill CONFIG SNAPSHOTS NOW
    PYTHONPATH=TREE python benchmarks/upgrade_app.py go-on CONFIG SNAPSHOTS NOW LOG SHARE

Everything that is saved follows from numbers, so that whoever knows them knows what must be there. NOW: seconds. SHARE:
0 or 1, so that two applications save other sagas.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from sagaz_tiering import TieredSnapshotStorage
from sagaz_tiering.app.runtime import open_runtime, read_config
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.jobs import run_job
from sagaz_tiering.snapshot import SagaSnapshot

NAMESPACE = UUID("0ddba11a-0000-4000-8000-000000000009")
NAMES = ("payment", "fast", "record")
PER_SAGA = 5
APART = timedelta(hours=6)
RETAIN = timedelta(days=30)
AT_ONCE = 64
SLOTS = 4000


def saga_id(number: int) -> UUID:
    """Of saga `number`."""
    return uuid5(NAMESPACE, str(number))


def begun(number: int, now: datetime) -> datetime:
    """When saga `number` of the filled store began: up to forty days ago."""
    return now - timedelta(days=40) * ((number * 7919 % SLOTS + 1) / SLOTS) - PER_SAGA * APART


def snapshot(number: int, step: int, created_at: datetime) -> SagaSnapshot:
    """Step `step` of saga `number`."""
    chance = random.Random(f"{number} {step}")
    return SagaSnapshot(
        snapshot_id=uuid5(NAMESPACE, f"{number}/{step}"),
        saga_id=saga_id(number),
        saga_name=NAMES[number % len(NAMES)],
        step_name=f"step_{step}",
        step_index=step,
        status="executing" if step + 1 < PER_SAGA else "completed",
        context={"number": number, "step": step, "noise": chance.randbytes(60).hex()},
        completed_steps=[f"step_{each}" for each in range(min(step, PER_SAGA))],
        created_at=created_at,
    )


def saga(number: int, now: datetime) -> list[SagaSnapshot]:
    """Saga `number` of the filled store, oldest first."""
    first = begun(number, now)
    return [snapshot(number, step, first + step * APART) for step in range(PER_SAGA)]


async def fill(config: Path, snapshots: int, now: datetime) -> dict[str, Any]:
    """Save them all, and have half of what is due archived."""
    async with open_runtime(read_config(config)) as runtime:
        await migrate(runtime.db)
        storage = runtime.storage()
        numbers = iter(range(snapshots // PER_SAGA))

        async def some(numbers: Iterator[int], most: int) -> None:
            for number in numbers:
                for each in saga(number, now):
                    await storage.save_snapshot(each)
                if number >= most:
                    return

        half = snapshots // PER_SAGA // 2
        await asyncio.gather(*(some(numbers, half) for _ in range(AT_ONCE)))
        report = await run_job("age", runtime.job_context())
        await asyncio.gather(*(some(numbers, snapshots) for _ in range(AT_ONCE)))
        return dict(report.counts)


async def go_on(config: Path, snapshots: int, now: datetime, log: Path, share: int) -> dict[str, Any]:
    """Continue filled sagas that are far from their end, begin others, and read what was saved, until told to stop."""
    stopping, counts = asyncio.Event(), {"saved": 0, "read": 0, "wrong": 0}
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    chance = random.Random(share)
    going_on = [n for n in range(share, snapshots // PER_SAGA, 2) if begun(n, now) > now - timedelta(days=20)]
    chance.shuffle(going_on)
    fresh, numbers = iter(range(10**9 + share, 10**10, 2)), iter(going_on)

    async def work(storage: TieredSnapshotStorage) -> None:
        while not stopping.is_set():
            goes_on = next(numbers, None) if chance.random() < 0.5 else None
            number, first = (next(fresh), 0) if goes_on is None else (goes_on, PER_SAGA)
            saved = []
            for step in range(first, first + 3):
                each = snapshot(number, step, datetime.now(UTC))
                await storage.save_snapshot(each)
                os.write(file, json.dumps([number, step, each.created_at.isoformat()]).encode() + b"\n")
                saved.append(each)
                counts["saved"] += 1
            found = await storage.list_snapshots(saga_id(number), 3)
            alone = await storage.get_snapshot(saved[0].snapshot_id)
            counts["wrong"] += (found, alone) != (saved[::-1], saved[0])
            counts["read"] += 4
            await asyncio.sleep(0.05)

    async with TieredSnapshotStorage.from_config(config) as storage, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work(storage))
    return counts


async def main(what: str, config: Path, snapshots: int, now: datetime, *more: str) -> None:
    """Do it; the last line of the output is what was done, as JSON."""
    if what == "fill":
        done = await fill(config, snapshots, now)
    else:
        done = await go_on(config, snapshots, now, Path(more[0]), int(more[1]))
    sys.stdout.write(json.dumps({**done, "code": str(Path(sys.modules["sagaz_tiering"].__file__ or "").parent)}) + "\n")


if __name__ == "__main__":
    moment = datetime.fromtimestamp(int(sys.argv[4]), UTC)
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), moment, *sys.argv[5:]))
