"""An application of any commit, which `commits.py` has save and read by turns with that of another commit.

    PYTHONPATH=TREE python benchmarks/commits_app.py CONFIG

Each line of its input names a work and a number of calls; each line that it answers has, as JSON, the processor time of
this process and the time that passed for one call, both in microseconds. What the code does in the background for the
calls is part of its processor time, but not of the least that any few calls took. A job runs as a command, whose start
counts too, over that many snapshots that are due.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.payload import saga

import sagaz_tiering
from sagaz_tiering import SagaSnapshot, TieredSnapshotStorage

DURABLE, HOT = "durable", "hot"
DUE = {"age": ("durable", timedelta(days=8)), "expire": ("brief", timedelta(days=2))}
"""Of which name, and how old, what a job finds due is."""
AT_ONCE = 64
LISTED = 100
SAVED = 400
FIRST = 20
"""So many calls come before those that are measured: what is looked at now and then has been looked at."""
BATCH = 16
"""Of so many calls the least is told, too."""
BACKGROUND_S = 0.8
"""By then the catalog was told of what Redis alone acknowledged."""

Call = Callable[[Any], Awaitable[Any]]


class App:
    """The works by their names."""

    def __init__(self, storage: Any, config: str) -> None:
        self._storage = storage
        self._config = config
        begun = datetime.now(UTC) - timedelta(hours=1)
        self._models = itertools.cycle([one for number in range(60) for one in saga(number, begun=begun)])
        self._saved: list[SagaSnapshot] = []
        self._listed: list[SagaSnapshot] = []

    def _take(self, count: int, name: str, saga_id: UUID | None = None) -> list[SagaSnapshot]:
        return [
            replace(one, snapshot_id=uuid4(), saga_id=saga_id or uuid4(), saga_name=name)
            for one in itertools.islice(self._models, count)
        ]

    async def prepare(self) -> None:
        """What reads find."""
        self._saved = self._take(SAVED, HOT)
        for at, one in enumerate(self._take(LISTED, HOT, uuid4())):
            self._listed.append(replace(one, created_at=one.created_at + timedelta(seconds=at)))
        for one in [*self._saved, *self._listed]:
            await self._storage.save_snapshot(one)

    async def work(self, name: str, count: int) -> dict[str, float]:
        """The figures of one call."""
        kind, _, how = name.partition(" ")
        if kind == "job":
            return await self._job(how, count)
        call, items = self._calls(kind, count + FIRST)
        at_once = AT_ONCE if how else 1
        gc.collect()
        await run(call, items[:FIRST], at_once)
        began, cpu, batches = time.perf_counter(), time.process_time(), list[float]()
        for start in range(FIRST, len(items), max(at_once, BATCH)):
            batch, before = items[start : start + max(at_once, BATCH)], time.process_time()
            await run(call, batch, at_once)
            batches.append((time.process_time() - before) / len(batch))
        passed = time.perf_counter() - began
        if kind == "save-hot":
            await asyncio.sleep(BACKGROUND_S)
        cpu = (time.process_time() - cpu) / count
        return {"cpu_us": cpu * 1e6, "least_us": min(batches) * 1e6, "wall_us": passed / count * 1e6}

    async def _job(self, job: str, count: int) -> dict[str, float]:
        """The figures of one snapshot."""
        name, age = DUE[job]
        made = datetime.now(UTC) - age
        await run(
            self._storage.save_snapshot, [replace(one, created_at=made) for one in self._take(count, name)], AT_ONCE
        )
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "sagaz_tiering", "job", job, "--once", "--config", self._config, "--json"]
        running = await asyncio.create_subprocess_exec(*command, stdout=-1)
        said, _ = await running.communicate()
        passed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if running.returncode or str(count).encode() not in said:
            raise SystemExit(f"{' '.join(command)} ended with {running.returncode} and did not take {count}: {said!r}")
        cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / count
        return {"cpu_us": cpu * 1e6, "least_us": cpu * 1e6, "wall_us": passed / count * 1e6}

    def _calls(self, kind: str, count: int) -> tuple[Call, list[Any]]:
        storage, saved = self._storage, list(itertools.islice(itertools.cycle(self._saved), count))
        if kind.startswith("save"):
            return storage.save_snapshot, self._take(count, DURABLE if kind == "save-durable" else HOT)
        listed = self._listed[0].saga_id
        reads: dict[str, Call] = {
            "get": lambda one: storage.get_snapshot(one.snapshot_id),
            "latest": lambda one: storage.get_latest_snapshot(one.saga_id),
            "at-time": lambda one: storage.get_snapshot_at_time(one.saga_id, one.created_at),
            "list": lambda _: storage.list_snapshots(listed, LISTED),
        }
        return reads[kind], saved


async def run(call: Call, items: Iterable[Any], at_once: int) -> None:
    """All of them, with so many callers."""
    left = iter(items)

    async def caller() -> None:
        for item in left:
            await call(item)

    await asyncio.gather(*(caller() for _ in range(at_once)))


async def main(config: str) -> None:
    """Say whose code this is, and work until the input ends."""
    async with TieredSnapshotStorage.from_config(config) as storage:
        app = App(storage, config)
        await app.prepare()
        print(json.dumps({"code": str(Path(sagaz_tiering.__file__).parent.parent)}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, count = line.rsplit(maxsplit=1)
            print(json.dumps(await app.work(name, int(count))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
