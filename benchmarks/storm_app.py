"""An application in a storm: it saves, saves anew, reads, deletes and forgets, and logs each call before and after.

    python benchmarks/storm_app.py CONFIG LOG SEED LIFE

It works until it is killed. What it may have done is in its log, whenever that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from storm_model import NAMES, SHARED_SAGAS, shared_saga, snapshot

from sagaz_tiering import TieredSnapshotStorage
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.snapshot import SagaSnapshot

WORKERS = 5
REMEMBERED = 25
PAUSE_S = 0.05


class Application:
    """One life of an application."""

    def __init__(self, storage: TieredSnapshotStorage, log: int, seed: int, life: str) -> None:
        self._storage, self._log = storage, log
        self._seed, self._life = seed, life
        self._calls = itertools.count()
        self._versions = itertools.count()
        self._created: dict[tuple[UUID, int], int] = {}

    async def work(self, number: int) -> None:
        """What one worker does, for ever."""
        chance = random.Random(f"{self._seed} {self._life} {number}")
        sagas: list[tuple[UUID, int]] = []
        for count in itertools.count():
            if len(sagas) < 3 or chance.random() < 0.12:
                sagas = [*sagas, (uuid5(NAMES, f"{self._seed} {self._life} {number} {count}"), 0)][-REMEMBERED:]
            place = chance.randrange(len(sagas))
            saga_id, steps = sagas[place]
            if chance.random() < 0.12:
                await self._shared(chance)
            elif steps == 0 or chance.random() < 0.4:
                await self._save(saga_id, steps)
                sagas[place] = (saga_id, steps + 1)
            else:
                await self._something(saga_id, chance.randrange(steps), chance)
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE_S))

    async def _shared(self, chance: random.Random) -> None:
        """On sagas that every worker knows. Their times follow from the step, so that all agree on them."""
        saga_id, step = shared_saga(self._seed, chance.randrange(SHARED_SAGAS)), chance.randrange(6)
        if chance.random() < 0.6:
            await self._save(saga_id, step, created_us=_hour_ago_us() + step)
        else:
            await self._something(saga_id, step, chance)

    async def _something(self, saga_id: UUID, step: int, chance: random.Random) -> None:
        turn = chance.random()
        if turn < 0.25 and (saga_id, step) in self._created:
            await self._save(saga_id, step, created_us=self._created[saga_id, step])
        elif turn < 0.55:
            await self._call("get", saga_id, step)
        elif turn < 0.75:
            await self._call("latest", saga_id)
        elif turn < 0.88:
            await self._call("list", saga_id)
        elif turn < 0.95:
            await self._call("delete", saga_id, step)
        else:
            await self._call("forget", saga_id)

    async def _save(self, saga_id: UUID, step: int, *, created_us: int | None = None) -> None:
        created_us = created_us or time.time_ns() // 1000
        self._created[saga_id, step] = created_us
        version = f"{self._life}.{next(self._versions)}"
        await self._call("save", saga_id, step, version=version, created=created_us)

    async def _call(self, op: str, saga_id: UUID, step: int | None = None, **told: Any) -> None:
        call = next(self._calls)
        self._write({"call": call, "op": op, "saga": str(saga_id), "step": step, "start": time.monotonic(), **told})
        answer: list[SagaSnapshot] = []
        error = ""
        try:
            answer = await self._ask(op, saga_id, step, told)
        except SagazTieringError as exc:
            error = f"{type(exc).__name__}: {exc}"
        versions = [(found.step_index, found.context["version"]) for found in answer]
        self._write({"call": call, "end": time.monotonic(), "wall": time.time(), "answer": versions, "error": error})

    async def _ask(self, op: str, saga_id: UUID, step: int | None, told: dict[str, Any]) -> list[SagaSnapshot]:
        snapshot_id = uuid5(saga_id, str(step))
        match op:
            case "save":
                assert step is not None
                await self._storage.save_snapshot(snapshot(saga_id, step, told["version"], told["created"]))
            case "get":
                return _one(await self._storage.get_snapshot(snapshot_id))
            case "latest":
                return _one(await self._storage.get_latest_snapshot(saga_id))
            case "list":
                return await self._storage.list_snapshots(saga_id)
            case "delete":
                await self._storage.delete_snapshot(snapshot_id)
            case "forget":
                await self._storage.forget(saga_id, reason="storm")
        return []

    def _write(self, entry: dict[str, Any]) -> None:
        os.write(self._log, json.dumps(entry).encode() + b"\n")  # one write: a line is there whole or not at all


def _hour_ago_us() -> int:
    """The same in all processes for the length of a storm; in the past, so that shared sagas age at once."""
    return int(os.environ["STORM_BEGAN_US"]) - 3_600_000_000


def _one(found: SagaSnapshot | None) -> list[SagaSnapshot]:
    return [] if found is None else [found]


async def main(config: Path, log: Path, seed: int, life: str) -> None:
    """Work until killed."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    async with TieredSnapshotStorage.from_config(config) as storage, asyncio.TaskGroup() as group:
        application = Application(storage, file, seed, life)
        for number in range(WORKERS):
            group.create_task(application.work(number))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
