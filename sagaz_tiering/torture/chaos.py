"""Savers, daemons, readers and removals at once, while savers and daemons are killed with SIGKILL at random moments."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.torture import processes
from sagaz_tiering.torture.checks import Difference, ModelComparison
from sagaz_tiering.torture.model import Model, Worker
from sagaz_tiering.torture.store import Store

SAVERS = 2
DAEMONS = 2
READERS = 3
_SAVES_S, _WORKS_S = 4.0, 2.5
"""Savers and daemons are killed within so long after they have begun to work;"""
_BLIND = 0.2
"""such a share of them after a random time, whether they work or not;"""
_AIMED, _AFTER_S = 0.6, 0.05
"""and such a share of daemons within so long after a pack was announced: around its upload and its publication."""
_TIMEOUT_S = 30.0
_REPORT_S = 2.0

Say = Callable[[str], None]


class Chaos:
    """One run; afterwards every process is dead, and the model knows what they saved. Raises Difference."""

    def __init__(self, store: Store, model: Model, comparison: ModelComparison, chance: Random, say: Say) -> None:
        self._store, self._model, self._comparison = store, model, comparison
        self._chance, self._say = chance, say
        self._lives = 0
        self._until = 0.0
        self.counts: Counter[str] = Counter()

    async def run(self, snapshots: int) -> None:
        """For the span of the model's script; about so many snapshots are saved."""
        seconds = self._model.script.span.total_seconds()
        pause = timedelta(seconds=seconds * SAVERS * processes.WORKERS / snapshots)
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(SAVERS):
                group.create_task(self._savers(pause))
            for number in range(DAEMONS):
                group.create_task(self._daemons(number))
            for _ in range(READERS):
                group.create_task(self._readers())
            group.create_task(self._removals())
            group.create_task(self._report())

    async def _savers(self, pause: timedelta) -> None:
        while time.monotonic() < self._until:
            life, self._lives = self._lives, self._lives + 1
            log = self._store.folder / f"saver-{life}.log"
            self._model.running.add(life)
            self._model.acknowledged |= {Worker(life, number): -1 for number in range(processes.WORKERS)}
            start = partial(
                processes.start_saver,
                self._store.config,
                self._model.script,
                life=life,
                acks=self._acks(life),
                pause=pause,
                log=log,
            )
            await self._live_and_die(start, partial(self._saved, life), log, self._saves)
            self._hear(life)
            self._model.running.discard(life)
            self.counts["savers_killed"] += 1

    async def _daemons(self, number: int) -> None:
        lives = 0
        while time.monotonic() < self._until:
            log, lives = self._store.folder / f"daemon-{number}-{lives}.log", lives + 1
            start = partial(processes.start_daemon, self._store.config, log)
            pid = await self._live_and_die(start, partial(processes.is_ready, log), log, self._works)
            held = await self._store.runtime.catalog.leases.held()
            self.counts["daemons_killed"] += 1
            self.counts["daemons_killed_at_work"] += any(f"/{pid}/" in lease.owner for lease in held)

    def _saved(self, life: int) -> bool:
        """Whether each worker of a saver saves: a run in which nothing was acknowledged says nothing."""
        return min(processes.acknowledged(self._acks(life)).values()) >= 0

    async def _saves(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, _SAVES_S))

    async def _works(self) -> None:
        until = time.monotonic() + self._chance.uniform(0, _WORKS_S)
        if self._chance.random() < _AIMED:
            before = await self._uploading()
            while time.monotonic() < until and (now := await self._uploading()) <= before:
                before = now
            until = time.monotonic() + self._chance.uniform(0, _AFTER_S)
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _uploading(self) -> int:
        totals = await self._store.runtime.catalog.packs.totals()
        return sum(total.packs for total in totals if total.state == "UPLOADING")

    async def _live_and_die(
        self,
        start: Callable[[], BaseProcess],
        at_work: Callable[[], bool],
        log: Path,
        moment: Callable[[], Awaitable[None]],
    ) -> int:
        """Start a process and kill it at a random moment; its pid. One that ends by itself is a difference."""
        process = await asyncio.to_thread(start)
        try:
            if self._chance.random() > _BLIND:
                await self._wait(at_work, process)
            await moment()
            if process.exitcode is not None:
                raise Difference(f"a process ended by itself with {process.exitcode}: {processes.tail(log)}")
        finally:
            process.kill()
            await asyncio.to_thread(process.join)
        return process.pid or 0

    async def _wait(self, at_work: Callable[[], bool], process: BaseProcess) -> None:
        until = time.monotonic() + _TIMEOUT_S
        # It is another process: there is nothing to wait on but what it leaves.
        while not at_work() and process.exitcode is None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _acks(self, life: int) -> Path:
        return self._store.folder / f"acks-{life}"

    def _hear(self, life: int) -> None:
        """Take note of what a saver has noted."""
        for number, turn in processes.acknowledged(self._acks(life)).items():
            self._model.acknowledged[Worker(life, number)] = turn

    async def _readers(self) -> None:
        while time.monotonic() < self._until:
            for life in list(self._model.running):
                self._hear(life)
            sagas = list(self._model.sagas())
            if sagas:
                await self._comparison.look(self._chance.choice(sagas))
            await asyncio.sleep(0.005)

    async def _removals(self) -> None:
        """Now and then a snapshot is deleted, or a saga forgotten, that nobody saves to any more."""
        while time.monotonic() < self._until:
            await asyncio.sleep(self._chance.uniform(0.05, 0.3))
            sagas = [saga for saga in self._model.sagas() if self._model.is_complete(saga)]
            if not sagas:
                continue
            saga = self._chance.choice(sagas)
            ids, saga_id = self._model.ids(saga), self._model.script.saga_id(saga)
            self._model.changes[saga] += 1
            self._model.removing.add(saga)
            try:
                if self._chance.random() < 0.3:
                    await self._store.runtime.storage().forget(saga_id, reason="torture")
                else:
                    ids = ids[:1]
                    await self._store.runtime.storage().delete_snapshot(ids[0])
            except SagazTieringError as exc:
                raise Difference(f"saga {saga_id} cannot be removed: {type(exc).__name__}: {exc}") from exc
            self._model.removed |= set(ids)
            self._model.removing.discard(saga)

    async def _report(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            self._say(
                f"{left:3.0f} s left: {self._model.saves:,} saves acknowledged, "
                f"{self._comparison.counts['reads']:,} reads compared, {self.counts['savers_killed']} savers and "
                f"{self.counts['daemons_killed']} daemons killed ({self.counts['daemons_killed_at_work']} at work)"
            )
            await asyncio.sleep(min(_REPORT_S, left))
